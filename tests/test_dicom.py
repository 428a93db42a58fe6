from __future__ import annotations

import itertools
import os
import random
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dicom_maker as maker
import numpy as np
import pydicom
import pytest
from dicom_maker import PATIENT, Made, Recipe, make_series
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from segmate_cli.dicom import Finding, archives, choose_series, find_series, read_series
from segmate_cli.dicom.decode import DecoderError, DecoderProcess, PixelFormat
from segmate_cli.dicom.series import LOCALIZER
from segmate_cli.errors import (
    AmbiguousSeriesError,
    GeometryError,
    InputError,
    NotHounsfieldError,
    SegmateError,
    UnreadableError,
    UsageError,
)
from segmate_cli.volume import DicomSource, Scanner, Volume

SCANS = Path(__file__).parent.parent.parent / "shared" / "ct" / "scans"
needs_scans = pytest.mark.skipif(
    not SCANS.is_dir(), reason="needs the real scans of ../shared/ct/scans, which are not here"
)
X, Y, Z = np.eye(3)


def load(path: Path, wanted: str | None = None) -> Volume:
    finding = find_series(path)
    return read_series(finding, choose_series(finding, wanted))


def refusal(path: Path, kind: type[SegmateError], wanted: str | None = None) -> str:
    """The message with which a path is refused; it must not name the patient."""
    with pytest.raises(kind) as caught:
        load(path, wanted)
    assert PATIENT not in str(caught.value)
    return str(caught.value)


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def assert_equals(volume: Volume, made: Made) -> None:
    np.testing.assert_array_equal(volume.hu, made.hu)
    np.testing.assert_allclose(volume.geometry.affine, made.affine, atol=1e-5)


# ---------------------------------------------------------------- geometry


def orientations() -> list[tuple[Any, Any]]:
    """The 24 axis-aligned pairs of row and column directions."""
    signed = [sign * axis for axis in (X, Y, Z) for sign in (1, -1)]
    return [(tuple(r), tuple(c)) for r, c in itertools.product(signed, signed) if not r @ c]


@pytest.mark.parametrize(("row", "column"), orientations())
def test_every_orientation_lies_where_its_headers_say(
    tmp_path: Path, row: Any, column: Any
) -> None:
    made = make_series(tmp_path, Recipe(row=row, column=column))
    volume = load(tmp_path)
    assert_equals(volume, made)
    affine = volume.geometry.affine
    assert np.cross(affine[:3, 2], affine[:3, 1]) @ affine[:3, 0] > 0  # k grows along the normal


@pytest.mark.parametrize("position", ["HFS", "HFP", "FFS", "FFP", "HFDL", "HFDR", "FFDL", "FFDR"])
def test_what_a_patient_position_says_moves_nothing(tmp_path: Path, position: str) -> None:
    made = make_series(tmp_path, Recipe(row=(-1, 0, 0), tags={"PatientPosition": position}))
    assert_equals(load(tmp_path), made)


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*[st.floats(-180, 180)] * 3),
    st.floats(0.5, 8),
    st.floats(0.3, 2),
    st.integers(2, 9),
)
def test_oblique_stacks_lie_where_their_headers_say(
    tmp_path_factory: pytest.TempPathFactory,
    angles: tuple[float, ...],
    step_mm: float,
    pixel_mm: float,
    count: int,
) -> None:
    a, b, c = np.radians(angles)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    turn = turn @ [[np.cos(c), 0, np.sin(c)], [0, 1, 0], [-np.sin(c), 0, np.cos(c)]]
    folder = tmp_path_factory.mktemp("oblique")
    recipe = Recipe(
        shape=(count, 7, 5),
        row=tuple(turn[:, 0]),
        column=tuple(turn[:, 1]),
        step_mm=step_mm,
        pixel_mm=(pixel_mm, 2 * pixel_mm),
    )
    made = make_series(folder, recipe)
    volume = load(folder)
    np.testing.assert_array_equal(volume.hu, made.hu)
    np.testing.assert_allclose(volume.geometry.affine, made.affine, atol=1e-4)


def test_slices_are_sorted_by_position_whatever_names_and_numbers_say(tmp_path: Path) -> None:
    made = make_series(tmp_path, Recipe(shape=(15, 4, 4), name="deep/{n}/x{n}.bin"))
    volume = load(tmp_path)
    assert_equals(volume, made)
    assert isinstance(volume.source, DicomSource)
    assert volume.source.files == tuple(made.files[k] for k in range(15))
    assert volume.source.sop_instance_uids[3] == f"{maker.UID_ROOT}1.4"


def test_missing_slices_are_told_with_their_places(tmp_path: Path) -> None:
    made = make_series(tmp_path, Recipe(shape=(12, 4, 4), leave_out=(3, 8, 9)))
    series = find_series(tmp_path).series[0]
    assert [(gap.after_mm, gap.missing) for gap in series.gaps] == [(-395.0, 1), (-382.5, 2)]
    (told,) = series.irregularities
    assert "3 missing slices" in told
    assert f"1 between z = -395.00 mm ({made.files[2]}) and z = -390.00 mm" in told
    assert f"2 between z = -382.50 mm ({made.files[7]}) and z = -375.00 mm" in told
    volume = load(tmp_path)
    assert any("3 missing slices" in warning for warning in volume.warnings)
    np.testing.assert_array_equal(volume.hu, np.delete(made.hu, (3, 8, 9), axis=0))


def test_gaps_that_are_too_large_are_refused_with_their_places(tmp_path: Path) -> None:
    made = make_series(tmp_path, Recipe(shape=(14, 4, 4), leave_out=range(3, 13)))
    make_series(tmp_path / "b", Recipe(shape=(30, 4, 4), leave_out=range(3, 13)))
    message = refusal(tmp_path / "b", GeometryError)
    assert "gaps over the 25 mm that are bridged: 27.50 mm between z = -395.00 mm" in message
    (tmp_path / made.files[13]).unlink()
    assert "gaps over" in refusal(tmp_path, InputError)


def test_gaps_beside_damaged_files_are_not_bridged(tmp_path: Path) -> None:
    made = make_series(tmp_path, Recipe(shape=(8, 4, 4)))
    (tmp_path / made.files[3]).write_bytes((tmp_path / made.files[3]).read_bytes()[:200])
    message = refusal(tmp_path, UnreadableError)
    assert "1 missing slice" in message
    assert made.files[3] in message
    (tmp_path / made.files[3]).unlink()
    assert load(tmp_path).hu.shape[0] == 7


def test_doubled_slices_that_nothing_tells_apart_are_ambiguous(tmp_path: Path) -> None:
    make_series(tmp_path, Recipe(positions_mm=(0, 2.5, 2.5, 5, 7.5, 10)))
    message = refusal(tmp_path, AmbiguousSeriesError)
    assert "1 position with more than one slice: z = -397.50 mm (file" in message
    assert "nothing tells the acquisitions apart" in message


def test_two_stacks_in_one_series_are_ambiguous(tmp_path: Path) -> None:
    make_series(tmp_path, Recipe(name="a{n}"))
    make_series(tmp_path, Recipe(name="b{n}", slope=2.0))
    assert "6 positions with more than one slice" in refusal(tmp_path, AmbiguousSeriesError)


def test_a_slice_sent_again_under_another_uid_is_read_once(tmp_path: Path) -> None:
    made = make_series(tmp_path, Recipe(name="a{n}"))
    again = {k: {"SOPInstanceUID": f"{maker.UID_ROOT}77.{k}", "InstanceNumber": 7} for k in (2, 4)}
    more = make_series(tmp_path / "z", Recipe(leave_out=(0, 1, 3, 5), slice_tags=again))
    skipped = dict(find_series(tmp_path).skipped)
    assert skipped == {f"z/{more.files[k]}": f"the same image as {made.files[k]}" for k in (2, 4)}
    assert_equals(load(tmp_path), made)


TOLD_APART: dict[str, tuple[Any, Any, str]] = {
    "AcquisitionNumber": (3, 4, "acquisition 4"),
    "TemporalPositionIdentifier": (1, 2, "temporal position 2"),
    "KVP": (80, 140, "KVP 80"),
    "ConvolutionKernel": ("B30f", "B70f", "kernel B70f"),
    "AcquisitionTime": ("101010.5", "101210", "pass 2 of 2"),
}


@pytest.mark.parametrize("keyword", TOLD_APART)
def test_acquisitions_in_one_series_are_told_apart(tmp_path: Path, keyword: str) -> None:
    first, second, title = TOLD_APART[keyword]
    uids = {k: {"SOPInstanceUID": f"{maker.UID_ROOT}77.{k}"} for k in range(8)}
    one = Recipe(name="a{n}", tags={keyword: first})
    other = Recipe(name="b{n}", shape=(8, 12, 10), slope=2.0, tags={keyword: second})
    made = {"a": make_series(tmp_path, one), "b": make_series(tmp_path, other.but(slice_tags=uids))}
    series = find_series(tmp_path).series
    assert [len(each.slices) for each in series] in ([6, 8], [8, 6])
    if keyword != "ConvolutionKernel":
        message = refusal(tmp_path, AmbiguousSeriesError)
        assert "2 CT series" in message
        assert title in message
    for number in (1, 2):
        volume = load(tmp_path, str(number))
        name = "a" if volume.hu.shape[0] == 6 else "b"
        assert isinstance(volume.source, DicomSource)
        assert {file[0] for file in volume.source.files} == {name}
        if name == "a":
            assert_equals(volume, made["a"])


def test_slices_acquired_in_turn_at_each_place_are_no_passes(tmp_path: Path) -> None:
    for name, second in (("a", 0), ("b", 1)):
        times = {
            k: {
                "AcquisitionTime": f"1010{10 + 2 * k + second}",
                "SOPInstanceUID": f"1.2.{k}.{second}",
            }
            for k in range(6)
        }
        make_series(tmp_path, Recipe(name=name + "{n}", slope=1.0 + second, slice_tags=times))
    assert "6 positions with more" in refusal(tmp_path, AmbiguousSeriesError)


def test_a_copied_file_is_read_once(tmp_path: Path) -> None:
    made = make_series(tmp_path)
    (tmp_path / "copy").write_bytes((tmp_path / made.files[2]).read_bytes())
    assert find_series(tmp_path).skipped == ((made.files[2], "a copy of copy"),)
    assert_equals(load(tmp_path), made)


@pytest.mark.parametrize("degrees", [0.2, 12.0, 25.0])
def test_a_tilted_gantry_keeps_its_slices_places(tmp_path: Path, degrees: float) -> None:
    recipe = Recipe(shape=(20, 4, 4), tilt_deg=degrees)
    made = make_series(tmp_path, recipe)
    (series,) = find_series(tmp_path).series
    assert series.tilt_deg == pytest.approx(degrees, abs=0.01)
    assert f"tilted by {degrees:.2f} degrees" in series.irregularities[0]
    volume = load(tmp_path)
    np.testing.assert_array_equal(volume.hu, made.hu)
    places = [maker.position_of(recipe, k) for k in range(20)]
    assert volume.geometry.places_mm is not None
    np.testing.assert_allclose(volume.geometry.places_mm, places, atol=1e-5)
    assert volume.geometry.voxel_ml == pytest.approx(2.5 * 0.8 * 0.7 / 1000)


def test_a_stack_that_leans_too_far_is_refused(tmp_path: Path) -> None:
    make_series(tmp_path, Recipe(shape=(20, 4, 4), tilt_deg=50.0))
    assert "tilted by 50.00 degrees" in refusal(tmp_path, GeometryError)


def test_rounded_positions_are_no_tilt_and_no_unevenness(tmp_path: Path) -> None:
    recipe = Recipe(shape=(21, 4, 4), step_mm=0.625)
    rounded = {
        k: {"ImagePositionPatient": [round(v, 1) for v in maker.position_of(recipe, k)]}
        for k in range(21)
    }
    made = make_series(tmp_path, recipe.but(slice_tags=rounded))
    volume = load(tmp_path)
    np.testing.assert_array_equal(volume.hu, made.hu)
    assert volume.geometry.spacing_mm[0] == pytest.approx(0.625)


@pytest.mark.parametrize("positions", [(0, 2, 4, 7, 9, 11), (0, 1, 2, 3, 3.6, 4.9)])
def test_uneven_slices_stand_for_what_lies_half_way_to_their_neighbours(
    tmp_path: Path, positions: tuple[float, ...]
) -> None:
    made = make_series(tmp_path, Recipe(positions_mm=positions))
    volume = load(tmp_path)
    np.testing.assert_array_equal(volume.hu, made.hu)
    assert any("unevenly spaced slices" in warning for warning in volume.warnings)
    faces = [(a + b) / 2 for a, b in itertools.pairwise(positions)]
    np.testing.assert_allclose(volume.geometry.slice_extents_mm[1:-1], np.diff(faces), atol=1e-5)


def test_a_slice_shifted_sideways_is_refused(tmp_path: Path) -> None:
    place = maker.position_of(Recipe(), 2) + X
    make_series(tmp_path, Recipe(slice_tags={2: {"ImagePositionPatient": list(place)}}))
    assert "shifted sideways: z = -395.00 mm" in refusal(tmp_path, GeometryError)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "more than one orientation"),
        ({"PixelSpacing": [0.8, 0.75]}, "more than one pixel spacing: 5 of (0.8, 0.7)"),
        ({"FrameOfReferenceUID": "1.2.3"}, "2 frames of reference: 5 in one (such as file"),
        ({"ImagePositionPatient": None}, "1 slice without a valid ImagePositionPatient"),
        ({"ImagePositionPatient": [1, 2]}, "1 slice without a valid ImagePositionPatient"),
        ({"ImageOrientationPatient": None}, "without a valid ImageOrientationPatient"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "valid ImageOrientationPatient"),
        ({"ImageOrientationPatient": [0] * 6}, "without a valid ImageOrientationPatient"),
        ({"PixelSpacing": None}, "without a valid PixelSpacing"),
        ({"PixelSpacing": [0, 0.7]}, "without a valid PixelSpacing"),
    ],
)
def test_slices_that_do_not_go_together_are_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    made = make_series(tmp_path, Recipe(slice_tags={3: change}))
    message = refusal(tmp_path, GeometryError)
    assert words in message
    if "valid" in words:
        assert made.files[3] in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pixel_mm": (0.002, 0.002)}, "no scan's of a person"),
        ({"step_mm": 0.001}, "images at one place"),
        ({"step_mm": 0.003, "shape": (20, 4, 4)}, "positions with more"),
    ],
    ids=("pixels", "steps", "more steps"),
)
def test_millimetres_taken_for_metres_are_a_fault_of_that_series_alone(
    tmp_path: Path,
    run: Callable[..., tuple[int, str, str]],
    change: dict[str, Any],
    words: str,
) -> None:
    make_series(tmp_path, Recipe(**change))
    code, _, err = run("predict", tmp_path, "-o", tmp_path / "labels.nii.gz")
    assert code in (4, 6)
    assert words in err
    assert run("inspect", tmp_path)[0] == 0


def test_slices_of_two_sizes_are_refused(tmp_path: Path) -> None:
    make_series(tmp_path, Recipe())
    make_series(tmp_path / "more", Recipe(shape=(6, 4, 4), origin=(-50.5, 20.25, -385.0)))
    assert "more than one size: 6 of (12, 10)" in refusal(tmp_path, GeometryError)


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        (maker.IMPLICIT, "implicit"),
        (maker.EXPLICIT, "explicit"),
        (maker.BIG_ENDIAN, "big endian"),
        (maker.DEFLATED, "deflated"),
        (maker.RLE, "rle"),
        (maker.JPEG_LOSSLESS, "jpeg lossless"),
        (maker.JPEG_LOSSLESS_SV1, "jpeg lossless sv1"),
        (maker.JPEG_LS, "jpeg-ls"),
        (maker.JPEG_2000_LOSSLESS, "jpeg 2000"),
    ],
    ids=lambda value: value if " " in value or value.isalpha() else "",
)
@pytest.mark.parametrize(
    ("bits", "signed", "intercept"),
    [(12, False, -1024), (16, True, 0), (16, True, -1024), (16, False, -1024), (14, True, -24)],
)
def test_lossless_syntaxes_give_the_exact_values(
    tmp_path: Path, syntax: str, name: str, bits: int, signed: bool, intercept: float
) -> None:
    if syntax.startswith("1.2.840.10008.1.2.4.") and signed and bits < 16:
        pytest.skip("no encoder here writes signed values of fewer than 16 bits")
    recipe = Recipe(
        shape=(3, 70, 66), syntax=syntax, bits_stored=bits, signed=signed, intercept=intercept
    )
    assert_equals(load(make_series(tmp_path, recipe).folder), make_series(tmp_path, recipe))


@pytest.mark.parametrize(
    ("frame", "syntax", "off"),
    [
        (maker.JPEG_12_BITS, maker.JPEG_EXTENDED, 8),
        (maker.HTJ2K_12_BITS, maker.HTJ2K_LOSSLESS, 0),
    ],
    ids=["jpeg extended", "htj2k"],
)
def test_syntaxes_without_an_encoder_here_are_decoded(
    tmp_path: Path, frame: bytes, syntax: str, off: int
) -> None:
    bits = 12 if syntax == maker.JPEG_EXTENDED else 16
    recipe = Recipe(shape=(2, 16, 16), bits_stored=bits, signed=False)
    for k in range(2):
        data = maker.dataset_of(recipe, k, np.zeros((16, 16), np.int16))
        maker.set_frame(data, frame, syntax)
        data.save_as(tmp_path / f"{k}", enforce_file_format=True)
    hu = load(tmp_path).hu
    assert np.abs(hu[0].astype(int) + 1024 - maker.waves()).max() <= off


def test_jpeg_baseline_of_8_bits_is_decoded(tmp_path: Path) -> None:
    # 8-bit CT are secondary data as a rule; a slope spreads them over the scale.
    recipe = Recipe(
        shape=(2, 32, 32), syntax=maker.JPEG_BASELINE, bits_stored=8, bits_allocated=8,
        signed=False, slope=8.0,
    )  # fmt: skip
    made = make_series(tmp_path, recipe)
    assert np.abs(load(tmp_path).hu.astype(int) - made.hu).mean() < 24


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    slopes, intercepts = (1, 2, 0.5, 1, 1, 0.25), (-1024, 0, -1000.5, 100, 0.25, -7)
    recipe = Recipe(slope=slopes, intercept=intercepts)
    made = make_series(tmp_path, recipe)
    volume = load(tmp_path)
    assert np.abs(volume.hu.astype(int) - made.hu).max() <= 1  # a slope of 2 stores even steps
    np.testing.assert_array_equal(volume.hu[3], made.hu[3])


def test_rescaling_is_rounded_not_cut(tmp_path: Path) -> None:
    recipe = Recipe(shape=(2, 4, 4), slope=0.1, intercept=0.0)
    made = make_series(tmp_path, recipe)
    np.testing.assert_array_equal(load(tmp_path).hu, made.hu)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("wrong_vr", [True, False])
@pytest.mark.parametrize("syntax", [maker.IMPLICIT, maker.EXPLICIT, maker.BIG_ENDIAN])
def test_padding_becomes_air(tmp_path: Path, signed: bool, wrong_vr: bool, syntax: str) -> None:
    recipe = Recipe(shape=(2, 4, 4), signed=signed, intercept=0.0, syntax=syntax)
    hu = maker.asymmetric(recipe.shape)
    stored_padding = -2000 if signed else 63536  # the same 16 bits
    hu[:, 0, :] = -2000
    for k in range(2):
        data = maker.dataset_of(recipe, k, hu[k])
        if wrong_vr:
            data.add_new("PixelPaddingValue", "US", 63536)
        else:
            data.add_new("PixelPaddingValue", "SS" if signed else "US", stored_padding)
        data.save_as(tmp_path / str(k), enforce_file_format=True)
    read = load(tmp_path).hu
    assert (read[:, 0] == -1024).all()
    np.testing.assert_array_equal(read[:, 1:], np.where(signed, hu, read)[:, 1:])


def test_a_padding_range_becomes_air(tmp_path: Path) -> None:
    tags = {"PixelPaddingValue": -3000, "PixelPaddingRangeLimit": -2000}
    recipe = Recipe(shape=(2, 4, 4), intercept=0.0)
    hu = maker.asymmetric(recipe.shape)
    hu[:, 0, :3] = (-3000, -2500, -2000)
    for k in range(2):
        data = maker.dataset_of(recipe, k, hu[k])
        for keyword, value in tags.items():
            data.add_new(keyword, "SS", value)
        data.save_as(tmp_path / str(k), enforce_file_format=True)
    assert (load(tmp_path).hu[:, 0, :3] == -1024).all()


def test_a_padding_value_that_tissue_can_have_blanks_nothing(tmp_path: Path) -> None:
    made = make_series(tmp_path, Recipe(intercept=0.0, tags={"PixelPaddingValue": 0}))
    volume = load(tmp_path)
    np.testing.assert_array_equal(volume.hu, made.hu)
    assert any("PixelPaddingValue" in warning for warning in volume.warnings)


def test_values_beyond_int16_are_clipped(tmp_path: Path) -> None:
    make_series(tmp_path, Recipe(slope=0.01, intercept=0.0, tags={"RescaleSlope": 100}))
    hu = load(tmp_path).hu
    assert (hu.min(), hu.max()) == (-32768, 32767)


def test_a_series_without_rescale_is_taken_as_hu_with_a_warning(tmp_path: Path) -> None:
    tags = {"RescaleSlope": None, "RescaleIntercept": None}
    made = make_series(tmp_path, Recipe(intercept=0.0, tags=tags))
    volume = load(tmp_path)
    np.testing.assert_array_equal(volume.hu, made.hu)
    assert any("no RescaleSlope" in warning for warning in volume.warnings)


def test_a_zero_slope_is_refused(tmp_path: Path) -> None:
    make_series(tmp_path, Recipe(slice_tags={1: {"RescaleSlope": 0}}))
    assert "RescaleSlope or RescaleIntercept is zero" in refusal(tmp_path, NotHounsfieldError)


def test_a_lookup_table_is_refused(tmp_path: Path) -> None:
    item = Dataset()
    item.LUTDescriptor, item.ModalityLUTType = [1, 0, 16], "US"
    item.add_new("LUTData", "US", 7)
    make_series(tmp_path, Recipe(tags={"ModalityLUTSequence": [item]}))
    assert "lookup table" in refusal(tmp_path, NotHounsfieldError)


@pytest.mark.parametrize("syntax", [maker.IMPLICIT, maker.EXPLICIT, maker.BIG_ENDIAN])
def test_files_without_preamble_are_read(tmp_path: Path, syntax: str) -> None:
    made = make_series(tmp_path, Recipe(preamble=False, syntax=syntax))
    assert (tmp_path / made.files[0]).read_bytes()[128:132] != b"DICM"
    assert_equals(load(tmp_path), made)


def test_warnings_say_what_is_odd(tmp_path: Path) -> None:
    tags = {"LossyImageCompression": "01", "RescaleType": "US", "SeriesInstanceUID": None}
    made = make_series(tmp_path, Recipe(tags=tags, slice_tags={2: {"SliceThickness": 9}}))
    volume = load(tmp_path)
    assert_equals(volume, made)
    text = " ".join(volume.warnings)
    for words in ("lossy", "RescaleType", "no SeriesInstanceUID", "SliceThickness differs"):
        assert words in text


# ---------------------------------------------------------------- finding and choosing


def test_every_file_is_accounted_for_and_what_is_no_slice_is_set_aside(tmp_path: Path) -> None:
    made = make_series(tmp_path / "ct", Recipe())
    make_series(
        tmp_path / "scout",
        Recipe(
            shape=(1, 12, 10),
            row=(0, 1, 0),
            column=(0, 0, -1),
            name="scout{n}",
            tags={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "SOPInstanceUID": "1.2.7"},
        ),
    )
    make_series(tmp_path / "mr", Recipe(series=3, name="mr{n}", tags={"Modality": "MR"}))
    secondary = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}
    make_series(tmp_path / "sc", Recipe(series=4, name="sc{n}", tags=secondary))
    no_pixels: dict[str, Any] = {"Modality": "SR", "Rows": None, "PixelData": None}
    make_series(tmp_path / "sr", Recipe(series=5, shape=(1, 4, 4), name="sr", tags=no_pixels))
    derived = {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}
    make_series(tmp_path / "mpr", Recipe(series=6, name="mpr{n}", tags=derived))
    make_series(tmp_path / "one", Recipe(series=7, shape=(1, 4, 4), name="one{n}"))
    (tmp_path / "notes.txt").write_text("DICOM is a standard, this is not. " * 20)
    (tmp_path / "empty.dcm").write_bytes(b"")
    (tmp_path / "broken.dcm").write_bytes(bytes(128) + b"DICM" + b"\x02\x00\x01\x00OB" * 20)
    finding = find_series(tmp_path)
    kinds = {(one.series_uid[len(maker.UID_ROOT) :], one.kind) for one in finding.series}
    assert kinds == {
        ("1", "image"), ("1", "localizer"), ("3", "other modality (MR)"),
        ("4", "secondary capture"), ("5", "other modality (SR)"), ("6", "derived image"),
        ("7", "single slice"),
    }  # fmt: skip
    assert finding.not_dicom == ("notes.txt",)
    assert dict(finding.skipped)["empty.dcm"] == "empty"
    assert "broken.dcm" in dict(finding.skipped)
    assert _files_told(finding) == sum(len(files) for _, _, files in os.walk(tmp_path))
    assert choose_series(finding).files == tuple(f"ct/{made.files[k]}" for k in range(6))
    assert [one.number for one in finding.series] == list(range(1, 8))
    assert [one.kind == LOCALIZER for one in finding.series].count(True) == 1


def _files_told(finding: Finding) -> int:
    return (
        sum(len(one.files) for one in finding.series)
        + len(finding.not_dicom)
        + len(finding.skipped)
    )


def test_what_inspect_shows_of_a_series(tmp_path: Path) -> None:
    make_series(tmp_path, Recipe(tags={"ContrastBolusAgent": "Iomeron"}, syntax=maker.RLE))
    one = find_series(tmp_path).series[0]
    assert (one.modality, one.description, one.kernel) == ("CT", "made 1", "B30f")
    assert (one.body_part, one.contrast, one.rows, one.columns) == ("ABDOMEN", True, 12, 10)
    assert one.spacing_mm == pytest.approx((2.5, 0.8, 0.7))
    assert one.directions == ("S", "P", "L")
    assert one.coverage_mm == pytest.approx(15.0)
    assert one.thickness_mm == 2.5
    assert one.positions_mm == pytest.approx([-400 + 2.5 * k for k in range(6)])
    assert one.transfer_syntaxes == (maker.RLE,)
    assert (one.gaps, one.doubles_mm, one.tilt_deg, one.problems) == ((), (), 0.0, ())


def test_nothing_found_holds_the_patients_name(tmp_path: Path) -> None:
    make_series(tmp_path, Recipe(leave_out=(2,)))
    finding = find_series(tmp_path)
    assert PATIENT not in repr(finding)
    assert "19010203" not in repr(finding)


@pytest.mark.parametrize("wanted", ["1", "2", "UID", "ending"])
def test_several_series_need_a_choice(tmp_path: Path, wanted: str) -> None:
    first = make_series(tmp_path / "a", Recipe(series=51))
    second = make_series(tmp_path / "b", Recipe(series=62, shape=(7, 5, 4)))
    message = refusal(tmp_path, AmbiguousSeriesError)
    for words in ("2 CT series", "--series", "made 51", "made 62", "2.50 x 0.80 x 0.70", "  7  "):
        assert words in message
    text = {"1": "1", "2": "2", "UID": second.series_uid, "ending": "62"}[wanted]
    assert_equals(load(tmp_path, text), first if wanted == "1" else second)


def test_a_series_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    make_series(tmp_path / "a", Recipe(series=51))
    make_series(tmp_path / "b", Recipe(series=61))
    assert "--series 9 is none" in refusal(tmp_path, UsageError, "9")
    make_series(tmp_path / "c", Recipe(series=3051))
    assert "fits several" in refusal(tmp_path, UsageError, "51")


def test_a_wanted_series_that_is_no_ct_is_refused(tmp_path: Path) -> None:
    made = make_series(tmp_path / "a", Recipe(tags={"Modality": "MR"}))
    message = refusal(tmp_path, InputError, made.series_uid)
    assert "other modality (MR), not a stack of CT slices" in message


def test_a_derived_series_is_taken_where_there_is_no_other(tmp_path: Path) -> None:
    made = make_series(tmp_path, Recipe(tags={"ImageType": ["DERIVED", "SECONDARY"]}))
    volume = load(tmp_path)
    assert_equals(volume, made)
    assert any("derived" in warning for warning in volume.warnings)


def test_no_ct_says_what_was_found(tmp_path: Path) -> None:
    make_series(tmp_path, Recipe(tags={"Modality": "PT"}))
    assert "1 x other modality (PT)" in refusal(tmp_path, InputError)


def test_a_single_file_asks_for_its_folder(tmp_path: Path) -> None:
    made = make_series(tmp_path)
    message = refusal(tmp_path / made.files[0], InputError)
    assert "single CT slice; give the folder" in message


def test_a_multi_frame_file_is_refused_as_such(tmp_path: Path) -> None:
    make_series(tmp_path, Recipe(shape=(1, 4, 4), tags={"NumberOfFrames": 30}))
    assert "multi-frame" in refusal(tmp_path, InputError)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"just text, not a scan", "not DICOM"),
        (b"PK\x03\x04 and then nothing", "damaged or cut off"),
        (bytes(128) + b"DICM", "without SeriesInstanceUID"),
        (bytes(5000), "not DICOM"),
    ],
)
def test_files_that_are_nothing(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "scan.dcm"
    if content is not None:
        path.write_bytes(content)
    assert words in refusal(path, UnreadableError)


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "no file in it" in refusal(tmp_path, UnreadableError)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_links_in_circles_links_to_files_and_pipes_do_no_harm(tmp_path: Path) -> None:
    made = make_series(tmp_path / "ct")
    (tmp_path / "ct" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "ct" / "zlink").symlink_to(tmp_path / "ct" / made.files[1])
    (tmp_path / "dead").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    finding = find_series(tmp_path)
    assert dict(finding.skipped).keys() == {"ct/zlink", "dead", "pipe"}
    assert_equals(read_series(finding, choose_series(finding)), made)


def test_a_dicomdir_is_named_and_never_followed(tmp_path: Path) -> None:
    secret = make_series(tmp_path / "elsewhere", Recipe(series=66))
    made = make_series(tmp_path / "disc")
    record = Dataset()
    record.DirectoryRecordType = "IMAGE"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom knows that ".." is wrong
        record.ReferencedFileID = ["..", "elsewhere", secret.files[0].upper()]
    index = Dataset()
    index.file_meta = pydicom.dataset.FileMetaDataset()
    index.file_meta.TransferSyntaxUID = maker.EXPLICIT
    index.SOPClassUID = index.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    index.SOPInstanceUID = index.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    index.DirectoryRecordSequence = [record]
    index.save_as(tmp_path / "disc" / "DICOMDIR", enforce_file_format=True)
    finding = find_series(tmp_path / "disc")
    assert finding.skipped == (("DICOMDIR", "DICOMDIR, an index of other files; not followed"),)
    assert_equals(read_series(finding, choose_series(finding)), made)
    assert "not followed" in refusal(tmp_path / "disc" / "DICOMDIR", UnreadableError)


def test_text_that_could_play_with_a_terminal_is_cleaned(tmp_path: Path) -> None:
    made = make_series(tmp_path, Recipe(tags={"SeriesDescription": "a\x1b[2Jb\rc"}))
    os.rename(tmp_path / made.files[0], tmp_path / "na\nme\x1b")
    finding = find_series(tmp_path)
    assert repr(finding).isprintable()
    assert_equals(read_series(finding, finding.series[0]), made)


# ---------------------------------------------------------------- zips


def test_a_zip_is_read_in_place(tmp_path: Path) -> None:
    made = make_series(tmp_path / "ct")
    members = {f"deep/{p.name}": p.read_bytes() for p in made.folder.iterdir()}
    path = zip_of(tmp_path / "anything.bin", {"readme": b"hello" * 50, "nil": b"", **members})
    finding = find_series(path)
    assert (finding.not_dicom, finding.skipped) == (("readme",), (("nil", "empty"),))
    before = sorted(tmp_path.rglob("*"))
    assert_equals(read_series(finding, choose_series(finding)), made)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "name", ["/etc/evil", "../evil", "a/../../evil", "C:/evil", "..\\evil", "\\evil"]
)
def test_a_member_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    path = zip_of(tmp_path / "a.zip", {"fine": b"x" * 300, name: b"x" * 300})
    assert "leads out of the archive" in refusal(path, InputError)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"fine": b"x" * 300})
    content = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + at] |= 1
    path.write_bytes(content)
    assert "is encrypted" in refusal(path, InputError)


def test_a_method_other_than_deflate_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("fine", b"x" * 300)
    assert "packed by method 14" in refusal(tmp_path / "a.zip", InputError)


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zip_of(tmp_path / "ratio.zip", {"zeros": bytes(archives.RATIO_MATTERS_BYTES + 1)})
    assert "times its size" in refusal(bomb, InputError)
    small = zip_of(tmp_path / "small.zip", {f"{n}": random.randbytes(5000) for n in range(20)})
    monkeypatch.setattr(archives, "MAX_FILES", 19)
    assert "more than 19 members" in refusal(small, InputError)
    monkeypatch.setattr(archives, "MAX_FILES", 20)
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 4999)
    assert "unpacks to" in refusal(small, InputError)
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 5000)
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 99_999)
    assert "pack one study alone" in refusal(small, InputError)


def test_a_member_that_lies_about_its_size_or_is_damaged_is_skipped(tmp_path: Path) -> None:
    made = make_series(tmp_path / "ct")
    path = zip_of(
        tmp_path / "a.zip",
        {p.name: p.read_bytes() for p in made.folder.iterdir()},
    )
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        member = archive.infolist()[1]
    start = member.header_offset + 30 + len(member.filename)
    content[start : start + 40] = os.urandom(40)
    path.write_bytes(content)
    message = refusal(path, InputError)
    assert "missing" in message or "cannot read" in message or "single" in message


def test_too_many_files_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_series(tmp_path)
    monkeypatch.setattr(archives, "MAX_FILES", 5)
    assert "more than 5 files" in refusal(tmp_path, InputError)


# ---------------------------------------------------------------- damaged files


@pytest.mark.parametrize("syntax", [maker.EXPLICIT, maker.DEFLATED, maker.RLE, maker.JPEG_LS,
                                    maker.JPEG_LOSSLESS_SV1, maker.JPEG_2000_LOSSLESS])  # fmt: skip
@pytest.mark.parametrize("share", [0.5, 0.97])
def test_a_file_cut_short_is_named(tmp_path: Path, syntax: str, share: float) -> None:
    made = make_series(tmp_path, Recipe(shape=(3, 64, 64), syntax=syntax))
    path = tmp_path / made.files[1]
    content = path.read_bytes()
    pixels = max(content.rfind(b"\xe0\x7f\x10\x00"), 0)
    path.write_bytes(content[: pixels + int((len(content) - pixels) * share)])
    message = refusal(tmp_path, InputError)
    assert path.name in message or "missing slice" in message


def test_every_attribute_may_be_missing(tmp_path: Path) -> None:
    data = maker.dataset_of(Recipe(), 2, maker.asymmetric((6, 12, 10))[2])
    keywords = [element.keyword for element in data]
    results = set()
    for n, keyword in enumerate(keywords):
        folder = tmp_path / str(n)
        make_series(folder, Recipe(slice_tags={2: {keyword: None}}))
        results.add(outcome(lambda folder=folder: load(folder)))  # type: ignore[misc]
    assert results >= {"read", "GeometryError", "UnreadableError"}


def test_mutated_files_end_in_one_clear_error_or_are_read(tmp_path: Path) -> None:
    random_ = random.Random(3)
    for syntax in (maker.EXPLICIT, maker.IMPLICIT, maker.BIG_ENDIAN, maker.DEFLATED):
        folder = tmp_path / syntax
        made = make_series(folder, Recipe(shape=(3, 8, 8), syntax=syntax))
        path = folder / made.files[1]
        content = path.read_bytes()
        outcomes = []
        for _ in range(80):
            path.write_bytes(mutated(content, random_))
            outcomes.append(outcome(lambda folder=folder: load(folder)))  # type: ignore[misc]
        assert len(set(outcomes)) > 1


@pytest.mark.parametrize("syntax", [maker.RLE, maker.JPEG_LS, maker.JPEG_LOSSLESS_SV1,
                                    maker.JPEG_2000_LOSSLESS])  # fmt: skip
def test_mutated_streams_do_not_take_the_process_down(syntax: str) -> None:
    random_ = random.Random(5)
    hu = maker.asymmetric((1, 70, 66))[0]
    data = maker.dataset_of(Recipe(syntax=syntax), 0, hu)
    form = PixelFormat(syntax, 70, 66, 16, 16, signed=True)
    failures = 0
    for _ in range(4):
        with DecoderProcess() as decoder:
            np.testing.assert_array_equal(decoder.decode(form, data.PixelData), hu + 1024)
            try:
                for _ in range(40):
                    decoder.decode(form, mutated(data.PixelData, random_))
            except DecoderError:
                failures += 1
    assert failures


def mutated(content: bytes, random_: random.Random) -> bytes:
    """A few bytes changed, a piece cut off, taken out or doubled."""
    changed = bytearray(content)
    kind = random_.randrange(4)
    if kind == 0:
        return bytes(changed[: random_.randrange(1, len(changed))])
    at = random_.randrange(len(changed))
    if kind == 1:
        del changed[at : at + random_.randrange(1, 40)]
        return bytes(changed)
    if kind == 2:
        changed[at:at] = changed[at : at + random_.randrange(1, 40)]
        return bytes(changed)
    for _ in range(random_.choice((1, 1, 3, 10))):
        at = random_.randrange(128, len(changed)) if len(changed) > 200 else 0
        changed[at] = random_.choice((0, 0xFF, 0x7F, random_.randrange(256)))
    return bytes(changed)


def outcome(read: Callable[[], Volume]) -> str:
    """ "read", or the kind of the one error; anything else than a SegmateError fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            read()
            return "read"
        except SegmateError as error:
            found = error
    if PATIENT in str(found) or len(str(found)) > 2000:
        pytest.fail(f"not fit for users: {found}")
    return type(found).__name__


def test_deep_sequences_and_huge_lengths(tmp_path: Path) -> None:
    make_series(tmp_path)
    start = bytes(128) + b"DICM" + b"\x02\x00\x10\x00UI\x14\x00" + b"1.2.840.10008.1.2.1\0"
    item = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    (tmp_path / "deep").write_bytes(start + item * 5000)
    (tmp_path / "huge").write_bytes(start + b"\x08\x00\x60\x00UN\0\0\xff\xff\xff\x7f" + b"CT")
    finding = find_series(tmp_path)
    assert dict(finding.skipped).keys() == {"deep", "huge"}
    assert len(finding.series) == 1


# ---------------------------------------------------------------- real scans


def by_simple_itk(files: list[Path]) -> tuple[Any, Any]:
    """(HU, affine of (k, j, i)) as ITK's GDCM reader sees files in their own order."""
    import SimpleITK as sitk  # noqa: N813

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in files])
    image = reader.Execute()
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, :3] = direction[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image), affine


def assert_like_simple_itk(volume: Volume, folder: Path) -> None:
    assert isinstance(volume.source, DicomSource)
    hu, affine = by_simple_itk([folder / name for name in volume.source.files])
    np.testing.assert_array_equal(volume.hu, np.where(hu < -1024, -1024, hu))
    np.testing.assert_allclose(volume.geometry.affine, affine, atol=2e-3)


@needs_scans
def test_the_real_folder_is_read_as_simple_itk_reads_it() -> None:
    volume = load(SCANS / "abdomen20_dicom")
    assert volume.hu.shape == (20, 512, 512)
    assert_like_simple_itk(volume, SCANS / "abdomen20_dicom")


@needs_scans
@pytest.mark.parametrize(
    ("name", "wanted", "count"),
    [
        ("ircad01_dicom.zip", None, 129),
        ("petct_two_series_dicom.zip", "1", 40),
        ("petct_two_series_dicom.zip", "2", 40),
    ],
)
def test_the_real_zips_are_read_as_simple_itk_reads_them(
    tmp_path: Path, name: str, wanted: str | None, count: int
) -> None:
    volume = load(SCANS / name, wanted)
    assert volume.hu.shape == (count, 512, 512)
    with zipfile.ZipFile(SCANS / name) as archive:
        archive.extractall(tmp_path)
    assert_like_simple_itk(volume, tmp_path)


@needs_scans
def test_the_real_zip_of_two_series_asks_and_names_the_file_that_is_no_dicom() -> None:
    message = refusal(SCANS / "petct_two_series_dicom.zip", AmbiguousSeriesError)
    assert message.count("4.25 x 0.98 x 0.98") == 2
    assert "not DICOM: 2.00 PET-CT SERIES - Subj1" in message


@pytest.mark.parametrize(
    ("tags", "month"),
    [
        ({"AcquisitionDate": "20240229", "SeriesDate": "20230101"}, "2024-02"),
        ({"AcquisitionDateTime": "20231231235959.1"}, "2023-12"),
        ({"SeriesDate": "20230101"}, "2023-01"),
        ({"AcquisitionDate": "20241301"}, ""),
        ({}, ""),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR DA")
def test_the_scanner_and_the_month_are_known_and_no_day(
    tmp_path: Path, tags: dict[str, str], month: str
) -> None:
    more = {"Manufacturer": "ACME", "ManufacturerModelName": "One", "ConvolutionKernel": "B30f"}
    make_series(tmp_path, Recipe(shape=(3, 4, 4), tags={**more, **tags}))
    source = load(tmp_path).source
    assert isinstance(source, DicomSource)
    assert source.scanner == Scanner("ACME", "One", "B30f", month[:4], month)
