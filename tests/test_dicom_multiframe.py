"""One multi-frame file in place of many slices: read, segmented, referred to frame by frame."""

from __future__ import annotations

import io
import json
import random
import shutil
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path

import dicom_maker as maker
import numpy as np
import pydicom
import pytest
from dicom_maker import PATIENT, Recipe, make_series
from enhanced_maker import ENHANCED, LEGACY, make_enhanced
from seg_maker import complaints
from test_dicom import assert_equals, load, mutated, outcome, refusal

from segmate_cli.dicom import find_series
from segmate_cli.dicom.check import check_file
from segmate_cli.errors import GeometryError, InputError, NotHounsfieldError, UnreadableError

SYNTAXES = [
    *(maker.IMPLICIT, maker.EXPLICIT, maker.DEFLATED, maker.RLE),
    *(maker.JPEG_LS, maker.JPEG_2000_LOSSLESS, maker.JPEG_LOSSLESS_SV1),
]
SMALL = Recipe(shape=(6, 70, 66), slope=[1.0, 2.0, 1.0, 0.5, 1.0, 2.0], intercept=-1000.0)
STUDY = {"StudyDate": "20240102", "StudyTime": "030405", "StudyID": "7"}


@pytest.mark.parametrize(
    ("syntax", "sop_class"),
    [*((syntax, ENHANCED) for syntax in SYNTAXES), (maker.EXPLICIT, LEGACY)],
)
def test_frames_are_read_as_single_slices_are(tmp_path: Path, syntax: str, sop_class: str) -> None:
    recipe = SMALL.but(syntax=syntax)
    single = make_series(tmp_path / "single", recipe)
    make_enhanced(tmp_path / "multi" / "one.dcm", recipe, sop_class)
    volume, expected = load(tmp_path / "multi"), load(single.folder)
    np.testing.assert_array_equal(volume.hu, expected.hu)
    np.testing.assert_allclose(volume.geometry.affine, expected.geometry.affine, atol=1e-6)


def test_what_highdicom_converts_is_read_as_its_slices_are(tmp_path: Path) -> None:
    """A Legacy Converted Enhanced CT by another writer, which dciodvfy takes."""
    legacy = pytest.importorskip("highdicom.legacy", reason="needs highdicom")
    tags = {**STUDY, "PatientSex": "O", "Manufacturer": "x", "PositionReferenceIndicator": ""}
    recipe = SMALL.but(tags={**tags, "PatientPosition": "HFS", "AccessionNumber": ""})
    single = make_series(tmp_path / "single", recipe)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        slices = [pydicom.dcmread(path) for path in sorted(single.folder.iterdir())]
        for one in slices:
            for keyword in ("OtherPatientIDs", "PatientAddress"):
                one.pop(keyword, None)
        made = legacy.LegacyConvertedEnhancedCTImage(slices, "1.2.3.4", 7, "1.2.3.4.5", 1)
        (tmp_path / "multi").mkdir()
        made.save_as(tmp_path / "multi" / "one.dcm")
    volume, expected = load(tmp_path / "multi"), load(single.folder)
    np.testing.assert_array_equal(volume.hu, expected.hu)
    np.testing.assert_allclose(volume.geometry.affine, expected.geometry.affine, atol=1e-6)
    if shutil.which("dciodvfy", path=str(Path(sys.executable).parent)):
        # AXIAL stands in the ImageType of its slices.
        said = complaints(tmp_path / "multi" / "one.dcm")
        assert [line for line in said if "defined term = <AXIAL>" not in line] == []


def test_a_file_alone_and_in_archives_is_the_same(tmp_path: Path) -> None:
    made = make_enhanced(tmp_path / "one.dcm", Recipe())
    assert_equals(load(tmp_path / "one.dcm"), made)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "one.dcm", "deep/one.dcm")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "one.dcm", "one.dcm")
    for name in ("a.zip", "a.tar.gz"):
        assert_equals(load(tmp_path / name), made)


def test_a_deflated_file_is_inflated_to_a_file_that_vanishes(tmp_path, monkeypatch) -> None:
    # As with thousands: what frames say of themselves is more than what is inflated of a header.
    monkeypatch.setattr("segmate_cli.dicom.data_set._MAX_INFLATED_HEADER_BYTES", 1 << 14)
    recipe = Recipe(shape=(60, 4, 5), syntax=maker.DEFLATED)
    made = make_enhanced(tmp_path / "one.dcm", recipe)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "one.dcm", "one.dcm")
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    for name in ("one.dcm", "a.zip"):
        assert_equals(load(tmp_path / name), made)
    assert not list(place.iterdir())
    (series,) = find_series(tmp_path / "one.dcm").series
    assert series.transfer_syntaxes == (maker.DEFLATED,)


def test_a_deflated_bomb_is_refused(tmp_path, monkeypatch) -> None:
    made = make_enhanced(tmp_path / "one.dcm", Recipe(shape=(8, 64, 64), syntax=maker.DEFLATED))
    change(tmp_path / "one.dcm", lambda data: setattr(data, "PixelData", bytes(8 * 64 * 64 * 2)))
    assert load(tmp_path).hu.shape == made.hu.shape  # small ones pass
    monkeypatch.setattr("segmate_cli.dicom.archives.RATIO_MATTERS_BYTES", 1000)
    monkeypatch.setattr("segmate_cli.dicom.archives.MAX_RATIO", 5)
    assert "times its size, as no CT does" in refusal(tmp_path, (InputError, UnreadableError))
    monkeypatch.undo()
    content = (tmp_path / "one.dcm").read_bytes()
    (tmp_path / "one.dcm").write_bytes(content[: len(content) * 2 // 3])
    assert "one.dcm" in refusal(tmp_path, (InputError, UnreadableError))


def test_a_copy_of_the_file_is_read_once(tmp_path: Path) -> None:
    made = make_enhanced(tmp_path / "one.dcm", Recipe())
    (tmp_path / "two.dcm").write_bytes((tmp_path / "one.dcm").read_bytes())
    assert find_series(tmp_path).skipped == (("two.dcm", "a copy of one.dcm"),)
    assert_equals(load(tmp_path), made)


def test_tilt_and_gaps_are_those_of_frames(tmp_path: Path) -> None:
    recipe = Recipe(shape=(20, 9, 8), tilt_deg=12.0, leave_out=(7, 8))
    make_enhanced(tmp_path / "one.dcm", recipe)
    (series,) = find_series(tmp_path).series
    assert series.tilt_deg == pytest.approx(12.0, abs=0.01)
    assert [gap.missing for gap in series.gaps] == [2]
    assert "one.dcm, frame " in series.irregularities[0]
    volume = load(tmp_path)
    kept = [k for k in range(20) if k not in (7, 8)]
    np.testing.assert_array_equal(volume.hu, maker.asymmetric(recipe.shape)[kept])


def change(path: Path, edit) -> None:
    data = pydicom.dcmread(path)
    edit(data)
    data.save_as(path)


def without_positions(data) -> None:
    for group in data.PerFrameFunctionalGroupsSequence:
        del group.PlanePositionSequence


@pytest.mark.parametrize(
    ("edit", "kind", "words"),
    [
        (without_positions, GeometryError, "6 slices without a valid ImagePositionPatient"),
        (lambda data: data.PerFrameFunctionalGroupsSequence.pop(), InputError, "5 frames and says"),
        (lambda data: setattr(data, "NumberOfFrames", 10**6), InputError, "frames, which no CT"),
        (lambda data: delattr(data, "PerFrameFunctionalGroupsSequence"), InputError, "0 frames"),
        (lambda data: setattr(data, "PixelData", bytes(6 * 240 - 90)), UnreadableError, "frame"),
        (lambda data: setattr(data, "Rows", 11000), UnreadableError, "frame"),
    ],
)
def test_damaged_files_are_refused_in_a_sentence(tmp_path: Path, edit, kind, words) -> None:
    make_enhanced(tmp_path / "one.dcm", Recipe())
    change(tmp_path / "one.dcm", edit)
    assert words in refusal(tmp_path, kind)


def test_a_rescale_that_is_no_number_is_refused(tmp_path: Path) -> None:
    make_enhanced(tmp_path / "one.dcm", Recipe())

    def spoil(data) -> None:
        data.PerFrameFunctionalGroupsSequence[3].PixelValueTransformationSequence[
            0
        ].RescaleSlope = 0

    change(tmp_path / "one.dcm", spoil)
    assert "one.dcm, frame 4: RescaleSlope" in refusal(tmp_path, NotHounsfieldError)


def test_mutated_files_end_in_one_clear_error_or_are_read(tmp_path: Path) -> None:
    random_ = random.Random(11)
    outcomes = set()
    for syntax in (maker.EXPLICIT, maker.IMPLICIT, maker.DEFLATED):
        make_enhanced(tmp_path / "one.dcm", Recipe(shape=(3, 8, 8), syntax=syntax))
        content = (tmp_path / "one.dcm").read_bytes()
        for _ in range(40):
            (tmp_path / "one.dcm").write_bytes(mutated(content, random_))
            outcomes.add(outcome(lambda: load(tmp_path)))
    assert len(outcomes) > 1


def test_from_the_command_line_to_all_objects(tmp_path: Path, tiny_bundle: Path, run) -> None:
    recipe = Recipe(shape=(20, 26, 22), pixel_mm=(2.0, 2.0), step_mm=2.0, tags=STUDY)
    make_enhanced(tmp_path / "one.dcm", recipe)
    make_series(tmp_path / "single", recipe.but(shuffle=False))
    done = {}
    for name, source in (("multi", tmp_path / "one.dcm"), ("single", tmp_path / "single")):
        (tmp_path / "out" / name).mkdir(parents=True)
        place = tmp_path / "out" / name
        outputs = [place / "labels.nii.gz", place / "seg.dcm", place / "rtstruct.dcm"]
        words = [word for output in outputs for word in ("-o", output)]
        code, _, err = run(
            "predict", source, *words, "--model", tiny_bundle, "--no-hu-check", "--debug"
        )
        assert code == 0, err
        assert PATIENT not in err
        done[name] = json.loads((place / "labels.json").read_text())["output"]["voxels_sha256"]
        code, _, err = run("report", place / "labels.nii.gz", "--ct", source, "--format", "csv")
        assert code == 0, err
        sr = place / "sr.dcm"
        code, _, err = run(
            *("report", place / "labels.nii.gz", "--format", "dicom-sr", "-o", sr, "--ct", source)
        )
        assert code == 0, err
    assert done["multi"] == done["single"]
    for name in ("seg.dcm", "rtstruct.dcm", "sr.dcm"):
        if shutil.which("dciodvfy", path=str(Path(sys.executable).parent)):
            assert complaints(tmp_path / "out" / "multi" / name) == []
    assert_refers_to_frames(tmp_path / "out" / "multi" / "seg.dcm", tmp_path / "one.dcm")
    structures = pydicom.dcmread(tmp_path / "out" / "multi" / "rtstruct.dcm")
    contour = structures.ROIContourSequence[0].ContourSequence[0]
    assert 1 <= contour.ContourImageSequence[0].ReferencedFrameNumber <= 20
    for name in ("seg.dcm", "rtstruct.dcm"):
        checked = check_file(tmp_path / "out" / "multi" / name, tmp_path / "one.dcm")
        assert not [one for one in checked.findings if one.level == "error"]


def test_the_check_compares_with_the_frame_that_is_named(tmp_path: Path, tiny_bundle, run) -> None:
    make_enhanced(tmp_path / "one.dcm", Recipe(shape=(20, 26, 22), step_mm=2.0, tags=STUDY))
    seg = tmp_path / "seg.dcm"
    code, _, err = run(
        "predict", tmp_path / "one.dcm", "-o", seg, "--model", tiny_bundle, "--no-hu-check"
    )
    assert code == 0, err
    change(seg, move_first_frame)
    checked = check_file(seg, tmp_path / "one.dcm")
    assert any("off the slice that it names" in one.what for one in checked.findings)


def move_first_frame(data) -> None:
    plane = data.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    x, y, z = plane.ImagePositionPatient
    plane.ImagePositionPatient = [x, y, float(z) + 2.0]


def assert_refers_to_frames(seg_path: Path, source_path: Path) -> None:
    """Each SEG frame lies on the frame that it names; no other UID is named."""
    source, seg = pydicom.dcmread(source_path), pydicom.dcmread(seg_path)
    places = [
        group.PlanePositionSequence[0].ImagePositionPatient
        for group in source.PerFrameFunctionalGroupsSequence
    ]
    numbers = set()
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        assert image.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert image.ReferencedSOPClassUID == ENHANCED
        numbers.add(image.ReferencedFrameNumber)
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        assert np.allclose(place, places[image.ReferencedFrameNumber - 1])
    assert len(numbers) > 3
    (listed,) = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert listed.ReferencedSOPInstanceUID == source.SOPInstanceUID
    text = io.StringIO(str(seg)).read()
    known = {str(source.SOPInstanceUID), str(source.SeriesInstanceUID)}
    assert all(uid in text for uid in known)


def test_what_highdicom_converts_is_read(tmp_path: Path) -> None:
    legacy = pytest.importorskip("highdicom.legacy", reason="needs highdicom")
    from pydicom.uid import generate_uid

    made = make_series(tmp_path / "single", Recipe(tags={**STUDY, "PatientPosition": "HFS"}))
    slices = [pydicom.dcmread(path) for path in (tmp_path / "single").iterdir()]
    converted = legacy.LegacyConvertedEnhancedCTImage(
        slices, generate_uid(), 3, generate_uid(), 1, transfer_syntax_uid=maker.EXPLICIT
    )
    (tmp_path / "multi").mkdir()
    converted.save_as(tmp_path / "multi" / "one.dcm")
    assert_equals(load(tmp_path / "multi"), made)
