"""Volumes and HU of labelled organs, measured on the scan's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segmate_cli import organs as organ_table
from segmate_cli.doubt.record import about
from segmate_cli.doubt.rules import RULES, Rule
from segmate_cli.doubt.scan_evidence import ScanWatcher
from segmate_cli.doubt.survey import Surveyor
from segmate_cli.doubt.verdict import Earlier, Judgement, judge
from segmate_cli.doubt.words import CIRCLE, OrganStatus, Verdict
from segmate_cli.geometry import Geometry
from segmate_cli.organs import Organ
from segmate_cli.placement import placed_on
from segmate_cli.volume import Hounsfield, Labels, LabelValues, Volume


@dataclass(frozen=True, slots=True)
class OrganStats:
    """What is known about one organ of one label map.

    Attributes:
        organ: Which.
        voxels: How many voxels carry its label.
        volume_ml: Voxels times their true volume, each slice's own; None where there is no voxel,
            since "not found" is not "has no volume".
        mean_hu: Mean of the CT over the voxels; None without a CT or voxels.
        sd_hu: Standard deviation of the CT over the voxels.
        touches_edge: Whether a voxel lies on a face of the grid: the organ may be cut there and
            its volume a lower bound.
        status: Whether it is whole, cut, out of view or missing, and how that is known.
    """

    organ: Organ
    voxels: int
    volume_ml: float | None
    mean_hu: float | None
    sd_hu: float | None
    touches_edge: bool
    status: OrganStatus


@dataclass(frozen=True, slots=True)
class Measured:
    """The organs of a label map, and what the gates say.

    Attributes:
        stats: Of the organs asked for.
        judgement: Of the scan and its labels; None where nothing was judged.
    """

    stats: tuple[OrganStats, ...]
    judgement: Judgement | None

    @property
    def verdict(self) -> Verdict | None:
        """Of the scan and of the organs asked for."""
        if self.judgement is None:
            return None
        return about(self.judgement.verdict, {each.organ.key for each in self.stats})


def measure(
    labels: Labels,
    ct: Volume | None = None,
    organs: Sequence[str] | None = None,
    rules: Sequence[Rule] = RULES,
) -> tuple[OrganStats, ...]:
    """Measure the organs of a label map; arguments and errors as ``examine``."""
    return examine(labels, ct, organs, rules).stats


def examine(
    labels: Labels,
    ct: Volume | None = None,
    organs: Sequence[str] | None = None,
    rules: Sequence[Rule] = RULES,
    earlier: Earlier | None = None,
) -> Measured:
    """Measure the organs of a label map and apply the gates.

    Args:
        labels: From ``predict`` or ``load_labels``.
        ct: The scan, for HU; its voxels must be the labels', in whatever order.
        organs: Names or aliases; by default all that the label map names, by value.
        rules: The gates; organs that break one are implausible.
        earlier: What an earlier look at the scan said; see ``judge``.

    Raises:
        GeometryError: The CT lies on another grid.
        UnknownOrganError: An organ that the label map does not name.
    """
    if ct is not None:
        labels = placed_on(labels, ct.geometry)
    known = [organ for _, organ in sorted(labels.organs.items())]
    wanted = known if organs is None else organ_table.select(organs, known)
    tally = Tally(labels.geometry, int(labels.values.max()))
    for k, plane in enumerate(labels.values):
        tally.add(plane, None if ct is None else ct.hu[k])
    return tally.measured(labels.organs, wanted, rules, earlier)


class Tally:
    """Voxels and HU of each label value, added up as the slices k = 0, 1, ... go by."""

    def __init__(self, geometry: Geometry, highest: int) -> None:
        """Count on a grid labels up to ``highest``."""
        # Sum and sum of squares of HU: whole numbers below 2**53, so exact.
        self._sums = np.zeros((2, highest + 1))
        self._surveyor = Surveyor(geometry, highest)
        self._watcher = ScanWatcher(geometry)
        self._with_hu = False

    def add(self, plane: LabelValues, hu: Hounsfield | None) -> None:
        """Count the next slice (rows, columns), with its HU where there is a CT."""
        self._surveyor.add(plane)
        if hu is not None:
            self._with_hu = True
            self._watcher.add(hu)
            size = self._sums.shape[1]
            inside = plane > 0
            present = plane[inside].astype(np.intp)
            values = hu[inside].astype(np.float64)
            self._sums[0] += np.bincount(present, values, minlength=size)
            self._sums[1] += np.bincount(present, values * values, minlength=size)

    def stats(self, organs: dict[int, Organ], wanted: Sequence[Organ]) -> tuple[OrganStats, ...]:
        """What has been counted of the organs wanted, by a table of label values."""
        return self.measured(organs, wanted).stats

    def measured(
        self,
        organs: dict[int, Organ],
        wanted: Sequence[Organ],
        rules: Sequence[Rule] = RULES,
        earlier: Earlier | None = None,
    ) -> Measured:
        """What has been counted of the organs wanted, by a table of label values."""
        scan = self._watcher.evidence() if self._with_hu else None
        judged = judge(self._surveyor.survey(), organs, scan, rules, earlier or Earlier())
        rows = []
        for organ in {each.key: each for each in wanted}.values():
            # Two values may mean one organ, as in a foreign table with "liver" and "Liver".
            values = [value for value, each in organs.items() if each.key == organ.key]
            # The label map may not be wide enough for a value, which then has no voxel.
            counted = [value for value in values if value < self._sums.shape[1]]
            hu, squared = (float(part) for part in self._sums[:, counted].sum(axis=1))
            found = judged.evidence[organ.key]
            n = found.voxels
            mean = hu / n if n and self._with_hu else None
            spread = None if mean is None else float(np.sqrt(max(0.0, squared / n - mean * mean)))
            volume_ml = found.volume_ml if n else None
            own = judged.status[organ.key]
            rows.append(
                OrganStats(organ, n, volume_ml, mean, spread, bool({*own.faces} - {CIRCLE}), own)
            )
        return Measured(tuple(rows), judged)
