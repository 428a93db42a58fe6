"""What is surely not HU is refused, what is odd is told, and what is CT passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED, needs_shared

from segmate_cli import scans
from segmate_cli.errors import NotHounsfieldError
from segmate_cli.geometry import Geometry
from segmate_cli.hounsfield import HuCensus, check_hu
from segmate_cli.volume import NiftiSource, Volume

AIR, LUNG, FAT, TISSUE, BONE = -1000, -850, -100, 45, 700


def volume(hu: np.ndarray) -> Volume:
    values = np.clip(np.rint(hu), -32768, 32767).astype(np.int16)
    return Volume(values, Geometry(np.eye(4), values.shape), NiftiSource(Path("scan.nii"), None))


def body(shape: tuple[int, int, int] = (12, 64, 64)) -> np.ndarray:
    """A round body with lungs, a spine and noise in air, in HU as a scanner would give them."""
    j, i = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[1:]), indexing="ij")
    plane = np.full(shape[1:], float(AIR))
    plane[j**2 + i**2 < 0.7] = FAT
    plane[j**2 + i**2 < 0.55] = TISSUE
    plane[(j + 0.1) ** 2 + (np.abs(i) - 0.35) ** 2 < 0.05] = LUNG
    plane[(j - 0.5) ** 2 + i**2 < 0.02] = BONE
    noise = np.random.default_rng(5).normal(0, 20, shape)
    return np.maximum(plane + noise, -1024)


def round_field(hu: np.ndarray, padding: float) -> np.ndarray:
    """The corners that a scanner does not reconstruct, filled as some do."""
    j, i = np.meshgrid(*(np.linspace(-1, 1, n) for n in hu.shape[1:]), indexing="ij")
    return np.where(j**2 + i**2 > 1, padding, hu)


def with_metal(hu: np.ndarray, value: float) -> np.ndarray:
    hu = hu.copy()
    hu[5, 30:34, 30:34] = value
    hu[5, 34:36, 30:34] = -1400  # the shadow beside it
    return hu


REAL_LOOKING = {
    "body and air": body,
    "padding -1024": lambda: round_field(body(), -1024),
    "padding -2000": lambda: round_field(body(), -2000),
    "padding -3024": lambda: round_field(body(), -3024),
    "padding -32768": lambda: round_field(body(), -32768),
    "metal 3071": lambda: with_metal(body(), 3071),
    "metal 30000": lambda: with_metal(body(), 30_000),
    "padding and metal": lambda: with_metal(round_field(body(), -3024), 30_000),
    "air offset of 12-bit scanners": lambda: np.clip(body(), -1024, 3071),
    "one slice": lambda: body((1, 64, 64)),
    "many slices": lambda: body((300, 24, 24)),
    "trunk fills the view": lambda: body()[:, 16:48, 16:48],
}


@pytest.mark.parametrize("kind", REAL_LOOKING)
def test_ct_passes_without_a_word(kind):
    assert check_hu(volume(REAL_LOOKING[kind]())) == ()


def test_a_windowed_ct_passes_with_a_warning():
    (warning,) = check_hu(volume(np.clip(body(), -125, 275)))
    assert warning == ("No voxel is over 275 HU: bone seems clipped, so this is a windowed scan.")


def test_lung_alone_passes_with_a_warning():
    hu = np.random.default_rng(6).normal(LUNG, 60, (8, 40, 40))
    hu[4, 20, 18:30] = 400  # a calcified vessel
    (warning,) = check_hu(volume(hu))
    assert warning.startswith("Only 0.")
    assert "soft tissue" in warning


def test_lung_with_a_chest_wall_passes():
    hu = np.random.default_rng(7).normal(LUNG, 40, (8, 40, 40))
    hu[:, :, :4], hu[:, :, 4:6] = TISSUE, BONE
    assert check_hu(volume(hu)) == ()


NOT_HU = {
    "constant": (lambda: np.full((4, 8, 8), -1000), "every voxel is -1000"),
    "nothing but padding": (lambda: np.full((4, 8, 8), -3024), "every voxel is -3024"),
    "constant and padding": (
        lambda: round_field(np.full((4, 64, 64), -1000.0), -2000),
        "every voxel is -1000",
    ),
    "mask": (lambda: body() > -300, "from 0 to 1 span too little"),
    "scaled to -1..1": (lambda: np.clip(body() / 1000, -1, 1), "span too little"),
    "8-bit": (lambda: (np.clip(body(), -1000, 400) + 1000) * 255 / 1400, "8-bit picture"),
    "raw": (lambda: body() + 1024, "none is below 0.*rescale intercept"),
    "raw with padding": (lambda: round_field(body() + 1024, -2000), "none is below 0"),
    "raw with noise below 0": (lambda: body() + 1010, "near .1000.*intercept is missing"),
    "clipped at 0": (lambda: np.maximum(body(), 0), "none is below 0"),
    "MR": (lambda: np.abs(body()) * 1.3 + 5, "or MR"),
    "air": (lambda: np.random.default_rng(8).normal(-1000, 60, (4, 20, 20)), "nothing as dense"),
    "inverted": (lambda: -body(), "the sign is inverted"),
    "inverted with dense bone": (lambda: -with_metal(body(), 1800), "the sign is inverted"),
    "inverted with padding": (lambda: -round_field(body(), -3024), "the sign is inverted"),
}


@pytest.mark.parametrize("kind", NOT_HU)
def test_what_is_surely_not_hu_is_refused_with_the_override(kind):
    make, words = NOT_HU[kind]
    with pytest.raises(NotHounsfieldError, match=words) as caught:
        check_hu(volume(make()))
    message = str(caught.value)
    assert message.startswith("scan.nii: ")
    assert message.endswith("If you are sure that it is CT, use --no-hu-check.")
    assert message.isprintable()


def test_without_a_source_the_message_starts_with_what_was_seen():
    nameless = Volume(np.zeros((2, 2, 2), np.int16), Geometry(np.eye(4), (2, 2, 2)))
    with pytest.raises(NotHounsfieldError, match=r"^every voxel is 0"):
        check_hu(nameless)


def test_the_census_of_slices_is_that_of_the_volume():
    hu = np.clip(body((200, 16, 16)), -125, 275).astype(np.int16)
    census = HuCensus(len(hu))
    for plane in hu:
        census.add(plane)
    assert census.verdict("x") == check_hu(volume(hu)) != ()


@needs_shared
def test_real_ct_passes():
    assert check_hu(scans.load(SHARED / "ct" / "scans" / "abdomen20_dicom")) == ()


@needs_shared
def test_a_label_map_is_not_taken_for_ct():
    with pytest.raises(NotHounsfieldError, match="or a mask"):
        check_hu(scans.load(SHARED / "ct" / "scans" / "ircad01_labels.nii.gz"))
