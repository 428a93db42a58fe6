"""Two label maps of one patient, or two runs over a cohort: what changed, by how much, and where.

On the same voxels labels are compared voxel by voxel, slice by slice; on other voxels, as after a
follow-up scan, volumes alone are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segmate_cli import organs as organ_table
from segmate_cli.errors import GeometryError
from segmate_cli.evaluation import CasePair
from segmate_cli.geometry import Geometry
from segmate_cli.look.whereabouts import Counts, Lines
from segmate_cli.measurement import OrganStats, Tally
from segmate_cli.organs import Organ
from segmate_cli.scans import load_labels, open_with_ct, table_if_unnamed
from segmate_cli.volume import LabelMap, Labels
from segmate_cli.volume_change import Interval, change_interval, intervals_of

# Directions in which so much of a difference lies are named: two thirds.
_MOSTLY = 2 / 3
_OPPOSITE = {"S": "I", "I": "S", "P": "A", "A": "P", "L": "R", "R": "L"}
_WORDS = {
    **{"S": "superior", "I": "inferior", "L": "left"},
    **{"R": "right", "A": "anterior", "P": "posterior"},
}
BACKGROUND = "background"
_VALUES = 1 << 16


@dataclass(frozen=True, slots=True)
class OrganChange:
    """One organ in both label maps.

    Attributes:
        case: Name of the case.
        organ: Key of the organ.
        volume_a_ml: In the first; None where it was not found, or is not among its organs.
        volume_b_ml: In the second.
        status_a: As ``OrganStatus.kind``; None where the label map does not have the organ.
        status_b: In the second.
        is_lower_bound: Whether one of the volumes is a lower bound, so that the change is not
            known either.
        dice: Overlap, 0 to 1; None where the two lie on different voxels, or both are empty.
        only_a_ml: What is labelled in the first alone; None on different voxels.
        only_b_ml: In the second alone.
        moved_mm: Distance of the middles, in patient coordinates on the same voxels.
        where: Sides of the organ on which at least two thirds of the difference lie; empty where
            it lies all around, or nothing differs.
        became: What voxels of the first alone are in the second: organ's key or ``background``
            and share, the largest first, those over 5 %.
        came_from: What voxels of the second alone are in the first.
        change_interval_ml: Between what the change lies, where both volumes have intervals.
    """

    case: str
    organ: str
    volume_a_ml: float | None
    volume_b_ml: float | None
    status_a: str | None
    status_b: str | None
    is_lower_bound: bool
    dice: float | None = None
    only_a_ml: float | None = None
    only_b_ml: float | None = None
    moved_mm: float | None = None
    where: tuple[str, ...] = ()
    became: tuple[tuple[str, float], ...] = ()
    came_from: tuple[tuple[str, float], ...] = ()
    change_interval_ml: Interval | None = None

    @property
    def change_ml(self) -> float | None:
        """Second minus first volume; None where one of them is unknown."""
        if self.volume_a_ml is None or self.volume_b_ml is None:
            return None
        return self.volume_b_ml - self.volume_a_ml

    @property
    def change_percent(self) -> float | None:
        """The change relative to the first volume."""
        change = self.change_ml
        return None if change is None or not self.volume_a_ml else 100 * change / self.volume_a_ml

    @property
    def beyond_interval(self) -> bool | None:
        """Whether the change is one, by its interval; None where there is none."""
        if self.change_interval_ml is None:
            return None
        low, high = self.change_interval_ml
        return low > 0 or high < 0


@dataclass(frozen=True, slots=True)
class CaseChange:
    """Both label maps of a case.

    Attributes:
        case: Its name.
        same_voxels: Whether they were compared voxel by voxel.
        changed_share: Of the voxels labelled in either, those whose labels differ; None on
            different voxels, or where nothing is labelled.
        organs: By organ.
    """

    case: str
    same_voxels: bool
    changed_share: float | None
    organs: tuple[OrganChange, ...]


def compare_case(
    pair: CasePair, table: str | None = None, wanted: Sequence[str] | None = None
) -> CaseChange:
    """Compare two label maps; organs are matched by key.

    Args:
        pair: The first is its ``prediction``, the second its ``reference``.
        table: What the second's values mean, and the first's where it does not say so; None for
            what they say themselves.
        wanted: Organs by name; by default all that either has.

    Raises:
        InputError: A file that cannot be read.
        UnknownOrganError: An organ that neither has.
    """
    first, _ = open_with_ct(pair.prediction, table_if_unnamed(pair.prediction, table))
    second, _ = open_with_ct(pair.reference, table)
    organs = _organs(first, second, wanted)
    turned = _on_same_voxels(first, second, pair.reference, table)
    if turned is None:
        stats = [_stats(labels, organs) for labels in (first, second)]
        changes = [_apart(pair.case, organ, *stats) for organ in organs]
        return CaseChange(pair.case, False, None, _with_intervals(pair, changes))
    counts = _count(first, turned)
    by_key = [
        {row.organ.key: row for row in tally.measured(each.organs, _own(each, organs), ()).stats}
        for tally, each in counts.tallies
    ]
    changes = [_together(pair.case, organ, by_key, counts) for organ in organs]
    return CaseChange(pair.case, True, counts.changed_share, _with_intervals(pair, changes))


def _with_intervals(pair: CasePair, changes: Sequence[OrganChange]) -> tuple[OrganChange, ...]:
    """Changes with their intervals, where both sidecars have those of the volumes."""
    first, second = intervals_of(pair.prediction), intervals_of(pair.reference)
    return tuple(
        replace(
            each,
            change_interval_ml=change_interval(
                each.volume_a_ml, first[each.organ], each.volume_b_ml, second[each.organ]
            ),
        )
        if each.organ in first.keys() & second.keys()
        and each.volume_a_ml is not None
        and each.volume_b_ml is not None
        and not each.is_lower_bound
        else each
        for each in changes
    )


def _organs(first: LabelMap, second: LabelMap, wanted: Sequence[str] | None) -> list[Organ]:
    known = {each.key: each for labels in (first, second) for each in _listed(labels)}
    return list(known.values() if wanted is None else organ_table.select(wanted, [*known.values()]))


def _listed(labels: LabelMap) -> list[Organ]:
    return [organ for _, organ in sorted(labels.organs.items())]


def _own(labels: LabelMap, organs: Sequence[Organ]) -> list[Organ]:
    keys = {organ.key for organ in labels.organs.values()}
    return [organ for organ in organs if organ.key in keys]


def _on_same_voxels(
    first: LabelMap, second: LabelMap, path: Path, table: str | None
) -> LabelMap | None:
    """The second as the first is stored; None where its voxels lie elsewhere."""
    if first.geometry.same_as(second.geometry):
        return second
    try:
        geometry, turn = second.geometry.reoriented(first.geometry.directions)
    except GeometryError:  # uneven slices
        return None
    if not geometry.same_as(first.geometry):
        return None
    loaded = load_labels(path, table)
    return Labels(turn.view(loaded.values), geometry, loaded.organs, loaded.source)


def _stats(labels: LabelMap, organs: Sequence[Organ]) -> dict[str, OrganStats]:
    tally = Tally(labels.geometry, _highest(labels))
    for plane in labels.planes():
        tally.add(plane, None)
    measured = tally.measured(labels.organs, _own(labels, organs), ())
    return {each.organ.key: each for each in measured.stats}


def _highest(labels: LabelMap) -> int:
    return int(max(np.iinfo(labels.dtype).max, *labels.organs))


class _Counts:
    """Voxels by both labels, and where those lie that differ."""

    def __init__(self, first: LabelMap, second: LabelMap) -> None:
        self.geometry: Geometry = first.geometry
        self.labels = (first, second)
        self.tallies = [(Tally(each.geometry, _highest(each)), each) for each in self.labels]
        self.pairs: dict[tuple[int, int], int] = {}
        # What the voxels of a pair hold: on uneven slices more or less, by the slice.
        self.pairs_ml: dict[tuple[int, int], float] = {}
        self._voxel_ml = first.geometry.slice_voxel_ml
        keys = sorted({organ.key for each in self.labels for organ in each.organs.values()})
        # One number an organ, whatever its value; unnamed values stand for themselves.
        self._meaning = [np.arange(_VALUES) for _ in self.labels]
        for meaning, each in zip(self._meaning, self.labels, strict=True):
            for value, organ in each.organs.items():
                meaning[value] = _VALUES + keys.index(organ.key)
        # Where labels are at all, and where they differ, by value.
        self.all = (Lines(first.geometry.shape), Lines(first.geometry.shape))
        self.changed = (Lines(first.geometry.shape), Lines(first.geometry.shape))

    def add(self, k: int, planes: Sequence[npt.NDArray[np.unsignedinteger]]) -> None:
        """Count slice k."""
        wide = planes[1].astype(np.int64) + (planes[0].astype(np.int64) << 16)
        for value, count in zip(*np.unique(wide, return_counts=True), strict=True):
            both = (int(value) >> 16, int(value) & 0xFFFF)
            self.pairs[both] = self.pairs.get(both, 0) + int(count)
            volume_ml = float(count * self._voxel_ml[k])
            self.pairs_ml[both] = self.pairs_ml.get(both, 0.0) + volume_ml
        differ = self._meaning[0][planes[0]] != self._meaning[1][planes[1]]
        for n, plane in enumerate(planes):
            self.tallies[n][0].add(plane, None)
            self.all[n].add(k, plane)
            self.changed[n].add(k, np.where(differ, plane, 0).astype(plane.dtype))

    @property
    def changed_share(self) -> float | None:
        """See CaseChange."""
        labelled = sum(count for both, count in self.pairs.items() if both != (0, 0))
        differ = sum(
            count
            for (a, b), count in self.pairs.items()
            if self._meaning[0][a] != self._meaning[1][b]
        )
        return differ / labelled if labelled else None


def _count(first: LabelMap, second: LabelMap) -> _Counts:
    counts = _Counts(first, second)
    for k, planes in enumerate(zip(first.planes(), second.planes(), strict=True)):
        counts.add(k, planes)
    return counts


def _apart(
    case: str, organ: Organ, first: dict[str, OrganStats], second: dict[str, OrganStats]
) -> OrganChange:
    a, b = first.get(organ.key), second.get(organ.key)
    return OrganChange(
        case=case,
        organ=organ.key,
        volume_a_ml=a.volume_ml if a else None,
        volume_b_ml=b.volume_ml if b else None,
        status_a=a.status.kind if a else None,
        status_b=b.status.kind if b else None,
        is_lower_bound=any(each.status.is_lower_bound for each in (a, b) if each),
    )


def _together(
    case: str, organ: Organ, stats: list[dict[str, OrganStats]], counts: _Counts
) -> OrganChange:
    plain = _apart(case, organ, *stats)
    values = [
        {value for value, each in labels.organs.items() if each.key == organ.key}
        for labels in counts.labels
    ]
    pairs_ml = counts.pairs_ml.items()
    both_ml = sum(ml for (a, b), ml in pairs_ml if a in values[0] and b in values[1])
    only_a_ml = sum(ml for (a, b), ml in pairs_ml if a in values[0] and b not in values[1])
    only_b_ml = sum(ml for (a, b), ml in pairs_ml if b in values[1] and a not in values[0])
    sum_ml = 2 * both_ml + only_a_ml + only_b_ml
    lost = [(b, n) for (a, b), n in counts.pairs.items() if a in values[0] and b not in values[1]]
    gained = [(a, n) for (a, b), n in counts.pairs.items() if b in values[1] and a not in values[0]]
    lines = [_summed(part, own) for part, own in zip(counts.all, values, strict=True)]
    changed = [_summed(part, own) for part, own in zip(counts.changed, values, strict=True)]
    return OrganChange(
        case=plain.case,
        organ=plain.organ,
        volume_a_ml=plain.volume_a_ml,
        volume_b_ml=plain.volume_b_ml,
        status_a=plain.status_a,
        status_b=plain.status_b,
        is_lower_bound=plain.is_lower_bound,
        dice=2 * both_ml / sum_ml if sum_ml else None,
        only_a_ml=only_a_ml,
        only_b_ml=only_b_ml,
        moved_mm=_moved_mm(lines, counts.geometry) if both_ml or (lost and gained) else None,
        where=_where(lines, changed, counts.geometry) if lost or gained else (),
        became=_shares(lost, counts.labels[1].organs),
        came_from=_shares(gained, counts.labels[0].organs),
    )


def _summed(lines: Lines, values: set[int]) -> list[Counts]:
    """Counts along k, j and i of several values together."""
    known = [lines.of(value) for value in sorted(values)]
    return [np.sum(along, axis=0) for along in zip(*known, strict=True)] if known else []


def _moved_mm(lines: list[list[Counts]], geometry: Geometry) -> float:
    middles = [
        geometry.to_lps_mm([float(np.arange(n.size) @ n) / float(n.sum()) for n in along])
        for along in lines
    ]
    return float(np.linalg.norm(middles[1] - middles[0]))


def _where(
    lines: list[list[Counts]], changed: list[list[Counts]], geometry: Geometry
) -> tuple[str, ...]:
    """Sides of the organs' common box on which most of the difference lies."""
    found = []
    for axis, letter in enumerate(geometry.directions):
        all_of = np.sum([along[axis] for along in lines if along], axis=0)
        differ = np.sum([along[axis] for along in changed if along], axis=0)
        present = np.flatnonzero(all_of)
        total = int(differ.sum())
        if not total or not present.size:
            continue
        middle = (present[0] + present[-1]) / 2
        index = np.arange(differ.size)
        for side, part in ((letter, index > middle), (_OPPOSITE[letter], index < middle)):
            if differ[part].sum() >= _MOSTLY * total:
                found.append(_WORDS[side])
    return tuple(found)


def _shares(
    counts: Sequence[tuple[int, int]], organs: dict[int, Organ]
) -> tuple[tuple[str, float], ...]:
    """Shares of label values with their voxels, by what they mean."""
    total = sum(count for _, count in counts)
    named: dict[str, int] = {}
    for value, count in counts:
        name = organs[value].key if value in organs else f"label_{value}" if value else BACKGROUND
        named[name] = named.get(name, 0) + count
    shares = [(name, count / total) for name, count in named.items() if count / total > 0.05]
    return tuple(sorted(shares, key=lambda each: -each[1]))
