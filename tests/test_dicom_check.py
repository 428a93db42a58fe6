from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_maker import PATIENT, make_series
from pydicom.uid import generate_uid
from seg_maker import STUDY, WHOLE, series_and_labels

pytest.importorskip("highdicom", reason="needs highdicom: pip install 'segmate-cli[dicom]'")

from segmate_cli import saving, scans
from segmate_cli.dicom.check import check_file
from segmate_cli.dicom.reference import SegOptions
from segmate_cli.dicom.sr import write_sr
from segmate_cli.dicom.subject import of_seg
from segmate_cli.errors import SegmateError, UnreadableError
from segmate_cli.measurement import measure

KINDS = ("seg", "rtstruct", "sr")


def objects(folder: Path, recipe=WHOLE, **options) -> dict[str, Path]:
    """A SEG, an RTSTRUCT and an SR of one made series, which lies in ``dicom``."""
    volume, labels = series_and_labels(folder / "dicom", recipe)
    paths = {kind: folder / f"{kind}.dcm" for kind in KINDS}
    chosen = SegOptions(**options)
    for kind in ("seg", "rtstruct"):
        saving.save(labels, paths[kind], seg=chosen, with_sidecar=False)
    if not options:
        seg = paths["seg"]
        write_sr(measure(labels, volume), of_seg(seg, scans.load_labels(seg).organs), paths["sr"])
    return paths


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    paths = objects(tmp_path_factory.mktemp("whole"))
    return {kind: path.read_bytes() for kind, path in paths.items()}


@pytest.fixture
def spoiled(tmp_path, whole):
    """A file of a kind after an edit."""

    def make(kind, edit) -> Path:
        path = tmp_path / f"{kind}.dcm"
        path.write_bytes(whole[kind])
        found = pydicom.dcmread(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            edit(found)
            found.save_as(path)
        return path

    return make


def told(path: Path, **how) -> set[tuple[str, str]]:
    return {(one.level, one.what) for one in check_file(path, **how).findings}


@pytest.mark.parametrize("kind", KINDS)
def test_what_segmate_writes_is_clean_and_lies_on_its_source(tmp_path, kind):
    path = objects(tmp_path)[kind]
    found = check_file(path, tmp_path / "dicom")
    assert (found.kind, found.clean) == (kind.upper(), True)
    assert {one.level for one in found.findings} <= {"note"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seg_type": "labelmap"}, "is LABELMAP"),
        ({"compress": True}, "is deflated"),
    ],
)
def test_forms_that_some_readers_refuse_are_told_with_the_readers(tmp_path, options, words):
    found = check_file(objects(tmp_path, **options)["seg"])
    assert not found.clean
    (warning,) = [one for one in found.findings if one.level == "warning"]
    assert warning.what == words
    assert "itk-wasm" in warning.readers


def item(keyword):
    return lambda found: found[keyword].value[0]


def frame(n):
    return lambda found: found.PerFrameFunctionalGroupsSequence[n]


def move_frame(seg, by=3.0):
    frame(1)(seg).PlanePositionSequence[0].ImagePositionPatient[0] += by


def tilt(seg):
    for one in seg.PerFrameFunctionalGroupsSequence:
        place = one.PlanePositionSequence[0].ImagePositionPatient
        place[1] = float(place[1]) + 0.2 * float(place[2])


def unknown_source(seg):
    derived = frame(1)(seg).DerivationImageSequence[0].SourceImageSequence[0]
    derived.ReferencedSOPInstanceUID = generate_uid()


def double(seg):
    frame(1)(seg).PlanePositionSequence = frame(0)(seg).PlanePositionSequence


def undescribed(seg):
    identified = frame(1)(seg).SegmentIdentificationSequence[0]
    identified.ReferencedSegmentNumber = 9


def drop(keyword, of=lambda found: found):
    return lambda found: delattr(of(found), keyword)


def put(keyword, value, of=lambda found: found):
    return lambda found: setattr(of(found), keyword, value)


def contour(found):
    return found.ROIContourSequence[0].ContourSequence[0]


def bend(found):
    contour(found).ContourData[2] += 1.0


def lift(found):
    points = contour(found).ContourData
    points[2::3] = [float(z) + 1.0 for z in points[2::3]]


def items(parent):
    for one in parent.get("ContentSequence") or []:
        yield one
        yield from items(one)


def first_number(report):
    return next(one for one in items(report) if one.ValueType == "NUM")


SEGMENT, ROI = item("SegmentSequence"), item("StructureSetROISequence")
ERRORS = [
    ("seg", put("SOPInstanceUID", generate_uid()), "differs from the file's preamble"),
    ("seg", drop("StudyInstanceUID"), "is missing or empty"),
    ("sr", drop("PatientID"), "absent; may be empty, not absent"),
    ("rtstruct", put("SeriesInstanceUID", "1.02.3"), "is no UID"),
    ("seg", put("SeriesDescription", "x" * 65), "is longer than 64 characters"),
    ("seg", drop("FrameOfReferenceUID"), "is missing"),
    ("seg", put("NumberOfFrames", 2), "is 2, while 7 frames are described"),
    ("seg", put("PixelData", b"\1\2"), "has 2 bytes, while frames need 105"),
    ("seg", put("SegmentSequence", []), "has no segment"),
    ("seg", put("SegmentNumber", 8, SEGMENT), "numbers its segments otherwise than 1, 2, 3 ..."),
    (
        "seg",
        drop("SegmentedPropertyTypeCodeSequence", SEGMENT),
        "has no code of its property's type",
    ),
    ("seg", drop("SegmentLabel", SEGMENT), "has no SegmentLabel"),
    ("seg", drop("ReferencedSeriesSequence"), "lists no slice"),
    ("seg", drop("PlanePositionSequence", frame(1)), "have no position or orientation"),
    ("seg", unknown_source, "names a slice that the list of the series lacks (1 do)"),
    ("seg", double, "1 lie where another of their segment does"),
    ("seg", undescribed, "show segment 9, which is not described"),
    ("rtstruct", drop("ReferencedFrameOfReferenceSequence"), "lists no slice of a series"),
    ("rtstruct", put("ROINumber", 2, ROI), "has a number twice"),
    ("rtstruct", put("ROIName", "", ROI), "has an ROI without a name"),
    ("rtstruct", drop("RTROIObservationsSequence"), "has no item in RTROIObservationsSequence"),
    (
        "rtstruct",
        put("ContourGeometricType", "ROUND", contour),
        "is of no known ContourGeometricType",
    ),
    (
        "rtstruct",
        put("NumberOfContourPoints", 2, contour),
        "has another number of points than it says",
    ),
    (
        "rtstruct",
        put("ContourData", [1, 2, 3, 4, 5, 6], contour),
        "is closed, with fewer than 3 points",
    ),
    ("rtstruct", put("ContourData", [1, 2, 3, 4], contour), "is no list of points"),
    ("rtstruct", put("ContourData", [1, 2, 3, 4, 5, 6, 7, 8, 9], contour), "encloses no area"),
    ("sr", put("ContentSequence", []), "is missing or empty"),
    ("sr", put("CompletionFlag", "MAYBE"), "is neither COMPLETE nor PARTIAL"),
    (
        "sr",
        put("CurrentRequestedProcedureEvidenceSequence", []),
        "refers to an object that the list of evidence lacks",
    ),
    (
        "sr",
        put("MeasuredValueSequence", [], first_number),
        "has neither a value nor a reason for none",
    ),
]


@pytest.mark.parametrize(("kind", "edit", "what"), ERRORS, ids=range(len(ERRORS)))
def test_what_is_wrong_is_found(spoiled, kind, edit, what):
    path = spoiled(kind, edit)
    assert ("error", what) in told(path)
    assert not check_file(path).clean
    assert PATIENT not in check_file(path).as_text()


def test_frames_and_contours_off_their_source_are_found_by_place(tmp_path, spoiled):
    make_series(tmp_path / "dicom", WHOLE)
    source = {"source": tmp_path / "dicom"}
    words = "lies 3.00 mm off the slice that it names"
    assert ("error", words) in told(spoiled("seg", move_frame), **source)
    assert ("error", words) not in told(spoiled("seg", move_frame))
    words = "lies 1.00 mm off the slice that it names"
    assert ("error", words) in told(spoiled("rtstruct", lift), **source)
    other = make_series(tmp_path / "other", WHOLE.but(series=4)).folder
    whole_seg = spoiled("seg", lambda seg: None)
    gone = "names a slice that the given series does not have (7 do)"
    assert ("error", gone) not in told(whole_seg, **source)
    assert any("does not have" in what for _, what in told(whole_seg, source=other))


def test_a_bent_contour_is_found(spoiled):
    assert any("is not planar" in what for _, what in told(spoiled("rtstruct", bend)))


def test_a_tilt_is_told_with_the_readers(spoiled):
    (finding,) = [
        one for one in check_file(spoiled("seg", tilt)).findings if "tilted by" in one.what
    ]
    assert finding.level == "warning"
    assert "dcmqi" in finding.readers


def test_letters_of_no_named_alphabet_are_found(tmp_path):
    tags = {**STUDY, "SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jürgen"}
    path = objects(tmp_path, WHOLE.but(tags=tags))["seg"]
    assert check_file(path).clean
    data = path.read_bytes()
    at = data.index(b"ISO_IR 100") - 8
    path.write_bytes(data[:at] + data[at + 18 :])
    assert any("alphabet" in what for _, what in told(path))


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_end_in_a_sentence(tmp_path, whole, kind):
    path = tmp_path / "x.dcm"
    random = np.random.default_rng(1)
    sentences = []
    for n in range(40):
        broken = np.frombuffer(whole[kind], np.uint8).copy()
        broken[random.integers(len(broken), size=3)] = random.integers(256, size=3)
        path.write_bytes(broken.tobytes()[: None if n % 4 else n * len(broken) // 40])
        try:
            found = check_file(path)
        except SegmateError as error:
            sentences.append(str(error))
        else:
            assert n % 4 or not found.clean, "cut, and nobody noticed"
    assert 0 < len(sentences) < 40
    assert PATIENT not in "".join(sentences)


def test_a_ct_slice_is_none_of_them(tmp_path):
    made = make_series(tmp_path)
    with pytest.raises(UnreadableError, match="neither a SEG nor"):
        check_file(tmp_path / made.files[0])


def test_the_command(run, tmp_path, spoiled):
    good, bad = spoiled("sr", lambda report: None), spoiled("seg", undescribed)
    code, out, _ = run("dicom", "check", good)
    assert (code, out.splitlines()[0]) == (0, f"{good}: SR, clean")
    code, out, _ = run("dicom", "check", good, bad, "--format", "json")
    assert code == 3
    first, second = json.loads(out)
    assert (first["clean"], second["clean"], second["kind"]) == (True, False, "SEG")
    assert {"level", "where", "what", "readers"} == set(second["findings"][0])
    (tmp_path / "x.dcm").write_bytes(b"none")
    assert run("dicom", "check", tmp_path / "x.dcm")[0] == 6
    assert run("dicom", "check", tmp_path / "gone.dcm")[0] == 6


def test_a_file_that_is_not_there_is_no_damaged_one(run, tmp_path):
    code, _, err = run("dicom", "check", tmp_path / "gone.dcm")
    assert code == 6
    assert "there is no such file" in err
