"""Whole, cut, out of view, missing: each told apart on bodies built for it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from segmate_cli import organs
from segmate_cli.doubt import survey
from segmate_cli.doubt.anatomy import SPANS
from segmate_cli.doubt.status import gather, height_mm, statuses
from segmate_cli.doubt.survey import Survey, Surveyor, Weights
from segmate_cli.doubt.words import FACES, STATUS_KINDS, OrganStatus
from segmate_cli.geometry import Geometry
from segmate_cli.measurement import measure
from segmate_cli.volume import Labels

KEYS = tuple(SPANS)
ORGANS = {value: organs.organ(key) for value, key in enumerate(KEYS, 1)}


def axial(shape, spacing_mm=(5.0, 4.0, 4.0)) -> Geometry:
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing_mm
    affine[3, 3] = 1.0
    return Geometry(affine, shape)


def body(low_mm: float, high_mm: float, without: tuple[str, ...] = ()) -> Labels:
    """A scan from ``low_mm`` to ``high_mm`` over the liver's top; organs are pillars."""
    slices = round((high_mm - low_mm) / 5)
    values = np.zeros((slices, 40, 90), np.uint8)
    z_mm = low_mm + 5 * (np.arange(slices) + 0.5)
    for value, key in enumerate(KEYS, 1):
        inside = (z_mm > SPANS[key].low_mm) & (z_mm < SPANS[key].high_mm)
        if key not in without:
            values[inside, 10:30, 7 * value : 7 * value + 5] = value
    return Labels(values, axial(values.shape), ORGANS)


def kinds(labels: Labels) -> dict[str, str]:
    return {each.organ.key: each.status.kind for each in measure(labels, rules=())}


def test_a_whole_trunk_is_complete():
    found = measure(body(-260, 360), rules=())
    assert {each.status for each in found} == {OrganStatus("complete", edge_share=0.0)}


def test_an_abdomen_has_no_trachea_in_view_and_cuts_what_goes_on_above():
    found = {each.organ.key: each for each in measure(body(-260, 30), rules=())}
    assert found["trachea"].status.kind == "absent"
    assert "out of view" in found["trachea"].status.reasons[0]
    assert "above" in found["trachea"].status.reasons[0]
    assert found["trachea"].volume_ml is None
    assert found["liver"].status.kind == "complete"
    for key in ("lung_left", "lung_right", "esophagus", "spinal_cord", "heart", "aorta"):
        assert found[key].status.kind == "truncated"
        assert found[key].status.faces == ("superior",)
        assert found[key].status.is_lower_bound
        assert found[key].volume_ml > 0


def test_a_chest_has_no_kidneys_in_view():
    found = kinds(body(-70, 330))
    assert found["kidney_left"] == found["kidney_right"] == "absent"
    assert found["liver"] == found["spleen"] == "truncated"


@pytest.mark.parametrize("key", KEYS)
def test_an_organ_missing_from_a_whole_trunk_is_not_found(key):
    found = kinds(body(-260, 360, without=(key,)))
    assert found.pop(key) == "not_found"
    assert set(found.values()) == {"complete"}


@pytest.mark.parametrize("key", ["kidney_left", "kidney_right"])
def test_a_kidney_is_missing_where_the_other_is_seen_whole(key):
    """At the edge of what is scanned its usual place alone would not tell."""
    (other,) = {"kidney_left", "kidney_right"} - {key}
    found = measure(body(-182, 330, without=(key,)), rules=())
    kidneys = {each.organ.key: each.status for each in found if "kidney" in each.organ.key}
    assert kidneys[other].kind == "complete"
    assert kidneys[key].kind == "not_found"
    assert kidneys[key].reasons == (
        "not a voxel was found, though that of the other side is seen whole",
    )
    assert kinds(body(-150, 330, without=(key,)))[key] == "absent"


def test_where_nothing_was_found_nobody_can_tell():
    found = measure(body(-260, 360, without=KEYS), rules=())
    assert {each.status.kind for each in found} == {"not_found"}
    assert {each.status.reasons for each in found} == {
        ("no organ was found that would tell what is in view",)
    }


def test_an_organ_that_the_table_does_not_place_is_not_found():
    values = np.zeros((9, 9, 9), np.uint8)
    labels = Labels(values, axial(values.shape), {1: organs.foreign_organ("femur", 1)})
    assert kinds(labels) == {"femur": "not_found"}


def box(turn: tuple[str, str, str], touching: str) -> Labels:
    """A box that meets one face of the scan, stored in any order of axes."""
    geometry, _ = axial((20, 30, 40), (3.0, 2.0, 1.0)).reoriented(("S", "P", "L"))
    values = np.zeros(geometry.shape, np.uint8)
    where = [slice(5, 15), slice(10, 20), slice(10, 30)]
    axis = {"superior": 0, "inferior": 0, "anterior": 1, "posterior": 1, "right": 2, "left": 2}
    at = axis[touching]
    low = touching in ("inferior", "anterior", "right")
    size = (10, 10, 20)[at]
    where[at] = slice(0, size) if low else slice(geometry.shape[at] - size, None)
    values[tuple(where)] = 1
    turned, how = geometry.reoriented(turn)
    return Labels(how.view(values).copy(), turned, {1: organs.organ("liver")})


@pytest.mark.parametrize("touching", FACES)
@pytest.mark.parametrize("turn", [("S", "P", "L"), ("I", "A", "R"), ("A", "S", "L")])
def test_the_face_that_cuts_is_named_and_its_share_is_the_boxs(touching, turn):
    (found,) = measure(box(turn, touching), rules=())
    assert found.status.faces == (touching,)
    sides = np.array([30.0, 20.0, 20.0])  # mm along z, y, x
    areas = sides.prod() / sides
    own = areas[{"superior": 0, "inferior": 0, "anterior": 1, "posterior": 1}.get(touching, 2)]
    assert found.status.edge_share == pytest.approx(own / (2 * areas.sum()))
    assert touching in found.status.reasons[0]


def surveyed(values: np.ndarray, geometry: Geometry, weights: Weights | None = None) -> Survey:
    surveyor = Surveyor(geometry, 3, weights)
    for plane in values:
        surveyor.add(plane)
    return surveyor.survey()


def test_rows_that_stand_for_several_count_as_these():
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 4, (6, 7, 8)).astype(np.uint8)
    weights = Weights(rng.integers(1, 4, 7), rng.integers(1, 4, 8))
    fine = coarse.repeat(weights.rows, 1).repeat(weights.columns, 2)
    geometry = axial(fine.shape, (2.0, 1.5, 0.7))
    want, have = surveyed(fine, geometry), surveyed(coarse, geometry, weights)
    for name in ("voxels", "surface_mm2", "edge_mm2"):
        assert getattr(have, name) == pytest.approx(getattr(want, name))
    assert have.changed == want.changed
    assert np.array_equal(have.small.labels, want.small.labels)
    assert have.small.geometry.same_as(want.small.geometry)


@pytest.mark.parametrize("pixels", [1, 130, 10**6])
def test_slices_count_alike_however_many_at_once(monkeypatch, pixels):
    values = np.random.default_rng(7).integers(0, 4, (9, 6, 7)).astype(np.uint8)
    values[3:5] = 0
    geometry = axial(values.shape, (2.0, 1.5, 0.7))
    monkeypatch.setattr(survey, "_BLOCK_PIXELS", pixels)
    found = surveyed(values, geometry)
    assert found.voxels[1:].tolist() == np.bincount(values.ravel())[1:].tolist()
    for lag in (1, 2):
        assert found.changed[lag - 1] == np.count_nonzero(values[lag:] != values[:-lag])
    ends = [np.bincount(values[end].ravel(), minlength=4) for end in (-1, 0)]
    for face, counts in zip(("superior", "inferior"), ends, strict=True):
        area_mm2 = found.edge_mm2[1:, FACES.index(face)]
        assert area_mm2 == pytest.approx(1.5 * 0.7 * counts[1:])


def test_the_surface_is_numpys():
    rng = np.random.default_rng(6)
    values = rng.integers(0, 4, (5, 6, 7)).astype(np.uint8)
    geometry = axial(values.shape, (2.0, 1.5, 0.7))
    areas = (1.5 * 0.7, 2.0 * 0.7, 2.0 * 1.5)
    padded = np.pad(values, 1)
    found = surveyed(values, geometry)
    for value in (1, 2, 3):
        mask = padded == value
        faces = (np.count_nonzero(np.diff(mask, axis=n)) * area for n, area in enumerate(areas))
        assert found.surface_mm2[value] == pytest.approx(sum(faces))
    ordered = [float((values[n:] != values[:-n]).sum()) for n in (1, 2)]
    assert list(found.changed) == ordered


@pytest.mark.parametrize(("reach_mm", "cut"), [(50, False), (60, True)])
def test_the_reconstruction_circle_cuts_where_the_scan_shows_nothing_beyond(reach_mm, cut):
    geometry = axial((9, 60, 60), (5.0, 2.0, 2.0))
    values = np.zeros(geometry.shape, np.uint8)
    values[2:7, 25:35, 30 : 30 + reach_mm // 2] = 1
    values[2:7, 25:35, 59] = 0
    survey = surveyed(values, geometry)
    for circle, faces in ((True, ("circle",) if cut else ()), (False, ()), (None, ())):
        evidence = gather(survey, {1: organs.organ("liver")}, circle)
        found = statuses(evidence, height_mm(survey))["liver"]
        assert (found.faces, found.is_lower_bound) == (faces, bool(faces))


def test_statuses_do_not_depend_on_how_a_scan_is_stored():
    labels = body(-100, 200)
    want = measure(labels, rules=())
    for turn in itertools.product("SI", "PA", "LR"):
        geometry, how = labels.geometry.reoriented(turn)
        turned = measure(Labels(how.view(labels.values).copy(), geometry, ORGANS), rules=())
        for one, other in zip(want, turned, strict=True):
            assert one.status.kind == other.status.kind
            assert one.status.faces == other.status.faces


def test_the_kinds_are_the_published_ones():
    published = "complete truncated absent not_found implausible low_confidence"
    assert " ".join(STATUS_KINDS) == published
