"""The training pipeline from files to scores, on the phantom alone."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("scipy", reason="training needs the [train] extra")
pytest.importorskip("timm", reason="training needs the [train] extra")

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT, ROOT / "examples"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import nibabel as nib  # noqa: E402
import torch.nn.functional as F  # noqa: E402, N812
from phantom import make_phantom  # noqa: E402

from segmate_cli.export import open_onnx  # noqa: E402
from segmate_cli.network import NetworkConfig, build_network, network_from_checkpoint  # noqa: E402
from training import (  # noqa: E402
    airway,
    circumstances,
    from_bundle,
    imagenet,
    necks,
    parcel,
    prepare,
    pseudo,
    score_bundle,
    validate,
)
from training.augment import (  # noqa: E402
    Augmentation,
    brighten_trachea,
    change_intensities,
    draw_crop,
    fill_bowel,
    fill_gas,
    swap_sides,
)
from training.batched import BatchMaker, Choices  # noqa: E402
from training.batched_surroundings import Surroundings  # noqa: E402
from training.cases import ORGANS, Case, CaseInfo, Known, load_case  # noqa: E402
from training.losses import (  # noqa: E402
    boundary_loss,
    deep_loss,
    segmentation_loss,
    targets_and_weights,
)
from training.sampling import Batch, Sampler, Sampling, draw_batch, find_gas, find_low  # noqa: E402
from training.sources import carve_sinuses, drop_gas, known_rows, part_lungs  # noqa: E402
from training.train import Session, train  # noqa: E402
from training.volumes import gather_volumes  # noqa: E402

LABELLED = {"lung_left": 1, "lung_right": 2, "liver": 8}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two coarse phantoms, stored as RAS NIfTI as the sources are, and prepared."""
    root = tmp_path_factory.mktemp("sources")
    for seed, name in ((11, "one"), (12, "two")):
        phantom = make_phantom(seed, (8.0, 4.5, 4.5))
        folder = root / "train" / name
        folder.mkdir(parents=True)
        affine = np.diag([4.5, 4.5, 8.0, 1.0])
        for file, volume in (("ct", phantom.hu), ("labels", phantom.labels)):
            ras = np.ascontiguousarray(volume[:, ::-1, ::-1].transpose(2, 1, 0))
            nib.save(nib.Nifti1Image(ras, affine), folder / f"{file}.nii.gz")
        (folder / "info.json").write_text(json.dumps({"id": name, "labels": LABELLED}))
    prepare.main([str(root / "cache"), str(root / "train")])
    return root / "cache"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    settings = {
        "validation": ["two"],
        "steps": 3,
        "batch": 2,
        "threads": 1,
        "bfloat16": False,
        "augmentation": {"size": 64},
    }
    path.write_text(json.dumps(settings))
    return path


def made_case(labels: np.ndarray, known: np.ndarray) -> Case:
    hu = np.where(labels > 0, 60, -1000).astype(np.int16)
    usable = np.ones(labels.shape[0], dtype=bool)
    return Case(CaseInfo("made", 3.0, 2.0), hu, labels, known, usable)


@pytest.fixture
def small_body() -> Case:
    """A liver, an aorta and a stomach, in slices that differ."""
    labels = np.zeros((9, 80, 80), dtype=np.uint8)
    labels[2:7, 20:60, 20:50], labels[3:6, 30:40, 60:70], labels[1:5, 50:60, 60:70] = 8, 7, 12
    case = made_case(labels, np.ones((9, len(ORGANS)), dtype=np.uint8))
    case.hu[labels > 0] += labels[labels > 0]
    case.hu[:, 5:10] = -850
    return case


def test_prepared_volumes_keep_axes_and_labels(cache: Path) -> None:
    case = load_case(cache / "one")
    phantom = make_phantom(11, (8.0, 4.5, 4.5))
    assert case.hu.shape[0] == phantom.hu.shape[0]
    assert np.array_equal(case.labels[:, ::3, ::3] == 8, phantom.labels == 8)
    assert np.abs(case.hu[:, ::3, ::3] - phantom.hu).max() <= 1
    left = np.nonzero(case.labels == 1)[2].mean()
    assert left > np.nonzero(case.labels == 2)[2].mean()


def test_only_named_organs_are_known(cache: Path) -> None:
    known = load_case(cache / "one").known
    named = [ORGANS.index(organ) for organ in LABELLED]
    assert (known[:, named] == Known.HAND).all()
    assert not np.delete(known, named, axis=1).any()


def test_a_trachea_can_be_brighter_than_the_lungs_beside_it() -> None:
    hu = torch.full((3, 40, 40), -950.0)
    hu[:, 0] = 40.0
    labels = torch.ones((40, 40), dtype=torch.int32)
    labels[:20, 10:20] = 3
    config = Augmentation(trachea_chance=1.0, trachea_hu=(100.0, 100.0))
    changed = brighten_trachea(hu, labels, config, np.random.default_rng(0))
    assert torch.allclose(changed[:, 5, 15], torch.full((3,), -850.0))
    assert (changed[:, 0] == 40.0).all()
    assert (changed[:, 25] == -950.0).all()
    never = brighten_trachea(hu, labels, Augmentation(), np.random.default_rng(0))
    assert torch.equal(never, hu)


def test_a_device_brightens_a_trachea_alone() -> None:
    labels = np.zeros((3, 64, 64), dtype=np.uint8)
    labels[:, 20:30, 20:30] = 3
    case = made_case(labels, np.ones((3, len(ORGANS)), dtype=np.uint8))
    case.hu[:] = -900
    config = Augmentation(size=64, trachea_chance=1.0, trachea_hu=(100.0, 100.0), **STILL)
    maker = BatchMaker(gather_volumes([case], torch.device("cpu")), config, 1)
    where = Choices(torch.zeros(1).long(), torch.ones(1), torch.full((1, 2), 32.0))
    hu = (maker.make(where).slices[0, 1] + 1) * 700 - 1000
    assert torch.allclose(hu[21:29, 21:29], torch.tensor(-800.0), atol=0.1)
    assert torch.allclose(hu[:, 34:], torch.tensor(-900.0), atol=0.1)


def test_what_the_device_cannot_make_is_refused_not_left_out() -> None:
    case = made_case(np.ones((4, 8, 8), dtype=np.uint8), np.ones((4, len(ORGANS)), dtype=np.uint8))
    volumes = gather_volumes([case], torch.device("cpu"))
    with pytest.raises(ValueError, match="--device cpu"):
        BatchMaker(volumes, Augmentation(mirror_chance=0.5), 1)
    maker = BatchMaker(volumes, Augmentation(size=8, surroundings_chance=0.5), 1)
    one = torch.zeros(1).long()
    with pytest.raises(ValueError, match="bodies"):
        maker.make(Choices(one, one, one[None], None, Surroundings(one, one, one, one[None])))


def test_lungs_cut_along_a_plane_are_parted_by_the_tissue_between_them() -> None:
    hu = np.full((3, 60, 100), -850, dtype=np.int16)
    hu[:, :, 60] = -500  # pleurae, ten pixels to the left of the plane
    labels = np.full(hu.shape, 2, dtype=np.uint8)
    labels[:, :, 50:] = 1
    elsewhere = labels.copy()
    part_lungs(labels, hu, "imlab1")
    part_lungs(elsewhere, hu, "segthor04")
    assert (labels[:, :, :60] == 2).all()
    assert (labels[:, :, 61:] == 1).all()
    assert (elsewhere[:, :, 50:60] == 1).all()


def test_nothing_is_known_beyond_a_contour_that_was_cut_short() -> None:
    labels = np.zeros((40, 4, 4), dtype=np.uint8)
    labels[10:30, 1, 1] = 7
    labels[20:35, 2, 2] = 3
    labels[12:35, 2, 1] = 4
    info = {"id": "segthor99", "labels": {"aorta": 7, "trachea": 3, "esophagus": 4}}
    known = known_rows(info, labels, 3.0)
    assert (known[:10, ORGANS.index("aorta")] == Known.NO).all()
    assert (known[10:, ORGANS.index("aorta")] == Known.HAND).all()
    assert (known[35:, ORGANS.index("esophagus")] == Known.NO).all()
    assert (known[35:, ORGANS.index("trachea")] == Known.HAND).all()
    assert (known[30:, ORGANS.index("liver")] == Known.ABSENT).all()


def test_contours_of_the_cord_alone_are_no_label_of_the_sac() -> None:
    cord = ORGANS.index("spinal_cord")
    for side, known in ((6, Known.NO), (7, Known.HAND)):  # 81 and 110 mm2
        labels = np.zeros((10, 20, 20), dtype=np.uint8)
        labels[2:8, 4 : 4 + side, 4 : 4 + side] = cord + 1
        labels[8:, :12, :12] = cord + 1  # a few other slices change nothing
        table = known_rows({"id": "kbp999", "labels": {"spinal_cord": cord + 1}}, labels, 3.0)
        assert table[5, cord] == known
        half = known_rows({"id": "kbp999", "labels": {"spinal_cord": cord + 1}}, labels, 3.0, 0.7)
        assert half[5, cord] == Known.NO


def test_fat_inside_a_teachers_kidney_is_no_kidney() -> None:
    labels = np.zeros((4, 40, 40), dtype=np.uint8)
    labels[1:3, 8:32, 8:32] = 9
    hu = np.where(labels == 9, 150, -90).astype(np.int16)
    hu[:, 16:24, 16:24] = -90
    known = np.full((4, len(ORGANS)), int(Known.TEACHER), dtype=np.uint8)
    known[2] = Known.HAND
    carve_sinuses(labels, hu, known)
    assert (labels[1, 17:23, 17:23] == 0).all()
    assert (labels[1, 8:14, 8:32] == 9).all()
    assert (labels[2, 8:32, 8:32] == 9).all()


@pytest.mark.parametrize(("name", "believed"), [("segthor10", False), ("segthor03", True)])
def test_a_doubted_organ_of_the_teacher_is_unlabelled(
    tmp_path: Path, name: str, believed: bool
) -> None:
    teacher = np.zeros((6, 7, 8), dtype=np.uint8)
    teacher[:2], teacher[4:] = 9, 8  # along the rows of the file, whose last axis is the slices
    folder = tmp_path / name
    folder.mkdir()
    nib.save(nib.Nifti1Image(teacher, np.eye(4)), folder / "teacher.nii.gz")
    hand = np.zeros((8, 7, 6), dtype=np.uint8)
    hand[0, 0] = 6
    merged = prepare.merged_labels(folder, hand)
    assert (merged[0, 0] == 6).all()
    assert (merged == 9).any() == believed
    assert (merged == 8).sum() == 2 * (7 * 8 - 1)


def test_a_masked_source_shows_its_highest_slices_alone() -> None:
    labels = np.full((10, 10, 10), 5, dtype=np.uint8)
    info = {"id": "kbp999", "labels": {"spinal_cord": 5}, "full_body_slices": 4}
    known = known_rows(info, labels, 3.0)
    assert not known[:6].any()
    assert (known[6:, ORGANS.index("spinal_cord")] == Known.HAND).all()


def test_unlabelled_organs_cost_nothing_but_taken_voxels_do() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.int32)
    labels[0, 0, 0] = 8
    known = torch.zeros(1, len(ORGANS), dtype=torch.uint8)
    known[0, ORGANS.index("liver")] = Known.HAND
    nothing = torch.zeros_like(labels)
    batch = Batch(torch.zeros(1, 3, 4, 4), labels, nothing, nothing, known)
    target, weights = targets_and_weights(batch, 0.6, 0.5)
    spleen = ORGANS.index("spleen")
    assert weights[0, spleen].sum() == weights[0, spleen, 0, 0] > 0
    assert target[0, spleen].sum() == 0
    sure = torch.where(target > 0, 20.0, -20.0)
    wrong = sure.clone()
    wrong[0, spleen, 3, 3] = 20.0
    assert sum(segmentation_loss(wrong, target, weights)) == pytest.approx(
        float(sum(segmentation_loss(sure, target, weights)))
    )
    wrong[0, spleen, 0, 0] = 20.0
    assert sum(segmentation_loss(wrong, target, weights)) > 0.1


def test_coarse_and_boundary_heads_are_asked_for_shares_and_outlines() -> None:
    target = torch.zeros(1, len(ORGANS), 16, 16)
    target[0, 7, 4:12, 4:10] = 1
    weights = torch.ones_like(target)
    coarse = torch.where(F.avg_pool2d(target, 4) > 0.5, 9.0, -9.0)
    assert deep_loss([coarse], target, weights) < deep_loss([-coarse], target, weights) / 10
    weights[0, 7] = 0
    assert deep_loss([coarse], target, weights) == pytest.approx(0, abs=1e-3)
    edges = torch.full_like(target, -20.0)
    edges[0, 7, 3:13, 3:11] = 20.0
    edges[0, 7, 5:11, 5:9] = -20.0
    edges[0, 7, [3, 3, 12, 12], [3, 10, 3, 10]] = 20.0
    assert boundary_loss(edges, target, torch.ones_like(target)) < 1e-3
    assert boundary_loss(-edges, target, torch.ones_like(target)) > 1


def test_a_teacher_counts_by_organ() -> None:
    labels = torch.zeros(2, 4, 4, dtype=torch.int32)
    labels[:, 0, 0] = 9
    known = torch.full((2, len(ORGANS)), int(Known.TEACHER), dtype=torch.uint8)
    known[1] = Known.HAND
    nothing = torch.zeros_like(labels)
    batch = Batch(torch.zeros(2, 3, 4, 4), labels, nothing, nothing, known)
    _, weights = targets_and_weights(batch, 0.6, 0.5, {"kidney_left": 0.5})
    kidney, liver = ORGANS.index("kidney_left"), ORGANS.index("liver")
    assert weights[:, kidney, 3, 3].tolist() == pytest.approx([0.3, 1.0])
    assert weights[:, liver, 3, 3].tolist() == pytest.approx([0.6, 1.0])


def test_mirroring_exchanges_sides() -> None:
    labels = torch.tensor([0, 1, 2, 8, 9, 10], dtype=torch.int32)
    assert swap_sides(labels).tolist() == [0, 2, 1, 8, 10, 9]


def test_an_unaugmented_crop_is_the_slice_itself() -> None:
    labels = np.zeros((5, 40, 40), dtype=np.uint8)
    labels[:, 18:24, 10:20] = 8
    case = made_case(labels, np.ones((5, len(ORGANS)), dtype=np.uint8))
    still = Augmentation(
        **{"size": 32, "shift_mm": 0.0, "identity_chance": 1.0, "gain": (1.0, 1.0)},
        **{"offset_hu": 0.0, "contrast_chance": 0.0, "noise_hu": 0.0, "clip_chance": 0.0},
        **{"step_chance": 0.0, "blur_chance": 0.0, "cut_chance": 0.0},
    )
    crop = draw_crop(case, 2.0, (20.0, 20.0), still, np.random.default_rng(0))
    assert np.array_equal(crop.labels.numpy(), labels[2, 4:36, 4:36])
    assert crop.slices[1].max() == pytest.approx((60 + 1000) / 700 - 1, abs=1e-3)


STILL: dict[str, Any] = {
    **{"shift_mm": 0.0, "identity_chance": 1.0, "slice_distance_mm": (3.0, 3.0)},
    **{"gain": (1.0, 1.0), "offset_hu": 0.0, "contrast_chance": 0.0, "noise_hu": 0.0},
    **{"clip_chance": 0.0, "step_chance": 0.0, "blur_chance": 0.0, "cut_chance": 0.0},
}


def test_a_batch_made_on_a_device_is_what_single_crops_are(cache: Path) -> None:
    cases = [load_case(cache / name) for name in ("one", "two")]
    settings = Augmentation(size=96, **STILL)
    places = [(0, 12.3, (50.0, 60.0)), (1, 20.0, (70.0, 5.0)), (1, 0.0, (70.0, 60.0))]
    # One by one, so that none is thick: of a batch, the first three in ten are.
    whole = [
        BatchMaker(gather_volumes(cases, torch.device("cpu")), settings, 1).make(
            Choices(*(torch.tensor([part]) for part in place))
        )
        for place in places
    ]
    for (number, position, centre), batch in zip(places, whole, strict=True):
        crop = draw_crop(cases[number], position, centre, settings, ThinSlices(0))
        assert torch.allclose(batch.slices[0], crop.slices, atol=1e-4)
        assert torch.equal(batch.labels[0], crop.labels)
        assert np.array_equal(batch.known[0].numpy(), crop.known)
    assert any((batch.labels > 0).any() for batch in whole)


class ThinSlices(np.random.Generator):
    """Never draws a thick slice (30 in 100), nor anything else rarer than 45 in 100."""

    def __init__(self, seed: int) -> None:
        super().__init__(np.random.PCG64(seed))

    def random(self, *_: object, **__: object) -> float:  # type: ignore[override]
        return 0.45


def test_crops_made_on_a_device_bend_their_labels_too() -> None:
    labels = np.zeros((5, 96, 96), dtype=np.uint8)
    labels[:, 30:60, 24:70] = 8
    case = made_case(labels, np.ones((5, len(ORGANS)), dtype=np.uint8))
    bent = Augmentation(
        size=64, **STILL | {"elastic_chance": 1.0, "elastic_mm": 9.0, "identity_chance": 0.0}
    )
    maker = BatchMaker(gather_volumes([case], torch.device("cpu")), bent, 3)
    where = Choices(torch.zeros(8).long(), torch.full((8,), 2.0), torch.full((8, 2), 46.0))
    batch = maker.make(where)
    inside = batch.labels == 8
    assert 0.2 < inside.float().mean() < 0.8
    assert not torch.equal(inside[0], inside[1])
    soft = batch.slices[:, 1] > (-470 + 1000) / 700 - 1
    assert (soft != inside).float().mean() < 0.02


def test_swallowed_contrast_brightens_what_is_soft_and_no_trained_organ() -> None:
    labels = torch.zeros(64, 64, dtype=torch.int32)
    labels[:32, :32], labels[32:, 32:] = 9, 12  # a kidney, and the stomach
    image = torch.full((3, 64, 64), 50.0)
    image[:, :, :8] = -900.0
    image[:, :, 8:12] = 800.0
    settings, rng = Augmentation(size=64, bowel_chance=1.0), np.random.default_rng(3)
    changes = [fill_bowel(image, labels, settings, rng) - image for _ in range(8)]
    change = torch.stack(changes).amax((0, 1))
    assert change[labels == 9].max() == 0
    assert change[:, :12].max() == 0
    assert change[labels == 12].max() > 40
    assert change[:32, 40:].max() > 40
    assert torch.equal(fill_bowel(image, labels, Augmentation(), rng), image)


def test_bowel_gas_is_no_organ_and_lies_in_the_abdomen_alone() -> None:
    labels = torch.zeros(96, 96, dtype=torch.int32)
    labels[:32, :32] = 8  # liver
    image = torch.full((3, 96, 96), 50.0)
    image[:, :, 80:] = -900.0  # lung, or the air beside the body
    settings = Augmentation(size=96, gas_chance=1.0, gas_hu=(-1000.0, -900.0))
    for seed in range(6):
        rng = np.random.default_rng(seed)
        shown, told = fill_gas(image, labels, labels, settings, rng)
        gas = (told == 12) & (labels == 0)
        assert torch.equal(told == 8, labels == 8)
        assert not gas[:, 80:].any()
        inside = F.avg_pool2d(gas.float()[None], 3, 1, 1)[0] == 1
        if inside.any():
            assert (shown[:, inside] <= -900).all()
        away = F.max_pool2d(gas.float()[None], 3, 1, 1)[0] == 0
        assert torch.equal(shown[:, away], image[:, away])
    assert gas.any()
    chest = torch.ones(96, 96, dtype=torch.int32)
    same = fill_gas(image, chest * 0, chest * 0, settings, np.random.default_rng(0))
    assert torch.equal(same[0], image)
    never = fill_gas(image, labels, labels, Augmentation(size=96), np.random.default_rng(0))
    assert torch.equal(never[0], image)
    assert torch.equal(never[1], labels)


def test_a_device_fills_bowel_and_stomach_of_abdomens_alone_with_gas(small_body: Case) -> None:
    small_body.hu[...] = 40
    small_body.labels[8, :40] = 3  # a slice of a chest
    settings = Augmentation(size=64, **STILL | {"gas_chance": 0.5, "noise_chance": 0.0})
    maker = BatchMaker(gather_volumes([small_body], torch.device("cpu")), settings, 1)
    count = 60
    rows = torch.tensor([2.0] * (count - 10) + [8.0] * 10)
    made = maker.make(Choices(torch.zeros(count).long(), rows, torch.full((count, 2), 40.0)))
    hu = (made.slices + 1) * 700 - 1000
    own = torch.from_numpy(small_body.labels.astype(np.int32))[rows.long(), 8:72, 8:72]
    gas = (hu < 39).any(dim=1)
    assert 12 <= gas[:-10].flatten(1).any(dim=1).sum() <= 38
    assert not gas[-10:].any()
    changed = made.labels != own
    assert (made.labels[changed] == 12).all()
    assert (own[changed] == 0).all()
    assert ((own == 12) & gas).any()
    assert (gas | ~changed).all()
    core = F.avg_pool2d(changed.float(), 3, 1, 1) == 1
    assert core.any()
    assert (hu.amax(dim=1)[core] <= -850 + 0.1).all()
    away = F.max_pool2d((changed | (own == 12)).float(), 3, 1, 1) == 0
    assert not (gas & away).any()


def test_slices_with_bowel_gas_are_asked_for_where_lungs_are_known() -> None:
    labels = np.zeros((6, 64, 64), dtype=np.uint8)
    hu = np.full(labels.shape, -1000, dtype=np.int16)
    hu[:, 4:60, 4:60] = 40
    hu[:, 10:30, 10:30], labels[:, 10:30, 10:30] = -950, 2  # a lung in every slice
    hu[1:4, 35:52, 35:52] = -980  # a stomach
    hu[4, 35:45, 35:45] = -980  # a bronchus
    known = np.ones((6, len(ORGANS)), dtype=np.uint8)
    known[3, 0] = Known.NO
    case = dataclasses.replace(made_case(labels, known), hu=hu)
    assert find_gas(case).tolist() == [1, 2]
    invented = dataclasses.replace(case.info, case_id="phantom1000")
    assert not find_gas(dataclasses.replace(case, info=invented)).size
    settings = Augmentation(size=32)
    always = Sampling(anywhere_chance=0.0, gas_chance=1.0)
    sampler = Sampler([case], always, settings)
    rng = np.random.default_rng(2)
    assert {round(sampler.choose(rng)[1]) for _ in range(20)} == {1, 2}
    assert not Sampler([case], Sampling(), settings).gas


def test_slices_below_the_kidneys_are_asked_for_where_they_are_known() -> None:
    labels = np.zeros((60, 64, 64), dtype=np.uint8)
    labels[40:50, 20:30, 10:20], labels[44:54, 20:30, 40:50] = 10, 9
    known = np.zeros((60, len(ORGANS)), dtype=np.uint8)
    known[:, 8:10] = Known.HAND
    known[30, 8:10] = Known.NO
    known[31, 8:10] = Known.PSEUDO
    case = made_case(labels, known)
    reach = round(60 / case.info.slice_mm)
    expected = [row for row in range(40 - reach, 40) if row not in (30, 31)]
    assert find_low(case).tolist() == expected
    invented = dataclasses.replace(case.info, case_id="phantom1000")
    assert not find_low(dataclasses.replace(case, info=invented)).size
    assert not find_low(made_case(labels * 0, known)).size
    sampler = Sampler([case], Sampling(anywhere_chance=0.0, low_chance=1.0), Augmentation(size=32))
    rng = np.random.default_rng(2)
    assert {round(sampler.choose(rng)[1]) for _ in range(300)} == set(expected)


def test_gas_of_stomach_and_bowel_is_no_lung_of_a_threshold() -> None:
    hu = np.full((30, 60, 80), 40, dtype=np.int16)
    labels = np.zeros(hu.shape, dtype=np.uint8)
    for value, columns in (1, np.s_[50:75]), (2, np.s_[5:30]):
        hu[8:, 20:50, columns], labels[8:, 20:50, columns] = -800, value
    lungs = np.array(labels)
    hu[2:11, 4:14, 55:70], labels[2:11, 4:14, 55:70] = -990, 1  # a stomach, beside the lungs' base
    hu[1:4, 30:33, 30:33], labels[1:4, 30:33, 30:33] = -700, 2  # bowel with contents
    hu[20:24, 4:14, 35:45], labels[20:24, 4:14, 35:45] = -990, 2  # a bulla, at the top: lung
    lungs[20:24, 4:14, 35:45] = 2
    for case_id in ("btcv01", "cip64"):
        kept = np.array(labels)
        drop_gas(kept, hu, case_id)
        assert np.array_equal(kept, labels)
    drop_gas(labels, hu, "segthor01")
    assert np.array_equal(labels, lungs)
    none = np.zeros_like(labels)
    drop_gas(none, hu, "segthor01")
    assert not none.any()


def changed_both_ways(
    hu: torch.Tensor, settings: Augmentation
) -> tuple[torch.Tensor, torch.Tensor]:
    """Intensities (N, 3, H, W) changed one crop after the other, and as a device does."""
    rng = np.random.default_rng(1)
    single = torch.stack([change_intensities(image, settings, rng) for image in hu])
    nobody = np.zeros((3, 8, 8), dtype=np.uint8)
    volumes = gather_volumes(
        [made_case(nobody, np.ones((3, len(ORGANS)), dtype=np.uint8))], torch.device("cpu")
    )
    return single, BatchMaker(volumes, settings, 1).change_intensities(hu)


def test_lungs_change_with_their_air_and_soft_tissue_does_not() -> None:
    hu = torch.full((8, 3, 64, 64), -700.0)
    hu[:, :, 32:] = 50.0
    settings = Augmentation(size=64, **STILL | {"air_chance": 1.0, "air_gain": (0.3, 0.5)})
    for changed in changed_both_ways(hu, settings):
        lung, soft = changed[:, 0, 10, 10], changed[:, 0, 50, 50]
        assert (lung < -750).all()
        assert (lung > -1000).all()
        assert lung.std() > 1
        assert torch.allclose(soft, torch.tensor(50.0))


def test_another_tube_voltage_changes_what_is_denser_than_plain_tissue_alone() -> None:
    hu = torch.full((8, 3, 64, 64), 40.0)
    hu[:, :, 32:] = 150.0
    hu[:, :, :8] = -800.0
    settings = Augmentation(size=64, **STILL | {"enhancement_chance": 1.0})
    for changed in changed_both_ways(hu, settings):
        assert torch.equal(changed[:, :, :32], hu[:, :, :32])
        bright = changed[:, 0, 50, 50]
        assert (bright >= 50 + 0.4 * 100 - 0.01).all()
        assert (bright <= 50 + 1.8 * 100 + 0.01).all()
        assert bright.std() > 10
    still = Augmentation(size=64, **STILL)
    assert torch.equal(change_intensities(hu[0], still, np.random.default_rng(1)), hu[0])


def test_a_bent_and_coarsened_crop_bends_its_labels_too() -> None:
    labels = np.zeros((5, 96, 96), dtype=np.uint8)
    labels[:, 30:60, 24:70] = 8
    case = made_case(labels, np.ones((5, len(ORGANS)), dtype=np.uint8))
    bent = Augmentation(
        **{"size": 64, "shift_mm": 0.0, "identity_chance": 1.0, "gain": (1.0, 1.0)},
        **{"offset_hu": 0.0, "contrast_chance": 0.0, "noise_hu": 0.0, "clip_chance": 0.0},
        **{"step_chance": 0.0, "blur_chance": 0.0, "cut_chance": 0.0},
        **{"elastic_chance": 1.0, "elastic_mm": 9.0, "coarse_chance": 1.0},
    )
    crop = draw_crop(case, 2.0, (45.0, 47.0), bent, np.random.default_rng(4))
    inside, plain = crop.labels.numpy() == 8, labels[2, 13:77, 15:79] == 8
    assert not np.array_equal(inside, plain)
    soft = crop.slices[1].numpy() > (-470 + 1000) / 700 - 1
    assert (soft != inside).mean() < 0.02 < (soft != plain).mean()


def test_a_batch_is_its_seed(cache: Path) -> None:
    sampler = Sampler([load_case(cache / "one")], Sampling(), Augmentation(size=64))
    first, again, other = (draw_batch(sampler, 2, seed) for seed in ((1, 5), (1, 5), (1, 6)))
    assert torch.equal(first.slices, again.slices)
    assert not torch.equal(first.slices, other.slices)


def test_a_seeds_crops_stay_what_they_were(small_body: Case) -> None:
    settings = Augmentation(
        **{"size": 48, "elastic_chance": 0.3, "air_chance": 0.5, "bowel_chance": 0.5},
        coarse_chance=0.3,
    )
    rng = np.random.default_rng(7)
    places = np.linspace(1, 7, 40)
    crops = [draw_crop(small_body, at, (40.0, 40.0), settings, rng) for at in places]
    # As many numbers drawn as when this was written, in the same order: a run goes on as it began.
    assert rng.random() == 0.15093437318125313
    assert np.mean([crop.slices.mean() for crop in crops]) == pytest.approx(-0.737467, abs=1e-5)
    maker = BatchMaker(gather_volumes([small_body], torch.device("cpu")), settings, 5)
    where = Choices(torch.zeros(10).long(), torch.linspace(1, 7, 10), torch.full((10, 2), 40.0))
    assert maker.make(where).slices.mean() == pytest.approx(-0.799824, abs=1e-5)


NOISY: dict[str, Any] = {"noise_chance": 1.0, "noise_hu": 90.0}


@pytest.mark.parametrize("louder", [NOISY, {"thick_chance": 1.0}], ids=("noise", "thick"))
def test_noise_and_thick_slices_are_a_configurations_to_set(
    small_body: Case, louder: dict[str, Any]
) -> None:
    none = STILL | {"size": 48, "noise_chance": 0.0, "thick_chance": 0.0}
    volumes = gather_volumes([small_body], torch.device("cpu"))
    where = Choices(torch.zeros(4).long(), torch.full((4,), 2.0), torch.full((4, 2), 40.0))

    def made(changed: dict[str, Any]) -> list[torch.Tensor]:
        settings, rng = Augmentation(**none | changed), np.random.default_rng(2)
        single = [draw_crop(small_body, 2.0, (40.0, 40.0), settings, rng).slices for _ in range(4)]
        return [torch.stack(single), BatchMaker(volumes, settings, 1).make(where).slices]

    for plain, changed in zip(made({}), made(louder), strict=True):
        assert torch.equal(plain[0], plain[3])
        assert ((plain - changed).abs().amax((1, 2, 3)) > 0.01).all()


def test_a_source_counts_less_for_an_organ_by_its_share(cache: Path) -> None:
    case = load_case(cache / "one")
    other = dataclasses.replace(case, info=dataclasses.replace(case.info, case_id="two"))
    shares = Sampling(source_shares={"liver": {"tw": 0.25}})
    sampler = Sampler([case, other], shares, Augmentation(size=64))
    for organ, share in (("liver", 0.25), ("lung_left", 1.0)):
        own, its = sampler.trust[ORGANS.index(organ)]
        assert its == pytest.approx(share * own)


def test_pseudo_labels_are_sure_and_on_their_side() -> None:
    labels = np.zeros((20, 40, 40), dtype=np.uint8)
    labels[:, 5:35, 5:35] = 100
    case = made_case(labels, np.zeros((20, len(ORGANS)), dtype=np.uint8))
    chances = np.zeros((len(ORGANS), 20, 40, 40), dtype=np.uint8)
    chances[ORGANS.index("kidney_left"), 2:18, 10:32, 24:34] = 250
    chances[ORGANS.index("kidney_right"), 2:18, 10:32, 26:34] = 240
    found, unsure, known = pseudo.pseudo_labels(case, chances)
    left = ORGANS.index("kidney_left")
    assert (found[5, 10:32, 24:34] == left + 1).all()
    assert known[5, left] == Known.PSEUDO
    assert not (known == Known.PSEUDO)[:, ORGANS.index("kidney_right")].any()
    assert not (unsure & (1 << left)).any()


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="packing a cache needs ffmpeg")
def test_a_cache_goes_through_a_parcel_and_trains_as_on_a_gpu(
    cache: Path, config: Path, tmp_path: Path
) -> None:
    pytest.importorskip("cv2", reason="unpacking needs opencv-python-headless")
    parcel.main([str(cache), str(tmp_path / "parcel"), "--quality", "10"])
    for case in parcel.unpack(tmp_path / "parcel", 2):
        whole = load_case(cache / case.info.case_id)
        rows, columns = parcel.body_box(whole.hu)
        assert np.array_equal(case.labels, whole.labels[:, rows, columns])
        error = case.hu - whole.hu[:, rows, columns].clip(-1000, 400)
        assert np.sqrt((error[case.labels == 8] ** 2.0).mean()) < 15
        cut = dataclasses.replace(
            case, hu=whole.hu[:, rows, columns], labels=whole.labels[:, rows, columns]
        )
        found, own = (
            gather_volumes([one], torch.device("cpu"), bodies=True).bodies for one in (case, cut)
        )
        assert (found.inside == own.inside).float().mean() > 0.99
        assert (found.backs - own.backs).abs().max() <= 1
        assert own.inside.any()
    settings = json.loads(config.read_text())
    settings["augmentation"] |= {"surroundings_chance": 0.9, "gas_chance": 0.9, "lend_chance": 1.0}
    config.write_text(json.dumps(settings))
    trainer = train(
        config, tmp_path / "parcel", tmp_path / "run", Session(device="cpu:0", parcel=True)
    )
    assert trainer.step == 3


def test_levels_are_hu_to_a_step() -> None:
    hu = np.arange(-1100, 500, dtype=np.int16)
    back = parcel.expand(parcel.compand(hu))
    error = np.abs(back.astype(int) - hu.clip(-1000, 400))
    assert error.max() <= 8
    assert error[hu > -190].max() <= 2


def test_an_encoder_takes_packaged_weights_in_their_order(tmp_path: Path) -> None:
    network = build_network(NetworkConfig(encoder="tf_efficientnet_lite0", organs=11, slices=3))
    given = {f"w{n}": v + 1 for n, v in enumerate(network.model.encoder.state_dict().values())}
    given["w0"] = torch.cat([given["w0"]] * 3, dim=1)
    given["classifier"] = torch.zeros(1000, 1280)
    imagenet.fill_encoder(network, given)
    filled = list(network.model.encoder.state_dict().values())
    assert torch.allclose(filled[0], 3 * given["w0"][:, :1])
    assert torch.equal(filled[-2], given[f"w{len(filled) - 2}"])
    with pytest.raises(ValueError, match="tensors are needed"):
        imagenet.fill_encoder(network, {"w0": given["w0"]})


def chest_of_air() -> Case:
    """Two lungs, between them a tube of air that forks in the lowest slices."""
    hu = np.full((20, 100, 120), 40, dtype=np.int16)
    rows, columns = np.mgrid[:100, :120]
    pseudo = np.zeros(hu.shape, dtype=np.uint8)
    for row in range(20):
        for value, column in ((1, 95), (2, 25)):
            lung = np.hypot(rows - 50, columns - column) < 22
            if row < 17:
                hu[row][lung], pseudo[row][lung] = -850, value
        for column in (60,) if row > 4 else (54, 66):
            hu[row][np.hypot(rows - 45, columns - column) < 4.5] = -950
    known = np.zeros((20, len(ORGANS)), dtype=np.uint8)
    known[:17, :2] = Known.PSEUDO
    usable = np.ones(20, dtype=bool)
    unsure = np.zeros(hu.shape, dtype=np.uint16)
    info = CaseInfo("made", 4.0, 1.5)
    return Case(info, hu, np.zeros_like(pseudo), known, usable, pseudo, unsure)


def test_a_trachea_is_followed_through_its_air_down_to_its_fork() -> None:
    case = chest_of_air()
    completed = airway.label_airway(case)
    assert completed is not None
    labels, known = completed
    rows = np.flatnonzero(known[:, 2] == Known.PSEUDO)
    assert rows.tolist() == list(range(5, 19))
    assert (labels[10, 41:50, 57:64] == 3).all()
    assert (labels == 3).sum() < rows.size * 120
    assert np.array_equal(labels == 1, np.asarray(case.pseudo) == 1)
    for level, left in ((Known.HAND, None), (Known.PSEUDO, range(5, 18))):
        known_before = case.known.copy()
        known_before[18, 2] = level
        again = airway.label_airway(dataclasses.replace(case, known=known_before))
        assert (again is None) == (left is None)
        assert again is None or (again[0] == 3).any((1, 2)).nonzero()[0].tolist() == list(left)
    tissue = np.full_like(case.hu, 40)
    assert airway.label_airway(dataclasses.replace(case, hu=tissue)) is None


def test_a_trachea_is_followed_past_a_lung_that_it_seems_to_touch() -> None:
    case = chest_of_air()
    case.hu[9:12, 45, 36:84] = np.minimum(case.hu[9:12, 45, 36:84], -560)
    assert [len(airway.tubes(case.hu[10], 60.0, limit)) for limit in (-500, -650)] == [0, 1]
    completed = airway.label_airway(case)
    assert completed is not None
    labels, known = completed
    assert np.flatnonzero(known[:, 2] == Known.PSEUDO).tolist() == list(range(5, 19))
    assert 0.8 < (labels[10] == 3).sum() / (labels[14] == 3).sum() < 1.4


def test_above_the_lungs_a_neck_has_neither_lung_nor_heart() -> None:
    found = np.zeros((20, 40, 40), dtype=np.uint8)
    found[:8, 5:30, 22:38], found[:8, 5:30, 2:18] = 1, 2
    found[3:15, 10:20, 18:23] = 3
    found[18, 0:3, 0:3] = 1  # air of the pharynx
    found[:2, 30:38, 18:22] = 6
    case = made_case(np.zeros_like(found), np.zeros((20, len(ORGANS)), dtype=np.uint8))
    labels, known = necks.label_neck(case, found)
    lung, trachea, heart = ORGANS.index("lung_left"), ORGANS.index("trachea"), ORGANS.index("heart")
    assert (known[:8, lung] == Known.PSEUDO).all()
    assert (known[12:, lung] == Known.ABSENT).all()
    assert (known[:, heart] == Known.ABSENT).all()
    assert (known[3:15, trachea] == Known.PSEUDO).all()
    assert not known[15:, trachea].any()
    assert np.array_equal(labels == 3, found == 3)
    assert not labels[18].any()


def test_training_goes_on_where_it_was_killed(cache: Path, config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = json.loads(config.read_text()) | {"deep_weight": 1.0, "boundary_weight": 0.5}
    config.write_text(json.dumps(settings))
    trainer = train(config, cache, run)
    assert trainer.step == 3
    losses = [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(losses))
    config.write_text(json.dumps(settings | {"steps": 5}))
    resumed = train(config, cache, run)
    assert resumed.step == 5
    assert not (run / "last.tmp").exists()


def test_validation_scores_the_named_organs(cache: Path, config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config, cache, run)
    output = tmp_path / "scores.json"
    validate.main([str(config), str(cache), str(run / "average.pt"), str(output)])
    result = json.loads(output.read_text())
    assert set(result["summary"]) == set(LABELLED)
    assert {score["case_id"] for score in result["scores"]} == {"two"}
    assert all(0 <= score["dice"] <= 1 for score in result["scores"])


def test_circumstances_are_scored_side_by_side(
    cache: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(config, cache, run)
    capsys.readouterr()
    circumstances.main([str(config), str(cache), str(run / "average.pt"), "--couches", "one"])
    head, *rows = capsys.readouterr().out.splitlines()
    assert len(head.split()) == len(ORGANS) + 1
    assert [row[:16].strip() for row in rows] == list(circumstances.circumstances(cache, ["one"]))
    for row in rows:
        values = [float(value) for value in row[16:].split()]
        named = [not np.isnan(value) for value in values[:-1]]
        assert named == [organ in LABELLED for organ in ORGANS]
        assert values[-1] == pytest.approx(np.nanmean(values[:-1]), abs=1e-4)


def test_a_perfect_prediction_scores_one(cache: Path) -> None:
    case = load_case(cache / "two")
    scores = validate.score_case(case, np.array(case.labels))
    assert [score.dice for score in scores] == [1.0, 1.0, 1.0]
    assert all(score.swapped_ml == 0 for score in scores)


def test_training_goes_on_from_the_weights_that_are_committed(tmp_path):
    bundle = ROOT / "weights" / "default"
    from_bundle.main([str(bundle), str(tmp_path / "taken.pth")])
    network, _ = network_from_checkpoint(tmp_path / "taken.pth")
    slices = torch.linspace(-1, 1, 3 * 64 * 96).reshape(1, 3, 64, 96)
    with torch.no_grad():
        logits = network.eval()(slices).logits.numpy()
    expected = open_onnx(bundle / "model.onnx")(slices.numpy(), None)
    assert np.abs(logits - expected).max() < 1e-3 * expected.std()


def test_a_bundle_is_scored_on_the_scans_own_grid(cache: Path, config: Path, tmp_path: Path):
    output = tmp_path / "scores.json"
    data = cache.parent / "train"
    score_bundle.main([str(config), str(data), str(ROOT / "weights" / "default"), str(output)])
    result = json.loads(output.read_text())
    assert {score["case_id"] for score in result["scores"]} == {"two"}
    assert all(score["swapped_ml"] < 1 for score in result["scores"])
    # A phantom of 4.5 mm voxels: turned, mirrored or shifted labels would score near 0.
    assert all(score["dice"] > 0.8 for score in result["scores"])
