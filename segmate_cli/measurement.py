"""Volumes and HU of labelled organs, measured on the scan's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np

from segmate_cli import organs as organ_table
from segmate_cli.doubt.record import about, earlier_in
from segmate_cli.doubt.rules import RULES, Rule
from segmate_cli.doubt.scan_evidence import ScanWatcher
from segmate_cli.doubt.survey import Surveyor, joined
from segmate_cli.doubt.verdict import Earlier, Judgement, judge
from segmate_cli.doubt.words import CIRCLE, NOT_TOLD, Certainty, OrganStatus, Verdict
from segmate_cli.geometry import Geometry
from segmate_cli.organs import Organ
from segmate_cli.placement import placed_on
from segmate_cli.sheets import Sheets, stacked_planes
from segmate_cli.volume import Hounsfield, LabelMap, Labels, LabelValues, Scan, Volume


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
        certainty: What the network itself told of it when it was made, as far as that is known.
    """

    organ: Organ
    voxels: int
    volume_ml: float | None
    mean_hu: float | None
    sd_hu: float | None
    touches_edge: bool
    status: OrganStatus
    certainty: Certainty = NOT_TOLD


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
    """Measure the organs of a label map; arguments and errors as ``examine``.

    Of labels that ``predict`` gave, what the network told of its own masks counts, too; of a file
    ``load_labels`` knows none of that, and ``examining.measure_path`` does.
    """
    told = (labels.run or {}).get("doubt")
    return examine(labels, ct, organs, rules, earlier_in(told) if told else None).stats


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
    return examine_slices(labels, ct.as_scan() if ct else None, organs, rules, earlier)


def examine_slices(
    labels: LabelMap,
    scan: Scan | None = None,
    organs: Sequence[str] | None = None,
    rules: Sequence[Rule] = RULES,
    earlier: Earlier | None = None,
) -> Measured:
    """As ``examine``, slice by slice, of a label map on the scan's own grid."""
    known = [organ for _, organ in sorted(labels.organs.items())]
    wanted = known if organs is None else organ_table.select(organs, known)
    tally = Tally(labels.geometry, highest_value(labels), labels)
    planes = repeat(None) if scan is None else scan.planes()
    for (first, *above), hu in zip(stacked_planes(labels), planes, strict=False):
        tally.add(first, hu, *above)
    return tally.measured(labels.organs, wanted, rules, earlier)


def highest_value(labels: LabelMap) -> int:
    """The highest that a voxel has, or, where that is not in memory, could have."""
    if isinstance(labels, Labels):
        return int(labels.values.max())
    if isinstance(labels, Sheets):
        return max(labels.organs, default=0)
    return int(np.iinfo(labels.dtype).max)


class HuSums:
    """Voxels and HU of each label value, added up as slices go by."""

    def __init__(self, highest: int) -> None:
        """Count labels up to ``highest``."""
        # Voxels, sum and sum of squares of HU: whole numbers below 2**53, so exact.
        self._sums = np.zeros((3, highest + 1))

    def add(self, plane: LabelValues, hu: Hounsfield) -> None:
        """Count a slice (rows, columns) with its HU."""
        size = self._sums.shape[1]
        inside = plane > 0
        present = plane[inside].astype(np.intp)
        values = hu[inside].astype(np.float64)
        self._sums[0] += np.bincount(present, minlength=size)
        self._sums[1] += np.bincount(present, values, minlength=size)
        self._sums[2] += np.bincount(present, values * values, minlength=size)

    def of(self, values: Sequence[int]) -> tuple[int, float | None, float | None]:
        """Voxels of label values together, their mean HU and its standard deviation."""
        # A label map may not be wide enough for a value, which then has no voxel.
        counted = [value for value in values if value < self._sums.shape[1]]
        n, hu, squared = (float(part) for part in self._sums[:, counted].sum(axis=1))
        if not n:
            return 0, None, None
        mean = hu / n
        return int(n), mean, float(np.sqrt(max(0.0, squared / n - mean * mean)))


class Tally:
    """Labels and HU, looked at as the slices k = 0, 1, ... go by.

    Args:
        geometry: Of the grid.
        highest: Largest label value.
        labels: What is counted, where it may be of several sheets.
    """

    def __init__(self, geometry: Geometry, highest: int, labels: LabelMap | None = None) -> None:
        self._sums = HuSums(highest)
        self._of = labels if isinstance(labels, Sheets) else None
        sheets = len(self._of.sheets) if self._of else 1
        self._surveyors = [Surveyor(geometry, highest) for _ in range(sheets)]
        self._watcher = ScanWatcher(geometry)
        self._with_hu = False

    def add(self, plane: LabelValues, hu: Hounsfield | None, *above: LabelValues) -> None:
        """Count the next slice (rows, columns), with its HU where there is a CT.

        ``above`` are the same slice of the other sheets.
        """
        for surveyor, sheet in zip(self._surveyors, (plane, *above), strict=True):
            surveyor.add(sheet)
            if hu is not None:
                self._sums.add(sheet, hu)
        if hu is not None:
            self._with_hu = True
            self._watcher.add(hu)

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
        survey = self._surveyors[0].survey()
        if self._of:
            surveys = (survey, *(each.survey() for each in self._surveyors[1:]))
            survey = joined(surveys, self._of.open_faces, self._of.told)
        judged = judge(survey, organs, scan, rules, earlier or Earlier())
        found = measured_by(judged, organs, wanted, self._sums if self._with_hu else None)
        return _doubted(found, self._of) if self._of else found


def measured_by(
    judged: Judgement, organs: dict[int, Organ], wanted: Sequence[Organ], sums: HuSums | None
) -> Measured:
    """The organs wanted as a judgement knows them, with their HU.

    Args:
        judged: Of the label map.
        organs: Label value to organ.
        wanted: Of these.
        sums: HU of the label map's voxels; None without a CT.
    """
    rows = []
    for organ in {each.key: each for each in wanted}.values():
        # Two values may mean one organ, as in a foreign table with "liver" and "Liver".
        values = [value for value, each in organs.items() if each.key == organ.key]
        _, mean, spread = sums.of(values) if sums else (0, None, None)
        found, own = judged.evidence[organ.key], judged.status[organ.key]
        volume_ml = found.volume_ml if found.voxels else None
        touches = bool({*own.faces} - {CIRCLE})
        told = judged.certainty.get(organ.key, NOT_TOLD) if found.voxels else NOT_TOLD
        rows.append(OrganStats(organ, found.voxels, volume_ml, mean, spread, touches, own, told))
    return Measured(tuple(rows), judged)


def _doubted(found: Measured, sheets: Sheets) -> Measured:
    """With what is to be said of organs beside what was seen."""
    rows = []
    for each in found.stats:
        more = sheets.doubts.get(each.organ.key, ())
        reasons = (*each.status.reasons, *more)
        rows.append(replace(each, status=replace(each.status, reasons=reasons)))
    return replace(found, stats=tuple(rows))
