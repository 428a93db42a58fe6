"""A second pass: planes through the organs' centres, turned as radiologists look at them.

Axial planes are seen from the feet, coronal from the front, sagittal from the patient's left: the
patient's right is on the left, anterior and superior are on top (anterior to the left where the
plane is sagittal).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from segmate_cli.geometry import Geometry
from segmate_cli.look.solid import Shrinker
from segmate_cli.look.whereabouts import Box
from segmate_cli.sheets import stacked_planes, uppermost
from segmate_cli.volume import LabelMap, LabelValues, Scan

Grey = npt.NDArray[np.uint8]
Plane = npt.NDArray[Any]

# Which letters grow along a picture's rows and columns, by the axis that it is cut across.
_SHOWN = {
    "S": ("axial", "P", "L"),
    "P": ("coronal", "I", "L"),
    "L": ("sagittal", "I", "P"),
}
_OPPOSITE = {"S": "I", "I": "S", "P": "A", "A": "P", "L": "R", "R": "L"}
PLANES = ("axial", "coronal", "sagittal")
# Planes of all cuts together, in memory at once; beyond that every second pixel does, and so on.
_BUDGET_BYTES = 96_000_000


@dataclass(frozen=True, slots=True)
class Window:
    """HU shown from black to white."""

    name: str
    low_hu: int
    high_hu: int

    @property
    def words(self) -> str:
        """The two ends, for people."""
        return f"{self.low_hu} to {self.high_hu} HU".replace("-", "\u2212")


SOFT_TISSUE = Window("soft tissue", -160, 240)
LUNG = Window("lung", -1350, 150)


@dataclass(frozen=True, slots=True)
class Cut:
    """A plane to take: across an array axis, at an index, in a window."""

    axis: int
    index: int
    window: Window


@dataclass(frozen=True, slots=True)
class View:
    """A plane as it is looked at.

    Attributes:
        plane: axial, coronal or sagittal; the nearest, where the scan is oblique.
        grey: (rows, columns) 0 to 255, or None without a CT.
        labels: (rows, columns) label values, of each sheet.
        pixel_mm: Distance between rows, and between columns.
        letters: Where top, right, bottom and left lie in the patient.
        position_mm: LPS coordinate of the plane along its normal, at its centre.
        window: Of ``grey``.
    """

    plane: str
    grey: Grey | None
    labels: tuple[LabelValues, ...]
    pixel_mm: tuple[float, float]
    letters: tuple[str, str, str, str]
    position_mm: float
    window: Window


def axis_of(geometry: Geometry, plane: str) -> int:
    """The array axis that runs through axial, coronal or sagittal planes."""
    for axis, letter in enumerate(geometry.directions):
        if _SHOWN[_plain(letter)][0] == plane:
            return axis
    raise ValueError(plane)  # directions name each anatomical axis once


def take_views(
    labels: LabelMap,
    scan: Scan | None,
    cuts: Iterable[Cut],
    body: Box,
    shrinker: Shrinker | None = None,
) -> dict[Cut, View]:
    """Take planes out of a label map and its scan in one pass.

    Args:
        labels: The label map.
        scan: The scan on the same grid, or None for outlines alone.
        cuts: What to take.
        body: What to show of each plane: first and last index along (k, j, i).
        shrinker: What else looks at the slices of the scan as they go by.
    """
    takers = dict.fromkeys(cuts)
    step = _step(labels.geometry.shape, len(takers))
    taken = {cut: _Taker(cut, body, step, scan is not None) for cut in takers}
    hus = repeat(None) if scan is None else scan.planes()
    for k, (planes, hu) in enumerate(zip(stacked_planes(labels), hus, strict=False)):
        for taker in taken.values():
            taker.add(k, planes, hu)
        if shrinker is not None and hu is not None:
            shrinker.add(k, uppermost(planes), hu)
    return {cut: taker.view(labels.geometry) for cut, taker in taken.items()}


def _step(shape: tuple[int, int, int], cuts: int) -> int:
    largest = shape[0] * shape[1] * shape[2] // min(shape)
    step = 1
    while 3 * cuts * largest > _BUDGET_BYTES * step * step:
        step += 1
    return step


class _Taker:
    """Gathers one plane as the slices go by."""

    def __init__(self, cut: Cut, body: Box, step: int, with_grey: bool) -> None:
        self._cut, self._body, self._step = cut, body, step
        self._spans = [slice(first, last + 1, step) for first, last in body]
        self._labels: list[tuple[Plane, ...]] = []  # of each slice, by sheet
        self._grey: list[Grey] | None = [] if with_grey else None

    def add(self, k: int, planes: tuple[Plane, ...], hu: Plane | None) -> None:
        """Look at slice k."""
        axis, index = self._cut.axis, self._cut.index
        across = self._spans[0]
        if axis == 0:
            if k != index:
                return
            part: tuple[Any, ...] = (self._spans[1], self._spans[2])
        else:
            if not across.start <= k < across.stop or (k - across.start) % across.step:
                return
            part = (index, self._spans[2]) if axis == 1 else (self._spans[1], index)
        self._labels.append(tuple(plane[part].copy() for plane in planes))
        if hu is not None and self._grey is not None:
            self._grey.append(_windowed(hu[part], self._cut.window))

    def view(self, geometry: Geometry) -> View:
        """The plane, turned."""
        axis = self._cut.axis
        rest = [n for n in range(3) if n != axis]
        directions = geometry.directions
        plane, down, right = _SHOWN[_plain(directions[axis])]
        labels = self._labels[0]
        if axis != 0:
            labels = tuple(_stacked(sheet) for sheet in zip(*self._labels, strict=True))
        turn = _turn([directions[n] for n in rest], (down, right))
        sizes = [geometry.spacing_mm[n] * self._step for n in rest]
        if turn[0]:
            sizes.reverse()
        grey = None
        if self._grey is not None:
            grey = _turned(self._grey[0] if axis == 0 else _stacked(self._grey), turn)
        return View(
            plane=plane,
            grey=grey,
            labels=tuple(_turned(sheet, turn) for sheet in labels),
            pixel_mm=(sizes[0], sizes[1]),
            letters=(_OPPOSITE[down], right, down, _OPPOSITE[right]),
            position_mm=_position_mm(geometry, self._cut),
            window=self._cut.window,
        )


def _stacked(lines: Sequence[Plane]) -> Plane:
    widest = max((line.dtype for line in lines), key=lambda dtype: dtype.itemsize)
    return np.stack([line.astype(widest, copy=False) for line in lines])


def _windowed(hu: Plane, window: Window) -> Grey:
    shown = np.clip(hu, window.low_hu, window.high_hu).astype(np.int32) - window.low_hu
    return (shown * 255 // (window.high_hu - window.low_hu)).astype(np.uint8)


def _turn(have: list[str], want: tuple[str, str]) -> tuple[bool, bool, bool]:
    """Whether to transpose, then to flip rows, then columns."""
    transpose = have[0] not in (want[0], _OPPOSITE[want[0]])
    if transpose:
        have = have[::-1]
    return transpose, have[0] != want[0], have[1] != want[1]


def _turned(plane: Plane, turn: tuple[bool, bool, bool]) -> Plane:
    transpose, rows, columns = turn
    plane = plane.T if transpose else plane
    return np.ascontiguousarray(plane[:: -1 if rows else 1, :: -1 if columns else 1])


def _plain(letter: str) -> str:
    return letter if letter in _SHOWN else _OPPOSITE[letter]


def _position_mm(geometry: Geometry, cut: Cut) -> float:
    middle = [(n - 1) / 2 for n in geometry.shape]
    middle[cut.axis] = cut.index
    lps = {"sagittal": 0, "coronal": 1, "axial": 2}
    plane = _SHOWN[_plain(geometry.directions[cut.axis])][0]
    return float(geometry.to_lps_mm(middle)[lps[plane]])
