"""Other circumstances: HU change as named, anatomy and labels go together."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from training import circumstances  # noqa: E402
from training.cases import ORGANS, Case, CaseInfo, Known  # noqa: E402

MUSCLE_HU, KIDNEY_HU, LUNG_HU, FAR_HU = 40, 150, -850, -1000


@pytest.fixture
def body() -> Case:
    """A body wider than deep with a lung at its right and a kidney, label 9, at its left."""
    rows, columns = np.mgrid[:100, :120]
    plane = np.full((100, 120), FAR_HU, dtype=np.int16)
    plane[np.hypot((rows - 50) / 0.7, columns - 60) < 44] = MUSCLE_HU
    plane[np.hypot(rows - 50, columns - 40) < 9] = LUNG_HU
    kidney = np.hypot(rows - 50, columns - 80) < 10
    plane[kidney] = KIDNEY_HU
    labels = np.zeros((4, 100, 120), dtype=np.uint8)
    labels[:, kidney] = 9
    known = np.full((4, len(ORGANS)), Known.HAND, dtype=np.uint8)
    hu = np.stack([plane] * 4)
    return Case(CaseInfo("body01", 3.0, 1.5), hu, labels, known, np.ones(4, dtype=bool))


def at(case: Case, row: int, column: int) -> int:
    return int(case.hu[2, row, column])


@pytest.mark.parametrize(
    ("name", "kidney", "muscle", "lung"),
    [
        ("contrast x 0.5", 100, MUSCLE_HU, LUNG_HU),
        ("contrast x 1.6", 210, MUSCLE_HU, LUNG_HU),
        ("tissue -25 HU", KIDNEY_HU - 25, MUSCLE_HU - 25, LUNG_HU),
        ("air +80 HU", KIDNEY_HU, MUSCLE_HU, LUNG_HU + 80),
        ("8-bit steps", 160, 32, -864),
        ("blurred", KIDNEY_HU, MUSCLE_HU, LUNG_HU),
    ],
)
def test_hu_change_as_named(body: Case, name: str, kidney: int, muscle: int, lung: int) -> None:
    shown = circumstances.changed(body, circumstances.CHANGES[name])
    assert (at(shown, 50, 80), at(shown, 50, 60), at(shown, 50, 40)) == (kidney, muscle, lung)
    assert shown.hu.dtype == np.int16
    assert shown.labels is body.labels


def test_a_kernel_makes_edges_wider_or_steeper(body: Case) -> None:
    rows = np.s_[2, 50, 69:73]  # from muscle into the kidney
    soft = circumstances.changed(body, circumstances.CHANGES["blurred"]).hu[rows]
    sharp = circumstances.changed(body, circumstances.CHANGES["sharpened"]).hu[rows]
    assert np.ptp(soft[1:3]) < np.ptp(body.hu[rows][1:3]) < np.ptp(sharp[1:3])


def test_a_circle_cuts_the_sides_of_a_body_alone(body: Case) -> None:
    shown = circumstances.changed(body, circumstances.CHANGES["circle of 0.9"])
    assert (at(shown, 50, 18), at(body, 50, 18)) == (FAR_HU, MUSCLE_HU)
    assert (shown.hu[:, 22:78, 30:90] == body.hu[:, 22:78, 30:90]).all()
    nobody = np.full((2, 50, 50), FAR_HU, dtype=np.float32)
    assert np.array_equal(circumstances.in_circle(nobody, 0.9), nobody)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_magnified_body_takes_its_labels_along(body: Case, factor: float) -> None:
    shown = circumstances.magnified(body, factor)
    assert shown.labels.sum() / body.labels.sum() == pytest.approx(factor**2, rel=0.06)
    inside = shown.hu[shown.labels == 9]
    assert (inside > 90).mean() > 0.98
    kidney = np.nonzero(shown.labels[2] == 9)
    assert kidney[1].mean() > np.nonzero(shown.hu[2] == LUNG_HU)[1].mean() + 25


def test_a_turned_body_turns_its_labels(body: Case) -> None:
    shown = circumstances.magnified(body, 1.0, 12.0)
    rows, columns = (axis.mean() for axis in np.nonzero(shown.labels[2] == 9))
    before = [axis.mean() for axis in np.nonzero(body.labels[2] == 9)]
    assert abs(rows - before[0]) > 3
    assert (shown.hu[shown.labels == 9] > 90).mean() > 0.98
    middle = np.array([59.5, 59.5])  # of the square that the slices are padded to
    assert np.hypot(rows - middle[0], columns - middle[1]) == pytest.approx(
        np.hypot(before[0] - middle[0], before[1] - middle[1]), abs=0.6
    )
