"""Slices as a stack in space: even, tilted, uneven or with gaps, and what makes it no volume.

Places come from ImagePositionPatient, ImageOrientationPatient and PixelSpacing alone, in float64.
The normal is row direction x column direction, and slices are sorted by their position along it,
so that the slice index k always grows along the normal. Pure: nothing here opens a file.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segmate_cli.dicom.header import Header
from segmate_cli.geometry import Affine, Geometry

Vectors = npt.NDArray[np.float64]

# Cosines written with three decimals stay under it; 0.1 degrees is what they may be apart.
SAME_DIRECTION = 2e-3
SAME_PIXEL_MM = 1e-3
# Share of the slice step by which a slice may lie off its even place: headers round 0.625 mm
# steps to 0.1 mm, and a tenth of a slice is far under what a label map can show.
EVEN_SHARE = 0.1
# A step this far from a whole number of steps is uneven spacing, not missing slices.
WHOLE_SHARE = 0.25
# The affine holds a shear exactly, so a drift under both is read as it is: over 400 mm, 0.1
# degrees are 0.7 mm, one pixel; and two rounded positions close together look like a tilt.
TILT_DEG = 0.1
_TILT_MM = 0.1
# Sideways scatter of single slices, in pixels.
_SIDEWAYS_PIXELS = 0.25
_LISTED = 4
# What lies between slices farther apart is not told by them: a kidney's pole fits in.
LARGEST_GAP_MM = 25.0
# A gantry tilts by up to 30 degrees.
_LARGEST_TILT_DEG = 45.0
# Patients lie within metres of the origin; micro-CT has pixels of 0.01 mm.
_FARTHEST_MM = 1e5
_PIXELS_MM = (1e-3, 100.0)
# No scanner makes slices so close; rounded positions of one place are.
_SAME_PLACE_MM = 1e-2
# A gantry tilts by up to 30 degrees, and its slices are still called axial.
_OBLIQUE_DEG = 31.0


@dataclass(frozen=True, slots=True)
class Gap:
    """Slices that should be there.

    Attributes:
        after_mm: Position along the normal of the slice before the gap.
        before_mm: Position of the slice behind it.
        missing: How many slices of the usual step fit between.
    """

    after_mm: float
    before_mm: float
    missing: int


@dataclass(frozen=True, slots=True)
class Stack:
    """Slices sorted along their normal."""

    slices: tuple[Header, ...]
    normal: Vectors
    places: Vectors  # (n, 3) ImagePositionPatient
    along: Vectors  # (n,) ascending

    def at(self, position_mm: float) -> str:
        """A position as a reader of the images knows it: z = -12.50 mm for axial slices."""
        axis = int(np.argmax(np.abs(self.normal)))
        if abs(self.normal[axis]) < math.cos(math.radians(1.0)):
            return f"{position_mm:.2f} mm along the normal"
        # + 0.0: no "-0.00".
        return f"{'xyz'[axis]} = {round(position_mm * np.sign(self.normal[axis]), 2) + 0.0:.2f} mm"

    def gap_at(self, gap: Gap) -> str:
        """A gap as a reader of the images knows it."""
        return f"{gap.missing} between {self.at(gap.after_mm)} and {self.at(gap.before_mm)}"


def volume_geometry(slices: Sequence[Header]) -> Geometry:
    """Geometry of sorted slices: of an even stack exact at the first and the last position.

    Slices that are tilted, uneven or have gaps keep their own places.

    Raises:
        GeometryError: the numbers do not describe a volume.
    """
    first, last = _position(slices[0]), _position(slices[-1])
    row, column = _directions(slices[0])
    between_rows, between_columns = slices[0].pixel_spacing_mm or (0.0, 0.0)
    affine: Affine = np.eye(4)
    affine[:3, 0] = (last - first) / (len(slices) - 1)
    affine[:3, 1] = column * between_rows
    affine[:3, 2] = row * between_columns
    affine[:3, 3] = first
    shape = (len(slices), slices[0].rows, slices[0].columns)
    stack = stack_of(slices)
    even = not (_is_tilted(stack) or _is_uneven(stack))
    return Geometry(affine, shape, None if even else stack.places)


def _position(header: Header) -> Vectors:
    return np.array(header.position_mm, dtype=np.float64)


def _directions(header: Header) -> tuple[Vectors, Vectors]:
    """Unit vectors along which (column index, row index) grow."""
    cosines = np.array(header.orientation, dtype=np.float64).reshape(2, 3)
    row, column = cosines / np.linalg.norm(cosines, axis=1, keepdims=True)
    return row, column


def unplaced(headers: Sequence[Header]) -> list[Header]:
    """Those whose place is missing or makes no sense."""
    return [one for one in headers if _why_unplaced(one)]


def _why_unplaced(header: Header) -> str | None:
    if header.position_mm is None or max(map(abs, header.position_mm)) > _FARTHEST_MM:
        return "ImagePositionPatient"
    if header.orientation is None or not _orthonormal(header.orientation):
        return "ImageOrientationPatient"
    low_mm, high_mm = _PIXELS_MM
    if header.pixel_spacing_mm is None or not all(
        low_mm <= size <= high_mm for size in header.pixel_spacing_mm
    ):
        return "PixelSpacing"
    return None


def _orthonormal(orientation: tuple[float, ...]) -> bool:
    row, column = np.array(orientation).reshape(2, 3)
    off = (row @ row - 1.0, column @ column - 1.0, row @ column)
    return bool(np.abs(off).max() <= 2 * SAME_DIRECTION)


def stack_of(headers: Sequence[Header]) -> Stack:
    """Sort placed headers along the first one's normal."""
    row, column = _directions(headers[0])
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    along = np.array([normal @ _position(header) for header in headers])
    order = np.argsort(along, kind="stable")
    slices = tuple(headers[n] for n in order)
    return Stack(slices, normal, np.array([_position(one) for one in slices]), along[order])


def plane_of(stack: Stack) -> str:
    """Which way the slices are cut: axial, coronal, sagittal, or oblique beyond a gantry's tilt."""
    axis = int(np.argmax(np.abs(stack.normal)))
    if abs(stack.normal[axis]) < math.cos(math.radians(_OBLIQUE_DEG)):
        return "oblique"
    return ("sagittal", "coronal", "axial")[axis]


def steps_of(stack: Stack) -> tuple[tuple[float, ...], tuple[Gap, ...], tuple[float, ...]]:
    """(distinct positions, gaps, positions held by several slices) along the normal."""
    apart = np.diff(stack.along)
    real = apart[apart > _SAME_PLACE_MM]
    usual = float(np.median(real)) if real.size else 0.0
    positions, doubles = [float(stack.along[0])], []
    for position in map(float, stack.along[1:]):
        if position - positions[-1] > max(EVEN_SHARE * usual, _SAME_PLACE_MM):
            positions.append(position)
        elif positions[-1] not in doubles:
            doubles.append(positions[-1])
    gaps = []
    for before, after in itertools.pairwise(positions if usual else ()):
        steps = (after - before) / usual
        if steps > 2 - WHOLE_SHARE and abs(steps - round(steps)) <= WHOLE_SHARE:
            gaps.append(Gap(before, after, round(steps) - 1))
    return tuple(positions), tuple(gaps), tuple(doubles)


def acquisitions(headers: Sequence[Header]) -> tuple[tuple[str, tuple[Header, ...]], ...]:
    """Slices that share places, as stacks that share none, each with what tells it apart.

    By the first attribute of `_TOLD_APART` that does, else by time where one stack was acquired
    before the other; () where nothing tells them apart.
    """
    for name, value in _TOLD_APART.items():
        groups: dict[str, list[Header]] = {}
        for header in headers:
            groups.setdefault(value(header), []).append(header)
        if len(groups) > 1 and all(map(_has_no_doubles, groups.values())):
            return tuple((f"{name} {key}", tuple(groups[key])) for key in sorted(groups))
    return _passes(headers)


_TOLD_APART: dict[str, Callable[[Header], str]] = {
    "acquisition": lambda one: f"{one.acquisition.number}",
    "temporal position": lambda one: f"{one.acquisition.phase}",
    "KVP": lambda one: f"{one.acquisition.voltage:g}" if one.acquisition.voltage else "?",
    "kernel": lambda one: one.kernel,
    "image type": lambda one: "\\".join(one.image_type),
    "thickness": lambda one: f"{one.thickness_mm}",
}


def _has_no_doubles(headers: list[Header]) -> bool:
    return len(headers) > 1 and not steps_of(stack_of(headers))[2]


def _passes(headers: Sequence[Header]) -> tuple[tuple[str, tuple[Header, ...]], ...]:
    """Stacks that were acquired one after the other."""
    if not all(one.acquisition.time for one in headers):
        return ()
    stack = stack_of(headers)
    order = np.argsort([one.acquisition.time for one in stack.slices], kind="stable")
    near_mm = EVEN_SHARE * (step_mm(steps_of(stack)[0]) or 0.0)
    passes: list[list[int]] = [[]]
    for n in map(int, order):
        if passes[-1] and np.abs(stack.along[passes[-1]] - stack.along[n]).min() <= near_mm:
            passes.append([])
        passes[-1].append(n)
    stacks = [[stack.slices[n] for n in each] for each in passes]
    times = [[one.acquisition.time for one in each] for each in stacks]
    apart = all(max(before) < min(after) for before, after in itertools.pairwise(times))
    if len(stacks) < 2 or not apart or not all(map(_has_no_doubles, stacks)):
        return ()
    return tuple((f"pass {n} of {len(stacks)}", tuple(each)) for n, each in enumerate(stacks, 1))


def step_mm(positions: tuple[float, ...]) -> float | None:
    """Usual distance of neighbours; None for a single position."""
    return float(np.median(np.diff(positions))) if len(positions) > 1 else None


def tilt_of(stack: Stack) -> float | None:
    """Angle between first to last slice and the normal; 0 where rounding alone could make it."""
    run = stack.places[-1] - stack.places[0]
    along = float(run @ stack.normal)
    sideways = float(np.linalg.norm(run - along * stack.normal))
    if along <= 1e-2:
        return None
    return 0.0 if sideways <= _TILT_MM else math.degrees(math.atan2(sideways, along))


def no_volume(
    stack: Stack, positions: tuple[float, ...], doubles: tuple[float, ...]
) -> tuple[str, ...]:
    """What keeps the slices from being a volume at all."""
    if len(stack.slices) > 1 and len(positions) == 1:
        return (f"all {len(stack.slices)} slices lie at {stack.at(positions[0])}, in one plane",)
    if doubles:
        return (_doubled(stack, doubles),)
    tilt = tilt_of(stack) or 0.0
    problems = [_tilted(stack, tilt)] if tilt > _LARGEST_TILT_DEG else []
    return (*problems, *_too_far_apart(stack), *_sideways(stack))


def irregularities(stack: Stack, gaps: tuple[Gap, ...]) -> tuple[str, ...]:
    """How slices that are a volume differ from an even, upright stack."""
    found = [_missing(stack, gaps)] if gaps else []
    if _is_tilted(stack):
        found.append(_tilted(stack, tilt_of(stack) or 0.0))
    if _is_uneven(stack) and not gaps:
        apart = np.diff(stack.along)
        off = _off_even_mm(stack)
        worst = int(off.argmax())
        found.append(
            f"unevenly spaced slices, {apart.min():.2f} to {apart.max():.2f} mm apart: "
            f"{stack.at(float(stack.along[worst]))} ({stack.slices[worst].where}) is "
            f"{off[worst]:.2f} mm off its even place"
        )
    return tuple(found)


def _is_tilted(stack: Stack) -> bool:
    return (tilt_of(stack) or 0.0) > TILT_DEG


def _is_uneven(stack: Stack) -> bool:
    step = (stack.along[-1] - stack.along[0]) / max(1, len(stack.slices) - 1)
    return bool(_off_even_mm(stack).max() > EVEN_SHARE * step)


def _off_even_mm(stack: Stack) -> Vectors:
    """Distance of each slice from its place in an even stack, along the normal."""
    even = np.linspace(stack.along[0], stack.along[-1], len(stack.slices))
    return np.asarray(np.abs(stack.along - even))


def _doubled(stack: Stack, doubles: tuple[float, ...]) -> str:
    step = step_mm(tuple(float(one) for one in np.unique(stack.along))) or 0.0
    listed = []
    for position in doubles[:_LISTED]:
        near = np.flatnonzero(np.abs(stack.along - position) <= EVEN_SHARE * step + 1e-2)
        names = ", ".join(stack.slices[n].where for n in near[:2])
        listed.append(f"{stack.at(position)} ({names})")
    return f"{_count(len(doubles), 'position')} with more than one slice: " + _list(
        listed, len(doubles)
    )


def _missing(stack: Stack, gaps: tuple[Gap, ...]) -> str:
    listed = [
        f"{gap.missing} between {stack.at(gap.after_mm)} ({_file_at(stack, gap.after_mm)}) and "
        f"{stack.at(gap.before_mm)} ({_file_at(stack, gap.before_mm)})"
        for gap in gaps[:_LISTED]
    ]
    total = sum(gap.missing for gap in gaps)
    return f"{_count(total, 'missing slice')}: " + _list(listed, len(gaps))


def _tilted(stack: Stack, tilt: float) -> str:
    first, last = (_triple(place) for place in (stack.places[0], stack.places[-1]))
    return (
        f"slices tilted by {tilt:.2f} degrees against their stack, from {first} mm "
        f"({stack.slices[0].where}) to {last} mm ({stack.slices[-1].where})"
    )


def _too_far_apart(stack: Stack) -> list[str]:
    apart = np.diff(stack.along)
    allowed = max(LARGEST_GAP_MM, (2 - WHOLE_SHARE) * float(np.median(apart)))
    far = np.flatnonzero(apart > allowed)
    listed = [
        f"{apart[n]:.2f} mm between {stack.at(float(stack.along[n]))} ({stack.slices[n].where}) "
        f"and {stack.at(float(stack.along[n + 1]))} ({stack.slices[n + 1].where})"
        for n in far[:_LISTED]
    ]
    if not listed:
        return []
    return [f"gaps over the {LARGEST_GAP_MM:g} mm that are bridged: " + _list(listed, len(far))]


def _sideways(stack: Stack) -> list[str]:
    """Slices off the line from the first to the last, across it."""
    run = stack.places[-1] - stack.places[0]
    share = (stack.along - stack.along[0]) / max(stack.along[-1] - stack.along[0], 1e-6)
    off = stack.places - stack.places[0] - share[:, None] * run
    sideways = np.linalg.norm(off - np.outer(off @ stack.normal, stack.normal), axis=1)
    pixel = min(stack.slices[0].pixel_spacing_mm or (0.0,))
    if sideways.max() <= _SIDEWAYS_PIXELS * pixel:
        return []
    worst = int(sideways.argmax())
    return [
        f"slices shifted sideways: {stack.at(float(stack.along[worst]))} "
        f"({stack.slices[worst].where}) by {sideways[worst]:.2f} mm"
    ]


def mixed(headers: list[Header]) -> tuple[str, ...]:
    """Missing places, and attributes that must not differ inside a volume but do."""
    problems = []
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        files = [one.where for one in headers if _why_unplaced(one) == keyword]
        if files:
            problems.append(
                f"{_count(len(files), 'slice')} without a valid {keyword}: "
                + _list(files[:_LISTED], len(files))
            )
    if problems:
        return tuple(problems)
    for what, value, near in (
        ("size", lambda one: (float(one.rows), float(one.columns)), 0.0),
        ("pixel spacing", lambda one: one.pixel_spacing_mm or (), SAME_PIXEL_MM),
        ("orientation", lambda one: one.orientation or (), SAME_DIRECTION),
    ):
        problems.extend(_groups(headers, what, value, near))
    frames = Counter(one.frame_of_reference_uid for one in headers)
    if len(frames) > 1:
        first_of = {one.frame_of_reference_uid: one.where for one in reversed(headers)}
        listed = [f"{n} in one (such as {first_of[uid]})" for uid, n in frames.most_common(_LISTED)]
        problems.append(
            f"slices of {len(frames)} frames of reference: " + _list(listed, len(frames))
        )
    return tuple(problems)


def _groups(
    headers: list[Header], what: str, value: Callable[[Header], tuple[float, ...]], near: float
) -> list[str]:
    groups: list[list[Header]] = []
    for header in headers:
        mine = np.array(value(header))
        for group in groups:
            if np.abs(np.array(value(group[0])) - mine).max() <= near:
                group.append(header)
                break
        else:
            groups.append([header])
    if len(groups) == 1:
        return []
    listed = [
        f"{len(group)} of {_numbers(value(group[0]))} (such as {group[0].where})"
        for group in groups[:_LISTED]
    ]
    return [f"slices of more than one {what}: " + _list(listed, len(groups))]


def _file_at(stack: Stack, position_mm: float) -> str:
    return stack.slices[int(np.abs(stack.along - position_mm).argmin())].where


def _triple(place: Vectors) -> str:
    return "(" + ", ".join(f"{value:.2f}" for value in place) + ")"


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _list(listed: list[str], total: int) -> str:
    more = f" and {total - len(listed)} more" if total > len(listed) else ""
    return "; ".join(listed) + more
