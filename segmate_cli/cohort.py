"""A batch's results as a whole: distributions by organ, outliers, what to review, drift.

Volumes are compared on a logarithmic scale, since they are skewed to the right, and without those
that are lower bounds. Outliers are told by the modified z-score of Iglewicz and Hoaglin (1993):
0.6745 (x - median) / MAD, over 3.5.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from segmate_cli.batch.records import Record
from segmate_cli.organs import ORGANS, foreign_organ

Floats = npt.NDArray[np.float64]
Measure = Literal["volume_ml", "mean_hu"]
MEASURES: tuple[Measure, ...] = ("volume_ml", "mean_hu")
GroupBy = Literal["month", "year", "scanner"]
GROUPS: tuple[GroupBy, ...] = ("month", "year", "scanner")

OUTLIER_Z = 3.5
# With fewer cases a median and its spread say little.
LEAST_CASES = 8
_Z_OF_MAD = 0.6745
# MAD of nearly equal values: a spread below this share of the median is not believed.
_LEAST_LOG_SPREAD, _LEAST_HU_SPREAD = 0.01, 1.0
# Drift: so improbable by chance, over all organs and measures together, and not a trifle.
_DRIFT_P, _DRIFT_SHIFT = 0.01, 0.3
_GRAVE = ("not_found", "implausible", "low_confidence")


@dataclass(frozen=True, slots=True)
class Value:
    """A number of one case; ``z`` is its modified z-score, None where there are too few cases."""

    case: str
    value: float
    z: float | None

    @property
    def is_outlier(self) -> bool:
        """Whether it lies further off than ``OUTLIER_Z``."""
        return self.z is not None and abs(self.z) > OUTLIER_Z


@dataclass(frozen=True, slots=True)
class Drift:
    """How a distribution differs from a reference cohort's.

    Attributes:
        shift: Difference of medians, in the reference's robust standard deviations.
        p: Of the two-sample Kolmogorov-Smirnov test.
        reference_cases: How many the reference has.
        reference_median: Of the reference.
        alarm: Whether it is both improbable, for as many tests as were made, and not a trifle.
    """

    shift: float
    p: float
    reference_cases: int
    reference_median: float
    alarm: bool


@dataclass(frozen=True, slots=True)
class Distribution:
    """One measure of one organ over the cohort.

    Attributes:
        organ: Key.
        title: For people.
        measure: ``volume_ml`` or ``mean_hu``.
        values: By case; lower bounds and unknown ones are left out.
        cut: Cases whose volume is a lower bound.
        missing: Cases in which the organ was not found.
        absent: Cases in which it is out of view.
        drift: Against a reference cohort; None without one, or with too few cases.
    """

    organ: str
    title: str
    measure: Measure
    values: tuple[Value, ...]
    cut: int
    missing: int
    absent: int
    drift: Drift | None = None

    @property
    def numbers(self) -> Floats:
        """The values alone."""
        return np.array([each.value for each in self.values])

    def quantile(self, share: float) -> float | None:
        """A quantile; None without values."""
        return float(np.quantile(self.numbers, share)) if self.values else None

    @property
    def outliers(self) -> tuple[Value, ...]:
        """Values that lie far off, the furthest first."""
        found = [each for each in self.values if each.is_outlier]
        return tuple(sorted(found, key=lambda each: -abs(each.z or 0.0)))


@dataclass(frozen=True, slots=True)
class Trend:
    """One measure of one organ in a part of the cohort, and how that differs from all the rest.

    Attributes:
        by: What the cohort is parted by.
        group: The part: a month, YYYY-MM, a year or a scanner.
        part: Its distribution; ``drift`` is against the cases of all other groups.
    """

    by: GroupBy
    group: str
    part: Distribution


@dataclass(frozen=True, slots=True)
class Entry:
    """A case that somebody should look at, and why, one phrase each; the gravest cases first."""

    case: str
    rank: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cohort:
    """All that is said of a batch's output.

    Attributes:
        cases: How many.
        states: By state: done, review, failed.
        causes: Failures by cause.
        distributions: By organ and measure.
        review: What to look at.
        groups: By case: its month, year and scanner, as far as they are known.
        trends: By month, by year of those whose month is not known, and by scanner.
    """

    cases: int
    states: Mapping[str, int]
    causes: Mapping[str, int]
    distributions: tuple[Distribution, ...]
    review: tuple[Entry, ...]
    groups: Mapping[str, Mapping[GroupBy, str]] = field(default_factory=dict)
    trends: tuple[Trend, ...] = ()

    @property
    def alarms(self) -> tuple[Distribution, ...]:
        """Distributions that have drifted."""
        return tuple(each for each in self.distributions if each.drift and each.drift.alarm)


def summarise(records: Iterable[Record], reference: Iterable[Record] | None = None) -> Cohort:
    """Look at all records of a batch.

    Args:
        records: Of the batch.
        reference: Of another batch, to compare distributions with.
    """
    found = list(records)
    rows = _by_organ(found)
    distributions = [_distribution(key, measure, rows[key]) for key in rows for measure in MEASURES]
    distributions = [each for each in distributions if each.values or each.measure == "volume_ml"]
    if reference is not None:
        distributions = _with_drift(distributions, _by_organ(reference))
    groups = {each.case: groups_of(each.scanner) for each in found}
    return Cohort(
        cases=len(found),
        states=_counted(each.state for each in found),
        causes=_counted(each.cause for each in found if each.state == "failed"),
        distributions=tuple(distributions),
        groups=groups,
        trends=tuple(_trends(distributions, groups)),
        review=tuple(_review(found, distributions)),
    )


def _by_organ(records: Iterable[Record]) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        for row in record.organs if record.succeeded else ():
            rows.setdefault(str(row["organ"]), []).append({**row, "case": record.case})
    order = {organ.key: n for n, organ in enumerate(ORGANS)}
    return {key: rows[key] for key in sorted(rows, key=lambda key: (order.get(key, 999), key))}


def _distribution(key: str, measure: Measure, rows: Sequence[dict[str, Any]]) -> Distribution:
    whole = [row for row in rows if row.get(measure) is not None and not row.get("is_lower_bound")]
    numbers = np.array([float(row[measure]) for row in whole])
    scores = robust_z(numbers, measure)
    empty = [row for row in rows if row.get("volume_ml") is None]
    absent = sum(row.get("status") == "absent" for row in empty)
    return Distribution(
        organ=key,
        title=foreign_organ(key, 1).title,
        measure=measure,
        values=tuple(
            Value(str(row["case"]), float(row[measure]), None if scores is None else float(z))
            for row, z in zip(whole, numbers if scores is None else scores, strict=True)
        ),
        cut=sum(bool(row.get("is_lower_bound")) for row in rows),
        missing=len(empty) - absent,
        absent=absent,
    )


def robust_z(numbers: Floats, measure: Measure) -> Floats | None:
    """Modified z-scores; None for fewer than ``LEAST_CASES`` numbers."""
    if numbers.size < LEAST_CASES:
        return None
    scaled = _scaled(numbers, measure)
    middle, spread = _middle_and_spread(scaled, measure)
    return (scaled - middle) / spread


def _scaled(numbers: Floats, measure: Measure) -> Floats:
    return np.log(np.maximum(numbers, 1e-6)) if measure == "volume_ml" else numbers


def _middle_and_spread(scaled: Floats, measure: Measure) -> tuple[float, float]:
    """Median, and MAD as a standard deviation."""
    middle = float(np.median(scaled))
    mad = float(np.median(np.abs(scaled - middle)))
    least = _LEAST_LOG_SPREAD if measure == "volume_ml" else _LEAST_HU_SPREAD
    return middle, max(mad / _Z_OF_MAD, least)


def _with_drift(
    distributions: Sequence[Distribution], reference: dict[str, list[dict[str, Any]]]
) -> list[Distribution]:
    before = {
        (each.organ, each.measure): _distribution(each.organ, each.measure, reference[each.organ])
        for each in distributions
        if each.organ in reference
    }
    tests = len(before)
    return [
        replace(each, drift=_drift(each, before.get((each.organ, each.measure)), tests))
        for each in distributions
    ]


def groups_of(scanner: Mapping[str, str]) -> dict[GroupBy, str]:
    """The groups that a case belongs to, by what made its scan; empty where nobody knows."""
    found: dict[GroupBy, str] = {}
    month = scanner.get("month", "")
    if month:
        found["month"] = month
    if year := scanner.get("year") or month[:4]:
        found["year"] = year
    maker = " ".join(filter(None, (scanner.get("manufacturer"), scanner.get("model"))))
    kernel = f"kernel {scanner['kernel']}" if scanner.get("kernel") else ""
    name = ", ".join(filter(None, (maker, kernel)))
    return {**found, "scanner": name} if name else found


def parted(groups: Mapping[str, Mapping[GroupBy, str]], by: GroupBy) -> dict[str, str]:
    """The group of each case that has one; by year, only of those whose month is not known."""
    return {
        case: known[by]
        for case, known in groups.items()
        if by in known and not (by == "year" and "month" in known)
    }


def _trends(
    distributions: Sequence[Distribution], groups: Mapping[str, Mapping[GroupBy, str]]
) -> list[Trend]:
    """Each month, year and scanner, against all others."""
    parts: list[tuple[GroupBy, str, Distribution, Distribution]] = []
    for by in GROUPS:
        group_of = parted(groups, by)
        for name in sorted(set(group_of.values())):
            for each in distributions:
                known = [value for value in each.values if value.case in group_of]
                mine = tuple(value for value in known if group_of[value.case] == name)
                rest = tuple(value for value in known if group_of[value.case] != name)
                if mine:
                    part = replace(each, values=mine, drift=None)
                    parts.append((by, name, part, replace(each, values=rest, drift=None)))
    tests = sum(min(len(part.values), len(rest.values)) >= LEAST_CASES for *_, part, rest in parts)
    return [
        Trend(by, name, replace(part, drift=_drift(part, rest, tests)))
        for by, name, part, rest in parts
    ]


def _drift(now: Distribution, before: Distribution | None, tests: int) -> Drift | None:
    if before is None or min(len(now.values), len(before.values)) < LEAST_CASES:
        return None
    new, old = (_scaled(each.numbers, now.measure) for each in (now, before))
    middle, spread = _middle_and_spread(old, now.measure)
    shift = (float(np.median(new)) - middle) / spread
    p = kolmogorov_smirnov_p(new, old)
    return Drift(
        shift=shift,
        p=p,
        reference_cases=len(before.values),
        reference_median=float(np.median(before.numbers)),
        alarm=p * tests < _DRIFT_P and abs(shift) > _DRIFT_SHIFT,
    )


def kolmogorov_smirnov_p(one: Floats, other: Floats) -> float:
    """Two-sided p of the two-sample test, by its limit (Smirnov 1948, corrected by Stephens)."""
    everything = np.concatenate([one, other])
    shares = [
        np.searchsorted(np.sort(each), everything, side="right") / each.size
        for each in (one, other)
    ]
    distance = float(np.abs(shares[0] - shares[1]).max())
    size = math.sqrt(one.size * other.size / (one.size + other.size))
    scaled = (size + 0.12 + 0.11 / size) * distance
    if scaled < 0.2:  # the series does not converge, and p is 1 to ten digits
        return 1.0
    terms = [(-1) ** (n - 1) * math.exp(-2 * n * n * scaled * scaled) for n in range(1, 101)]
    return min(1.0, max(0.0, 2 * math.fsum(terms)))


def _review(records: Sequence[Record], distributions: Sequence[Distribution]) -> list[Entry]:
    far: dict[str, list[str]] = {}
    for each in distributions:
        for value in each.outliers:
            unit = "ml" if each.measure == "volume_ml" else "HU"
            phrase = f"{each.title.lower()}: {value.value:.1f} {unit}, z {value.z:+.1f}"
            far.setdefault(value.case, []).append(phrase)
    entries = []
    for record in records:
        reasons, rank = _reasons(record)
        reasons += far.get(record.case, [])
        if far.get(record.case):
            rank = min(rank, 2)
        if reasons:
            entries.append(Entry(record.case, rank, tuple(reasons)))
    return sorted(entries, key=lambda each: (each.rank, -len(each.reasons), each.case))


def _reasons(record: Record) -> tuple[list[str], int]:
    """Why to look at a case by itself, and how grave that is: 0 failed, 1 review, 3 else."""
    if record.state == "failed":
        return [f"failed ({record.cause}): {record.message}"], 0
    reasons = [record.message] if record.state == "review" and record.message else []
    for row in record.organs:
        if row.get("status") in _GRAVE:
            title = foreign_organ(str(row["organ"]), 1).title.lower()
            reasons.append(f"{title}: {str(row['status']).replace('_', ' ')}")
    return reasons, 1 if reasons else 3


def _counted(words: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    return counts
