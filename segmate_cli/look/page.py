"""A label map as one HTML file: numbers, pictures, histograms, provenance; nothing to load.

There is no script in it, and its policy forbids any, unless a viewer is asked for: then that one
script is allowed, by its hash. Outlines are SVG paths over JPEG pictures.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segmate_cli.doubt.anatomy import VOLUMES
from segmate_cli.doubt.rules import BY_ID
from segmate_cli.files import storable
from segmate_cli.look import charts, templates, viewer
from segmate_cli.look.content import Content
from segmate_cli.look.provenance import manifest_of, provenance
from segmate_cli.look.tiles import Tile, jpeg, make_tile, scale_bar_mm, svg_path
from segmate_cli.look.views import PLANES, View
from segmate_cli.measurement import OrganStats
from segmate_cli.organs import Organ
from segmate_cli.report import volume_text
from segmate_cli.volume_change import intervals_in

LARGEST_BYTES = 5_000_000
_NONE = "\u2013"
# How grave each status looks.
_LEVELS = {
    "complete": "ok",
    "truncated": "review",
    "absent": "none",
    "not_found": "bad",
    "implausible": "bad",
    "low_confidence": "review",
}


@dataclass(frozen=True, slots=True)
class _Size:
    """How large and fine pictures are; with ``all_outlines`` the neighbours are traced, too."""

    box: tuple[int, int]
    quality: int
    all_outlines: bool


# With more contours than this, each picture has those of its own organ alone.
_MANY_CONTOURS = 1500
# What a picture and its outlines take at least, in the page's letters.
_BYTES_A_PIXEL = 0.05
# With more pictures than this a sample of so many tells which sizes are far too large.
_MANY_VIEWS, _SAMPLE = 90, 12
# Of these the first that keeps the page under LARGEST_BYTES is taken.
_SIZES = (
    _Size((720, 440), 85, True),
    _Size((560, 340), 80, True),
    _Size((440, 270), 72, False),
    _Size((300, 180), 65, False),
    _Size((200, 120), 55, False),
)


def render_page(content: Content, identity: Sequence[tuple[str, str]] = ()) -> str:
    """The page, of at most ``LARGEST_BYTES`` without its viewer.

    Args:
        content: What to show.
        identity: Names and values about the patient; by default the page has none.
    """
    text = ""
    shown = viewer.viewer_of(content)
    script = viewer.script() if shown else ""
    most = LARGEST_BYTES + len(script)
    most += len(shown["data"]["scan"]) + len(shown["data"]["labels"]) if shown else 0
    for size in _sizes(content):
        text = templates.render(
            "report.html.j2",
            script,
            page=_page(content, identity, size),
            viewer=shown,
            hist_width=charts.WIDTH,
            hist_height=charts.HEIGHT,
        )
        text = storable(text)
        if len(text.encode()) <= most:
            break
    return text


def _sizes(content: Content) -> Sequence[_Size]:
    """Sizes worth a try: rendering one that is far too large would only take time."""
    contours = sum(np.unique(view.labels).size for view in content.views.values())
    few = contours <= _MANY_CONTOURS
    worth = [
        size
        for size in _SIZES
        if (few or not size.all_outlines)
        and _BYTES_A_PIXEL * size.box[0] * size.box[1] * len(content.views) < LARGEST_BYTES
    ]
    if len(content.views) > _MANY_VIEWS:
        worth = [size for size in worth if _sampled_bytes(content, size) < LARGEST_BYTES]
    return worth or _SIZES[-1:]


def _sampled_bytes(content: Content, size: _Size) -> float:
    """About what all pictures would take, less a tenth: by some of them, spread over all."""
    places = sorted(content.views)
    some = places[:: len(places) // _SAMPLE]
    organs = {organ.key: organ for organ in content.found.organs.values()}
    pictures = [_picture(content, content.views[at], organs[at[0]], size) for at in some]
    taken = sum(
        len(each["data"]) + sum(len(line["path"]) for line in each["lines"]) for each in pictures
    )
    return 0.9 * taken / len(some) * len(places)


def _page(content: Content, identity: Sequence[tuple[str, str]], size: _Size) -> dict[str, Any]:
    manifest = manifest_of(content)
    scores = manifest.provenance.scores if manifest else {}
    stats = content.found.stats
    named = "" if identity else "Names of files are those that were given; no patient is named."
    return {
        "name": content.name,
        "summary": _summary(content),
        "identity": identity,
        "verdict": _verdict(content),
        "caption": _caption(content),
        "has_hu": any(each.mean_hu is not None for each in stats),
        "has_ranges": any(each.organ.key in VOLUMES for each in stats),
        "range_source": _caption_of_ranges(content),
        "organs": [_organ(content, each, scores, size) for each in stats],
        "overview": [
            _picture(content, content.overview[plane], None, size)
            for plane in PLANES
            if plane in content.overview
        ],
        "plane_note": _plane_note(content),
        "provenance": provenance(content, manifest),
        "name_note": named,
    }


def _summary(content: Content) -> str:
    found = sum(each.volume_ml is not None for each in content.found.stats)
    judgement = content.found.measured.judgement
    parts = [f"{found} of {len(content.found.stats)} organs found"]
    model = (content.sidecar or {}).get("model")
    if isinstance(model, dict):
        parts.append(f"segmented by {model.get('name', '?')} {model.get('version', '')}".rstrip())
    if judgement is not None:
        view = ", ".join(judgement.regions)
        parts += [f"in view: {view}"] if view else []
        parts += [judgement.phase] if judgement.phase else []
    created = str((content.sidecar or {}).get("created", ""))[:10]
    if created:
        parts.append(created)
    return " \u00b7 ".join(parts)


def _verdict(content: Content) -> dict[str, Any]:
    measured = content.found.measured
    verdict = measured.verdict
    judged = verdict is not None and measured.judgement is not None and measured.judgement.gates
    reasons = list(verdict.reasons) if verdict else []
    if content.same_scan is False:
        reasons.insert(0, "The scan given is not the one that was segmented: its voxels differ.")
    notes = [*(verdict.notes if verdict else ()), *(content.scan.warnings if content.scan else ())]
    text = "" if judged else "No gate holds for the model, so nothing was checked."
    if judged and measured.judgement is not None:
        text = _gates_text(content, measured.judgement.gates)
    titles = {"ok": "Nothing found that asks for a review", "none": "Not checked"}
    level = "review" if reasons else "ok" if judged else "none"
    return {
        "level": level,
        "title": titles.get(level, "Review needed"),
        "text": text,
        "reasons": reasons,
        "notes": notes,
    }


def _gates_text(content: Content, gates: Sequence[str]) -> str:
    """How many gates were applied, and what the others lack."""
    told = bool((content.sidecar or {}).get("doubt"))
    lacking = {
        "scan": content.scan is None and not told,
        "scores": not told,
    }
    without = [need for rule in gates for need in (BY_ID[rule].needs,) if lacking.get(need, False)]
    text = f"{len(gates) - len(without)} gates were applied"
    words = {"scan": "the scan (--ct)", "scores": "what the network told, as a sidecar holds it"}
    missing = " or ".join(text for need, text in words.items() if need in without)
    text += f"; {len(without)} more need {missing}" if missing else ""
    return f"{text}. 'segmate gates list' shows them."


def _caption_of_ranges(content: Content) -> str:
    """Where the ranges come from, of the organs shown."""
    sources: dict[str, list[str]] = {}
    for each in content.found.stats:
        if each.organ.key in VOLUMES:
            source = VOLUMES[each.organ.key].source
            sources.setdefault(source, []).append(each.organ.title)
    if not sources:
        return ""
    told = ". ".join(f"{', '.join(titles)}: {source}" for source, titles in sources.items())
    return (
        "Published volumes of adults; patients are not healthy, and many lie outside. The gates, "
        f"which ask for a review, have wider limits. {told}."
    )


def _range_ml(key: str) -> str:
    usual = VOLUMES.get(key)
    if usual is None:
        return ""
    high = f"{usual.high_ml:.0f}"
    return f"up to {high}" if usual.low_ml is None else f"{usual.low_ml:.0f} to {high}"


def _range_hu(key: str) -> tuple[float, float] | None:
    """The gate's limits of an organ's mean HU."""
    low, high = BY_ID["hu"].limits.get(key, (None, None))
    return None if low is None or high is None else (low, high)


def _bar(stats: OrganStats) -> charts.RangeBar | None:
    usual = VOLUMES.get(stats.organ.key)
    if usual is None or stats.volume_ml is None or stats.status.is_lower_bound:
        return None
    return charts.range_bar(stats.volume_ml, (usual.low_ml or 0.0, usual.high_ml))


def _caption(content: Content) -> str:
    how = "Volumes are voxels times voxel size."
    if content.by_contours:
        how = "Volumes are those inside the contours, by pixels of half a millimetre or less."
    return how if content.scan is None else f"{how} HU are those of the scan within the labels."


def _plane_note(content: Content) -> str:
    if content.geometry.obliqueness_deg < 0.5:
        return ""
    degrees = f"{content.geometry.obliqueness_deg:.0f}"
    return f"The scan is oblique by {degrees} degrees; planes are its own."


def _organ(
    content: Content, stats: OrganStats, scores: Mapping[str, float], size: _Size
) -> dict[str, Any]:
    organ = stats.organ
    level, status, reasons = _status(stats)
    histogram = None
    counts = content.found.histograms.get(organ.key)
    if counts is not None and stats.mean_hu is not None:
        histogram = charts.histogram(counts, stats.mean_hu, _range_hu(organ.key))
    return {
        "title": organ.title,
        "anchor": "organ-" + re.sub(r"[^a-z0-9]+", "-", organ.key.lower()).strip("-"),
        "colour": _colour(organ),
        "level": level,
        "status": status,
        "reasons": reasons,
        "volume": _volume(stats),
        "bar": _bar(stats),
        "bar_words": f"{_volume(stats)} ml, published {_range_ml(organ.key)} ml",
        "range_ml": _range_ml(organ.key),
        "hu": _hu_text(stats),
        "range_hu": _hu_limits_text(organ.key),
        "voxels": f"{stats.voxels:,}".replace(",", "\u202f"),
        "histogram": histogram,
        "facts": _facts(content, stats, scores),
        "pictures": [
            _picture(content, content.views[organ.key, plane], organ, size)
            for plane in PLANES
            if (organ.key, plane) in content.views
        ],
    }


def _status(stats: OrganStats) -> tuple[str, str, tuple[str, ...]]:
    """Level, word and reasons."""
    kind = stats.status.kind
    reasons = tuple(each[:1].upper() + each[1:] for each in stats.status.reasons)
    return _LEVELS[kind], kind.replace("_", " "), reasons


def _volume(stats: OrganStats) -> str:
    if stats.volume_ml is None:
        return _NONE
    return volume_text(stats.volume_ml, stats.status.is_lower_bound).replace(">=", "\u2265 ")


def _hu_text(stats: OrganStats) -> str:
    if stats.mean_hu is None or stats.sd_hu is None:
        return _NONE
    return f"{stats.mean_hu:.0f} \u00b1 {stats.sd_hu:.0f}".replace("-", "\u2212")


def _hu_limits_text(key: str) -> str:
    limits = _range_hu(key)
    if limits is None:
        return ""
    return f"{limits[0]:.0f} to {limits[1]:.0f}".replace("-", "\u2212")


def _facts(
    content: Content, stats: OrganStats, scores: Mapping[str, float]
) -> list[tuple[str, str]]:
    facts = []
    interval = intervals_in(content.sidecar).get(stats.organ.key)
    if interval is not None and stats.volume_ml is not None:
        facts.append(("Volume between", f"{interval[0]:.1f} and {interval[1]:.1f} ml"))
    if stats.mean_hu is not None:
        facts.append(("HU", _hu_text(stats)))
    place = content.found.places.get(stats.organ.key)
    if place is not None:
        sizes = [
            (last - first + 1) * size
            for (first, last), size in zip(place.box, content.geometry.spacing_mm, strict=True)
        ]
        facts.append(("Extent", " \u00d7 ".join(f"{n:.0f}" for n in reversed(sizes)) + " mm"))
        view = content.views[stats.organ.key, "axial"]
        if view.grey is not None:
            facts.append(("Window", f"{view.window.name}, {view.window.words}"))
    if stats.organ.code:
        facts.append(("SNOMED CT", stats.organ.code))
    if stats.organ.key in scores:
        facts.append(("Model's Dice", f"{scores[stats.organ.key]:.2f} on validation"))
    return facts


def _picture(content: Content, view: View, organ: Organ | None, size: _Size) -> dict[str, Any]:
    """A tile as the template wants it; of an organ, its own outline comes last, on top."""
    own = content.values_of(organ.key) if organ else []
    asked = {each.organ.key for each in content.found.stats}
    others = [
        value
        for value, each in content.found.organs.items()
        if value not in own and each.key in asked
    ]
    shown = [*others, *own] if organ is None or size.all_outlines else own
    tile = make_tile(view, shown, size.box)
    width, height = tile.size
    bar_mm = scale_bar_mm(width * tile.pixel_mm)
    return {
        "data": ""
        if view.grey is None
        else base64.b64encode(jpeg(tile.grey, size.quality)).decode(),
        "width": width,
        "height": height,
        "lines": [
            _line(content, each.value, svg_path(each.polygons), own) for each in tile.outlines
        ],
        "letters": view.letters,
        "bar_mm": bar_mm,
        "bar_pixels": round(bar_mm / tile.pixel_mm, 1),
        "words": _words(content, tile, organ),
        "caption": _plane_title(view),
        "text": max(9, round(height / 20)),
    }


def _line(content: Content, value: int, path: str, own: list[int]) -> dict[str, Any]:
    organ = content.found.organs[value]
    return {
        "path": path,
        "colour": _colour(organ),
        "own": value in own,
        "title": organ.title,
    }


def _words(content: Content, tile: Tile, organ: Organ | None) -> str:
    titles = [content.found.organs[each.value].title for each in tile.outlines]
    through = f" through the centre of: {organ.title}" if organ else ""
    listed = ", ".join(titles) if titles else "no organ"
    return f"{_plane_title(tile.view)}{through}. Outlined: {listed}."


def _plane_title(view: View) -> str:
    axis = {"axial": "z", "coronal": "y", "sagittal": "x"}[view.plane]
    position = f"{view.position_mm:.0f}".replace("-", "\u2212")
    return f"{view.plane.capitalize()}, {axis} = {position} mm"


def _colour(organ: Organ) -> str:
    return "#{:02x}{:02x}{:02x}".format(*organ.rgb)
