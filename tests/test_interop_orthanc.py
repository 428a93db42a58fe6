"""An archive takes and gives back what segmate writes, and the examples work beside it.

Orthanc runs in a network of its own that has only loopback; see tests/interop/with_orthanc.sh.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from conftest import ROOT
from dicom_maker import make_series
from seg_maker import STUDY, WHOLE
from test_dicom_check import objects

INTEROP, EXAMPLES = ROOT / "tests" / "interop", ROOT / "examples"
DICOM_WEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
# A network that calls all that is denser than -300 HU "liver" finds something in it.
FROM_AIR = WHOLE.but(tags={**STUDY, "RescaleSlope": 4, "RescaleIntercept": -4200})


def _isolated() -> bool:
    try:
        options = ("-n", "-rn")
        tries = (subprocess.run(["unshare", one, "true"], capture_output=True) for one in options)
        return any(done.returncode == 0 for done in tries)
    except OSError:
        return False


needs_orthanc = pytest.mark.skipif(
    not (shutil.which("Orthanc") and DICOM_WEB.exists() and shutil.which("ip") and _isolated()),
    reason="needs Debian's orthanc and orthanc-dicomweb, and the right to unshare a network",
)


def beside_orthanc(*command: object) -> subprocess.CompletedProcess[str]:
    """Run commands of a shell where Orthanc is."""
    with_this_python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(INTEROP / "with_orthanc.sh"), *map(str, command)],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "PATH": with_this_python},
    )
    assert done.returncode == 0, done.stderr
    return done


@needs_orthanc
def test_every_object_comes_back_as_it_was_given(tmp_path):
    pytest.importorskip("pynetdicom", reason="needs pynetdicom: pip install 'segmate-cli[interop]'")
    if not Path("/usr/bin/storescu").exists():
        pytest.skip("needs storescu, of Debian's dcmtk")
    paths = objects(tmp_path / "binary")
    for name, form in (("labelmap", {"seg_type": "labelmap"}), ("deflated", {"compress": True})):
        seg = objects(tmp_path / name, **form)["seg"]
        paths[name] = seg.rename(seg.with_name(f"{name}.dcm"))
    done = beside_orthanc("python", INTEROP / "give_and_take.py", *paths.values())
    found = json.loads(done.stdout)
    assert set(found) == {path.name for path in paths.values()}
    # Orthanc deflates anew what comes by C-STORE.
    again = {"C-STORE": "same values", "storescu": "same values", "STOW": "same bytes"}
    assert found.pop("deflated.dcm") == again
    # DCMTK 3.6 knows no LABELMAP; the reader of the protocol that does, sends it.
    assert "unknown storage SOP class" in found["labelmap.dcm"].pop("storescu")
    assert {how for ways in found.values() for how in ways.values()} == {"same bytes"}


@needs_orthanc
def test_the_example_gives_each_stable_series_its_seg_and_sr_once(tmp_path, tiny_bundle):
    made = make_series(tmp_path / "dicom", FROM_AIR)
    (tmp_path / "steps.sh").write_text(STEPS)
    done = beside_orthanc(
        *("bash", "-eu", tmp_path / "steps.sh"),
        *(made.folder, EXAMPLES / "orthanc_on_stable_series.py", tiny_bundle, tmp_path),
    )
    first, again = done.stdout.split("=== again\n")
    assert [line.split()[2:5:2] for line in first.splitlines()] == [
        ["seg", "Success"],
        ["sr", "Success"],
    ]
    assert [line.split()[4] for line in again.splitlines()] == ["AlreadyStored", "AlreadyStored"]
    found = [pydicom.dcmread(path) for path in tmp_path.glob("back/*")]
    by_kind = {one.Modality: one for one in found}
    assert sorted(one.Modality for one in found) == [*["CT"] * 6, "SEG", "SR"]
    evidence = by_kind["SR"].CurrentRequestedProcedureEvidenceSequence[0]
    referred = evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert referred.ReferencedSOPInstanceUID == by_kind["SEG"].SOPInstanceUID
    assert len({one.StudyInstanceUID for one in found}) == 1


STEPS = """
dicom=$1 example=$2 model=$3 folder=$4
for file in "$dicom"/*; do
    curl -sSf http://localhost:8042/instances --data-binary @"$file" >/dev/null
done
# Until the CT, and later its SEG and SR, have been stable for a second and are in the list.
stable() {
    for _ in $(seq 100); do
        n=$(curl -s "http://localhost:8042/changes?limit=1000" | grep -c '"StableSeries"' || true)
        [ "$n" -ge "$1" ] && return
        sleep 0.1
    done
}
stable 1
python "$example" --once --state "$folder/seen" -- --model "$model"
stable 3
python "$example" --once --state "$folder/seen" -- --model "$model"
echo "=== again"
python "$example" --once -- --model "$model"
mkdir "$folder/back"
for id in $(curl -s http://localhost:8042/instances | tr -d '[]", '); do
    curl -sSf "http://localhost:8042/instances/$id/file" -o "$folder/back/$id"
done
"""


def test_the_entry_point_for_mercure_names_series_as_mercure_does(tmp_path, tiny_bundle):
    pytest.importorskip("highdicom", reason="needs highdicom: pip install 'segmate-cli[dicom]'")
    incoming, outgoing = tmp_path / "in", tmp_path / "out"
    outgoing.mkdir()
    for number in (1, 2):
        uid = f"1.2.{number}"
        tags = {**FROM_AIR.tags, "SeriesInstanceUID": uid}
        make_series(incoming, FROM_AIR.but(series=number, name=f"{uid}#{{k}}.dcm", tags=tags))
    options = ["--model", str(tiny_bundle), "--series", "number=2"]
    task = {"id": "x", "process": {"settings": {"predict": options}}}
    (incoming / "task.json").write_text(json.dumps(task))
    done = mercure(incoming, outgoing)
    assert done.returncode == 0, done.stderr
    found = {path.name.partition("#")[2]: path for path in outgoing.iterdir()}
    assert set(found) == {"seg.dcm", "sr.dcm"}
    for path in found.values():
        assert path.name.startswith(f"{pydicom.dcmread(path).SeriesInstanceUID}#")
    seg = pydicom.dcmread(found["seg.dcm"])
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.2"
    # Without settings the two series are as good as each other: an error that says so.
    (incoming / "task.json").write_text('{"id": "x", "process": {"settings": {}}}')
    done = mercure(incoming, outgoing)
    assert (done.returncode, len(list(outgoing.iterdir()))) == (4, 2)
    assert "--series" in done.stderr


def mercure(incoming: Path, outgoing: Path) -> subprocess.CompletedProcess[str]:
    folders = {"MERCURE_IN_DIR": str(incoming), "MERCURE_OUT_DIR": str(outgoing)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(EXAMPLES / "mercure.sh")],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **folders, "PATH": path},
    )
