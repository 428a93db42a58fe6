"""The command line judges DICOM SEG and RTSTRUCT as it judges NIfTI label maps."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from body_maker import FAILURES, ORGANS, Body, make_body
from conftest import write_bundle
from dicom_maker import Recipe, write_slice
from phantom import LABELS
from seg_maker import RUN, STUDY
from test_dicom_rtstruct_read import SLICES, box, foreign
from test_dicom_seg_read import by_highdicom

pytest.importorskip("highdicom", reason="needs highdicom: pip install 'segmate-cli[dicom]'")

from segmate_cli import saving, scans
from segmate_cli.volume import Labels

SPACING_MM = (5.0, 5.0, 5.0)
BROKEN = {
    "whole": (lambda body: body, set()),
    "kidney removed": (FAILURES["kidney removed"][0], {("found", "kidney_left")}),
    "kidneys swapped": (
        FAILURES["kidneys swapped"][0],
        {("side", "kidney_left"), ("side", "kidney_right")},
    ),
}
# Not all pairs, for the time they take.
CASES = [(name, kind) for name in ("whole", "kidneys swapped") for kind in ("highdicom", "foreign")]
CASES += [("whole", "rtstruct"), ("kidneys swapped", "seg"), ("kidney removed", "seg")]


def write_scan(folder: Path, body: Body, first: int = 0, series: int = 1) -> Path:
    """A body as a DICOM series, from its slice ``first`` on."""
    origin = tuple(body.affine[:3, 3])
    recipe = Recipe(
        shape=body.labels.shape,
        origin=origin,
        step_mm=SPACING_MM[0],
        pixel_mm=SPACING_MM[1:],
        series=series,
        tags=STUDY,
    )
    folder.mkdir(parents=True)
    for k in range(first, len(body.hu)):
        write_slice(folder / f"slice{k}", recipe, k, body.hu.astype(np.int16))
    return folder


def without_lists(source: Path, path: Path) -> Path:
    """An RTSTRUCT as of another tool: it names no slices."""
    made = pydicom.dcmread(source)
    made.Manufacturer = "other"
    del made.ReferencedFrameOfReferenceSequence
    for item in made.ROIContourSequence:
        for contour in item.get("ContourSequence") or []:
            del contour.ContourImageSequence
    made.save_as(path)
    return path


@pytest.fixture(scope="module")
def bodies() -> dict[str, Body]:
    body = make_body(SPACING_MM)
    return {name: break_it(body) for name, (break_it, _) in BROKEN.items()}


class Place:
    """A series, and of each body's labels the objects of all kinds, made when asked for."""

    def __init__(self, folder: Path, bodies: dict[str, Body]) -> None:
        self.folder, self._bodies = folder, bodies
        self.dicom = write_scan(folder / "dicom", bodies["whole"])
        self._scan = scans.find_scan(self.dicom)
        self._made: dict[tuple[str, str], Path] = {}

    def path(self, name: str, kind: str) -> Path:
        if (name, kind) not in self._made:
            own = self.folder / f"{name}_{kind}".replace(" ", "_")
            own.mkdir()
            (own / "dicom").symlink_to(self.dicom)
            self._made[name, kind] = self._make(own, name, kind)
        return self._made[name, kind]

    def _make(self, own: Path, name: str, kind: str) -> Path:
        values = self._bodies[name].labels
        if kind == "highdicom":
            masks = {organ.key: values == value for value, organ in ORGANS.items()}
            return by_highdicom(own, masks, reverse=name == "whole")
        if kind == "foreign":
            return without_lists(self.path(name, "rtstruct"), own / "rtss.dcm")
        suffix = ".nii.gz" if kind == "nifti" else ".dcm"
        labels = Labels(values, self._scan.geometry, ORGANS, self._scan.source, RUN)
        return saving.save(labels, own / f"{kind}{suffix}", with_sidecar=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory, bodies) -> Place:
    return Place(tmp_path_factory.mktemp("objects"), bodies)


def told(run, path: Path, *options: object) -> SimpleNamespace:
    """What the command says of a file, in JSON."""
    code, out, err = run("report", path, "--format", "json", *options)
    said = json.loads(out)
    (scan,) = said["scans"]
    return SimpleNamespace(
        code=code,
        err=err,
        verdict=scan["verdict"],
        reasons=scan["reasons"],
        review={(f["rule"], f["organ"]) for f in scan["findings"] if f["severity"] == "review"},
        rows={row["organ"]: row for row in said["rows"]},
    )


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_an_object_is_judged_as_the_label_map_is(run, place, name, kind):
    expected = BROKEN[name][1]
    for options in ((), ("--ct", place.dicom)):
        found = told(run, place.path(name, kind), *options)
        assert found.review == expected
        assert (found.verdict, found.code) == (("review", 3) if expected else ("ok", 0))
        assert all(f"review: {reason}" in found.err for reason in found.reasons)
        odd = {row["organ"] for row in found.rows.values() if row["status"] == "implausible"}
        assert odd == {organ for rule, organ in expected if rule == "side"}
        missing = {row["organ"] for row in found.rows.values() if row["volume_ml"] is None}
        assert missing == {organ for rule, organ in expected if rule == "found"}
    # On the scan's own grid all is as of the label map, but for what a file itself says.
    same = told(run, place.path(name, "nifti"), "--ct", place.dicom)
    for key, row in same.rows.items():
        reasons = [each for each in found.rows[key]["reasons"] if "contour" not in each]
        assert {**found.rows[key], "scan": "", "reasons": reasons} == {**row, "scan": ""}


def test_gates_that_need_the_scan_hold_where_it_is_given(run, place, bodies, tmp_path):
    whole = bodies["whole"]
    brighter = write_scan(tmp_path / "brighter", whole.but(hu=whole.hu + 100))
    for kind in ("seg", "foreign"):
        path = place.path("whole", kind)
        assert told(run, path).verdict == "ok"
        found = told(run, path, "--ct", brighter)
        assert found.code == 3
        assert ("hu-air", None) in found.review


def test_every_format_has_the_verdict(run, place, tmp_path):
    path = place.path("kidney removed", "seg")
    reason = "Left kidney was not found, though its place is in view."
    code, out, err = run("report", path)
    assert code == 3
    assert f"review: {reason}" in err
    assert "not found" in next(line for line in out.splitlines() if "kidney_left" in line)
    code, out, _ = run("report", path, "--format", "csv")
    assert code == 3
    assert {row["verdict"] for row in csv.DictReader(io.StringIO(out))} == {"review"}
    page = tmp_path / "report.html"
    how = ("--ct", place.dicom, "--organs", "kidney", "-o", page)
    code, out, err = run("report", path, *how)
    assert (code, out) == (3, f"{page}\n")
    assert f"review: {reason}" in err
    assert reason in page.read_text()
    assert run("report", path, "--no-gate-exit")[0] == 0


def test_an_organ_at_the_end_of_what_was_drawn_may_be_cut(run, bodies, tmp_path):
    """Where the scan ends is unknown then: a small part of a liver is no small liver."""
    whole = bodies["whole"]
    low = np.flatnonzero((whole.labels == LABELS["liver"]).any(axis=(1, 2)))
    first = int(low[-7])
    dicom = write_scan(tmp_path / "dicom", whole, first)
    part = whole.but(labels=whole.labels[first:])
    masks = {organ.key: part.labels == value for value, organ in ORGANS.items()}
    path = by_highdicom(tmp_path, masks, reverse=False)
    alone, with_ct = told(run, path), told(run, path, "--ct", dicom)
    assert alone.rows["liver"]["volume_ml"] < 330  # what a whole one would be reviewed for
    assert alone.rows["liver"]["status"] == "complete"
    assert alone.rows["liver"]["reasons"] == ["where the scan ends is not known without --ct"]
    assert alone.rows["kidney_left"]["status"] == "not_found"
    assert (alone.verdict, with_ct.verdict) == ("ok", "ok")
    assert with_ct.rows["liver"]["status"] == "truncated"
    assert with_ct.rows["kidney_left"]["status"] == "absent"
    # A speck beyond what was drawn is odd, but no reason for a review.
    _, j, i = np.median(np.argwhere(whole.labels == LABELS["kidney_left"]), axis=0).astype(int)
    masks["kidney_left"][1:3, j : j + 4, i : i + 4] = True
    (tmp_path / "foreign.dcm").unlink()
    odd = told(run, by_highdicom(tmp_path, masks, reverse=False))
    assert odd.rows["kidney_left"]["status"] == "implausible"
    assert odd.reasons == []


def test_structures_that_overlap_are_judged_and_shown_each_as_a_whole(run, place, bodies):
    body = bodies["whole"]
    liver = body.labels == LABELS["liver"]
    masks = {organ.key: body.labels == value for value, organ in ORGANS.items()}
    masks["Tumour"] = liver & (np.indices(liver.shape)[0] % 9 < 4)
    masks["Body"] = body.hu > -300
    own = place.folder / "overlapping"
    own.mkdir()
    (own / "dicom").symlink_to(place.dicom)
    path = by_highdicom(own, masks, reverse=False)
    plain = told(run, place.path("whole", "nifti"), "--ct", place.dicom)
    for options in ((), ("--ct", place.dicom)):
        found = told(run, path, *options)
        assert (found.code, found.verdict) == (0, "ok")
        assert found.rows["liver"]["voxels"] == plain.rows["liver"]["voxels"]
        assert found.rows["Tumour"]["voxels"] == np.count_nonzero(masks["Tumour"])
        assert found.rows["Body"]["status"] == "truncated"
    for key, row in plain.rows.items():
        assert {**found.rows[key], "scan": ""} == {**row, "scan": ""}
    page = own / "report.html"
    some = ("--organs", "liver,Tumour,Body")
    assert run("report", path, "--ct", place.dicom, *some, "-o", page)[0] == 0
    text = page.read_text()
    # The liver is outlined as a whole, where the tumour lies in it, too.
    assert all(f"<title>{title}</title>" in text for title in ("Liver", "Tumour", "Body"))


def test_a_seg_repeats_what_its_sidecar_says_of_the_scan(run, bodies, tmp_path):
    whole = bodies["whole"]
    dicom = write_scan(tmp_path / "dicom", whole.but(hu=whole.hu + 100))
    model = write_bundle(tmp_path / "strict", gates="adult_ct")
    path = tmp_path / "seg.dcm"
    assert run("predict", dicom, "-o", path, "--model", model, "--no-hu-check")[0] == 3
    doubt = json.loads((tmp_path / "seg.json").read_text())["doubt"]
    assert "hu-air" in {each["rule"] for each in doubt["findings"]}
    found = told(run, path)
    assert sorted(found.reasons) == sorted(doubt["reasons"])
    (tmp_path / "seg.json").unlink()
    assert ("hu-air", None) not in told(run, path).review


def test_two_structures_of_one_organ_are_one(run, tmp_path):
    drawn = {
        "Liver": [box(0, 0, z, 60) for z in SLICES],
        "liver": [box(30, 0, z, 60) for z in SLICES],
        "Marker": [],
    }
    found = told(run, foreign(tmp_path / "rtstruct.dcm", drawn))
    assert [*found.rows] == ["liver", "Marker"]
    assert found.rows["liver"]["volume_ml"] == pytest.approx(90 * 60 * 30 / 1000, rel=0.02)
    assert found.rows["Marker"]["status"] == "not_found"


def test_a_page_of_contours_alone(run, tmp_path):
    drawn = {
        "liver": [box(50, 50, z, 60) for z in SLICES[1:-1]],
        "Tumour": [box(60, 60, z, 30) for z in SLICES[2:-2]],
        "Body": [box(0, 0, z, 200) for z in SLICES],
    }
    path, page = foreign(tmp_path / "rtstruct.dcm", drawn), tmp_path / "report.html"
    (reason,) = told(run, path).reasons
    assert reason.startswith("Liver: its volume is 86 ml, not 330 to 4250.")
    code, out, err = run("report", path, "-o", page)
    assert (code, out) == (3, f"{page}\n")
    assert f"review: {reason}" in err
    text = page.read_text()
    assert reason in text
    assert all(f"<title>{title}</title>" in text for title in ("Liver", "Tumour", "Body"))
    assert run("report", path, "-o", tmp_path / "preview.png")[0] == 3
    code, _, err = run("report", path, "--organs", "liver", "-o", tmp_path / "liver.glb")
    assert code == 0, err


def test_a_set_of_empty_structures_is_no_error(run, tmp_path):
    found = told(run, foreign(tmp_path / "rtstruct.dcm", {"Marker": [], "Thing": []}))
    assert {row["status"] for row in found.rows.values()} == {"not_found"}
    assert found.verdict == "ok"
