"""Kidneys moved along the body: only where none is known to be, image and labels alike."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from training.augment import Augmentation, draw_crop  # noqa: E402
from training.batched import BatchMaker, Choices, choose, gather_loans  # noqa: E402
from training.cases import ORGANS, Case, CaseInfo, Known  # noqa: E402
from training.lending import find_loan, paste_labels, paste_slices  # noqa: E402
from training.sampling import Sampler, Sampling  # noqa: E402
from training.volumes import gather_volumes  # noqa: E402

SLICE_MM = 3.0
KIDNEY_HU, FAT_HU, MUSCLE_HU = 180, -100, 60
BELOW = 5
_KIDNEY_CHANNELS = [ORGANS.index("kidney_left"), ORGANS.index("kidney_right")]


@pytest.fixture
def trunk() -> Case:
    """Muscle, and in its upper half a right kidney in fat; both kidneys known everywhere."""
    hu = np.full((40, 128, 128), MUSCLE_HU, dtype=np.int16)
    labels = np.zeros(hu.shape, dtype=np.uint8)
    hu[20:30, 55:75, 35:55] = FAT_HU
    hu[20:30, 59:71, 39:51] = KIDNEY_HU
    labels[20:30, 59:71, 39:51] = ORGANS.index("kidney_right") + 1
    known = np.zeros((40, len(ORGANS)), dtype=np.uint8)
    known[:, ORGANS.index("kidney_right")] = Known.HAND
    known[:, ORGANS.index("kidney_left")] = Known.HAND
    return Case(CaseInfo("trunk", SLICE_MM, 1.5), hu, labels, known, np.ones(40, dtype=bool))


def loans(case: Case, row: int) -> int:
    rng = np.random.default_rng(3)
    return sum(find_loan(case, row, rng) is not None for _ in range(20))


def test_a_kidney_is_lent_to_a_slice_known_to_have_none(trunk: Case) -> None:
    rng = np.random.default_rng(0)
    found = [loan for _ in range(40) if (loan := find_loan(trunk, BELOW, rng)) is not None]
    assert found, "no kidney was lent in 40 tries"
    for loan in found:
        assert 20 <= loan.row < 30
        assert ORGANS[loan.taken - 1] == "kidney_right"
        assert int(loan.inside.sum()) == 144
        assert bool((loan.around | ~loan.inside).all())
    assert {loan.label == loan.taken for loan in found} == {True, False}


def test_a_kidney_of_the_other_side_is_seen_in_a_mirror(trunk: Case) -> None:
    """Its lateral side stays lateral, about the middle of the body wherever that lies."""
    trunk.hu[:, :, :30] = trunk.hu[:, :, 120:] = -1000
    trunk.labels[20:30, 59:62, 45:51] = 0  # a notch at the corner nearer to the middle
    rng = np.random.default_rng(1)
    loans = [one for _ in range(60) if (one := find_loan(trunk, BELOW, rng)) is not None]
    for loan in loans:
        assert loan.mirrored == (loan.label != loan.taken)
        rows, columns = np.nonzero(loan.inside.numpy())
        top = columns[rows == rows.min()]
        towards_middle = top.max() < columns.max()
        assert towards_middle != loan.mirrored
        middle = 149 / 2
        assert (columns.mean() > middle) == loan.mirrored
        assert columns.min() >= 19
    assert {loan.mirrored for loan in loans} == {True, False}


def test_nothing_is_lent_where_kidneys_are_unknown(trunk: Case) -> None:
    assert loans(trunk, BELOW) > 0
    trunk.known[BELOW] = Known.NO
    assert loans(trunk, BELOW) == 0


def test_nothing_is_lent_beside_a_kidney_of_that_side(trunk: Case) -> None:
    trunk.known[:, ORGANS.index("kidney_left")] = Known.NO
    assert loans(trunk, 19) > 0
    assert loans(trunk, 20) == 0


def test_the_other_side_may_be_lent_beside_a_kidney(trunk: Case) -> None:
    rng = np.random.default_rng(5)
    found = [loan for _ in range(40) if (loan := find_loan(trunk, 20, rng)) is not None]
    assert found, "no kidney was lent in 40 tries"
    assert {(ORGANS[loan.label - 1], loan.mirrored) for loan in found} == {("kidney_left", True)}


@pytest.mark.parametrize("hu", [900, -850], ids=["bone", "lung"])
def test_nothing_is_lent_into_bone_or_lung(trunk: Case, hu: int) -> None:
    trunk.hu[BELOW] = hu
    assert loans(trunk, BELOW) == 0


def test_nothing_is_lent_onto_another_organ(trunk: Case) -> None:
    trunk.labels[BELOW] = ORGANS.index("liver") + 1
    assert loans(trunk, BELOW) == 0


STILL = {
    **{"identity_chance": 1.0, "shift_mm": 0.0, "gain": (1.0, 1.0), "offset_hu": 0.0},
    **{"contrast_chance": 0.0, "noise_hu": 0.0, "clip_chance": 0.0, "step_chance": 0.0},
    **{"blur_chance": 0.0, "cut_chance": 0.0},
}


@pytest.mark.parametrize("mirrored", [False, True], ids=["as_it_is", "mirrored"])
def test_a_device_lends_as_a_single_crop_does(trunk: Case, mirrored: bool) -> None:
    trunk.hu[:, :, 110:] = -1000
    found = (find_loan(trunk, BELOW, np.random.default_rng(seed)) for seed in range(40))
    loan = next(one for one in found if one is not None and one.mirrored == mirrored)
    trunk.known[BELOW, loan.label - 1] = Known.ABSENT
    trunk.hu[:, ::3] += 7
    config = Augmentation(size=128, thick_chance=0.0, own_distance_chance=1.0, **STILL)
    maker = BatchMaker(gather_volumes([trunk], torch.device("cpu")), config, 1)
    lent = gather_loans([(1, loan)])
    centre = torch.full((2, 2), 64.0)
    batch = maker.make(Choices(torch.zeros(2).long(), torch.full((2,), float(BELOW)), centre, lent))
    around = [torch.from_numpy(trunk.hu[row - 1 : row + 2].astype(np.float32)) for row in
              (BELOW, loan.row)]  # fmt: skip
    expected = paste_slices(*around, loan)
    assert torch.allclose((batch.slices[1] + 1) * 700 - 1000, expected.clamp(-1000, 400), atol=0.1)
    assert torch.allclose((batch.slices[0] + 1) * 700 - 1000, around[0], atol=0.1)
    assert np.array_equal(batch.labels[1].numpy(), paste_labels(trunk.labels[BELOW], loan))
    assert not batch.labels[0].any()
    assert batch.known[:, loan.label - 1].tolist() == [Known.ABSENT, Known.HAND]


def test_loans_are_chosen_as_often_as_asked_for(trunk: Case) -> None:
    def chosen(chance: float) -> Choices:
        sampler = Sampler([trunk], Sampling(), Augmentation(lend_chance=chance))
        return choose(sampler, 40, np.random.default_rng(2))

    assert chosen(0.0).loans is None
    always = chosen(1.0)
    assert always.loans is not None
    rows = always.position[always.loans.to].round().long()
    away = (rows < 20) | (rows >= 30)
    assert (away | (always.loans.label != always.loans.taken)).all()
    assert away.any()
    assert ((always.loans.row >= 20) & (always.loans.row < 30)).all()


def test_a_crop_shows_the_kidney_where_its_label_is(trunk: Case) -> None:
    config = Augmentation(size=128, lend_chance=1.0, **STILL)
    trunk.known[BELOW, _KIDNEY_CHANNELS] = Known.ABSENT
    crops = [
        draw_crop(trunk, float(BELOW), (64.0, 64.0), config, np.random.default_rng(seed))
        for seed in range(12)
    ]
    with_kidney = [crop for crop in crops if crop.labels.any()]
    assert with_kidney, "no crop got a kidney in 12 tries"
    for crop in with_kidney:
        (value,) = set(crop.labels.unique().tolist()) - {0}
        hu = (crop.slices[1] + 1) * 700 - 1000
        # Slices may be thick and mix with others at the kidney's own ends.
        assert float(hu[crop.labels == value].mean()) > KIDNEY_HU - 60
        assert float(hu[crop.labels == 0].max()) < KIDNEY_HU
        assert crop.known[value - 1] == Known.HAND
