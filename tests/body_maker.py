"""A phantom's trunk with the true labels of eleven organs, whole and broken in many ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from phantom import LABELS, make_phantom

from segmate_cli import organs
from segmate_cli.geometry import Geometry
from segmate_cli.measurement import Measured, examine
from segmate_cli.volume import Labels, Volume

KEYS = (
    *("lung_left", "lung_right", "trachea", "esophagus", "spinal_cord", "heart", "aorta"),
    *("liver", "kidney_left", "kidney_right", "spleen"),
)
ORGANS = {LABELS[key]: organs.organ(key) for key in KEYS}


@dataclasses.dataclass(frozen=True)
class Body:
    hu: np.ndarray
    labels: np.ndarray
    affine: np.ndarray

    def but(self, **changes: np.ndarray) -> Body:
        return dataclasses.replace(self, **changes)

    def measured(self, ct: bool = True, **options) -> Measured:
        geometry = Geometry(self.affine, self.labels.shape)
        volume = Volume(self.hu.astype(np.int16), geometry) if ct else None
        return examine(Labels(self.labels.copy(), geometry, ORGANS), volume, **options)

    def rules(self, ct: bool = True) -> set[str]:
        found = self.measured(ct).verdict.findings
        return {each.rule for each in found if each.severity == "review"}


def make_body(spacing_mm: tuple[float, float, float] = (5.0, 3.0, 3.0)) -> Body:
    """The phantom itself."""
    made = make_phantom(3, spacing_mm)
    kept = np.isin(made.labels, list(ORGANS))
    return Body(made.hu, np.where(kept, made.labels, 0).astype(np.uint8), made.affine)


def mirrored(body: Body) -> Body:
    return body.but(hu=body.hu[:, :, ::-1], labels=body.labels[:, :, ::-1])


def mirrored_but_named_by_place(body: Body) -> Body:
    """As a network does that knows where organs lie: all it calls liver is on the right."""
    turned = mirrored(body)
    values = turned.labels.copy()
    for left, right in (("lung_left", "lung_right"), ("kidney_left", "kidney_right")):
        values[turned.labels == LABELS[left]] = LABELS[right]
        values[turned.labels == LABELS[right]] = LABELS[left]
    values[turned.labels == LABELS["liver"]] = LABELS["spleen"]
    values[turned.labels == LABELS["spleen"]] = LABELS["liver"]
    return turned.but(labels=values)


def upside_down(body: Body) -> Body:
    return body.but(hu=body.hu[::-1], labels=body.labels[::-1])


def back_to_front(body: Body) -> Body:
    return body.but(hu=body.hu[:, ::-1], labels=body.labels[:, ::-1])


def shuffled(body: Body) -> Body:
    order = np.random.default_rng(1).permutation(len(body.hu))
    return body.but(hu=body.hu[order], labels=body.labels[order])


def stacked(body: Body) -> Body:
    """Another patient on top, named as the first."""
    other = np.roll(body.hu, 12, axis=2)
    return body.but(
        hu=np.concatenate([body.hu, other[: len(other) // 2]]),
        labels=np.concatenate([body.labels, body.labels[: len(other) // 2]]),
    )


def half_the_slices(body: Body) -> Body:
    return body.but(hu=body.hu[::2], labels=body.labels[::2])


def scaled(*factors: float) -> Callable[[Body], Body]:
    def scale(body: Body) -> Body:
        affine = body.affine.copy()
        affine[:3, :3] = affine[:3, :3] * factors
        return body.but(affine=affine)

    return scale


def shifted(by_hu: int) -> Callable[[Body], Body]:
    return lambda body: body.but(hu=body.hu + by_hu)


def eight_bit(body: Body) -> Body:
    return body.but(hu=np.clip((body.hu + 160) * 255 / 400, 0, 255))


def like_mr(body: Body) -> Body:
    return body.but(hu=np.where(body.hu < -900, 0, np.abs(body.hu) * 3 + 100))


def renamed(*pairs: tuple[str, str]) -> Callable[[Body], Body]:
    """Organs by other names, or by none (0)."""

    def rename(body: Body) -> Body:
        values = body.labels.copy()
        for old, new in pairs:
            values[body.labels == LABELS[old]] = LABELS.get(new, 0)
        return body.but(labels=values)

    return rename


def mostly_lost(organ: str) -> Callable[[Body], Body]:
    """Of an organ only its highest three slices."""

    def lose(body: Body) -> Body:
        values = body.labels.copy()
        mask = values == LABELS[organ]
        highest = np.flatnonzero(mask.any(axis=(1, 2)))[-3]
        values[:highest][mask[:highest]] = 0
        return body.but(labels=values)

    return lose


KIDNEYS_SWAPPED = renamed(("kidney_left", "kidney_right"), ("kidney_right", "kidney_left"))
LIVER_AS_SPLEEN = renamed(("liver", "spleen"), ("spleen", "liver"))
FAILURES = {
    "mirrored": (mirrored, {"side"}),
    "mirrored, named by place": (mirrored_but_named_by_place, {"handed"}),
    "upside down": (upside_down, {"order"}),
    "back to front": (back_to_front, {"front"}),
    "shuffled": (shuffled, {"scan-order", "label-order"}),
    "stacked": (stacked, {"scan-jump"}),
    "half the slices": (half_the_slices, {"squeezed"}),
    "slices half as far apart": (scaled(0.5, 1, 1), {"squeezed"}),
    "slices twice as far apart": (scaled(2, 1, 1), {"size-along", "size-facing", "squeezed"}),
    "pixels half as large": (scaled(1, 0.5, 0.5), {"size-across", "size-facing", "squeezed"}),
    "pixels twice as large": (scaled(1, 2, 2), {"size-across", "squeezed"}),
    "all twice as large": (scaled(2, 2, 2), {"size-across"}),
    "100 HU up": (shifted(100), {"hu-air"}),
    "100 HU down": (shifted(-100), {"hu-air"}),
    "1024 HU up": (shifted(1024), {"hu-no-air"}),
    "1024 HU down": (shifted(-1024), {"scan-body"}),
    "8 bit": (eight_bit, {"hu-no-air"}),
    "like MR": (like_mr, {"hu-no-air"}),
    "kidney removed": (renamed(("kidney_left", "")), {"found"}),
    "trachea lost but for its top": (mostly_lost("trachea"), {"length"}),
    "esophagus lost but for its top": (mostly_lost("esophagus"), {"length"}),
    "liver removed": (renamed(("liver", "")), {"found"}),
    "kidneys swapped": (KIDNEYS_SWAPPED, {"side"}),
    "liver and spleen swapped": (LIVER_AS_SPLEEN, {"side"}),
    "heart and liver swapped": (renamed(("heart", "liver"), ("liver", "heart")), {"order"}),
}
