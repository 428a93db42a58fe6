from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_maker import PATIENT, make_series
from pydicom.dataset import Dataset
from seg_maker import ORGANS, RUN, measured_alone
from test_dicom_rtstruct import LARGER, OBLIQUE, written

from segmate_cli import scans
from segmate_cli.dicom.rtstruct_read import is_rtstruct, read_rtstruct
from segmate_cli.dicom.rtstruct_sheets import sheets_of
from segmate_cli.errors import GeometryError, SegmateError, UnknownOrganError, UnreadableError
from segmate_cli.measurement import measure
from segmate_cli.organs import organ


def measure_structures(found, ct=None, organs=None):
    return measured_alone(partial(sheets_of, found), ct, organs)


@pytest.mark.parametrize("turn", [{}, {"column": (0, 0, -1)}, OBLIQUE], ids=len)
def test_with_the_ct_the_masks_are_those_that_were_written(tmp_path, turn):
    labels, _ = written(tmp_path, LARGER.but(**turn))
    volume = scans.load(tmp_path / "dicom")
    found = read_rtstruct(tmp_path / "rtstruct.dcm")
    assert [each.organ.key for each in found.structures] == list(ORGANS.values())
    assert found.series_uid == labels.source.series_uid
    read = measure_structures(found, volume)
    assert [each for each in read if each.voxels] == [
        each for each in measure(labels, volume, rules=()) if each.voxels
    ]
    (missing,) = (each for each in read if not each.voxels)
    assert missing.status.kind == "not_found"
    assert missing.status.reasons[-1] == "the structure has no contour"


@pytest.mark.parametrize("turn", [{}, {"column": (0, 0, -1)}, OBLIQUE], ids=len)
def test_without_the_ct_volumes_are_the_contours(tmp_path, turn):
    labels, _ = written(tmp_path, LARGER.but(**turn))
    read = measure_structures(read_rtstruct(tmp_path / "rtstruct.dcm"))
    # The second organ is of specks a pixel wide, which no other grid can hold so well.
    allowed = (0.02, 0.15, 0.02, 0.0)
    for one, other, rel in zip(read, measure(labels), allowed, strict=True):
        assert one.organ == other.organ
        assert one.mean_hu is None
        if other.volume_ml is None:
            assert (one.voxels, one.volume_ml, one.status.kind) == (0, None, "not_found")
        else:
            assert one.volume_ml == pytest.approx(other.volume_ml, rel=rel)


def box(x, y, z, size) -> list[float]:
    return [x, y, z, x + size, y, z, x + size, y + size, z, x, y + size, z]


def foreign(path: Path, rois: dict[str, list[list[float]]], kinds=None) -> Path:
    """An RTSTRUCT as other tools write them: names alone, contours that name no image."""
    made = Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    made.PatientName = f"{PATIENT}^Name"
    made.StructureSetROISequence, made.ROIContourSequence = [], []
    for number, (name, drawn) in enumerate(rois.items(), start=7):
        roi, item = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, item.ReferencedROINumber = number, name, number
        item.ContourSequence = []
        for points in drawn:
            contour = Dataset()
            contour.ContourGeometricType = (kinds or {}).get(name, "CLOSED_PLANAR")
            contour.ContourData, contour.NumberOfContourPoints = points, len(points) // 3
            item.ContourSequence.append(contour)
        made.StructureSetROISequence.append(roi)
        made.ROIContourSequence.insert(0, item)
    made.save_as(path, enforce_file_format=True)
    return path


SLICES = range(0, 30, 3)


def test_structures_that_overlap_are_measured_each_by_itself(tmp_path):
    body = [box(0, 0, z, 200) for z in SLICES]
    # A hole as others draw it: a contour inside another.
    liver = [part for z in SLICES for part in (box(50, 50, z, 100), box(80, 80, z, 50))]
    path = foreign(tmp_path / "x.dcm", {"BODY": body, "liver": liver})
    whole, inner = measure_structures(read_rtstruct(path))
    assert whole.organ.title == "Body"
    assert whole.volume_ml == pytest.approx(200 * 200 * 30 / 1000, rel=0.01)
    assert inner.organ == organ("liver")
    assert inner.volume_ml == pytest.approx((100**2 - 50**2) * 30 / 1000, rel=0.01)


def listing(path: Path, images: list[str], drawn: dict[float, str]) -> Path:
    """Let an RTSTRUCT name the slices of its series, and each contour its own."""
    made = pydicom.dcmread(path)
    item = Dataset()
    item.ContourImageSequence = [image(uid) for uid in images]
    item.SeriesInstanceUID = "1.2.9"
    study, frame = Dataset(), Dataset()
    study.RTReferencedSeriesSequence = [item]
    frame.RTReferencedStudySequence = [study]
    made.ReferencedFrameOfReferenceSequence = [frame]
    for roi in made.ROIContourSequence:
        for contour in roi.ContourSequence:
            contour.ContourImageSequence = [image(drawn[float(contour.ContourData[2])])]
    made.save_as(path)
    return path


def image(uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", uid
    return item


# Slices 3 mm apart but for the two between 9 and 18 mm, which are missing or empty.
LEFT = (0, 3, 6, 9, 18, 21, 24)


@pytest.mark.parametrize("down", [False, True])
def test_a_list_of_slices_tells_gaps_from_slices_without_contours(tmp_path, down):
    path = foreign(tmp_path / "x.dcm", {"liver": [box(0, 0, z, 50) for z in LEFT]})
    drawn = {float(z): f"1.2.{n + 1}" for n, z in enumerate(LEFT)}
    beyond = ["1.2.100", "1.2.101"]

    def found(images):
        (liver,) = measure_structures(
            read_rtstruct(listing(path, images[:: -1 if down else 1], drawn))
        )
        return liver.volume_ml / 2.5, " ".join(liver.status.reasons)

    # Slices that lie beyond show that the list is of all: those in between are missing.
    volume, reasons = found([*drawn.values(), *beyond])
    assert volume == pytest.approx(27, rel=0.01)
    assert "missing" not in reasons
    # They are there, without contours.
    volume, reasons = found([*list(drawn.values())[:4], *beyond, *list(drawn.values())[4:]])
    assert volume == pytest.approx(21, rel=0.01)
    # A list of slices with contours alone leaves it open, and so does no list: that is said.
    for images in (list(drawn.values()), []):
        volume, reasons = found(images)
        assert volume == pytest.approx(21, rel=0.01)
        assert "missing or empty is not known without --ct" in reasons


def test_points_and_open_contours_enclose_nothing(tmp_path):
    rois = {"Marker": [[1.0, 2.0, 3.0]], "liver": [box(0, 0, z, 50) for z in SLICES]}
    path = foreign(tmp_path / "x.dcm", rois, {"Marker": "POINT"})
    marker, liver = measure_structures(read_rtstruct(path))
    assert (marker.voxels, marker.volume_ml) == (0, None)
    assert liver.volume_ml == pytest.approx(50 * 50 * 30 / 1000, rel=0.01)


def test_only_the_organs_that_were_asked_for(tmp_path):
    written(tmp_path)
    found = read_rtstruct(tmp_path / "rtstruct.dcm")
    assert [each.organ.key for each in measure_structures(found, organs=["lung"])] == [
        *("lung_left", "lung_right"),
    ]
    with pytest.raises(UnknownOrganError, match="spleen"):
        measure_structures(found, organs=["spleen"])


@pytest.mark.parametrize(
    ("rois", "words"),
    [
        ({"liver": [box(0, 0, 5, 50)]}, "--ct"),
        ({"liver": [box(0, 0, z, 50) for z in (0, 3, 6, 7.5, 9)]}, "on no slice"),
        ({"liver": [box(0, 0, z, 0) for z in SLICES]}, "no area"),
    ],
)
def test_contours_that_form_no_stack_are_refused(tmp_path, rois, words):
    path = foreign(tmp_path / "x.dcm", rois)
    with pytest.raises(GeometryError, match=words) as caught:
        measure_structures(read_rtstruct(path))
    assert str(path) in str(caught.value)


def test_a_ct_that_lies_elsewhere_is_refused(tmp_path):
    written(tmp_path)
    far = make_series(tmp_path / "far", LARGER.but(origin=(-50.5, 20.25, 1000.0))).folder
    with pytest.raises(GeometryError, match="on no slice of its scan"):
        measure_structures(read_rtstruct(tmp_path / "rtstruct.dcm"), scans.load(far))


def test_cut_and_damaged_files_are_refused_in_a_sentence(tmp_path):
    written(tmp_path)
    path = tmp_path / "rtstruct.dcm"
    data = path.read_bytes()
    random = np.random.default_rng(3)
    told = []
    for n in range(60):
        if n < 30:
            path.write_bytes(data[: n * len(data) // 30])
        else:
            broken = np.frombuffer(data, np.uint8).copy()
            broken[random.integers(len(data))] ^= 1 << random.integers(8)
            path.write_bytes(broken.tobytes())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                measure_structures(read_rtstruct(path))
        except SegmateError as error:
            told.append(str(error))
    assert 20 < len(told) < 60
    assert PATIENT not in "".join(told)


def test_what_a_file_claims_to_be_is_not_repeated(tmp_path, run):
    written(tmp_path)
    path = tmp_path / "rtstruct.dcm"
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.5.1.4.1.1.481.3", b"Z" * 29, 1))
    code, out, err = run("report", path)
    assert (code, out) == (6, "")
    assert "Z" * 9 not in err


def test_what_is_none_is_refused(tmp_path):
    slices = make_series(tmp_path / "dicom")
    path = slices.folder / slices.files[0]
    assert not is_rtstruct(path)
    with pytest.raises(UnreadableError, match="no RTSTRUCT"):
        read_rtstruct(path)


def test_the_command_reads_it_as_a_label_map(run, tmp_path):
    labels, _ = written(tmp_path)
    make_series(tmp_path / "dicom" / "other", LARGER.but(series=2))
    how = ("--ct", tmp_path / "dicom", "--format", "csv", "--no-gate-exit")
    code, out, err = run("report", tmp_path / "rtstruct.dcm", *how, "--organs", "lung_left,heart")
    assert code == 0, err
    (left,) = [line.split(",") for line in out.splitlines() if ",lung_left," in line]
    assert int(left[3]) == np.count_nonzero(labels.values == 1)
    assert left[4] != ""
    assert ",heart,,0," in out
    assert RUN["model"]["name"] not in out
