"""Parts of scans that cannot hold an organ, and what a model finds there."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from segmate_cli.bundle import open_bundle  # noqa: E402
from segmate_cli.engines import load_model  # noqa: E402
from training.absences import found_ml, parts_without  # noqa: E402
from training.cases import ORGANS, Case, CaseInfo, Known  # noqa: E402
from training.phantoms import phantom_case  # noqa: E402
from training.sources import ABDOMINAL, THORACIC  # noqa: E402

SLICE_MM = 5.0


def body(name: str, known: Known = Known.HAND) -> Case:
    """80 slices: kidneys from 30 to 40, liver from 35 to 50."""
    labels = np.zeros((80, 16, 16), dtype=np.uint8)
    labels[35:50, 2:6, 2:6] = ORGANS.index("liver") + 1
    labels[30:40, 8:10, 2:4] = ORGANS.index("kidney_right") + 1
    table = np.full((80, len(ORGANS)), known, dtype=np.uint8)
    hu = np.full(labels.shape, -1000, dtype=np.int16)
    usable = np.ones(80, dtype=bool)
    usable[:3] = usable[-2:] = False
    return Case(CaseInfo(name, SLICE_MM, 1.5), hu, labels, table, usable)


def test_chests_begin_above_the_liver_and_pelves_end_below_the_kidneys() -> None:
    parts = {kind: (rows, organs) for kind, rows, organs in parts_without(body("btcv01"))}
    assert parts["chest"] == (slice(53, 78), ABDOMINAL)
    assert parts["pelvis"] == (slice(3, 26), (*ABDOMINAL, *THORACIC))


def test_a_chest_begins_where_it_is_known_to_show_none() -> None:
    case = body("segthor01", Known.TEACHER)
    case.known[50:57] = Known.NO
    case.known[57:] = Known.ABSENT
    parts = {kind: rows for kind, rows, _ in parts_without(case)}
    assert parts["chest"] == slice(57, 78)


def test_a_pelvis_needs_known_kidneys_and_a_chest_a_known_liver() -> None:
    case = body("segthor01")
    case.known[:, ORGANS.index("kidney_left")] = Known.ABSENT
    assert [kind for kind, *_ in parts_without(case)] == ["chest"]
    case.known[:, ORGANS.index("liver")] = Known.PSEUDO
    assert not list(parts_without(case))


def test_short_parts_and_invented_patients_are_left_out_and_necks_are_whole() -> None:
    case = body("btcv01")
    case.usable[:16] = False
    assert [kind for kind, *_ in parts_without(case)] == ["chest"]
    assert not list(parts_without(body("phantom1000")))
    ((kind, rows, organs),) = parts_without(body("kbp001", Known.NO))
    assert (kind, rows, organs) == ("neck", slice(0, 80), ABDOMINAL)


def test_what_is_found_is_measured_the_right_way_up() -> None:
    """A phantom's liver has its volume; what is asked of another organ is another's."""
    case = phantom_case(3)
    model = load_model(open_bundle("default"))
    whole = slice(0, case.hu.shape[0])
    voxel_ml = case.info.slice_mm * case.info.pixel_mm**2 / 1000
    true_ml = float((case.labels == ORGANS.index("liver") + 1).sum()) * voxel_ml
    assert found_ml(case, whole, ["liver"], model) == pytest.approx(true_ml, rel=0.1)
    top = slice(int(np.flatnonzero((case.labels == 8).any(axis=(1, 2)))[-1]) + 7, whole.stop)
    assert found_ml(case, top, ABDOMINAL, model) < 1
