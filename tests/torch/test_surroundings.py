"""Bodies on other couches: the body stays as it is, what surrounds it is the other's."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

import torch.nn.functional as F  # noqa: E402, N812

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from training import circumstances  # noqa: E402
from training.augment import Augmentation, sampling_grid  # noqa: E402
from training.batched import BatchMaker, Choices, choose  # noqa: E402
from training.batched_surroundings import Surroundings  # noqa: E402
from training.cases import AIR_HU, ORGANS, Case, CaseInfo, Known  # noqa: E402
from training.sampling import Sampler, Sampling  # noqa: E402
from training.surroundings import body_of, draw_aside, swap_surroundings  # noqa: E402
from training.volumes import corners_of, gather_volumes  # noqa: E402

COUCH_HU, ARM_HU, MUSCLE_HU, LUNG_HU = 300, 50, 60, -850


def patient(name: str, shape: tuple[int, int], centre: tuple[int, int], couch: int) -> Case:
    """A round body with a lung; under it a board so many pixels thick, beside it an arm if any."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    from_centre = np.hypot(rows - centre[0], columns - centre[1])
    plane = np.full(shape, -1000, dtype=np.int16)
    plane[from_centre < 30] = MUSCLE_HU
    plane[from_centre < 12] = LUNG_HU
    if couch:
        plane[centre[0] + 34 : centre[0] + 34 + couch, 5:-5] = COUCH_HU
        plane[np.hypot(rows - centre[0], columns - centre[1] - 40) < 5] = ARM_HU
    hu = np.stack([plane] * 5)
    labels = np.zeros(hu.shape, dtype=np.uint8)
    labels[:, from_centre < 12] = 1
    known = np.full((5, len(ORGANS)), Known.NO, dtype=np.uint8)
    known[:, 0] = Known.HAND
    return Case(CaseInfo(name, 3.0, 1.5), hu, labels, known, np.ones(5, dtype=bool))


@pytest.fixture
def bare() -> Case:
    return patient("bare01", (120, 120), (60, 60), couch=0)


@pytest.fixture
def lying() -> Case:
    return patient("lying01", (140, 110), (50, 55), couch=6)


def test_a_body_is_what_it_shuts_in_and_neither_arm_nor_couch(lying: Case) -> None:
    body = body_of(lying.hu[2])
    assert body is not None
    rows, columns = np.mgrid[:140, :110]
    from_centre = np.hypot(rows - 50, columns - 55)
    assert body[from_centre < 30].all()
    assert not body[from_centre > 34].any()
    assert body_of(np.full((20, 20), -1000)) is None


def test_a_body_gets_the_couch_and_the_arm_of_another(bare: Case, lying: Case) -> None:
    own = torch.from_numpy(bare.hu[1:4].astype(np.float32))
    shown = swap_surroundings(own, lying, 2, np.random.default_rng(0))
    body = body_of(bare.hu[2])
    assert torch.equal(shown[:, body], own[:, body])
    couch = (shown[1] == COUCH_HU).nonzero()
    assert 88 <= couch[:, 0].min() <= 100 + 1
    assert (couch[:, 0].max() - couch[:, 0].min()) == 5
    assert (shown[1] == ARM_HU).sum() > 40
    back = swap_surroundings(shown, bare, 2, np.random.default_rng(0))
    assert torch.equal(back, own)


def test_a_slice_without_a_body_stays(bare: Case, lying: Case) -> None:
    air = torch.full((3, 50, 50), -1000.0)
    assert torch.equal(swap_surroundings(air, lying, 2, np.random.default_rng(0)), air)


STILL: dict[str, Any] = {
    **{"size": 112, "identity_chance": 1.0, "shift_mm": 0.0, "cut_chance": 0.0},
    **{"noise_chance": 0.0, "clip_chance": 0.0, "step_chance": 0.0, "gain": (1.0, 1.0)},
    **{"offset_hu": 0.0, "blur_chance": 0.0, "contrast_chance": 0.0},
}


def test_crops_change_couches_as_often_as_asked_for(bare: Case, lying: Case) -> None:
    def couches_seen(chance: float) -> int:
        settings = Augmentation(**STILL | {"surroundings_chance": chance})
        cases = [bare, *(dataclasses.replace(lying, known=lying.known * 0) for _ in range(4))]
        sampler = Sampler(cases, Sampling(anywhere_chance=0.0, beside_chance=0.0), settings)
        rng = np.random.default_rng(1)
        crops = [sampler.draw(rng) for _ in range(30)]
        return sum(bool((crop.slices[1] > 0.8).any()) for crop in crops)

    assert couches_seen(0.0) == 0
    # Half of the sources have a couch, however many of the cases do.
    assert 8 <= couches_seen(1.0) <= 22


def on_device(cases: list[Case], changed: dict[str, Any]) -> BatchMaker:
    settings = Augmentation(**STILL | {"thick_chance": 0.0} | changed)
    return BatchMaker(gather_volumes(cases, torch.device("cpu"), bodies=True), settings, 1)


@pytest.mark.parametrize("swap", [(0, 1), (1, 0)], ids=("onto a couch", "off it"))
def test_a_device_pastes_what_a_single_crop_gets(
    bare: Case, lying: Case, swap: tuple[int, int]
) -> None:
    cases = [bare, lying]
    own, other = (cases[number] for number in swap)
    own.hu[3], other.hu[1] = own.hu[3] + 9, other.hu[1] - 5
    maker = on_device(cases, {"size": 160})
    turned = Augmentation(size=160, identity_chance=0.0, scale=(0.7, 0.8))
    case, one = torch.tensor([swap[0]]), torch.ones(1)
    for seed in range(3):
        stack = torch.from_numpy(own.hu[1:4].astype(np.float32))
        pasted = swap_surroundings(stack, other, 1, np.random.default_rng(seed))
        grid, _ = sampling_grid(own.hu.shape[1:], (70.0, 50.0), turned, np.random.default_rng(seed))
        expected = F.grid_sample(pasted[None] - AIR_HU, grid, mode="bilinear", align_corners=True)
        rows, columns = (
            (grid[..., axis] + 1) / 2 * (own.hu.shape[2 - axis] - 1) for axis in (1, 0)
        )
        corners = corners_of(rows, columns, maker.volumes.shapes[case])
        aside = torch.tensor([draw_aside(np.random.default_rng(seed))])
        chosen = Surroundings(torch.tensor([0]), torch.tensor([swap[1]]), one.long(), aside)
        around = maker.surround(chosen, case, 2 * one.long(), corners)
        assert around is not None
        shown = maker.slices(case, 2 * one, corners, 3.0 * one) + around[1]
        assert torch.allclose(shown - AIR_HU, expected, atol=0.2)
        assert not torch.equal(pasted, stack)


def test_a_device_leaves_the_body_and_other_crops_as_they_are(bare: Case, lying: Case) -> None:
    air = dataclasses.replace(bare, hu=np.full_like(bare.hu, -1000))
    maker = on_device([bare, lying, air], {})

    def made(number: int, swaps: list[tuple[int, int, tuple[int, int]]]) -> torch.Tensor:
        """Four crops of a case; (crop, whose surroundings, shift) of some."""
        swapped = None
        if swaps:
            to, case, aside = (torch.tensor(part) for part in zip(*swaps, strict=True))
            swapped = Surroundings(to, case, torch.full_like(to, 2), aside)
        centre = torch.full((4, 2), 60.0)
        where = (torch.full((4,), number), torch.full((4,), 2.0), centre)
        return maker.make(Choices(*where, None, swapped)).slices

    plain = made(0, [])
    # The second lies on a couch; one that lies far off changes nothing, nor where is no body.
    changed = made(0, [(1, 1, (0, 0)), (3, 1, (-500, 0))])
    assert torch.equal(changed[[0, 2, 3]], plain[[0, 2, 3]])
    body = torch.from_numpy(body_of(bare.hu[2]))[4:116, 4:116]
    assert torch.equal(changed[1][:, body], plain[1][:, body])
    couch = (COUCH_HU + 1000) / 700 - 1
    assert ((changed[1] - couch).abs() < 1e-4)[:, ~body].sum() > 3 * 400
    for number, other in ((2, 1), (1, 2)):
        assert torch.equal(made(number, [(0, other, (0, 0))]), made(number, []))


def test_a_batch_chooses_each_source_as_often(bare: Case, lying: Case) -> None:
    lying.usable[:3] = False
    cases = [bare, *(dataclasses.replace(lying, known=lying.known * 0) for _ in range(4))]

    def chosen(chance: float) -> Surroundings | None:
        sampler = Sampler(cases, Sampling(), Augmentation(surroundings_chance=chance))
        return choose(sampler, 400, np.random.default_rng(2)).surroundings

    assert chosen(0.0) is None
    often = chosen(0.6)
    assert often is not None
    assert 200 < len(often.to) < 280
    assert 0.4 < (often.case == 0).float().mean() < 0.6
    assert len(often.case.unique()) == 5
    assert set(often.row[often.case > 0].tolist()) == {3, 4}
    assert {int(often.aside.min()), int(often.aside.max())} == {-6, 6}


def test_a_validation_case_lies_on_a_couch_with_its_labels(bare: Case, lying: Case) -> None:
    shown = circumstances.on_couch(bare, lying)
    assert (shown.hu == COUCH_HU).any(axis=(1, 2)).all()
    assert np.array_equal(shown.hu[shown.labels == 1], bare.hu[bare.labels == 1])
    assert np.array_equal(shown.labels, bare.labels)
