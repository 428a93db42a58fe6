"""Random crops of prepared cases: geometry, slices, intensities.

One crop is three neighbouring slices in HU with a label map and what is known of each organ.
Everything random comes from one ``numpy`` generator, so that a run can be repeated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training import pelvis
from training.cases import AIR_HU, PIXEL_MM, SLICE_MM, Case
from training.lending import Loan, find_loan, paste_labels, paste_slices
from training.surroundings import swap_surroundings

LOW_HU, HIGH_HU = -1000.0, 400.0
TRACHEA, STOMACH = 3, 12
#: Air, for what brightens a trachea.
TRACHEA_BELOW_HU = -600
#: Soft tissue without iodine.
PLAIN_HU = 50.0
#: Labels that another contrast phase changes, and those of them that change alike: blood.
CONTRASTED, BLOOD = (4, 6, 7, 8, 9, 10, 11), (6, 7)
#: Liver to stomach: where gas is in bowel.
ABDOMINAL = (8, 9, 10, 11, STOMACH)
#: Lung, fat's dark half and the air around a body are darker.
SOLID_HU = -200
#: Bubbles of gas: random values along a crop's side, and the level above which they are gas.
GAS_POINTS, GAS_LEVEL = (6, 15), (1.0, 1.9)
#: Pairs of labels that a mirrored crop swaps: lungs, kidneys.
MIRRORED = ((1, 2), (9, 10))


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How strongly crops are varied; chances are probabilities.

    Attributes:
        size: pixels along a crop's side.
        rotation_deg: largest rotation, either way.
        scale: smallest and largest magnification.
        shift_mm: largest shift of the crop's centre from the point of interest.
        elastic_chance: the body bent smoothly.
        elastic_mm: largest standard deviation of that displacement.
        identity_chance: no rotation and no scaling: crops as sharp as at inference.
        own_distance_chance: neighbouring slices lie 3 mm apart, as the model sees them.
        slice_distance_mm: smallest and largest distance of neighbouring slices otherwise.
        thick_chance: slices averaged with what lies around them.
        thickness_mm: smallest and largest distance, then, of what they are averaged with.
        gain: smallest and largest factor on soft tissue.
        offset_hu: largest shift of soft tissue, either way.
        air_chance: lungs more or less inflated, air of another HU: trachea and lung may look alike.
        air_gain: smallest and largest factor, then, on what lies above -1000 HU in air and lung.
        air_hu: smallest and largest HU that are then added.
        trachea_chance: its air alone brighter, as wide pixels and scatter make it: nearly all
            labelled tracheas are darker than the lungs beside them.
        trachea_hu: least and most that it is brightened.
        enhancement_chance: bone and iodine brighter or darker at once, as another tube voltage or
            dose makes them.
        enhancement: smallest and largest factor, then, on what lies above 50 HU.
        contrast_chance: labelled organs brighter or darker, as other contrast phases are.
        blood_hu: smallest and largest change, then, of heart and aorta, which change alike.
        organ_hu: smallest and largest change, then, of each other organ.
        bowel_chance: parts of what no label claims brightened, as bowel with contrast is.
        bowel_hu: least and most that they are brightened.
        gas_chance: parts of what no label claims, in slices with organs of the abdomen, filled
            with gas, which is no lung however dark.
        gas_hu: lowest and highest HU of that gas.
        pelvis_chance: renal pelves wide with urine, plain or with iodine, which are no kidney.
        noise_chance: noise added.
        noise_hu: its largest standard deviation.
        grain_chance: that noise coarse in grain.
        clip_chance: nothing above a level, as some sources have it.
        clip_hu: lowest and highest such level.
        step_chance: HU in steps, as 8-bit sources have them.
        step_hu: smallest and largest such step.
        blur_chance: in-plane blur or sharpening.
        blur: smallest and largest share, then, of a 3 x 3 mean; below 0 it sharpens.
        coarse_chance: pixels wider, as some archives keep them.
        coarse_factor: smallest and largest number of times that they are as wide.
        cut_chance: a smaller field of view, round or straight.
        mirror_chance: left and right swapped in image and labels.
        lend_chance: a kidney moved along the body, where one fits.
        surroundings_chance: all outside the body, couch and arms, taken from another patient.
    """

    size: int = 192
    rotation_deg: float = 15.0
    scale: tuple[float, float] = (0.7, 1.4)
    shift_mm: float = 60.0
    elastic_chance: float = 0.0
    elastic_mm: float = 5.0
    identity_chance: float = 0.25
    own_distance_chance: float = 0.5
    slice_distance_mm: tuple[float, float] = (1.5, 6.0)
    thick_chance: float = 0.3
    thickness_mm: tuple[float, float] = (0.5, 2.5)
    gain: tuple[float, float] = (0.85, 1.2)
    offset_hu: float = 25.0
    air_chance: float = 0.0
    air_gain: tuple[float, float] = (0.3, 1.5)
    air_hu: tuple[float, float] = (0.0, 60.0)
    trachea_chance: float = 0.0
    trachea_hu: tuple[float, float] = (20.0, 200.0)
    enhancement_chance: float = 0.0
    enhancement: tuple[float, float] = (0.4, 1.8)
    contrast_chance: float = 0.2
    blood_hu: tuple[float, float] = (-90.0, 90.0)
    organ_hu: tuple[float, float] = (-50.0, 60.0)
    bowel_chance: float = 0.0
    bowel_hu: tuple[float, float] = (40.0, 350.0)
    gas_chance: float = 0.0
    gas_hu: tuple[float, float] = (-1000.0, -850.0)
    pelvis_chance: float = 0.0
    noise_chance: float = 0.4
    noise_hu: float = 40.0
    grain_chance: float = 0.5
    clip_chance: float = 0.15
    clip_hu: tuple[float, float] = (230.0, 300.0)
    step_chance: float = 0.1
    step_hu: tuple[float, float] = (16.0, 48.0)
    blur_chance: float = 0.2
    blur: tuple[float, float] = (-0.9, 1.0)
    coarse_chance: float = 0.0
    coarse_factor: tuple[float, float] = (1.5, 3.0)
    cut_chance: float = 0.1
    mirror_chance: float = 0.0
    lend_chance: float = 0.0
    surroundings_chance: float = 0.0


@dataclass(frozen=True, slots=True)
class Crop:
    """One training example.

    Attributes:
        slices: (3, H, W) float32, HU scaled to the network's range.
        labels: (H, W) uint8.
        pseudo: (H, W) uint8, labels of an earlier model.
        unsure: (H, W) int32, bit c set where organ c must not be trained.
        known: (organs,) uint8 of ``training.cases.Known``.
    """

    slices: Tensor
    labels: Tensor
    pseudo: Tensor
    unsure: Tensor
    known: NDArray[np.uint8]


def scale_hu(hu: Tensor) -> Tensor:
    """HU to the range the network sees: (clip(HU, -1000, 400) + 1000) / 700 - 1."""
    return (hu.clamp(LOW_HU, HIGH_HU) - LOW_HU) / 700.0 - 1.0


def draw_crop(
    case: Case,
    position: float,
    centre: tuple[float, float],
    config: Augmentation,
    rng: np.random.Generator,
    others: Sequence[Case] = (),
) -> Crop:
    """Cut one augmented crop out of a case.

    Args:
        case: prepared case.
        position: slice (may lie between two) of the middle channel.
        centre: row and column that the crop shows near its middle.
        config: strength of the augmentation.
        rng: where chance comes from.
        others: patients whose surroundings it may get, each source as often.
    """
    nearest = min(max(round(position), 0), case.hu.shape[0] - 1)
    loan = None
    if config.lend_chance and rng.random() < config.lend_chance:
        loan = find_loan(case, nearest, rng)
    stack = _slices_with(case, position, loan, config, rng)
    if others and rng.random() < config.surroundings_chance:
        other = others[int(rng.integers(len(others)))]
        row = int(rng.choice(np.flatnonzero(other.usable)))
        stack = swap_surroundings(stack, other, row, rng)
    grid, mirrored = sampling_grid(case.hu.shape[1:], centre, config, rng)
    image = F.grid_sample(stack[None] - AIR_HU, grid, mode="bilinear", align_corners=True)[0]
    image += AIR_HU
    labels, pseudo, unsure = _labels_with(case, nearest, loan, grid)
    if mirrored:
        labels, pseudo = swap_sides(labels), swap_sides(pseudo)
    known = np.array(case.known[nearest])
    if loan is not None:
        known[loan.label - 1] = case.known[loan.row, loan.taken - 1]
    image = _change_organs(image, labels, config, rng)
    either = torch.where(labels > 0, labels, pseudo)
    image = brighten_trachea(image, either, config, rng)
    image = fill_bowel(image, either, config, rng)
    image, labels = fill_gas(image, labels, either, config, rng)
    image, labels, pseudo = widen_pelves(image, labels, pseudo, config, rng)
    image = change_intensities(image, config, rng)
    if rng.random() < config.cut_chance:
        outside = field_of_view(config.size, rng)
        image[:, outside] = AIR_HU
        labels, pseudo = labels.clone(), pseudo.clone()
        labels[outside] = 0
        pseudo[outside] = 0
    return Crop(scale_hu(image), labels, pseudo, unsure, known)


def _slices_with(
    case: Case, position: float, loan: Loan | None, config: Augmentation, rng: np.random.Generator
) -> Tensor:
    """Three slices around a position, and in them what is lent, of the same distance."""
    steps = _steps(case, config, rng)
    stack = torch.from_numpy(_slices_at(case, position, *steps))
    if loan is None:
        return stack
    return paste_slices(stack, torch.from_numpy(_slices_at(case, loan.row, *steps)), loan)


def _labels_with(
    case: Case, row: int, loan: Loan | None, grid: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Labels, an earlier model's labels, and where it was unsure, on a crop's grid."""
    labels = case.labels[row] if loan is None else paste_labels(case.labels[row], loan)
    sampled = _sample_labels(labels, grid)
    if case.pseudo is None or case.unsure is None:
        return sampled, torch.zeros_like(sampled), torch.zeros_like(sampled)
    pseudo = case.pseudo[row] if loan is None else paste_labels(case.pseudo[row], loan)
    return sampled, _sample_labels(pseudo, grid), _sample_labels(case.unsure[row], grid)


def _sample_labels(plane: NDArray[np.generic], grid: Tensor) -> Tensor:
    source = torch.from_numpy(plane.astype(np.float32))[None, None]
    sampled = F.grid_sample(source, grid, mode="nearest", align_corners=True)
    return sampled[0, 0].to(torch.int32)


def swap_sides(labels: Tensor) -> Tensor:
    """Exchange the labels of left and right organs."""
    table = torch.arange(65536, dtype=torch.int32)
    for left, right in MIRRORED:
        table[left], table[right] = right, left
    return table[labels.long()]


def _steps(case: Case, config: Augmentation, rng: np.random.Generator) -> tuple[float, float]:
    """How far neighbours lie apart, and how thick they are to either side, in slices."""
    own_distance = rng.random() < config.own_distance_chance
    distance = SLICE_MM if own_distance else rng.uniform(*config.slice_distance_mm)
    thick = rng.random() < config.thick_chance
    thickness = rng.uniform(*config.thickness_mm) if thick else 0.0
    return distance / case.info.slice_mm, thickness / case.info.slice_mm


def _slices_at(case: Case, position: float, step: float, blur: float) -> NDArray[np.float32]:
    """Three slices around a position, interpolated between the scan's own, in HU."""
    planes = []
    for offset in (-step, 0.0, step):
        around = (-blur, 0.0, blur) if blur else (0.0,)
        planes.append(
            np.mean([_slice_at(case, position + offset + part) for part in around], axis=0)
        )
    return np.asarray(planes, dtype=np.float32)


def _slice_at(case: Case, position: float) -> NDArray[np.float32]:
    usable = np.flatnonzero(case.usable)
    position = min(max(position, float(usable[0])), float(usable[-1]))
    low = int(position)
    weight = position - low
    plane = case.hu[low].astype(np.float32)
    if weight > 1e-3:
        plane = plane * (1 - weight) + case.hu[low + 1].astype(np.float32) * weight
    return np.asarray(plane, dtype=np.float32)


def sampling_grid(
    shape: tuple[int, ...],
    centre: tuple[float, float],
    config: Augmentation,
    rng: np.random.Generator,
) -> tuple[Tensor, bool]:
    """Random affine map from a crop's pixels to a slice's, as ``grid_sample`` takes it."""
    angle, zoom, stretch = 0.0, 1.0, 1.0
    reach = config.shift_mm / PIXEL_MM
    shift = rng.uniform(-reach, reach, 2)
    if rng.random() >= config.identity_chance:
        angle = math.radians(rng.uniform(-config.rotation_deg, config.rotation_deg))
        zoom = math.exp(rng.uniform(math.log(config.scale[0]), math.log(config.scale[1])))
        stretch = math.exp(rng.uniform(-0.1, 0.1))
    else:
        shift = np.round(shift)
        centre = (round(centre[0]), round(centre[1]))
    mirrored = rng.random() < config.mirror_chance
    # Whole-pixel positions for an unchanged crop, so that it is not blurred.
    axis = torch.arange(config.size, dtype=torch.float32) - config.size // 2
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    sign = -1.0 if mirrored else 1.0
    cosine, sine = math.cos(angle) / zoom, math.sin(angle) / zoom
    source_rows = (cosine * rows - sine * columns) * stretch + centre[0] + shift[0]
    source_columns = sign * (sine * rows + cosine * columns) / stretch + centre[1] + shift[1]
    if rng.random() < config.elastic_chance:
        bend = _smooth_noise(2, 5, config.size, rng) * rng.uniform(0, config.elastic_mm / PIXEL_MM)
        source_rows, source_columns = source_rows + bend[0], source_columns + bend[1]
    grid = torch.stack(
        [2 * source_columns / (shape[1] - 1) - 1, 2 * source_rows / (shape[0] - 1) - 1], dim=-1
    )
    return grid[None].float(), mirrored


def _smooth_noise(fields: int, points: int, size: int, rng: np.random.Generator) -> Tensor:
    """Fields (fields, size, size) of about unit variance through random values at few points."""
    coarse = rng.standard_normal((1, fields, points, points), dtype=np.float32)
    shape = (size, size)
    return F.interpolate(torch.from_numpy(coarse), shape, mode="bicubic", align_corners=True)[0]


def _change_organs(
    image: Tensor, labels: Tensor, config: Augmentation, rng: np.random.Generator
) -> Tensor:
    """Make labelled organs brighter or darker, as another contrast phase would."""
    if rng.random() >= config.contrast_chance:
        return image
    change = torch.zeros_like(image[:1])
    shared = rng.uniform(*config.blood_hu)
    for value in CONTRASTED:
        inside = labels == value
        if inside.any():
            amount = shared if value in BLOOD else rng.uniform(*config.organ_hu)
            change[0][inside] = amount
    change = F.avg_pool2d(change[None], 3, 1, 1)[0]
    return image + change * (image > -150)


def brighten_trachea(
    image: Tensor, labels: Tensor, config: Augmentation, rng: np.random.Generator
) -> Tensor:
    """Make the air of the trachea brighter, beside lungs that stay as they are."""
    if not config.trachea_chance or rng.random() >= config.trachea_chance:
        return image
    inside = F.avg_pool2d((labels == TRACHEA).float()[None], 3, 1, 1)[0]
    return image + inside * rng.uniform(*config.trachea_hu) * (image < TRACHEA_BELOW_HU)


def fill_bowel(
    image: Tensor, labels: Tensor, config: Augmentation, rng: np.random.Generator
) -> Tensor:
    """Brighten blobs of unlabelled soft tissue, and the stomach, as swallowed contrast does.

    What is bright and no kidney, vessel or spleen is common in hospitals and rare in the data.
    """
    if rng.random() >= config.bowel_chance:
        return image
    field = _smooth_noise(1, 12, config.size, rng)[0]
    blobs = (field > rng.uniform(0.6, 1.4)) & (labels == 0)
    if rng.random() < 0.5:
        blobs |= labels == STOMACH
    wide = F.avg_pool2d(blobs.float()[None], 5, 1, 2)[0]
    amount = wide * blobs * rng.uniform(*config.bowel_hu)
    return image + amount * ((image > -60) & (image < 120))


def fill_gas(
    image: Tensor, labels: Tensor, either: Tensor, config: Augmentation, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Turn blobs of what no label claims, and of the stomach, into gas, labelled as stomach.

    Thresholds take gas for lung, and so does a network that was shown few bubbles: where it is
    labelled as something else, no organ may claim it.

    Args:
        image: (3, H, W) in HU.
        labels: (H, W).
        either: those, and an earlier model's where there are none.
        config: strength of the augmentation.
        rng: where chance comes from.
    """
    if not config.gas_chance or rng.random() >= config.gas_chance:
        return image, labels
    if not torch.isin(either, torch.tensor(ABDOMINAL)).any():
        return image, labels
    field = _smooth_noise(1, int(rng.integers(*GAS_POINTS)), config.size, rng)[0]
    free = (either == 0) | (either == STOMACH)
    gas = (field > rng.uniform(*GAS_LEVEL)) & free & (image > SOLID_HU).all(dim=0)
    soft = F.avg_pool2d(gas.float()[None], 3, 1, 1)
    image = image + soft * (rng.uniform(*config.gas_hu) - image)
    return image, labels.masked_fill(gas, STOMACH)


def widen_pelves(
    image: Tensor, labels: Tensor, pseudo: Tensor, config: Augmentation, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Fill the hollow of kidneys (of labels, or of an earlier model) with urine, labelled as none.

    Args:
        image: (3, H, W) in HU.
        labels: (H, W).
        pseudo: (H, W), an earlier model's.
        config: strength of the augmentation.
        rng: where chance comes from.
    """
    if not config.pelvis_chance or rng.random() >= config.pelvis_chance:
        return image, labels, pseudo
    either = torch.where(labels > 0, labels, pseudo)
    level = torch.tensor([rng.uniform(*pelvis.LEVEL)])
    pelves = pelvis.find_pelves(image[None], either[None], level)
    excreted = rng.random() < pelvis.EXCRETED_CHANCE
    hu = torch.tensor([rng.uniform(*(pelvis.EXCRETED_HU if excreted else pelvis.URINE_HU))])
    image = pelvis.fill_pelves(image[None], pelves, hu.float())[0]
    return image, labels.masked_fill(pelves[0], 0), pseudo.masked_fill(pelves[0], 0)


def change_intensities(image: Tensor, config: Augmentation, rng: np.random.Generator) -> Tensor:
    """Vary soft tissue, sharpness, noise and quantisation of slices in HU."""
    gain, offset = rng.uniform(*config.gain), rng.uniform(-1, 1) * config.offset_hu
    soft = ((image + 400) / 200).clamp(0, 1)
    if rng.random() < config.air_chance:
        thinner = rng.uniform(*config.air_gain) - 1
        image = image + (1 - soft) * ((image - AIR_HU) * thinner + rng.uniform(*config.air_hu))
    image = image + soft * (image * (gain - 1) + offset)
    image = change_enhancement(image, config, rng)
    if rng.random() < config.blur_chance:
        smooth = F.avg_pool2d(image[None], 3, 1, 1, count_include_pad=False)[0]
        image = image + rng.uniform(*config.blur) * (smooth - image)
    if rng.random() < config.coarse_chance:
        image = _coarser(image, rng.uniform(*config.coarse_factor))
    if rng.random() < config.noise_chance:
        noise = _noise(image.shape, config.grain_chance, rng)
        image = image + noise * rng.uniform(0, config.noise_hu)
    if rng.random() < config.clip_chance:
        image = image.clamp_max(rng.uniform(*config.clip_hu))
    if rng.random() < config.step_chance:
        step = rng.uniform(*config.step_hu)
        image = torch.round(image / step) * step
    return image


def change_enhancement(image: Tensor, config: Augmentation, rng: np.random.Generator) -> Tensor:
    """Make bone and iodine brighter or darker at once, as another tube voltage does."""
    if not config.enhancement_chance or rng.random() >= config.enhancement_chance:
        return image
    factor = math.exp(rng.uniform(*(math.log(end) for end in config.enhancement)))
    return enhance(image, factor)


def enhance(hu: Tensor, factor: float | Tensor) -> Tensor:
    """HU with bone and iodine so many times as dense above plain soft tissue."""
    return hu + (hu - PLAIN_HU).clamp_min(0) * (factor - 1)


def _coarser(image: Tensor, factor: float) -> Tensor:
    """Slices as they look on pixels so many times as wide."""
    size = round(image.shape[-1] / factor)
    small = F.interpolate(image[None], (size, size), mode="area")
    return F.interpolate(small, image.shape[1:], mode="bilinear", align_corners=False)[0]


def _noise(shape: torch.Size, grain_chance: float, rng: np.random.Generator) -> Tensor:
    """Noise of standard deviation 1, fine or coarse in grain."""
    noise = torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))
    if rng.random() < grain_chance:
        noise = F.avg_pool2d(noise[None], 3, 1, 1)[0] * 3.0
    return noise


def field_of_view(size: int, rng: np.random.Generator) -> Tensor:
    """Pixels (H, W) outside a random circle, or beyond a straight edge."""
    axis = torch.linspace(-1, 1, size)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    if rng.random() < 0.6:
        middle = rng.uniform(-0.2, 0.2, 2)
        radius = rng.uniform(0.5, 0.9)
        return (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 > radius**2
    angle = rng.uniform(0, 2 * math.pi)
    return rows * math.sin(angle) + columns * math.cos(angle) > rng.uniform(0.3, 0.8)
