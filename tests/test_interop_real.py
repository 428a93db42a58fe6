"""All objects of real series, made by the bundled model, in other software."""

from __future__ import annotations

import io
import json
import re
import subprocess
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from conftest import SHARED
from seg_maker import complaints, tool
from test_interop_cornerstone import INTEROP, needs_node

pytest.importorskip("highdicom", reason="needs highdicom: pip install 'segmate-cli[dicom]'")
import highdicom

SCANS = SHARED / "ct" / "scans"
needs_scans = pytest.mark.skipif(
    not SCANS.is_dir(), reason="needs the real scans of ../shared/ct/scans, which are not here"
)
# The only lines of dciodvfy, and why each is right to stay: both repeat what the series says.
EXPLAINED = (
    # Anonymised, the series has no ids; the objects leave empty what it leaves empty.
    r"Warning - </(PatientID|StudyID)\(.*Missing attribute or value .* DICOMDIR",
    # Its archive writes names of patients and doctors without a caret.
    r"Warning - </(PatientName|ReferringPhysicianName)\(.*Retired Person Name form",
)


def unexplained(path: Path) -> list[str]:
    return [line for line in complaints(path) if not any(re.match(why, line) for why in EXPLAINED)]


def all_objects(run, scan: Path, folder: Path, *options: str) -> dict[str, Path]:
    """SEG, labelmap SEG, RTSTRUCT, SR and NIfTI of a series."""
    paths = {name: folder / f"{name}.dcm" for name in ("seg", "rtstruct", "labelmap", "sr")}
    paths["nifti"] = folder / "labels.nii.gz"
    outputs = [word for name in ("nifti", "seg", "rtstruct") for word in ("-o", paths[name])]
    labelmap = ("-o", paths["labelmap"], "--seg-type", "labelmap")
    report = ("--format", "dicom-sr", "-o", paths["sr"], "--ct", scan)
    for command in (
        ("predict", scan, *outputs, *options),
        ("predict", scan, *labelmap, *options),
        ("report", paths["seg"], *report),
    ):
        code, _, err = run(*command)
        assert code == 0, err
    return paths


def counts(nifti: Path) -> dict[int, int]:
    values = np.asarray(nibabel.load(nifti).dataobj)
    return {int(value): int((values == value).sum()) for value in np.unique(values[values > 0])}


@needs_scans
def test_validators_say_nothing_but_what_is_explained_and_readers_count_the_same(run, tmp_path):
    reader = tool("tid1500reader")  # before the work that would be in vain
    paths = all_objects(run, SCANS / "abdomen20_dicom", tmp_path)
    expected = counts(paths["nifti"])
    assert len(expected) >= 4
    for name in ("seg", "labelmap"):
        array = np.asarray(
            highdicom.seg.segread(paths[name]).get_volume(combine_segments=True).array
        )
        assert {n: int((array == n).sum()) for n in expected} == expected
        assert int((array > 0).sum()) == sum(expected.values())
    code, out, err = run("dicom", "check", *(paths[name] for name in ("seg", "rtstruct", "sr")))
    assert (code, err) == (0, ""), out
    for name in ("seg", "labelmap", "rtstruct", "sr"):
        assert unexplained(paths[name]) == []
    told = tmp_path / "sr.json"
    command = [reader, "--inputDICOM", paths["sr"], "--outputMetadata", told]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    groups = json.loads(told.read_text())["Measurements"]
    assert sum(len(group["measurementItems"]) for group in groups) == 3 * len(expected)


@needs_scans
@needs_node
def test_a_viewer_counts_the_same_on_a_real_series(run, tmp_path):
    slices = tmp_path / "dicom"
    slices.mkdir()
    with zipfile.ZipFile(SCANS / "petct_two_series_dicom.zip") as archive:
        for n, name in enumerate(archive.namelist()):
            content = archive.read(name)
            if content[128:132] == b"DICM":
                header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
                if header.SeriesInstanceUID.endswith("805941"):  # the abdomen
                    (slices / f"{n}.dcm").write_bytes(content)
    nifti, seg = tmp_path / "labels.nii.gz", tmp_path / "seg.dcm"
    code, _, err = run("predict", slices, "-o", nifti, "-o", seg)
    assert code == 0, err
    command = ["node", str(INTEROP / "read_seg.mjs"), str(seg), str(slices)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=240)
    seen: dict[int, int] = {}
    for shown in json.loads(done.stdout).values():
        for value, voxels in shown.items():
            seen[int(value)] = seen.get(int(value), 0) + voxels
    assert seen == counts(nifti)
    assert len(seen) >= 5
