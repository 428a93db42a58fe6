"""Failures built of real scans: what is done to a scan, and what should say so.

Two sorts. What changes the network's input (SEEN_ANEW) is labelled anew by the network, once a
patient; what does not (BUILT) is made of the scan and the labels of the whole one. Fields of view
are cut out of both afterwards: the network sees a slice and its neighbours alone, so that but for
the last slice or two it would have said the same of a shorter scan.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from segmate_cli.doubt.verdict import Judgement
from segmate_cli.geometry import Geometry
from segmate_cli.volume import Labels, Volume

Array = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Patient:
    name: str
    volume: Volume
    labels: Labels | None = None

    @property
    def height_mm(self) -> float:
        return self.volume.geometry.shape[0] * self.volume.geometry.spacing_mm[0]

    def but(
        self, hu: Array | None = None, values: Array | None = None, affine: Array | None = None
    ) -> Patient:
        hu = self.volume.hu if hu is None else hu
        affine = self.volume.geometry.affine if affine is None else affine
        k, j, i = hu.shape
        geometry = Geometry(affine, (k, j, i))
        volume = Volume(np.ascontiguousarray(hu).astype(np.int16), geometry)
        if self.labels is None:
            return replace(self, volume=volume)
        values = self.labels.values if values is None else values
        labels = Labels(np.ascontiguousarray(values).astype(np.uint8), geometry, self.labels.organs)
        return replace(self, volume=volume, labels=labels)


def varied(patient: Patient, seed: str) -> Patient:
    """Another scan of the same patient: moved in the field of view, and noisier."""
    rng = np.random.default_rng(list(f"{seed} {patient.name}".encode()))
    hu = patient.volume.hu.astype(np.int16)
    noise = rng.normal(0, rng.uniform(2, 12), hu.shape[1:])
    rows, columns = (int(n) for n in rng.integers(-6, 7, 2))
    moved = np.roll(hu, (rows, columns), (1, 2))
    for k, plane in enumerate(moved):
        grain = np.roll(noise, tuple(rng.integers(0, 64, 2)), (0, 1))
        moved[k] = np.where(plane > -1000, np.clip(plane + grain, -1000, 3000), plane)
    return patient.but(hu=moved)


def on_body(patient: Patient) -> Patient:
    """Rows and columns with a body in them and 2 cm around it; the rest only takes time."""
    hu = patient.volume.hu
    shown = hu[:, 2:-2, 6:-6] > -300  # some scans' outermost rows hold what they should not
    margins = [round(20 / size) for size in patient.volume.geometry.spacing_mm[1:]]
    parts = []
    for axis, first in ((1, 2), (2, 6)):
        hit = np.flatnonzero(shown.mean(axis=(0, 3 - axis)) > 0.01) + first
        low = max(0, int(hit[0]) - margins[axis - 1])
        parts.append(slice(low, int(hit[-1]) + 1 + margins[axis - 1]))
    values = None if patient.labels is None else patient.labels.values[:, parts[0], parts[1]]
    return patient.but(hu=hu[:, parts[0], parts[1]], values=values)


def field_of_view(
    patient: Patient, rng: random.Random, least_mm: float, most_mm: float = 1e4
) -> Patient:
    """A part of the slices: ``least_mm`` to ``most_mm`` of the body, or all where that is less."""
    count = patient.volume.hu.shape[0]
    step_mm = patient.volume.geometry.spacing_mm[0]
    least, most = (min(count, round(each / step_mm)) for each in (least_mm, most_mm))
    kept = rng.randint(least, most)
    first = rng.randint(0, count - kept)
    part = slice(first, first + kept)
    values = None if patient.labels is None else patient.labels.values[part]
    return patient.but(hu=patient.volume.hu[part], values=values)


Failure = Callable[[Patient, random.Random, list[Patient]], Patient | None]


def scaled(patient: Patient, *factors: float) -> Patient:
    affine = np.array(patient.volume.geometry.affine)
    affine[:3, :3] *= factors
    return patient.but(affine=affine)


def mirrored(patient: Patient) -> Patient:
    return patient.but(hu=patient.volume.hu[:, :, ::-1])


def upside_down(patient: Patient) -> Patient:
    return patient.but(hu=patient.volume.hu[::-1])


# What the network has to see anew.
SEEN_ANEW: dict[str, Callable[[Patient], Patient]] = {
    "mirror": mirrored,
    "mirrorlong": mirrored,
    "upside": upside_down,
    "upsidelong": upside_down,
    "half": lambda one: one.but(hu=one.volume.hu[::2]),
    "xysmall": lambda one: scaled(one, 1, 0.5, 0.5),
    "xylarge": lambda one: scaled(one, 1, 2, 2),
    "zshort": lambda one: scaled(one, 0.5, 1, 1),
    "zlong": lambda one: scaled(one, 2, 1, 1),
}
TITLES = {
    "mirror": "mirrored scan",
    "mirrorlong": "mirrored scan, 30 cm and more of a body",
    "upside": "stored upside down",
    "upsidelong": "stored upside down, 30 cm and more of a body",
    "half": "half the slices, spacing as before",
    "xysmall": "pixel spacing halved",
    "xylarge": "pixel spacing doubled",
    "zshort": "slice spacing halved",
    "zlong": "slice spacing doubled",
}


# Failures of long scans alone, and how long they are.
LONG, LONG_MM = ("mirrorlong", "upsidelong"), 300.0
# How much of a body is shown to the network, from and to, where not 15 to 32 cm.
SHOWN_MM = {"zlong": (150.0, 160.0)} | dict.fromkeys(LONG, (LONG_MM, 1e4))
# How long a body seems, over how long it is.
TRUE_LENGTH = {"half": 0.5, "zshort": 0.5, "zlong": 2.0}


def _value(patient: Patient, key: str) -> int:
    return next(value for value, organ in patient.labels.organs.items() if organ.key == key)


def whole(judged: Judgement, *keys: str) -> bool:
    return all(judged.status[key].kind == "complete" for key in keys)


def liver_cut(patient: Patient, rng: random.Random, _: list[Patient]) -> Patient | None:
    slices = np.flatnonzero((patient.labels.values == _value(patient, "liver")).any(axis=(1, 2)))
    if slices.size < 8:
        return None
    cut = int(slices[0] + rng.uniform(0.2, 0.7) * slices.size)
    return patient.but(hu=patient.volume.hu[cut:], values=patient.labels.values[cut:])


def kidney_removed(patient: Patient, rng: random.Random, _: list[Patient]) -> Patient | None:
    values = patient.labels.values.copy()
    values[values == _value(patient, rng.choice(["kidney_left", "kidney_right"]))] = 0
    return patient.but(values=values)


def other_label(patient: Patient, rng: random.Random, _: list[Patient]) -> Patient | None:
    pairs = [("liver", "spleen"), ("kidney_left", "kidney_right"), ("lung_left", "lung_right")]
    pairs.append(("heart", "liver"))
    rng.shuffle(pairs)
    counts = np.bincount(patient.labels.values.reshape(-1), minlength=12)
    voxel_ml = patient.volume.geometry.voxel_ml
    for pair in pairs:
        one, other = (_value(patient, key) for key in pair)
        # A swap of what is not there is none.
        if min(counts[one], counts[other]) * voxel_ml >= 20:
            values = patient.labels.values.copy()
            values[patient.labels.values == one] = other
            values[patient.labels.values == other] = one
            return patient.but(values=values)
    return None


def shuffled(patient: Patient, rng: random.Random, _: list[Patient]) -> Patient | None:
    order = list(range(patient.volume.hu.shape[0]))
    rng.shuffle(order)
    return patient.but(hu=patient.volume.hu[order], values=patient.labels.values[order])


def stacked(patient: Patient, rng: random.Random, others: list[Patient]) -> Patient | None:
    other = rng.choice([each for each in others if each.name != patient.name])
    rows, columns = patient.volume.hu.shape[1:]
    fitted = [
        np.full((one.shape[0], rows, columns), fill, one.dtype)
        for one, fill in ((other.volume.hu, -1000), (other.labels.values, 0))
    ]
    for target, one in zip(fitted, (other.volume.hu, other.labels.values), strict=True):
        part = one[:, :rows, :columns]
        target[:, : part.shape[1], : part.shape[2]] = part
    return patient.but(
        hu=np.concatenate([patient.volume.hu, fitted[0]]),
        values=np.concatenate([patient.labels.values, fitted[1]]),
    )


def shifted(by_hu: int) -> Failure:
    return lambda patient, rng, _: patient.but(hu=patient.volume.hu + by_hu)


def eight_bit(patient: Patient, rng: random.Random, _: list[Patient]) -> Patient | None:
    return patient.but(hu=np.clip((patient.volume.hu + 160.0) * 255 / 400, 0, 255))


def like_mr(patient: Patient, rng: random.Random, _: list[Patient]) -> Patient | None:
    hu = patient.volume.hu
    return patient.but(hu=np.where(hu < -900, hu % 7, np.abs(hu.astype(int) - 60) * 2 + 40))


BUILT: dict[str, Failure] = {
    "liver cut by the field of view": liver_cut,
    "kidney removed": kidney_removed,
    "other organ's label": other_label,
    "slices shuffled": shuffled,
    "two patients stacked": stacked,
    "HU 100 up": shifted(100),
    "HU 100 down": shifted(-100),
    "HU 1024 up": shifted(1024),
    "HU 1024 down": shifted(-1024),
    "8-bit range": eight_bit,
    "MR-like": like_mr,
}
# Organs that must be whole before; and failures that leave the scan as it is.
NEEDED = {
    "liver cut by the field of view": ("liver",),
    "kidney removed": ("kidney_left", "kidney_right"),
}
ON_LABELS = ("kidney removed", "other organ's label")
