"""Tilted, uneven and gappy DICOM series, from the files to all outputs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import geometry_cases as cases
import nibabel
import numpy as np
import pydicom
import pytest
from dicom_maker import Recipe, make_series, position_of
from seg_maker import complaints
from test_dicom_seg_read import by_highdicom

from segmate_cli import files, scans
from segmate_cli.bundle import open_bundle
from segmate_cli.comparison import compare_case
from segmate_cli.dicom import choose_series, find_series, read_series
from segmate_cli.engines import load_model
from segmate_cli.evaluation import CasePair
from segmate_cli.geometry import geometry_from_ras
from segmate_cli.measurement import measure
from segmate_cli.pipeline import predict
from segmate_cli.upright import Upright

# So many cases of geometry_cases.py; more with this variable.
COUNT = int(os.environ.get("SEGMATE_GEOMETRY_CASES", "8"))
STUDY = {"StudyDate": "20240102", "StudyTime": "030405", "StudyID": "7"}
# These scans are no bodies, so that gates ask for a review.
JSON = ("--format", "json", "--no-gate-exit")


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    return cases.identity_model(tmp_path_factory.mktemp("identity"))


# 7 is prime to 48 cases, so that a few meet all kinds of planes, tilted to both sides.
@pytest.mark.parametrize("number", [n * 7 for n in range(COUNT)])
def test_a_known_shape_comes_back_in_its_place_and_size(tmp_path, identity, number):
    case = cases.make_case(number)
    result = cases.run_case(case, tmp_path, identity)
    assert result.right, (case, result)


GAPPY = Recipe(
    shape=(24, 26, 22),
    origin=(-22.0, -26.0, -30.0),
    step_mm=2.0,
    pixel_mm=(2.0, 2.0),
    leave_out=(9, 10, 17),
    tags=STUDY,
)
KINDS = {
    "tilt": GAPPY.but(leave_out=(), tilt_deg=14.0),
    "gaps": GAPPY,
    "tilt and gaps": GAPPY.but(tilt_deg=-9.0),
    "uneven": GAPPY.but(leave_out=(), positions_mm=np.cumsum(np.linspace(0.9, 3.0, 24))),
}


def made_series(folder: Path, recipe: Recipe) -> np.ndarray:
    """A series of a ball beside its middle; gives what is inside, slice by slice that is there."""
    make_series(folder, recipe)
    kept = [k for k in range(recipe.shape[0]) if k not in recipe.leave_out]
    inside = np.linalg.norm(cases.centres_mm(recipe)[kept] - [-2, 3, -9], axis=-1) < 15
    hu = np.where(inside, 60, -1000).astype(np.int16)
    hu[:, 0, 0] = 900
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        place = np.array(data.ImagePositionPatient, float)
        (n,) = [
            n for n, k in enumerate(kept) if np.linalg.norm(place - position_of(recipe, k)) < 1e-3
        ]
        data.PixelData = (hu[n].astype(np.int32) + 1024).astype("<i2").tobytes()
        data.save_as(path)
    inside[:, 0, 0] = True
    return inside


@pytest.fixture(scope="module", params=KINDS)
def done(request, tmp_path_factory, tiny_bundle):
    """A series, what is inside, and its outputs by the command line."""
    from segmate_cli import cli

    place = tmp_path_factory.mktemp("uneven")
    inside = made_series(place / "dicom", KINDS[request.param])
    names = ["labels.nii.gz", "seg.dcm", "rtstruct.dcm"]
    outputs = [word for name in names for word in ("-o", str(place / name))]
    model = ["--model", str(tiny_bundle), "--quiet"]
    assert cli.main(["predict", str(place / "dicom"), *outputs, *model]) == 0
    return place, inside, KINDS[request.param]


def extents_mm(recipe: Recipe) -> np.ndarray:
    kept = [k for k in range(recipe.shape[0]) if k not in recipe.leave_out]
    given = recipe.positions_mm
    along = np.array([k * recipe.step_mm if given is None else given[k] for k in kept])
    faces = (along[1:] + along[:-1]) / 2
    ends = 2 * along[0] - faces[0], 2 * along[-1] - faces[-1]
    return np.diff(np.concatenate([[ends[0]], faces, [ends[1]]]))


def true_ml(recipe: Recipe, inside: np.ndarray) -> float:
    return float((inside.sum(axis=(1, 2)) * extents_mm(recipe)).sum() * 4 / 1000)


def test_on_the_models_own_spacing_nothing_is_lost(done, tiny_bundle):
    place, inside, recipe = done
    finding = find_series(place / "dicom")
    labels = predict(
        read_series(finding, choose_series(finding)), load_model(open_bundle(tiny_bundle))
    )
    if recipe.positions_mm is None:  # else slices lie between the model's
        assert np.array_equal(labels.values == 1, inside)
    assert labels.values.shape == inside.shape


def test_the_nifti_lies_upright_and_shows_the_nearest_slice(done):
    place, _, recipe = done
    image = nibabel.load(place / "labels.nii.gz")
    geometry = geometry_from_ras(image.affine, image.shape)
    steps = geometry.affine[:3, :3]
    assert np.allclose(steps.T @ steps, np.diag(np.square(geometry.spacing_mm)), atol=1e-4)
    labels, _ = scans.load_with_ct(place / "labels.nii.gz")
    values = np.asarray(image.dataobj).T
    centre = cases.centres_mm(recipe.but(leave_out=()))
    kept = [k for k in range(recipe.shape[0]) if k not in recipe.leave_out]
    centre = centre[kept]
    # Every labelled voxel of the file is one of the slices', half a pixel and a step away.
    marked = centre[labels.values > 0]
    far = np.diff([position_of(recipe, k) for k in kept], axis=0)
    allowed = np.linalg.norm([1, 1, np.abs(far[:, 2]).max()])
    for voxel in np.argwhere(values)[::37]:
        at = geometry.to_lps_mm(voxel)
        assert np.linalg.norm(marked - at, axis=1).min() <= allowed
    told = json.loads((place / "labels.json").read_text())
    assert told["output"]["shape_kji"] == list(values.shape)
    assert told["input"]["shape_kji"] == list(labels.values.shape)
    assert len(told["output"]["slice_of_plane"]) == values.shape[0]
    assert set(told["output"]["slice_of_plane"]) == set(range(len(kept)))
    word = "tilted" if recipe.tilt_deg else "missing" if recipe.leave_out else "uneven"
    assert any(word in warning for warning in told["warnings"])


def test_what_changed_is_measured_by_the_slices_true_extents(done, tmp_path):
    place, _, _ = done
    cut = nibabel.load(place / "labels.nii.gz")
    values = np.asarray(cut.dataobj).copy()
    values[:, :, values.shape[2] // 2 :] = 0
    shutil.copy(place / "labels.json", tmp_path / "labels.json")
    nibabel.save(nibabel.Nifti1Image(values, cut.affine, cut.header), tmp_path / "labels.nii.gz")
    told = json.loads((tmp_path / "labels.json").read_text())
    told["output"]["file_sha256"] = files.sha256_of_file(tmp_path / "labels.nii.gz")
    (tmp_path / "labels.json").write_text(json.dumps(told))
    pair = CasePair("case", place / "labels.nii.gz", tmp_path / "labels.nii.gz")
    (organ,) = compare_case(pair).organs
    assert organ.only_b_ml == 0.0
    assert organ.only_a_ml == pytest.approx(-organ.change_ml)
    assert organ.dice == pytest.approx(
        2 * organ.volume_b_ml / (organ.volume_a_ml + organ.volume_b_ml)
    )


def test_reports_of_all_outputs_take_the_slices_true_extents(done, run):
    place, _, recipe = done
    labels, _ = scans.load_with_ct(place / "labels.nii.gz")
    found = {}
    for name, ct in (("labels.nii.gz", False), ("labels.nii.gz", True), ("seg.dcm", False),
                     ("seg.dcm", True), ("rtstruct.dcm", True)):  # fmt: skip
        extra = ["--ct", place / "dicom"] if ct else []
        code, out, err = run("report", place / name, *JSON, *extra)
        assert code == 0, err
        (row,) = json.loads(out)["rows"]
        found[name, ct] = row
        assert row["volume_ml"] == pytest.approx(true_ml(recipe, labels.values > 0), rel=2e-3)
    assert len({row["mean_hu"] for (_, ct), row in found.items() if ct}) == 1
    assert found["seg.dcm", True]["mean_hu"] > -500
    assert len({row["voxels"] for row in found.values()}) == 1
    # An RTSTRUCT alone tells of gaps by its list of slices, and has its own fine pixels.
    code, out, err = run("report", place / "rtstruct.dcm", *JSON)
    assert code == 0, err
    (row,) = json.loads(out)["rows"]
    assert row["volume_ml"] == pytest.approx(true_ml(recipe, labels.values > 0), rel=0.01)
    assert "missing" not in json.dumps(row)
    without = place / "alone" / "labels.nii.gz"
    without.parent.mkdir(exist_ok=True)
    without.write_bytes((place / "labels.nii.gz").read_bytes())
    code, out, _ = run("report", without, "--format", "json")
    assert json.loads(out)["rows"][0]["volume_ml"] == pytest.approx(
        true_ml(recipe, labels.values > 0), rel=0.06
    )
    code, out, err = run("report", without, "--format", "json", "--ct", place / "dicom")
    assert json.loads(out)["rows"][0]["volume_ml"] == found["labels.nii.gz", True]["volume_ml"]


def test_the_seg_lies_on_the_slices_and_tells_of_gaps(done):
    place, _, recipe = done
    seg = pydicom.dcmread(place / "seg.dcm")
    slices = {str(d.SOPInstanceUID): d for d in map(pydicom.dcmread, (place / "dicom").iterdir())}
    labels, _ = scans.load_with_ct(place / "labels.nii.gz")
    shown = 0
    for frame, pixels in zip(
        seg.PerFrameFunctionalGroupsSequence, seg.pixel_array.reshape(-1, 26, 22), strict=True
    ):
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        place_of = slices[source.ReferencedSOPInstanceUID].ImagePositionPatient
        assert frame.PlanePositionSequence[0].ImagePositionPatient == place_of
        shown += int(pixels.sum())
    assert shown == np.count_nonzero(labels.values)
    about = seg.SegmentSequence[0].get("SegmentDescription", "")
    assert ("missing: 2 between z" in about) == bool(recipe.leave_out)


def test_a_seg_of_others_is_measured_on_the_slices(done, run, tmp_path):
    place, _, recipe = done
    (tmp_path / "dicom").symlink_to(place / "dicom")
    labels, _ = scans.load_with_ct(place / "labels.nii.gz")
    inside = labels.values > 0
    inside[:, 0, 0] = False  # so that some slices have no frame
    path = by_highdicom(tmp_path, {"liver": inside}, reverse=False)
    want = pytest.approx(true_ml(recipe, inside), rel=2e-3)
    code, out, err = run("report", path, *JSON, "--ct", place / "dicom")
    assert code == 0, err
    assert json.loads(out)["rows"][0]["volume_ml"] == want
    # It lists slices that have none, so that its list is of all: it tells of gaps by itself, but
    # for one behind its last frame, where that slice counts 1 mm more.
    code, out, err = run("report", path, *JSON)
    assert code == 0, err
    alone = json.loads(out)["rows"][0]["volume_ml"]
    behind_ml = (
        1.0 * inside.sum(axis=(1, 2))[np.flatnonzero(inside.any(axis=(1, 2)))[-1]] * 4 / 1000
    )
    assert alone == want or (recipe.leave_out and alone + behind_ml == want)
    forget = pydicom.dcmread(path)
    del forget.ReferencedSeriesSequence
    forget.save_as(path)
    code, out, err = run("report", path, *JSON)
    assert code == (6 if recipe.positions_mm is not None else 0), err
    assert code == 0 or "give the scan with --ct" in err
    code, out, err = run("report", path, *JSON, "--ct", place / "dicom")
    assert json.loads(out)["rows"][0]["volume_ml"] == want


@pytest.mark.parametrize("name", ["seg.dcm", "rtstruct.dcm"])
def test_dciodvfy_has_no_complaint(done, name):
    place, _, _ = done
    assert complaints(place / name) == []


def test_an_sr_refers_to_the_slices_of_an_even_grid(done, run):
    place, _, _ = done
    for name, extra in (("labels.nii.gz", ["--ct", place / "dicom"]), ("seg.dcm", [])):
        sr = place / f"{name}.sr.dcm"
        code, _, err = run("report", place / name, "--format", "dicom-sr", "-o", sr, *extra)
        assert code == 0, err
        assert pydicom.dcmread(sr).Modality == "SR"


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_an_upright_canvas_keeps_each_voxel(plane, tmp_path):
    row, column = {
        "axial": ((1, 0, 0), (0, 1, 0)),
        "coronal": ((1, 0, 0), (0, 0, -1)),
        "sagittal": ((0, 1, 0), (0, 0, -1)),
    }[plane]
    made = make_series(tmp_path, GAPPY.but(row=row, column=column, tilt_deg=20.0))
    finding = find_series(tmp_path)
    volume = read_series(finding, choose_series(finding))
    upright = Upright.of(volume.geometry)
    for k, (plane_k, canvas) in enumerate(
        zip(volume.hu, upright.put_all(volume.hu, -1024), strict=True)
    ):
        assert np.array_equal(upright.take(k, canvas), plane_k)
        assert np.count_nonzero(canvas != -1024) == np.count_nonzero(plane_k != -1024)
        # Where a voxel lies on the canvas is within half a pixel of where it lies.
        at = (upright.steps[k], *upright.corners[k])
        off = upright.geometry.to_lps_mm(at) - volume.geometry.to_lps_mm((k, 0, 0))
        assert np.linalg.norm(off) <= np.linalg.norm([1.0, 1.0]) + 1e-6
    assert len(made.files) == volume.hu.shape[0]


def test_measuring_uneven_slices_adds_up_their_own_volumes(tmp_path):
    positions = (0, 2, 4, 7, 9, 14)
    make_series(tmp_path, Recipe(positions_mm=positions))
    finding = find_series(tmp_path)
    volume = read_series(finding, choose_series(finding))
    labels = predict_all(volume)
    (stats,) = measure(labels)
    assert stats.volume_ml == pytest.approx((14 + 1 + 1) * 12 * 0.8 * 10 * 0.7 / 1000)


def predict_all(volume):
    from segmate_cli.organs import organ
    from segmate_cli.volume import Labels

    return Labels(np.ones(volume.hu.shape, np.uint8), volume.geometry, {1: organ("liver")})
