"""All that a page or picture of a label map shows, gathered in two passes over its voxels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segmate_cli import organs as organ_table
from segmate_cli import sidecar
from segmate_cli.doubt.rules import Rule
from segmate_cli.errors import UsageError
from segmate_cli.examining import gates_of, open_to_look
from segmate_cli.geometry import Geometry
from segmate_cli.look.solid import MOST_ORGANS, Shrinker, Solid
from segmate_cli.look.views import LUNG, PLANES, SOFT_TISSUE, Cut, View, Window, axis_of, take_views
from segmate_cli.look.whereabouts import Place, Whereabouts, locate
from segmate_cli.measurement import OrganStats
from segmate_cli.organs import Organ
from segmate_cli.sheets import Sheets
from segmate_cli.volume import Hounsfield, LabelMap, Scan

# Organs of air are looked at in the lung window.
_AIR_HU = -400.0


@dataclass(frozen=True, slots=True)
class Source:
    """What to look at.

    Attributes:
        labels: A label map, DICOM SEG or RTSTRUCT.
        table: What its values mean; None for what it says itself.
        ct: The scan, for HU and pictures; None for outlines alone.
        series: Which series of ``ct``, where there are several.
        scan: What lies at ``ct``, where that has been found before.
        organs: Names or aliases; None for all.
        rules: The gates; None for the built-in ones, unless the sidecar says that none held.
        solid: Whether a small volume is wanted, too, for a viewer.
    """

    labels: Path
    table: str | None = None
    ct: Path | None = None
    series: str | None = None
    scan: Scan | None = None
    organs: tuple[str, ...] | None = None
    rules: tuple[Rule, ...] | None = None
    solid: bool = False


@dataclass(frozen=True, slots=True)
class Content:
    """What was gathered.

    Attributes:
        source: From what.
        geometry: Where the voxels lie.
        found: Where each organ lies, its numbers and HU.
        views: By organ's key and plane, through the organ's centre.
        overview: By plane, where most organs are in view.
        sidecar: What stands beside the label map; None without, or where the file has changed.
        scan: The scan as it was found; None without.
        same_scan: Whether the scan's voxels are those that the sidecar names; None if unknown.
        solid: Scan and labels with fewer voxels, if wanted.
        by_contours: Whether volumes are those of contours, finer than the voxels shown.
    """

    source: Source
    geometry: Geometry
    found: Whereabouts
    views: dict[tuple[str, str], View]
    overview: dict[str, View]
    sidecar: dict[str, Any] | None
    scan: Scan | None
    same_scan: bool | None
    solid: Solid | None = None
    by_contours: bool = False

    @property
    def name(self) -> str:
        """The label map's name without its suffix, or its folder's where it is just "labels"."""
        stem = sidecar.path_for(self.source.labels).stem
        folder = self.source.labels.absolute().parent.name
        return folder if stem == "labels" and folder else stem

    @property
    def shown_in_solid(self) -> tuple[OrganStats, ...]:
        """The organs that ``solid`` has, in the order of their numbers there, from 1."""
        return _with_voxels(self.found)

    def values_of(self, key: str) -> list[int]:
        """Label values of an organ."""
        return [value for value, organ in self.found.organs.items() if organ.key == key]


def gather(source: Source) -> Content:
    """Read a label map and its scan twice, slice by slice.

    Raises:
        UsageError: A small volume is wanted without a scan, or of too many organs.
        InputError: A file that cannot be read, a CT that does not fit.
        UnknownOrganError: An organ that the label map does not have.
    """
    labels, scan = _open(source)
    if source.solid and scan is None:
        raise UsageError("a viewer shows the scan; give it with --ct.")
    digest = hashlib.sha256()
    hashed = _hashed(scan, digest) if scan else None
    rules, earlier = gates_of(source.labels, source.rules)
    found = locate(labels, hashed, _wanted(source, labels), rules, earlier)
    cuts = _cuts(found, labels.geometry)
    middle = _overview_cuts(found, labels.geometry)
    shrinker = _shrinker(found, labels.geometry) if source.solid else None
    views = take_views(labels, scan, [*cuts.values(), *middle.values()], found.body, shrinker)
    told = sidecar.content_of(source.labels)
    return Content(
        source=source,
        geometry=labels.geometry,
        found=found,
        views={place: views[cut] for place, cut in cuts.items()},
        overview={plane: views[cut] for plane, cut in middle.items()},
        sidecar=told,
        scan=scan,
        same_scan=_same(told, digest.hexdigest()) if scan else None,
        solid=shrinker.solid() if shrinker else None,
        by_contours=isinstance(labels, Sheets) and bool(labels.told),
    )


def look_at(source: Source) -> tuple[LabelMap, Whereabouts]:
    """A label map alone, and where its organs lie; errors as ``gather``."""
    labels, _ = _open(replace(source, ct=None, scan=None))
    return labels, locate(labels, None, _wanted(source, labels))


def _wanted(source: Source, labels: LabelMap) -> tuple[Organ, ...] | None:
    if source.organs is None:
        return None
    return organ_table.select(source.organs, [organ for _, organ in sorted(labels.organs.items())])


def _open(source: Source) -> tuple[LabelMap, Scan | None]:
    return open_to_look(source.labels, source.table, source.scan or source.ct, source.series)


def _hashed(scan: Scan, digest: Any) -> Scan:
    """The scan, with its voxels hashed as they go by, as ``pixels_sha256`` of a sidecar is."""

    def planes() -> Iterator[Hounsfield]:
        for hu in scan.planes():
            digest.update(np.ascontiguousarray(hu, dtype="<i2").data)
            yield hu

    return Scan(scan.geometry, planes, scan.source, scan.warnings, scan.notes)


def _same(told: dict[str, Any] | None, pixels_sha256: str) -> bool | None:
    named = ((told or {}).get("input") or {}).get("pixels_sha256")
    return None if named is None else bool(named == pixels_sha256)


def _with_voxels(found: Whereabouts) -> tuple[OrganStats, ...]:
    return tuple(each for each in found.stats if each.organ.key in found.places)


def _shrinker(found: Whereabouts, geometry: Geometry) -> Shrinker:
    numbers = {each.organ.key: n for n, each in enumerate(_with_voxels(found), 1)}
    if len(numbers) > MOST_ORGANS:
        raise UsageError(
            f"a viewer shows {MOST_ORGANS} organs at most, here are {len(numbers)}; choose with "
            "--organs."
        )
    values = {value: numbers.get(organ.key, 0) for value, organ in found.organs.items()}
    return Shrinker(geometry, found.body, values)


def _cuts(found: Whereabouts, geometry: Geometry) -> dict[tuple[str, str], Cut]:
    return {
        (each.organ.key, plane): Cut(
            axis_of(geometry, plane),
            found.places[each.organ.key].centre[axis_of(geometry, plane)],
            _window(each),
        )
        for each in found.stats
        if each.organ.key in found.places
        for plane in PLANES
    }


def _window(stats: OrganStats) -> Window:
    return LUNG if stats.mean_hu is not None and stats.mean_hu < _AIR_HU else SOFT_TISSUE


def _overview_cuts(found: Whereabouts, geometry: Geometry) -> dict[str, Cut]:
    keys = [each.organ.key for each in found.stats if each.organ.key in found.places]
    places = [found.places[key] for key in keys]
    if not places:
        return {}
    return {
        plane: Cut(
            axis_of(geometry, plane), _busiest(places, axis_of(geometry, plane)), SOFT_TISSUE
        )
        for plane in PLANES
    }


def _busiest(places: Sequence[Place], axis: int) -> int:
    """Where a plane meets most organs; of such places the one nearest to the organs' middle."""
    middle = float(np.median([place.centre[axis] for place in places]))
    candidates = {place.centre[axis] for place in places} | {round(middle)}

    def rank(index: int) -> tuple[int, float]:
        met = sum(place.box[axis][0] <= index <= place.box[axis][1] for place in places)
        return -met, abs(index - middle)

    return min(sorted(candidates), key=rank)
