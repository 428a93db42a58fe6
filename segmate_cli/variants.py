"""The same scan shown to the network in other ways, and what its answers say of a volume.

A variant is looked at for its volumes and its overlap with the labels, never written. Each takes a
pass over the scan; in memory is one more label map, deflated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from segmate_cli.bundle import Intervals, Manifest
from segmate_cli.doubt.score_evidence import OrganScores
from segmate_cli.planes import PackedPlanes

if TYPE_CHECKING:
    from segmate_cli.doubt.case import ScoreEvidence

Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]

# Half an interval on a logarithmic scale: so many times the spread of the variants, and beside that
# how far hands were from the network, as its manifest says.
_SPREADS = 2.0
# As much as scanners, and phases of contrast, differ at least.
_BRIGHTER_HU = 10.0


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to show a scan.

    Attributes:
        name: For people.
        offset: How far the model's slices are moved, in slices.
        moved: Rows and columns by which the content is moved.
        brighter: What is added to each value that the network gets.
    """

    name: str
    offset: float = 0.0
    moved: tuple[int, int] = (0, 0)
    brighter: float = 0.0

    def given(self, stacks: Float32Array) -> Float32Array:
        """What the network gets for (N, S, H, W)."""
        if any(self.moved):
            stacks = np.roll(stacks, self.moved, (-2, -1))
        return stacks + np.float32(self.brighter) if self.brighter else stacks

    def taken(self, logits: Float32Array) -> Float32Array:
        """The network's answer (N, channels, H, W), as it lies on the scan."""
        back = (-self.moved[0], -self.moved[1])
        return np.roll(logits, back, (-2, -1)) if any(self.moved) else logits


def variants_of(manifest: Manifest) -> tuple[Variant, ...]:
    """Half a step along the slices; a few pixels aside; a little brighter.

    Left and right are not changed: a network that has seen the liver on one side alone takes it for
    a spleen on the other, which says nothing about its volume.
    """
    preprocessing = manifest.preprocessing
    halves = (Variant("half a slice on", offset=0.5),)
    return (
        *(halves if preprocessing.resampling.labels == "scores" else ()),
        Variant("moved aside", moved=(5, 7)),
        Variant("brighter", brighter=_BRIGHTER_HU * preprocessing.window.scale),
    )


@dataclass(frozen=True, slots=True)
class Overlap:
    """A variant's labels beside those of the scan as it is, in voxels by label value."""

    base: FloatArray
    variant: FloatArray
    both: FloatArray


def overlap(base: PackedPlanes, variant: PackedPlanes, values: int) -> Overlap:
    """Count voxels of labels 0 to ``values``, plane by plane."""
    counts = np.zeros((3, values + 1))
    for one, other in zip(base, variant, strict=True):
        if not (one.any() or other.any()):
            continue
        for n, each in enumerate((one, other, one[one == other])):
            counts[n] += np.bincount(each.reshape(-1), minlength=values + 1)
    return Overlap(*counts)


def score_evidence(
    scores: Sequence[OrganScores],
    kept: FloatArray,
    keys: Sequence[str],
    overlaps: Sequence[Overlap],
    volume_ml: FloatArray,
    intervals: Intervals | None,
) -> dict[str, ScoreEvidence]:
    """What scores and variants say, by organ key.

    Args:
        scores: By label value from 1 on.
        kept: Voxels after the clean-up over those before, by label value from 0 on.
        keys: Organ keys by label value from 1 on.
        overlaps: Of the variants; none without ``--uncertainty``.
        volume_ml: By label value from 0 on.
        intervals: What the model's manifest says of how far volumes may be off.
    """
    from segmate_cli.doubt.case import ScoreEvidence

    half_widths = {} if intervals is None else intervals.half_widths
    found = {}
    for value, (key, seen) in enumerate(zip(keys, scores, strict=True), 1):
        agreement, interval_ml = None, None
        if overlaps and overlaps[0].base[value]:
            agreement = min(_dice(each, value) for each in overlaps)
            ratios = [float(each.variant[value] / each.base[value]) for each in overlaps]
            if key in half_widths:
                low, high = interval(half_widths[key], ratios)
                interval_ml = (low * float(volume_ml[value]), high * float(volume_ml[value]))
        found[key] = ScoreEvidence(seen, float(kept[value]), agreement, interval_ml)
    return found


def _dice(each: Overlap, value: int) -> float:
    together = each.base[value] + each.variant[value]
    return float(2 * each.both[value] / together)


def interval(half_width: float, ratios: Sequence[float]) -> tuple[float, float]:
    """Between what a volume lies, over itself.

    Args:
        half_width: Of its organ, as the manifest says.
        ratios: Volumes of the variants over it.
    """
    half = float(np.hypot(_SPREADS * spread(ratios), half_width))
    return float(np.exp(-half)), float(np.exp(half))


def spread(ratios: Sequence[float]) -> float:
    """How far the variants' volumes lie from the scan's own, on a logarithmic scale."""
    logs: npt.NDArray[Any] = np.log(np.clip(ratios, 0.05, 20.0))
    return float(np.sqrt(np.square(logs).mean()))


def no_interval_for(manifest: Manifest) -> str | None:
    """Which organs get no interval and why, one sentence; None where all do."""
    known = {} if manifest.intervals is None else manifest.intervals.half_widths
    lacking = [each.title.lower() for each in manifest.organ_table() if each.key not in known]
    if not lacking:
        return None
    whose = ", ".join(lacking) if known else "any organ"
    return (
        f"No interval of the volume for {whose}: the model's manifest does not say how far it may "
        "be off (intervals), since nobody has measured it. Agreement is told."
    )
