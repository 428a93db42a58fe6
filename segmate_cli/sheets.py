"""Structures that may overlap, on as few label maps of one grid as hold them: its sheets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from segmate_cli.geometry import Geometry
from segmate_cli.organs import Organ
from segmate_cli.volume import LabelMap, Labels, LabelValues, Source


@dataclass(frozen=True, slots=True)
class Sheets:
    """Label maps of one grid, no value in two of them; together a ``LabelMap``.

    Attributes:
        sheets: At least one; all with the same geometry, organs and source.
        open_faces: Faces of the grid beyond which the scan may go on, for all that is known.
        told: Voxels and millilitres by value, where something finer than the grid told them.
        doubts: By organ key, why its volume may be off, one phrase each.
    """

    sheets: tuple[Labels, ...]
    open_faces: frozenset[str] = frozenset()
    told: Mapping[int, tuple[int, float]] = field(default_factory=dict)
    doubts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def geometry(self) -> Geometry:
        """Where the voxels lie."""
        return self.sheets[0].geometry

    @property
    def organs(self) -> dict[int, Organ]:
        """Label value to organ, of all sheets."""
        return self.sheets[0].organs

    @property
    def source(self) -> Source | None:
        """The scan that was segmented."""
        return self.sheets[0].source

    @property
    def run(self) -> dict[str, Any] | None:
        """What made the labels."""
        return self.sheets[0].run

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.sheets[0].dtype

    def planes(self) -> Iterator[LabelValues]:
        """Yield the slices k = 0, 1, ...; what lies on a later sheet hides what is below."""
        for planes in stacked_planes(self):
            yield uppermost(planes)


class SheetMaker:
    """Lays structures on sheets, each on the first where it overlaps none.

    Args:
        geometry: Of the sheets.
        organs: Label value to organ, of all structures.
        source: The scan that was segmented.
    """

    def __init__(
        self, geometry: Geometry, organs: dict[int, Organ], source: Source | None = None
    ) -> None:
        self._geometry, self._organs, self._source = geometry, organs, source
        self._dtype = np.uint8 if max(organs, default=0) <= np.iinfo(np.uint8).max else np.uint16
        self._sheets: list[npt.NDArray[np.unsignedinteger[Any]]] = []

    def lay(self, value: int, mask: npt.NDArray[np.bool_]) -> None:
        """Give the voxels (k, j, i) of a mask a value that no structure had before."""
        sheet = next((each for each in self._sheets if not each[mask].any()), None)
        if sheet is None:
            sheet = np.zeros(self._geometry.shape, self._dtype)
            self._sheets.append(sheet)
        sheet[mask] = value

    def made(self) -> tuple[Labels, ...]:
        """The sheets; one where nothing was laid."""
        sheets = self._sheets or [np.zeros(self._geometry.shape, self._dtype)]
        return tuple(Labels(sheet, self._geometry, self._organs, self._source) for sheet in sheets)


def uppermost(planes: tuple[LabelValues, ...]) -> LabelValues:
    """One slice of what lies on top."""
    shown = planes[0]
    for above in planes[1:]:
        shown = np.where(above > 0, above, shown)
    return shown


def stacked_planes(labels: LabelMap) -> Iterator[tuple[LabelValues, ...]]:
    """Yield the slices k = 0, 1, ... of a label map, of each of its sheets."""
    sheets = labels.sheets if isinstance(labels, Sheets) else (labels,)
    return zip(*(sheet.planes() for sheet in sheets), strict=True)
