"""The crops of `training.augment`, a whole batch at a time, on a GPU.

The same augmentation with the same strengths, but for what `BatchMaker` refuses, drawn by the
device's own generator: every case lies in the device's memory, and a crop is gathered out of it.
Which slice of which case comes next, which kidney is lent to it, and on whose couch it lies, is
still said by `training.sampling`, `training.lending` and `training.batched_surroundings`. Three
things are simpler: thick and coarse crops are the first and the last of a batch, as many as their
chances say, so that their dearer steps touch no others; what is lent is never thick, and comes
after the couch; and bubbles of gas are as fine in all crops of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training import pelvis
from training.augment import (
    ABDOMINAL,
    BLOOD,
    CONTRASTED,
    GAS_LEVEL,
    GAS_POINTS,
    SOLID_HU,
    STOMACH,
    TRACHEA,
    TRACHEA_BELOW_HU,
    Augmentation,
    enhance,
    scale_hu,
)
from training.batched_surroundings import Surroundings, choose_surroundings, swap_surroundings
from training.cases import AIR_HU, PIXEL_MM, SLICE_MM, Case
from training.lending import SEAM_PIXELS, Loan, find_loan, widen
from training.sampling import Batch, Sampler
from training.volumes import Corner, Volumes, corners_of, pixels

_OWN = tuple(value for value in CONTRASTED if value not in BLOOD)


@dataclass(frozen=True, slots=True)
class Loans:
    """Kidneys lent to some of a batch's crops.

    Attributes:
        to: (M,) which crops.
        row: (M,) slice of the same case that each is taken from.
        label: (M,) its value.
        taken: (M,) the value that it had there.
        mirrored: (M,) bool, whether that slice is seen in a mirror.
        shift: (M, 2) rows and columns that it is moved by.
    """

    to: Tensor
    row: Tensor
    label: Tensor
    taken: Tensor
    mirrored: Tensor
    shift: Tensor


@dataclass(frozen=True, slots=True)
class Choices:
    """What a batch shows: (N,) case, (N,) slice position, (N, 2) row and column of its middle."""

    case: Tensor
    position: Tensor
    centre: Tensor
    loans: Loans | None = None
    surroundings: Surroundings | None = None


def choose(sampler: Sampler, count: int, rng: np.random.Generator) -> Choices:
    """Let the sampler say which slices come next, and find kidneys and couches for them."""
    chosen = [sampler.choose(rng) for _ in range(count)]
    lent = [
        (n, case, round(position), int(rng.integers(2**32)))
        for n, (case, position, _) in enumerate(chosen)
        if rng.random() < sampler.augmentation.lend_chance
    ]
    return Choices(
        torch.tensor([case for case, _, _ in chosen]),
        torch.tensor([position for _, position, _ in chosen]),
        torch.tensor([centre for _, _, centre in chosen]),
        _find_loans(sampler.cases, lent) if lent else None,
        choose_surroundings(sampler, count, rng),
    )


def _find_loans(cases: Sequence[Case], wanted: Sequence[tuple[int, int, int, int]]) -> Loans | None:
    """Loans for (crop, case, slice, seed), where one fits."""

    def find(one: tuple[int, int, int, int]) -> tuple[int, Loan | None]:
        crop, case, row, seed = one
        return crop, find_loan(cases[case], row, np.random.default_rng(seed))

    with ThreadPoolExecutor() as pool:
        found = [(crop, loan) for crop, loan in pool.map(find, wanted) if loan is not None]
    return gather_loans(found) if found else None


def gather_loans(found: Sequence[tuple[int, Loan]]) -> Loans:
    """Loans as a batch takes them, with the crops that get them."""
    parts = [
        (crop, loan.row, loan.label, loan.taken, loan.mirrored, loan.shift) for crop, loan in found
    ]
    return Loans(*(torch.tensor(part) for part in zip(*parts, strict=True)))


class BatchMaker:
    """Cuts augmented crops out of `Volumes`."""

    def __init__(self, volumes: Volumes, config: Augmentation, seed: int):
        if config.mirror_chance:
            raise ValueError(
                "mirrored crops are made by training.augment alone: "
                "set mirror_chance to 0, or train with --device cpu"
            )
        self.volumes, self.config = volumes, config
        self.device = volumes.hu.device
        # What decides a shape is drawn here: to ask the device would make it wait.
        self.shapes = np.random.default_rng(seed)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.abdominal = torch.tensor(ABDOMINAL, device=self.device)

    def make(self, choices: Choices) -> Batch:
        """One batch on the device."""
        volumes, config = self.volumes, self.config
        case = choices.case.to(self.device)
        position = choices.position.to(self.device).float()
        rows, columns = self.places(choices.centre.to(self.device).float())
        shape = volumes.shapes[case]
        nearest = torch.minimum(position.round().long().clamp_min(0), shape[:, 0] - 1)
        plane = volumes.starts[case] + nearest * shape[:, 1] * shape[:, 2]
        corner, inside = pixels(rows.round().long(), columns.round().long(), shape)
        at = plane[:, None, None] + corner
        labels, pseudo, unsure = (
            volume[at].int() * inside for volume in (volumes.labels, volumes.pseudo, volumes.unsure)
        )
        distance = self.distances(len(case))
        corners = corners_of(rows, columns, shape)
        around = self.surround(choices.surroundings, case, nearest, corners)
        image = self.slices(case, position, corners, distance)
        if around is not None:
            image[around[0]] += around[1][:, None]
        known = volumes.known[volumes.rows[case] + nearest]
        if choices.loans is not None:
            self.lend(
                choices.loans, case, (rows, columns), distance, (image, labels, pseudo, known)
            )
        image, labels = self.change_contents(image, labels, pseudo)
        image, labels, pseudo = self.widen_pelves(image, labels, pseudo)
        image = self.change_intensities(image)
        outside = self.chance(config.cut_chance, len(case))[:, None, None] & self.beyond(len(case))
        image = torch.where(outside[:, None], AIR_HU, image)
        cut = [torch.where(outside, 0, values) for values in (labels, pseudo)]
        return Batch(scale_hu(image), cut[0], cut[1], unsure, known)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Random numbers between two bounds."""
        drawn = torch.rand(shape, device=self.device, generator=self.generator)
        return low + (high - low) * drawn

    def normal(self, *shape: int) -> Tensor:
        """Random numbers of variance 1."""
        return torch.randn(shape, device=self.device, generator=self.generator)

    def chance(self, chance: float, count: int) -> Tensor:
        """(N,) bool, true as often as the chance says."""
        return self.uniform(0, 1, count) < chance

    def places(self, centre: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column (N, H, W) in its slice of every pixel of every crop."""
        config, count = self.config, len(centre)
        reach = config.shift_mm / PIXEL_MM
        still = self.chance(config.identity_chance, count)
        angle = self.uniform(-1, 1, count) * math.radians(config.rotation_deg)
        zoom = self.uniform(math.log(config.scale[0]), math.log(config.scale[1]), count).exp()
        stretch = self.uniform(-0.1, 0.1, count).exp()
        angle, zoom = torch.where(still, 0.0, angle), torch.where(still, 1.0, zoom)
        stretch = torch.where(still, 1.0, stretch)[:, None, None]
        middle = centre + self.uniform(-reach, reach, count, 2)
        middle = torch.where(still[:, None], middle.round(), middle)[:, :, None, None]
        axis = torch.arange(config.size, device=self.device) - float(config.size // 2)
        cosine, sine = (f[:, None, None] for f in (angle.cos() / zoom, angle.sin() / zoom))
        down, right = axis[None, :, None], axis[None, None, :]
        bend = self.smooth_noise(count, 2, 5) * (config.elastic_mm / PIXEL_MM)
        bend = bend * self.uniform(0, 1, count)[:, None, None, None]
        bend = bend * self.chance(config.elastic_chance, count)[:, None, None, None]
        rows = (cosine * down - sine * right) * stretch + middle[:, 0] + bend[:, 0]
        columns = (sine * down + cosine * right) / stretch + middle[:, 1] + bend[:, 1]
        return rows, columns

    def smooth_noise(self, count: int, fields: int, points: int) -> Tensor:
        """Fields (N, fields, H, W) through random values at few points."""
        size = (self.config.size, self.config.size)
        coarse = self.normal(count, fields, points, points)
        return F.interpolate(coarse, size, mode="bicubic", align_corners=True)

    def distances(self, count: int) -> Tensor:
        """(N,) mm from slice to slice of each crop."""
        own_distance = self.chance(self.config.own_distance_chance, count)
        distance = self.uniform(*self.config.slice_distance_mm, count)
        return torch.where(own_distance, SLICE_MM, distance)

    def surround(
        self,
        chosen: Surroundings | None,
        case: Tensor,
        row: Tensor,
        corners: Sequence[Corner],
    ) -> tuple[Tensor, Tensor] | None:
        """Which crops get others' surroundings, and these; takes their own off the corners."""
        if chosen is None:
            return None
        parts = (chosen.to, chosen.case, chosen.row, chosen.aside)
        chosen = Surroundings(*(part.to(self.device) for part in parts))
        return chosen.to, swap_surroundings(self.volumes, chosen, case, row, corners)

    def lend(
        self,
        loans: Loans,
        case: Tensor,
        places: tuple[Tensor, Tensor],
        distance: Tensor,
        crops: tuple[Tensor, Tensor, Tensor, Tensor],
    ) -> None:
        """Put kidneys into the image, labels, pseudo labels and table of crops, in place."""
        image, labels, pseudo, known = crops
        volumes = self.volumes
        parts = (loans.to, loans.row, loans.label, loans.taken, loans.mirrored)
        to, row, label, taken, mirrored = (part.to(self.device) for part in parts)
        shift = loans.shift.to(self.device).float()[:, :, None, None]
        case, shape = case[to], volumes.shapes[case[to]]
        rows, columns = places[0][to] - shift[:, 0], places[1][to] - shift[:, 1]
        turned = shape[:, 2, None, None] - 1 - columns
        columns = torch.where(mirrored[:, None, None], turned, columns)
        corners = corners_of(rows, columns, shape)
        lent = self.slices(case, row.float(), corners, distance[to], thick=0)
        corner, within = pixels(rows.round().long(), columns.round().long(), shape)
        plane = volumes.starts[case] + row * shape[:, 1] * shape[:, 2]
        at = plane[:, None, None] + corner
        inside = (volumes.labels[at] == taken[:, None, None]) & within
        wide = widen(inside)[:, None]
        soft = F.avg_pool2d(wide, SEAM_PIXELS, 1, SEAM_PIXELS // 2)
        image[to] += soft * (lent - image[to])
        around, value = wide[:, 0] > 0, label[:, None, None].to(labels.dtype)
        for kept in (labels, pseudo):
            kept[to] = torch.where(inside, value, torch.where(around, 0, kept[to]))
        known[to, label - 1] = volumes.known[volumes.rows[case] + row, taken - 1]

    def slices(
        self,
        case: Tensor,
        position: Tensor,
        corners: Sequence[Corner],
        distance: Tensor,
        thick: int | None = None,
    ) -> Tensor:
        """Three slices (N, 3, H, W) in HU around each position; the first ones thicker."""
        config, count = self.config, len(case)
        thick = round(config.thick_chance * count) if thick is None else thick
        step = distance / self.volumes.slice_mm[case]
        blur = self.uniform(*config.thickness_mm, thick) / self.volumes.slice_mm[case[:thick]]
        planes, first = [], [corner.first(thick) for corner in corners]
        for offset in (-step, torch.zeros_like(step), step):
            plane = self.slice_at(case, position + offset, corners)
            middle = (position + offset)[:thick]
            ahead, behind = (
                self.slice_at(case[:thick], middle + side * blur, first) for side in (1, -1)
            )
            plane[:thick] = (plane[:thick] + ahead + behind) / 3
            planes.append(plane)
        return torch.stack(planes, dim=1) + AIR_HU

    def slice_at(self, case: Tensor, position: Tensor, corners: Sequence[Corner]) -> Tensor:
        """HU above air (N, H, W) between slices, rows and columns; 0 outside."""
        volumes, shape = self.volumes, self.volumes.shapes[case]
        first, last = volumes.usable[case].unbind(1)
        position = torch.maximum(torch.minimum(position, last.float()), first.float())
        low = position.floor().long()
        weight = (position - low)[:, None, None]
        size = shape[:, 1] * shape[:, 2]
        below = (volumes.starts[case] + low * size)[:, None, None]
        above = below + (torch.minimum(low + 1, last) - low).mul(size)[:, None, None]
        total = torch.zeros_like(corners[0].weight)
        for corner in corners:
            ends = (volumes.hu[plane + corner.place].float() for plane in (below, above))
            total += (torch.lerp(*ends, weight) - AIR_HU) * corner.weight
        return total

    def change_contents(
        self, image: Tensor, labels: Tensor, pseudo: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Contrast of organs, the trachea's air, what bowel holds; and labels, with its gas."""
        image = self.change_organs(image, labels)
        either = torch.where(labels > 0, labels, pseudo)
        image = self.fill_bowel(self.brighten_trachea(image, either), either)
        return self.fill_gas(image, labels, either)

    def change_intensities(self, image: Tensor) -> Tensor:
        """Soft tissue and air, sharpness, noise and quantisation."""
        config, count = self.config, len(image)

        def each(values: Tensor) -> Tensor:
            return values[:, None, None, None]

        gain = each(self.uniform(*config.gain, count))
        offset = each(self.uniform(-1, 1, count) * config.offset_hu)
        soft = ((image + 400) / 200).clamp(0, 1)
        air = each(self.uniform(*config.air_gain, count)) - 1
        change = (image - AIR_HU) * air + each(self.uniform(*config.air_hu, count))
        inflated = each(self.chance(config.air_chance, count))
        image = image + (1 - soft) * change * inflated
        image = image + soft * (image * (gain - 1) + offset)
        image = self.change_enhancement(image)
        mix = self.uniform(*config.blur, count) * self.chance(config.blur_chance, count)
        smooth = F.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
        image = self.coarsen(image + each(mix) * (smooth - image))
        image = image + self.noise(image) * each(self.chance(config.noise_chance, count))
        high = self.uniform(*config.clip_hu, count)
        high = torch.where(self.chance(config.clip_chance, count), high, 1e5)
        image = torch.minimum(image, each(high))
        step = each(self.uniform(*config.step_hu, count))
        stepped = each(self.chance(config.step_chance, count))
        return torch.where(stepped, torch.round(image / step) * step, image)

    def change_enhancement(self, image: Tensor) -> Tensor:
        """Bone and iodine brighter or darker at once, as another tube voltage makes them."""
        config, count = self.config, len(image)
        if not config.enhancement_chance:
            return image
        low, high = (math.log(end) for end in config.enhancement)
        factor = self.uniform(low, high, count).exp()
        factor = torch.where(self.chance(config.enhancement_chance, count), factor, 1.0)
        return enhance(image, factor[:, None, None, None])

    def coarsen(self, image: Tensor) -> Tensor:
        """The last crops as they look on pixels two to three times as wide."""
        count = round(self.config.coarse_chance * len(image))
        if not count:
            return image
        size = round(image.shape[-1] / self.shapes.uniform(*self.config.coarse_factor))
        small = F.interpolate(image[-count:], (size, size), mode="area")
        wide = F.interpolate(small, image.shape[2:], mode="bilinear", align_corners=False)
        return torch.cat([image[:-count], wide])

    def noise(self, image: Tensor) -> Tensor:
        """Noise of random strength, fine or coarse in grain."""
        count = len(image)
        noise = self.normal(*image.shape)
        grained = self.chance(self.config.grain_chance, count)[:, None, None, None]
        noise = torch.where(grained, F.avg_pool2d(noise, 3, 1, 1) * 3.0, noise)
        return noise * self.uniform(0, self.config.noise_hu, count)[:, None, None, None]

    def change_organs(self, image: Tensor, labels: Tensor) -> Tensor:
        """Labelled organs brighter or darker, as another contrast phase would make them."""
        count = len(image)
        table = torch.zeros(count, 256, device=self.device)
        table[:, list(BLOOD)] = self.uniform(*self.config.blood_hu, count, 1)
        table[:, list(_OWN)] = self.uniform(*self.config.organ_hu, count, len(_OWN))
        table *= self.chance(self.config.contrast_chance, count)[:, None]
        change = table.gather(1, labels.flatten(1).long()).view(labels.shape)[:, None]
        return image + F.avg_pool2d(change, 3, 1, 1) * (image > -150)

    def brighten_trachea(self, image: Tensor, labels: Tensor) -> Tensor:
        """The air of the trachea brighter, beside lungs that stay as they are."""
        if not self.config.trachea_chance:
            return image
        count = len(image)
        amount = self.uniform(*self.config.trachea_hu, count)
        amount = amount * self.chance(self.config.trachea_chance, count)
        inside = F.avg_pool2d((labels == TRACHEA).float()[:, None], 3, 1, 1)
        return image + inside * amount[:, None, None, None] * (image < TRACHEA_BELOW_HU)

    def fill_bowel(self, image: Tensor, labels: Tensor) -> Tensor:
        """Blobs of unlabelled soft tissue, and the stomach, brighter."""
        count = len(image)
        field = self.smooth_noise(count, 1, 12)[:, 0]
        blobs = (field > self.uniform(0.6, 1.4, count)[:, None, None]) & (labels == 0)
        blobs |= (labels == STOMACH) & self.chance(0.5, count)[:, None, None]
        strength = self.uniform(*self.config.bowel_hu, count)
        strength = strength * self.chance(self.config.bowel_chance, count)
        wide = F.avg_pool2d(blobs.float()[:, None], 5, 1, 2)
        amount = wide * blobs[:, None] * strength[:, None, None, None]
        return image + amount * ((image > -60) & (image < 120))

    def fill_gas(self, image: Tensor, labels: Tensor, either: Tensor) -> tuple[Tensor, Tensor]:
        """Blobs of what no label claims, and of the stomach, gas, labelled as stomach."""
        config, count = self.config, len(image)
        if not config.gas_chance:
            return image, labels
        filled = torch.isin(either, self.abdominal).flatten(1).any(dim=1)
        filled = filled & self.chance(config.gas_chance, count)
        field = self.smooth_noise(count, 1, int(self.shapes.integers(*GAS_POINTS)))[:, 0]
        gas = (field > self.uniform(*GAS_LEVEL, count)[:, None, None]) & filled[:, None, None]
        gas &= ((either == 0) | (either == STOMACH)) & (image > SOLID_HU).all(dim=1)
        soft = F.avg_pool2d(gas.float()[:, None], 3, 1, 1)
        hu = self.uniform(*config.gas_hu, count)[:, None, None, None]
        return image + soft * (hu - image), torch.where(gas, STOMACH, labels)

    def widen_pelves(
        self, image: Tensor, labels: Tensor, pseudo: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Renal pelves wide with urine, which are no kidney."""
        config, count = self.config, len(image)
        if not config.pelvis_chance:
            return image, labels, pseudo
        either = torch.where(labels > 0, labels, pseudo)
        pelves = pelvis.find_pelves(image, either, self.uniform(*pelvis.LEVEL, count))
        pelves = pelves & self.chance(config.pelvis_chance, count)[:, None, None]
        excreted = self.chance(pelvis.EXCRETED_CHANCE, count)
        plain, dense = (
            self.uniform(*pelvis.URINE_HU, count),
            self.uniform(*pelvis.EXCRETED_HU, count),
        )
        image = pelvis.fill_pelves(image, pelves, torch.where(excreted, dense, plain))
        return image, labels.masked_fill(pelves, 0), pseudo.masked_fill(pelves, 0)

    def beyond(self, count: int) -> Tensor:
        """Pixels (N, H, W) outside a random circle, or beyond a straight edge."""
        axis = torch.linspace(-1, 1, self.config.size, device=self.device)
        rows, columns = axis[None, :, None], axis[None, None, :]
        middle = self.uniform(-0.2, 0.2, count, 2)[:, :, None, None]
        radius = self.uniform(0.5, 0.9, count)[:, None, None]
        outside = (rows - middle[:, 0]) ** 2 + (columns - middle[:, 1]) ** 2 > radius**2
        angle = self.uniform(0, 2 * math.pi, count)[:, None, None]
        edge = self.uniform(0.3, 0.8, count)[:, None, None]
        straight = rows * angle.sin() + columns * angle.cos() > edge
        return torch.where(self.chance(0.6, count)[:, None, None], outside, straight)
