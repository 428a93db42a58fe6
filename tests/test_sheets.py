"""Label maps that overlap, on several sheets: counted as each alone."""

from __future__ import annotations

import numpy as np
import pytest

from segmate_cli.doubt.survey import Surveyor, joined
from segmate_cli.geometry import Geometry
from segmate_cli.measurement import examine, examine_slices
from segmate_cli.organs import organ
from segmate_cli.sheets import SheetMaker, Sheets
from segmate_cli.volume import Labels, Volume

KEYS = ("liver", "heart", "spleen")
NAMES = {n: organ(key) for n, key in enumerate(KEYS, 1)}


@pytest.fixture
def geometry() -> Geometry:
    affine = np.diag([2.0, 2.0, 3.0, 1.0])[:, [2, 1, 0, 3]]
    return Geometry(affine, (12, 20, 22))


def masks(geometry: Geometry) -> dict[int, np.ndarray]:
    """A box, another inside it, and one beside both that meets the scan's end."""
    found = {n: np.zeros(geometry.shape, bool) for n in NAMES}
    found[1][2:9, 4:14, 3:12] = True
    found[2][3:6, 6:9, 5:10] = True
    found[3][5:, 12:16, 15:] = True
    return found


def laid(geometry: Geometry) -> Sheets:
    made = SheetMaker(geometry, NAMES)
    for value, mask in masks(geometry).items():
        made.lay(value, mask)
    return Sheets(made.made())


def test_what_overlaps_lies_on_another_sheet_and_nothing_else(geometry):
    first, second = laid(geometry).sheets
    assert set(np.unique(first.values)) == {0, 1, 3}
    assert set(np.unique(second.values)) == {0, 2}
    shown = np.stack(list(laid(geometry).planes()))
    for value, mask in masks(geometry).items():
        assert (shown == value).sum() == mask.sum() - (value == 1) * masks(geometry)[2].sum()


def test_numbers_are_those_of_each_alone(geometry):
    rng = np.random.default_rng(4)
    scan = Volume(rng.integers(-200, 200, geometry.shape).astype(np.int16), geometry)
    together = examine_slices(laid(geometry), scan.as_scan(), rules=()).stats
    alone = [
        examine(Labels(mask.astype(np.uint8), geometry, {1: NAMES[value]}), scan, rules=()).stats[0]
        for value, mask in masks(geometry).items()
    ]
    assert list(together) == alone


def test_surveys_add_up_and_what_was_told_counts(geometry):
    def surveyed(labels: Labels):
        surveyor = Surveyor(geometry, 3)
        for plane in labels.values:
            surveyor.add(plane)
        return surveyor.survey()

    both = joined([surveyed(sheet) for sheet in laid(geometry).sheets], told={2: (7, 0.5)})
    counts = [mask.sum() for mask in masks(geometry).values()]
    assert both.voxels.tolist() == [0, counts[0], 7, counts[2]]
    assert both.volume_ml[2] == 0.5
    high, deep, wide = 9.0, 6.0, 10.0  # mm, of the box inside
    assert both.surface_mm2[2] == pytest.approx(2 * (high * deep + high * wide + deep * wide))
    for value, mask in masks(geometry).items():
        assert np.array_equal(both.small.mask([value]), mask[::2, ::2, ::2])
    assert np.array_equal(
        both.small.background(), ~np.any(list(masks(geometry).values()), axis=0)[::2, ::2, ::2]
    )
    assert both.ends_known
    assert not joined([both], frozenset({"superior"})).ends_known
