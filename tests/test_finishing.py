"""Clean-up and survey while labels come: the same as once they are all there."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import two_organ_manifest

from segmate_cli import components
from segmate_cli.bundle import Manifest
from segmate_cli.clean_up import clean_up
from segmate_cli.doubt import survey
from segmate_cli.doubt.survey import Survey, Surveyor, Weights
from segmate_cli.finishing import Finishing
from segmate_cli.flow import Stopwatch
from segmate_cli.geometry import Geometry, geometry_from_ras
from segmate_cli.planes import PackedPlanes
from segmate_cli.resample import ModelGrid

SHAPE = (23, 30, 26)


def blobs() -> np.ndarray:
    """Labels 0 to 2 in large and small parts, on every plane some."""
    rng = np.random.default_rng(3)
    values = np.zeros(SHAPE, np.uint8)
    values[2:20, 4:15, 3:12] = 1
    values[5:22, 16:28, 12:24] = 2
    for _ in range(40):
        k, j, i = (int(rng.integers(0, n)) for n in SHAPE)
        values[k : k + 2, j, i : i + 2] = rng.integers(1, 3)
    return values


def fed(geometry: Geometry, values: np.ndarray, model: Manifest) -> tuple[Finishing, ModelGrid]:
    grid = ModelGrid.fit(geometry, model.preprocessing).at_scan_slices()
    finishing = Finishing(grid, geometry, model, Stopwatch())
    ks = range(grid.shape[0])
    for k in reversed(ks) if grid.descending else ks:
        finishing[k] = values[k]
    return finishing, grid


def same(one: Survey, other: Survey) -> bool:
    names = ("voxels", "volume_ml", "surface_mm2", "edge_mm2", "circle_mm2", "changed_of")
    alike = all(
        np.allclose(getattr(one, name), getattr(other, name), rtol=1e-12, atol=0) for name in names
    )
    small = zip(one.small.labels, other.small.labels, strict=True)
    return alike and one.changed == other.changed and all(np.array_equal(*each) for each in small)


RULES = {
    "nothing": {},
    "small parts": {"liver": {"min_component_ml": 0.1}, "spleen": {"min_component_ml": 0.1}},
    "the largest": {"liver": {"largest_component": True}},
    "holes": {"liver": {"largest_component": True}, "spleen": {"fill_holes": True}},
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("letters", ["up", "down", "mirrored", "coronal"])
def test_labels_and_survey_are_as_if_made_afterwards(monkeypatch, rules, letters):
    monkeypatch.setattr(components, "_SLAB_PLANES", 4)
    monkeypatch.setattr(survey, "_BLOCK_PIXELS", 3000)
    affine = {
        "up": np.diag([-2.0, -2.0, 2.0, 1.0]),
        "down": np.diag([-2.0, -2.0, -2.0, 1.0]),
        "mirrored": np.diag([2.0, -2.0, 2.0, 1.0]),
        "coronal": np.diag([2.0, 2.0, 2.0, 1.0])[[0, 2, 1, 3]],
    }[letters]
    model = two_organ_manifest(**rules)
    sides = (SHAPE[2], SHAPE[0], SHAPE[1]) if letters == "coronal" else SHAPE[::-1]
    geometry = geometry_from_ras(affine, sides)
    grid = ModelGrid.fit(geometry, model.preprocessing).at_scan_slices()
    values = np.resize(blobs(), grid.shape)
    finishing, grid = fed(geometry, values, model)

    want = PackedPlanes(grid.shape)
    for k in range(grid.shape[0]):
        want[k] = values[k]
    kept = clean_up(want, model, grid.voxel_ml)
    assert np.array_equal(finishing.clean_up(), kept)
    found = np.stack([*finishing.labels])
    assert np.array_equal(found, np.stack([*want]))
    assert np.array_equal(found, values) == (not rules)

    surveyor = Surveyor(geometry, 2)
    for plane in grid.back_planes(want):
        surveyor.add(plane)
    assert same(finishing.survey(), surveyor.survey())


def test_slices_can_be_counted_again(monkeypatch):
    monkeypatch.setattr(survey, "_BLOCK_PIXELS", 3000)
    geometry = geometry_from_ras(np.diag([-2.0, -2.0, 2.0, 1.0]), SHAPE[::-1])
    before, after = blobs(), blobs()
    after[[0, 7, 8, 22]] = 0

    def surveyor(values: np.ndarray) -> Surveyor:
        found = Surveyor(geometry, 2, Weights.ones(geometry), recountable=True)
        for plane in values:
            found.add(plane)
        return found

    again = surveyor(before).survey({0, 7, 8, 22}, lambda k: after[k])
    assert same(again, surveyor(after).survey())
    assert not same(again, surveyor(before).survey())
