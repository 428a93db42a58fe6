"""One series out of those that were found: asked for by the user, or clearly the best."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from segmate_cli.dicom.finding import Finding
from segmate_cli.dicom.pixels import check_fit
from segmate_cli.dicom.scoring import CLEAR_LEAD, Score, score
from segmate_cli.dicom.series import SINGLE, SeriesInfo
from segmate_cli.errors import AmbiguousSeriesError, InputError, UnreadableError, UsageError
from segmate_cli.report import align

_COLUMNS = (
    *("no.", "description", "kind", "kernel", "slices", "spacing mm", "covers mm"),
    *("score", "UID"),
)
_LISTED = 3
_SAME_MM = 0.05
_HOW = (
    'choose one with --series NUMBER, --series UID or --series "key=value,...", or take each with '
    "--all-series"
)


@dataclass(frozen=True, slots=True)
class Choice:
    """The series that was taken, and one phrase why."""

    series: SeriesInfo
    why: str

    @property
    def note(self) -> str:
        """What to tell the user: which series, and why."""
        one = self.series
        about = f" ({one.title})" if one.title else ""
        return f"series {one.number}{about}, {len(one.slices)} slices: {self.why}"


def choose_series(finding: Finding, wanted: str | None = None) -> SeriesInfo:
    """The series to segment; see `choose`, which also says why."""
    return choose(finding, wanted).series


def choose(finding: Finding, wanted: str | None = None) -> Choice:
    """The series to segment.

    Args:
        finding: Of `find_series`.
        wanted: None or "auto" for the one that is clearly the best by
            `segmate_cli.dicom.scoring.RULES`; a SeriesInstanceUID or a unique ending of one; the
            number in the table; or "key=value,..." with the keys of `KEYS`, which takes the
            clearly best of those that fit.

    Raises:
        AmbiguousSeriesError: several CT series fit, and none is clearly the best.
        UsageError: ``wanted`` names none, or several, or is not understood.
        UnreadableError: there is no DICOM file at all.
        InputError: there are DICOM files, but no CT series.
        GeometryError: the series is no volume (doubled or mixed slices, gaps too large), with the
            places.
    """
    text = "auto" if wanted is None else wanted.strip()
    if not text:
        raise _fits_none(finding, "''")
    if text.lower() == "auto":
        if not finding.candidates:
            raise none_found(finding)
        choice = _best(finding, finding.candidates)
    elif "=" in text:
        choice = _best(finding, _fitting(finding, text), f"fits {text}")
    else:
        choice = Choice(_named(finding, text), "asked for")
    check_fit(finding.path, choice.series)
    check_damaged(finding, choice.series)
    return choice


def check_damaged(finding: Finding, series: SeriesInfo) -> None:
    """Refuse to bridge gaps that a new copy of a damaged file may close.

    Raises:
        UnreadableError: There are gaps, and files that cannot be read.
    """
    damaged = [(name, reason) for name, reason in finding.skipped if "damaged" in reason]
    if series.gaps and damaged:
        name, reason = damaged[0]
        raise UnreadableError(
            f"{finding.path}: {series.irregularities[0]}, and {len(damaged)} files are unreadable "
            f"that may be those, such as {name} ({reason}); copy them again, or take them away."
        )


def series_table(series: Sequence[SeriesInfo]) -> str:
    """A line a series: what tells it apart, its score, and its UID; spacing is (k, j, i)."""
    rows = [_COLUMNS]
    for one in series:
        spacing = " x ".join(f"{value:.2f}" for value in one.spacing_mm or ()) or "unknown"
        about = (str(one.number), one.title or "(no description)", one.kind)
        covers = f"{one.coverage_mm:.0f}" if one.coverage_mm else "-"
        points = score(one).points
        marks = (str(len(one.slices)), spacing, covers, "-" if points is None else str(points))
        rows.append((*about, one.kernel or "-", *marks, one.series_uid))
    return textwrap.indent(align(rows), "  ").rstrip("\n")


def _best(finding: Finding, series: Sequence[SeriesInfo], fits: str = "") -> Choice:
    """The one with a clear lead.

    Raises:
        AmbiguousSeriesError: there is none.
    """
    scored = [(score(one), one) for one in series]
    ranked = sorted(scored, key=lambda pair: -(pair[0].points or 0))
    best, taken = ranked[0]
    if len(ranked) == 1:
        return Choice(taken, fits or "the only CT series")
    ahead = (best.points or 0) - (ranked[1][0].points or 0)
    if ahead < CLEAR_LEAD:
        raise AmbiguousSeriesError(
            f"{finding.path} holds {len(finding.candidates)} CT series and none is clearly the "
            f"best; {_HOW}:\n{series_table(series)}{_others(finding)}"
        )
    return Choice(taken, f"{_reasons(best)}; {ahead} points ahead of series {ranked[1][1].number}")


def _reasons(best: Score) -> str:
    return f"{best.points} points ({', '.join(best.reasons)})"


def _text_of(value: Callable[[SeriesInfo], str]) -> Callable[[SeriesInfo, str], bool]:
    return lambda series, wanted: wanted.lower() in value(series).lower()


def _number_of(value: Callable[[SeriesInfo], float | None]) -> Callable[[SeriesInfo, str], bool]:
    def fits(series: SeriesInfo, wanted: str) -> bool:
        own = value(series)
        return own is not None and abs(own - float(wanted)) <= _SAME_MM

    return fits


def _contrast(series: SeriesInfo, wanted: str) -> bool:
    return series.contrast == {"yes": True, "no": False}[wanted.lower()]


# What --series "key=value" understands; a text fits where it is part of the series' own.
KEYS: dict[str, Callable[[SeriesInfo, str], bool]] = {
    "description": _text_of(lambda series: series.description),
    "kernel": _text_of(lambda series: series.kernel),
    "body_part": _text_of(lambda series: series.body_part),
    "orientation": _text_of(lambda series: series.plane),
    "contrast": _contrast,
    "number": _number_of(lambda series: series.series_number),
    "thickness": _number_of(lambda series: series.thickness_mm),
    "spacing": _number_of(lambda series: (series.spacing_mm or (None,))[0]),
}
# A comma may be part of a value, so pairs end where another one begins.
_PAIR = re.compile(r"\s*(\w+)\s*=\s*(.*?)\s*(?:,(?=\s*\w+\s*=)|$)")


def _fitting(finding: Finding, text: str) -> list[SeriesInfo]:
    """Stacks of CT slices that fit all pairs of ``key=value,...``.

    Raises:
        UsageError: none does, or a pair is not understood.
    """
    pairs = [(match[1].lower(), match[2]) for match in _PAIR.finditer(text)]
    for key, value in pairs:
        if key not in KEYS:
            raise UsageError(f"--series {text}: '{key}' is none of the keys {', '.join(KEYS)}.")
        _check_value(text, key, value)
    fitting = list(finding.candidates)
    for key, value in pairs:
        fitting = [one for one in fitting if KEYS[key](one, value)]
    if not pairs or not fitting:
        raise _fits_none(finding, text)
    return fitting


def _check_value(text: str, key: str, value: str) -> None:
    if key == "contrast" and value.lower() not in ("yes", "no"):
        raise UsageError(f"--series {text}: contrast is yes or no, not '{value}'.")
    if key in ("number", "thickness", "spacing") and not re.fullmatch(r"\d+(\.\d+)?", value):
        raise UsageError(f"--series {text}: {key} is a number, not '{value}'.")


def _named(finding: Finding, wanted: str) -> SeriesInfo:
    if wanted.isdigit() and 1 <= int(wanted) <= len(finding.series):
        return finding.series[int(wanted) - 1]
    found = [one for one in finding.series if one.series_uid == wanted]
    found = found or [one for one in finding.series if one.series_uid.endswith(wanted)]
    # A localizer may share its series' UID; the slices are meant.
    fit = [one for one in found if one in finding.candidates] or found
    if len(fit) == 1:
        return fit[0]
    if not fit:
        raise _fits_none(finding, wanted)
    raise UsageError(
        f"--series {wanted} fits several of the series in {finding.path}; give a number or a UID "
        f"of:\n{series_table(fit)}"
    )


def _fits_none(finding: Finding, wanted: str) -> UsageError:
    return UsageError(
        f"--series {wanted} is none of the series in {finding.path}; give a number or a UID of:\n"
        f"{series_table(finding.series)}"
    )


def none_found(finding: Finding) -> InputError:
    """Why there is nothing to segment, and what was found instead."""
    path = finding.path
    if not finding.series:
        if finding.skipped:
            name, reason = finding.skipped[0]
            only = f"{path}" if path.name == name else f"{path}, {name}"
            return UnreadableError(
                f"{only}: {reason}; no DICOM image was found{_others(finding, first=False)}"
            )
        count = len(finding.not_dicom)
        what = f"none of its {count} files is DICOM" if count != 1 else "its only file is not DICOM"
        if count == 0:
            what = "there is no file in it"
        return UnreadableError(
            f"{path} holds no CT: {what}; give a folder of a CT's DICOM files, or a .nii.gz."
        )
    if [one.kind for one in finding.series] == [SINGLE]:
        return InputError(
            f"{path} holds a single CT slice; give the folder or .zip of the whole series."
        )
    kinds = Counter(one.kind for one in finding.series)
    listed = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    return InputError(
        f"{path} holds no CT series of slices, but: {listed}{_others(finding)} "
        "`segmate inspect` lists the files."
    )


def _others(finding: Finding, *, first: bool = True) -> str:
    """What else lies there, as the end of a message."""
    parts = []
    if finding.not_dicom:
        parts.append(f"not DICOM: {_names(finding.not_dicom)}")
    if finding.skipped and first:
        parts.append(f"skipped: {_names([name for name, _ in finding.skipped])}")
    return "".join(f"\n  {part}" for part in parts) if parts else "."


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
