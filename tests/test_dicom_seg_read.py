from __future__ import annotations

import subprocess
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_maker import PATIENT, make_series
from seg_maker import ORGANS, WHOLE, labels_on, measured_alone, series_and_labels, tool

pytest.importorskip("highdicom", reason="needs highdicom: pip install 'segmate-cli[dicom]'")

from segmate_cli import saving, scans
from segmate_cli.dicom.reference import SegOptions, reference_for
from segmate_cli.dicom.seg import write_seg
from segmate_cli.dicom.seg_read import open_seg, read_seg
from segmate_cli.errors import GeometryError, InputError, SegmateError, UnreadableError
from segmate_cli.measurement import measure
from segmate_cli.organs import organ
from segmate_cli.volume import Labels

KINDS = [("binary", False), ("binary", True), ("labelmap", False), ("labelmap", True)]


def written(folder: Path, recipe=WHOLE, **options):
    """Labels, the path of their SEG, and the scan."""
    volume, labels = series_and_labels(folder / "dicom", recipe)
    chosen = SegOptions(**options)
    path = folder / "seg.dcm"
    write_seg(labels, path, reference_for(labels.geometry, labels.source, chosen), chosen)
    return labels, path, volume


@pytest.mark.parametrize(("seg_type", "compress"), KINDS)
@pytest.mark.parametrize("column", [(0, 1, 0), (0, 0, -1)], ids=["axial", "coronal"])
def test_what_was_written_comes_back(tmp_path, seg_type, compress, column):
    recipe = WHOLE.but(column=column)
    labels, path, volume = written(tmp_path, recipe, seg_type=seg_type, compress=compress)
    found = scans.load_labels(path)
    assert np.array_equal(found.values, labels.values)
    assert found.geometry.same_as(labels.geometry)
    assert [organ.key for organ in found.organs.values()] == list(ORGANS.values())
    assert measure(found, volume) == measure(labels, volume)


def change(path: Path, edit) -> Path:
    seg = pydicom.dcmread(path)
    edit(seg)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seg.save_as(path)
    return path


def test_without_its_sources_the_grid_ends_with_its_frames(tmp_path):
    labels, path, _ = written(tmp_path)

    def forget(seg):
        del seg.ReferencedSeriesSequence

    found = read_seg(change(path, forget))
    assert np.array_equal(found.values, labels.values[1:5])
    first = labels.geometry.to_lps_mm((1, 0, 0))
    assert np.allclose(found.geometry.to_lps_mm((0, 0, 0)), first)


def test_frames_in_any_order_and_without_spacing(tmp_path):
    labels, path, _ = written(tmp_path, seg_type="labelmap", compress=True)

    def shuffle(seg):
        del seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices
        order = [2, 0, 3, 1]
        frames = [seg.PerFrameFunctionalGroupsSequence[n] for n in order]
        seg.PixelData = seg.pixel_array[order].tobytes()
        seg.PerFrameFunctionalGroupsSequence = frames

    assert np.array_equal(read_seg(change(path, shuffle)).values, labels.values)


@pytest.mark.parametrize("step", [99.0, 5.0, 1.25, 0.7, -2.5, None])
@pytest.mark.parametrize("listed", [True, False])
def test_places_count_not_the_spacing_that_a_file_claims(tmp_path, step, listed):
    labels, path, volume = written(tmp_path)

    def claim(seg):
        seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = step
        if not listed:
            del seg.ReferencedSeriesSequence

    found = open_seg(change(path, claim))
    if step == 1.25 and not listed:  # half the distance: frames of every second slice, then
        assert found.grid.geometry.spacing_mm[0] == pytest.approx(1.25)
    else:
        assert measured_alone(found.sheets, volume) == measure(labels, volume, rules=())


def test_organs_are_known_by_code_and_side_then_by_name(tmp_path):
    _, path, _ = written(tmp_path)

    def rename(seg):
        left, right, liver, heart = seg.SegmentSequence
        left.SegmentLabel = "something"
        kind = right.SegmentedPropertyTypeCodeSequence[0]
        del kind.SegmentedPropertyTypeModifierCodeSequence
        right.SegmentLabel = "Right Lung"
        liver.SegmentedPropertyTypeCodeSequence[0].CodeValue = "1"
        liver.SegmentLabel = "Femur"
        heart.SegmentedPropertyTypeCodeSequence[0].CodeValue = "1"
        heart.SegmentLabel = "Spleen"

    found = read_seg(change(path, rename)).organs
    assert found[1] == organ("lung_left")
    assert found[2] == organ("lung_right")
    assert found[3].title == "Femur"
    assert found[4] == organ("spleen")


def overlap(seg):
    one, other = seg.PerFrameFunctionalGroupsSequence[:2]
    other.PlanePositionSequence = one.PlanePositionSequence
    seg.PixelData = b"\xff" * len(seg.PixelData)


def turn_a_frame(seg):
    shared = seg.SharedFunctionalGroupsSequence[0]
    for n, frame in enumerate(seg.PerFrameFunctionalGroupsSequence):
        group = pydicom.Dataset()
        group.ImageOrientationPatient = [1, 0, 0, 0, 1, 0] if n else [0, 1, 0, 1, 0, 0]
        frame.PlaneOrientationSequence = [group]
    del shared.PlaneOrientationSequence


def scatter(seg):
    place = seg.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0]
    place.ImagePositionPatient[2] += 1.0


def far_away(seg):
    place = seg.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0]
    place.ImagePositionPatient[2] += 1e6


@pytest.mark.parametrize(
    ("edit", "kind", "words"),
    [
        (overlap, InputError, "overlap"),
        (turn_a_frame, GeometryError, "more than one orientation"),
        (scatter, GeometryError, "no even stack"),
        (far_away, GeometryError, "no even stack"),
        (lambda seg: setattr(seg, "SegmentationType", "FRACTIONAL"), UnreadableError, "fractions"),
        (lambda seg: setattr(seg, "NumberOfFrames", 9999), UnreadableError, "damaged"),
        (lambda seg: delattr(seg, "SegmentSequence"), UnreadableError, "damaged"),
        (lambda seg: delattr(seg, "PixelData"), UnreadableError, "damaged"),
        (lambda seg: setattr(seg, "PerFrameFunctionalGroupsSequence", []), UnreadableError, "SEG"),
    ],
)
def test_what_is_no_label_map_is_refused_in_a_sentence(tmp_path, edit, kind, words):
    _, path, _ = written(tmp_path)
    with pytest.raises(kind, match=words) as caught:
        read_seg(change(path, edit))
    assert str(path) in str(caught.value)
    assert PATIENT not in str(caught.value)


def test_cut_and_foreign_files_are_refused(tmp_path):
    _, path, _ = written(tmp_path)
    data = path.read_bytes()
    for length in range(0, len(data), len(data) // 40):
        path.write_bytes(data[:length])
        with pytest.raises(UnreadableError):
            read_seg(path)
    path.write_bytes(b"no DICOM at all" * 50)
    with pytest.raises(UnreadableError):
        read_seg(path)
    slices = make_series(tmp_path / "more")
    with pytest.raises(UnreadableError, match="no SEG"):
        read_seg(slices.folder / slices.files[0])


def test_a_bomb_is_refused_before_it_bursts(tmp_path, monkeypatch):
    labels, path, _ = written(tmp_path, compress=True)
    assert np.array_equal(read_seg(path).values, labels.values)
    monkeypatch.setattr("segmate_cli.dicom.objects._MOST_BYTES", 1000)
    monkeypatch.setattr("segmate_cli.dicom.objects._CHUNK", 64)
    with pytest.raises(UnreadableError, match="inflates to more"):
        read_seg(path)


def test_damaged_bytes_never_end_in_a_traceback(tmp_path):
    _, path, _ = written(tmp_path)
    data = path.read_bytes()
    random = np.random.default_rng(5)
    refused = 0
    for _ in range(150):
        broken = np.frombuffer(data, np.uint8).copy()
        broken[random.integers(len(data), size=4)] = random.integers(256, size=4)
        path.write_bytes(broken.tobytes())
        try:
            read_seg(path)
        except SegmateError:
            refused += 1
    assert 0 < refused < 150


def test_report_from_a_seg_alone(run, tmp_path):
    labels, path, volume = written(tmp_path)
    code, out, err = run("report", path, "--ct", tmp_path / "dicom", "--format", "csv")
    assert code == 3
    assert "review: The cross-section of the body is" in err  # of a few centimetres
    (left,) = [line.split(",") for line in out.splitlines() if ",lung_left," in line]
    assert int(left[3]) == np.count_nonzero(labels.values == 1)
    assert float(left[4]) == pytest.approx(volume.hu[labels.values == 1].mean(), abs=0.01)
    assert "heart,,0," in out


def by_highdicom(folder: Path, masks: dict[str, np.ndarray], *, reverse: bool) -> Path:
    """A SEG as other tools write it with highdicom: of masks that may overlap, by slice."""
    import highdicom
    from highdicom.sr.coding import CodedConcept

    slices = [pydicom.dcmread(path) for path in (folder / "dicom").iterdir()]
    slices.sort(key=lambda one: one.ImagePositionPatient[2], reverse=reverse)
    for one in slices:
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex"):
            if keyword not in one:
                setattr(one, keyword, "")
    stacked = np.stack([mask[::-1] if reverse else mask for mask in masks.values()], axis=-1)
    code = CodedConcept("85756007", "SCT", "Tissue")
    described = [
        highdicom.seg.SegmentDescription(n, name, code, code, "MANUAL")
        for n, name in enumerate(masks, start=1)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seg = highdicom.seg.Segmentation(
            source_images=slices,
            pixel_array=stacked.astype(np.uint8),
            segmentation_type="BINARY",
            segment_descriptions=described,
            **{f"{kind}_instance_uid": pydicom.uid.generate_uid() for kind in ("series", "sop")},
            **{"series_number": 7, "instance_number": 1, "device_serial_number": "1"},
            **dict.fromkeys(("manufacturer", "manufacturer_model_name", "software_versions"), "x"),
        )
        seg.save_as(folder / "foreign.dcm")
    return folder / "foreign.dcm"


@pytest.mark.parametrize("reverse", [False, True], ids=["upwards", "downwards"])
def test_segments_that_overlap_are_measured_each_by_itself(run, tmp_path, reverse):
    volume, labels = series_and_labels(tmp_path / "dicom")
    liver = labels.values == 1
    tumour = liver & (np.indices(liver.shape)[2] > 2)
    masks = {"liver": liver, "Tumour": tumour, "spleen": labels.values == 2}
    path = by_highdicom(tmp_path, masks, reverse=reverse)
    with pytest.raises(InputError, match="overlap"):
        read_seg(path)
    found = open_seg(path)
    assert found.grid.geometry.shape == volume.geometry.shape
    assert found.grid.ends_known
    both = [measured_alone(found.sheets, volume), measured_alone(found.sheets)]
    for stats in both:
        assert [each.organ.title for each in stats] == ["Liver", "Tumour", "Spleen"]
        counts = [np.count_nonzero(mask) for mask in masks.values()]
        assert [each.voxels for each in stats] == counts
    means = [volume.hu[mask].mean() for mask in masks.values()]
    assert [each.mean_hu for each in both[0]] == pytest.approx(means)
    code, out, err = run("report", path, "--organs", "spleen,liver", "--format", "csv")
    assert code == 0, err
    assert [line.split(",")[1] for line in out.splitlines()[1:]] == ["spleen", "liver"]
    sr = tmp_path / "sr.dcm"
    code, out, err = run("report", path, "--format", "dicom-sr", "-o", sr)
    assert (code, out) == (0, f"{sr}\n"), err


def test_where_the_scan_ends_is_known_by_the_ct_alone(run, tmp_path):
    """A SEG that lists no sources begins with the organ's first slice, which cuts nothing."""
    volume, labels = series_and_labels(tmp_path / "dicom", WHOLE.but(shape=(9, 30, 30)))
    values = np.zeros_like(labels.values)
    values[3:6, 10:20, 10:20] = 3  # whole
    values[4:9, 2:5, 2:5] = 1  # cut by the last slice
    values[4, 0, 25] = 2  # cut by a side
    labels = Labels(values, *rest(labels))
    path = tmp_path / "seg.dcm"
    saving.save(labels, path, seg=SegOptions(), with_sidecar=False)
    change(path, lambda seg: delattr(seg, "ReferencedSeriesSequence"))
    found = open_seg(path)
    assert (found.grid.geometry.shape[0], found.grid.ends_known) == (6, False)
    cut = {each.organ.key: each.touches_edge for each in measured_alone(found.sheets)}
    assert cut == {"lung_left": False, "lung_right": True, "liver": False, "heart": False}
    # Nor is an organ out of view of which there is no frame.
    assert [each.status.kind for each in measured_alone(found.sheets)] == [
        *("complete", "truncated"),
        *("complete", "not_found"),
    ]
    assert measured_alone(found.sheets, volume) == measure(labels, volume, rules=())
    how = ("--ct", tmp_path / "dicom", "--format", "csv", "--no-gate-exit")
    code, out, err = run("report", path, *how)
    assert code == 0, err
    assert [line.split(",")[6] for line in out.splitlines()[1:]] == ["yes", "yes", "no", "no"]
    far = make_series(tmp_path / "far", WHOLE.but(shape=(9, 30, 30), origin=(0, 0, 0.0)))
    with pytest.raises(GeometryError, match="scan that was segmented"):
        measured_alone(found.sheets, scans.load(far.folder))


def rest(labels: Labels):
    return labels.geometry, labels.organs, labels.source, labels.run


def test_a_seg_of_dcmqi_is_read(tmp_path):
    """Written by other software, from a NIfTI label map of ours."""
    import json

    volume, labels = series_and_labels(tmp_path / "dicom")
    saving.save(labels_on(volume), tmp_path / "labels.nii.gz")
    code = {"CodeValue": "10200004", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Liver"}
    category = {
        "CodeValue": "123037004",
        "CodingSchemeDesignator": "SCT",
        "CodeMeaning": "Anatomical Structure",
    }
    segments = [
        {
            "labelID": value,
            "SegmentDescription": key,
            "SegmentLabel": key.replace("_", " "),
            "SegmentAlgorithmType": "MANUAL",
            "SegmentedPropertyCategoryCodeSequence": category,
            "SegmentedPropertyTypeCodeSequence": code
            if key == "liver"
            else {**code, "CodeValue": "1"},
        }
        for value, key in list(ORGANS.items())[:3]
    ]
    about = {"SeriesDescription": "x", "SeriesNumber": "9", "segmentAttributes": [segments]}
    (tmp_path / "about.json").write_text(json.dumps(about))
    command = [tool("itkimage2segimage"), "--inputDICOMDirectory", tmp_path / "dicom"]
    command += ["--inputImageList", tmp_path / "labels.nii.gz", "--skip", "1"]
    command += ["--inputMetadata", tmp_path / "about.json", "--outputDICOM", tmp_path / "seg.dcm"]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    found = read_seg(tmp_path / "seg.dcm")
    assert [each.key for each in found.organs.values()] == list(ORGANS.values())[:3]
    for value in (1, 2, 3):
        ours = labels.geometry.to_lps_mm(np.argwhere(labels.values == value))
        theirs = found.geometry.to_lps_mm(np.argwhere(found.values == value))
        assert np.allclose(np.sort(ours, axis=0), np.sort(theirs, axis=0), atol=1e-3)
