"""Which series of a study segmate would rather segment, by rules in one table.

A score is a sum of points, at most 100, each with its reason. `RULES` is the table; nothing else
in segmate ranks series. What can never be segmented (localizers, dose reports, secondary captures,
other modalities, single slices) has no score.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from segmate_cli.dicom.series import DERIVED, IMAGE, MULTI_FRAME, SeriesInfo

# A lead under it is a matter of taste: such a choice is the user's.
CLEAR_LEAD = 5

_MM_A_POINT = 25.0
# Words of ImageType for images that were computed from a series of slices.
_REFORMATS = frozenset(
    (
        *("MPR", "MIP", "MINIP", "MPVR", "CPR", "VRT", "3D", "REFORMATTED", "CURVED"),
        *("PROJECTION", "AVERAGE"),
    )
)
_SHARP = re.compile(r"lung|bone|knochen|edge|ultra|sharp|hrct", re.IGNORECASE)
_SOFT = re.compile(r"soft|standard|stnd|smooth|chst|weich|mediast", re.IGNORECASE)
# Siemens numbers kernels by sharpness (B30f, Br38, I31f, Qr40), Canon by purpose (FC08).
_SIEMENS = re.compile(r"[A-Z][a-z]?(\d\d)[a-z]?\b")
_CANON = re.compile(r"FC(\d\d)")
_PHILIPS = {"A": "soft", "B": "soft", "C": "soft", "D": "sharp", "E": "sharp", "L": "sharp"}
_SOFT_BELOW, _SHARP_FROM = 45, 55
_CANON_SOFT = (range(1, 30), range(40, 50))

Judgement = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Score:
    """How well a series suits, and why.

    Attributes:
        points: 0 to 100; None for what cannot be segmented.
        reasons: One phrase a rule, with its points, such as "+15 axial".
    """

    points: int | None
    reasons: tuple[str, ...]


def score(series: SeriesInfo) -> Score:
    """Points and reasons of a series, from its headers alone."""
    if series.kind not in (IMAGE, DERIVED, MULTI_FRAME):
        return Score(None, (f"not a stack of CT slices: {series.kind}",))
    judged = [rule(series) for _, _, rule in RULES]
    return Score(sum(points for points, _ in judged), tuple(f"+{p} {why}" for p, why in judged))


def kernel_type(kernel: str, description: str = "") -> str:
    """``soft``, ``sharp`` or ``unknown``, by the maker's name, else by words of the description.

    Examples: Siemens B30f, Br38f, B70f; GE STANDARD, LUNG; Canon FC08, FC51; Philips B, L.
    """
    first = kernel.split("\\")[0].strip()
    canon, siemens = _CANON.match(first.upper()), _SIEMENS.match(first)
    if canon:
        return "soft" if any(int(canon[1]) in numbers for numbers in _CANON_SOFT) else "sharp"
    if siemens:
        number = int(siemens[1])
        return "soft" if number < _SOFT_BELOW else _sharp_or_unknown(number)
    by_words = [_by_words(text) for text in (first, description)]
    return _PHILIPS.get(first.upper()) or next(filter(None, by_words), "unknown")


def _by_words(text: str) -> str | None:
    if _SHARP.search(text):
        return "sharp"
    return "soft" if _SOFT.search(text) else None


def _sharp_or_unknown(number: int) -> str:
    return "sharp" if number >= _SHARP_FROM else "unknown"


def _original(series: SeriesInfo) -> Judgement:
    stated = series.image_type[0] if series.image_type else ""
    if stated == "ORIGINAL":
        return 20, "original"
    return (0, "derived") if stated == "DERIVED" else (10, "original or derived is not stated")


def _full(series: SeriesInfo) -> Judgement:
    words = {word for value in series.image_type for word in re.split(r"[ _]", value)}
    found = sorted(words & _REFORMATS)
    return (0, f"a reformat ({found[0]})") if found else (15, "no reformat")


def _axial(series: SeriesInfo) -> Judgement:
    return (15 if series.plane == "axial" else 0), series.plane or "orientation unknown"


def _thin(series: SeriesInfo) -> Judgement:
    """By slice thickness or distance, whichever is worse: thin slices far apart see little."""
    known = [size for size in (series.thickness_mm, (series.spacing_mm or (None,))[0]) if size]
    if not known:
        return 0, "slice thickness unknown"
    size_mm = max(known)
    steps = ((1.5, 15), (3.0, 10), (5.0, 5))
    points = next((points for most, points in steps if size_mm <= most + 0.01), 0)
    return points, f"{size_mm:g} mm slices"


def _wide(series: SeriesInfo) -> Judgement:
    coverage_mm = series.coverage_mm or 0.0
    return min(20, int(coverage_mm / _MM_A_POINT)), f"covers {coverage_mm:.0f} mm"


def _soft(series: SeriesInfo) -> Judgement:
    kind = kernel_type(series.kernel, series.description)
    name = f" ({series.kernel})" if series.kernel else ""
    return {"soft": 15, "unknown": 8, "sharp": 0}[kind], f"{kind} kernel{name}"


# (most points, what earns them, the rule)
RULES: tuple[tuple[int, str, Callable[[SeriesInfo], Judgement]], ...] = (
    (20, "ImageType says ORIGINAL (10 if it says nothing, 0 for DERIVED)", _original),
    (15, "no reformat (MPR, MIP, average ...)", _full),
    (15, "axial slices", _axial),
    (15, "thin slices: up to 1.5 mm (10 up to 3 mm, 5 up to 5 mm)", _thin),
    (20, "wide coverage: 1 point for each 25 mm", _wide),
    (15, "soft kernel (8 if unknown, 0 if sharp)", _soft),
)
