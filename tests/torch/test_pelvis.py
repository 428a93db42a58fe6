"""Renal pelves wide with urine: in a kidney's hollow, no kidney in image and labels alike."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from training.augment import Augmentation, widen_pelves  # noqa: E402
from training.batched import BatchMaker  # noqa: E402
from training.cases import ORGANS, Case, CaseInfo, Known  # noqa: E402
from training.pelvis import fill_pelves, find_pelves  # noqa: E402
from training.volumes import gather_volumes  # noqa: E402

LEFT, LIVER = ORGANS.index("kidney_left") + 1, ORGANS.index("liver") + 1
KIDNEY_HU, FAT_HU = 150.0, -100.0
ALWAYS = Augmentation(size=96, pelvis_chance=1.0)


def section() -> tuple[torch.Tensor, torch.Tensor]:
    """A kidney in fat, a square of 32 pixels open to one side, and a liver away from it."""
    labels = torch.zeros(96, 96, dtype=torch.int32)
    labels[30:62, 30:62] = LEFT
    labels[40:52, 30:48] = 0
    labels[5:20, 5:90] = LIVER
    image = torch.full((3, 96, 96), FAT_HU)
    image[:, labels == LEFT] = KIDNEY_HU
    image[:, labels == LIVER] = 90.0
    return image, labels


def hollow(labels: torch.Tensor) -> torch.Tensor:
    inside = torch.zeros_like(labels, dtype=torch.bool)
    inside[40:52, 30:48] = True
    return inside


@pytest.mark.parametrize("level", [0.1, 0.3])
def test_a_pelvis_lies_in_the_hollow_and_widens_it(level: float) -> None:
    image, labels = section()
    pelvis = find_pelves(image[None], labels[None], torch.tensor([level]))[0]
    assert pelvis[hollow(labels)].float().mean() > 0.9
    assert (pelvis & (labels == LEFT)).any()
    assert not (pelvis & (labels == LIVER)).any()
    assert (labels[~pelvis] == LEFT).sum() >= 0.5 * (labels == LEFT).sum()


def test_a_wide_pelvis_is_wider_than_a_narrow_one() -> None:
    image, labels = section()
    sizes = [
        int(find_pelves(image[None], labels[None], torch.tensor([level])).sum())
        for level in (0.1, 0.3, 0.5)
    ]
    assert sizes[0] > sizes[1] > sizes[2] > 0


def test_a_kidney_without_a_hollow_and_a_small_one_stay_whole() -> None:
    image, labels = section()
    labels[40:52, 30:48] = LEFT
    assert not find_pelves(image[None], labels[None], torch.tensor([0.2])).any()
    image, labels = section()
    small = torch.where(labels == LEFT, 0, labels)
    small[30:44, 30:44] = LEFT
    small[35:39, 30:38] = 0
    assert not find_pelves(image[None], small[None], torch.tensor([0.1])).any()


@pytest.mark.parametrize("hu", [700.0, -900.0], ids=["bone", "gas"])
def test_no_pelvis_is_made_of_bone_or_gas(hu: float) -> None:
    image, labels = section()
    image[:, hollow(labels)] = hu
    pelvis = find_pelves(image[None], labels[None], torch.tensor([0.1]))[0]
    assert not pelvis[hollow(labels)].any()


def test_urine_fills_the_pelvis_alone() -> None:
    image, labels = section()
    pelvis = find_pelves(image[None], labels[None], torch.tensor([0.2]))
    filled = fill_pelves(image[None], pelvis, torch.tensor([12.0]))[0]
    apart = torch.nn.functional.max_pool2d(pelvis.float()[None], 3, 1, 1)[0, 0] == 0
    assert torch.equal(filled[:, apart], image[:, apart])
    deep = torch.nn.functional.avg_pool2d(pelvis.float()[None], 3, 1, 1)[0, 0] > 0.999
    assert deep.any()
    assert torch.allclose(filled[:, deep], torch.tensor(12.0))


@pytest.mark.parametrize("from_model", [False, True], ids=["hand", "earlier_model"])
def test_what_is_pelvis_is_kidney_in_neither_label(from_model: bool) -> None:
    image, labels = section()
    nothing = torch.zeros_like(labels)
    given = (nothing, labels) if from_model else (labels, nothing)
    widened = 0
    for seed in range(8):
        shown, *told = widen_pelves(image, *given, ALWAYS, np.random.default_rng(seed))
        before, after = given[from_model] == LEFT, told[from_model] == LEFT
        gone = before & ~after
        widened += bool(gone.any())
        assert not (after & ~before).any()
        assert (shown[:, gone] != image[:, gone]).all()
        assert torch.equal(told[from_model] == LIVER, labels == LIVER)
    assert widened >= 4
    never = dataclasses.replace(ALWAYS, pelvis_chance=0.0)
    assert widen_pelves(image, *given, never, np.random.default_rng(0))[0] is image


def test_a_device_widens_pelves_as_often_as_asked_for() -> None:
    image, labels = section()
    hu = image[:1].numpy().astype(np.int16).repeat(3, axis=0)
    known = np.full((3, len(ORGANS)), Known.HAND, dtype=np.uint8)
    stack = labels.numpy().astype(np.uint8)[None].repeat(3, axis=0)
    case = Case(CaseInfo("one", 3.0, 1.5), hu, stack, known, np.ones(3, dtype=bool))
    half = Augmentation(size=96, pelvis_chance=0.5)
    maker = BatchMaker(gather_volumes([case], torch.device("cpu")), half, 3)
    count = 40
    images, told = image.expand(count, 3, 96, 96), labels.expand(count, 96, 96)
    shown, kept, pseudo = maker.widen_pelves(images, told, torch.zeros_like(told))
    changed = (shown != images).flatten(1).any(dim=1)
    assert 12 <= int(changed.sum()) <= 28
    # A narrow one lies in the hollow alone and takes nothing of the kidney.
    taken = (kept != told).flatten(1).any(dim=1)
    assert taken.any()
    assert not (taken & ~changed).any()
    assert not pseudo.any()
    middle = shown[:, 1, 45, 40][changed]
    assert (middle < 30).any()
    assert (middle > 140).any()
