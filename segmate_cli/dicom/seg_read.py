"""DICOM Segmentation objects as label maps: segmate's and those of others, BINARY or LABELMAP.

Frames are placed as ``seg_grid`` says. What an organ is comes from its code and side, else from the
segment's label. pydicom's values are used, never quoted: a file names a patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

from segmate_cli.dicom.malformed import MALFORMED
from segmate_cli.dicom.objects import check_inflated, organ_by_code, quiet
from segmate_cli.dicom.seg_grid import Frames, Grid, frames_of, grid_of, grid_on
from segmate_cli.errors import GeometryError, InputError, UnreadableError
from segmate_cli.geometry import Geometry
from segmate_cli.organs import Organ, foreign_organ
from segmate_cli.placement import placed_on
from segmate_cli.sheets import SheetMaker, Sheets
from segmate_cli.upright import on_slices
from segmate_cli.volume import DicomSource, Labels

_BINARY_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"
_LABELMAP_CLASS = "1.2.840.10008.5.1.4.1.1.66.7"
_BACKGROUND = "125040"
_ENDS = {
    "SI": frozenset({"superior", "inferior"}),
    "LR": frozenset({"left", "right"}),
    "AP": frozenset({"anterior", "posterior"}),
}
_BROKEN = (*MALFORMED, InvalidDicomError, BytesLengthException)


@dataclass(frozen=True, slots=True)
class SegFile:
    """A SEG whose frames have been placed, but not its pixels read.

    Attributes:
        path: The file.
        organs: What its segment numbers mean.
        source: The series that was segmented, as far as it tells.
    """

    path: Path
    organs: dict[int, Organ]
    source: DicomSource | None
    _placed: Grid | GeometryError
    _frames: Frames
    _seg: Dataset

    @property
    def grid(self) -> Grid:
        """Its slices; see ``grid_of``.

        Raises:
            GeometryError: The file alone does not tell how they lie.
        """
        if isinstance(self._placed, GeometryError):
            raise self._placed
        return self._placed

    def on(self, scan: Geometry) -> SegFile:
        """The same on a scan's slices, where its frames lie on them."""
        grid = grid_on(self._frames, scan)
        return self if grid is None else replace(self, _placed=grid)

    def labels(self) -> Labels:
        """All segments as one label map; values are segment numbers.

        Raises:
            UnreadableError: Damaged pixels.
            InputError: Segments that overlap.
        """
        found = self._joined()
        if found is None:
            raise InputError(
                f"{self.path}: its segments overlap, which label maps cannot hold; export them "
                "one by one."
            )
        return found

    def sheets(self, scan: Geometry | None = None) -> Sheets:
        """All segments, on one label map or, where they overlap, on several.

        Without the scan, its ends may not be known.

        Args:
            scan: Where the scan's voxels lie, to put them there.

        Raises:
            UnreadableError: Damaged pixels.
            GeometryError: The scan lies elsewhere.
        """
        placed = self if scan is None else self.on(scan)
        joined = placed._joined()
        sheets = (joined,) if joined is not None else placed._overlapping()
        if scan is None:
            known = self.grid.ends_known
            return Sheets(sheets, frozenset() if known else _ends(self.grid.geometry))
        lacks = not placed.grid.ends_known
        return Sheets(
            tuple(placed_on(on_slices(each, scan), scan, lacks_slices=lacks) for each in sheets)
        )

    def _overlapping(self) -> tuple[Labels, ...]:
        """Sheets of which each organ has one; segments that mean one organ are one."""
        made = SheetMaker(self.grid.geometry, self.organs, self.source)
        for key in dict.fromkeys(organ.key for organ in self.organs.values()):
            numbers = [n for n, each in self.organs.items() if each.key == key]
            mask = np.zeros(self.grid.geometry.shape, np.bool_)
            with _readable(self.path), quiet():
                for n, pixels in self._pixels({*numbers}):
                    mask[self.grid.plane_of[n]] |= pixels > 0
            made.lay(numbers[0], mask)
        return made.made()

    def _joined(self) -> Labels | None:
        """One label map, or None where segments overlap."""
        with _readable(self.path), quiet():
            highest = max(int(item.SegmentNumber) for item in self._seg.SegmentSequence)
            dtype = np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16
            values = np.zeros(self.grid.geometry.shape, dtype)
            own = self._frames.segments
            for n, pixels in self._pixels():
                plane = values[self.grid.plane_of[n]]
                inside = pixels > 0
                if plane[inside].any():
                    return None
                plane[inside] = pixels[inside] if own is None else own[n]
        return Labels(values, self.grid.geometry, self.organs, self.source)

    def _pixels(
        self, numbers: Set[int] | None = None
    ) -> Iterator[tuple[int, npt.NDArray[np.unsignedinteger[Any]]]]:
        """(index, pixels) of each frame, or of those of some segments."""
        from pydicom.pixels import iter_pixels

        own = self._frames.segments
        chosen = list(range(len(self.grid.plane_of)))
        if numbers is not None and own is not None:
            chosen = [n for n in chosen if own[n] in numbers]
        if chosen:
            frames = iter_pixels(self._seg, raw=True, indices=chosen)
            yield from zip(chosen, frames, strict=True)


def open_seg(path: Path, names: dict[int, Organ] | None = None) -> SegFile:
    """Open a DICOM SEG.

    Args:
        path: The file.
        names: What the segment numbers mean; by default as the file says.

    Raises:
        UnreadableError: No SEG, damaged, or of a kind that is no label map (fractional).
        GeometryError: Frames of more than one orientation. Such as form no even stack are refused
            later, unless they lie on a scan's slices.
    """
    with _readable(path), quiet():
        check_inflated(path)
        seg = pydicom.dcmread(path)
        _check_kind(path, seg)
        frames = frames_of(path, seg)
        return SegFile(
            path, names or _organs(seg), _source(path, seg), _placed(path, frames), frames, seg
        )


def _placed(path: Path, frames: Frames) -> Grid | GeometryError:
    try:
        return grid_of(path, frames)
    except GeometryError as error:
        return error


def read_seg(path: Path, names: dict[int, Organ] | None = None) -> Labels:
    """Read a DICOM SEG as a label map; see ``open_seg`` and ``SegFile.labels``."""
    return open_seg(path, names).labels()


def _ends(geometry: Geometry) -> frozenset[str]:
    """The faces below the first frame and behind the last."""
    return next(ends for letters, ends in _ENDS.items() if geometry.directions[0] in letters)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise UnreadableError(
            f"{path}: damaged, cut off, or no DICOM SEG that segmate can read; copy it again."
        ) from error


def _check_kind(path: Path, seg: Dataset) -> None:
    if seg.get("SOPClassUID") not in (_BINARY_CLASS, _LABELMAP_CLASS):
        raise UnreadableError(f"{path}: a DICOM file, but no SEG; give a label map.")
    if seg.get("SegmentationType") not in ("BINARY", "LABELMAP"):
        raise UnreadableError(
            f"{path}: a SEG of fractions, not of labels; export it as a BINARY one."
        )
    if not seg.get("PerFrameFunctionalGroupsSequence"):
        raise UnreadableError(f"{path}: a SEG without frames; export it again.")


def _source(path: Path, seg: Dataset) -> DicomSource | None:
    """The series that was segmented, as far as the SEG tells; ``path`` is the SEG's own."""
    series = seg.get("ReferencedSeriesSequence") or [Dataset()]
    if not series[0].get("SeriesInstanceUID"):
        return None
    listed = series[0].get("ReferencedInstanceSequence") or [Dataset()]
    return DicomSource(
        path=path,
        study_uid=str(seg.get("StudyInstanceUID", "")) or None,
        series_uid=str(series[0].SeriesInstanceUID),
        frame_of_reference_uid=str(seg.get("FrameOfReferenceUID", "")) or None,
        sop_class_uid=str(listed[0].get("ReferencedSOPClassUID", "")),
        sop_instance_uids=tuple(str(item.get("ReferencedSOPInstanceUID", "")) for item in listed),
        files=(),
    )


def _organs(seg: Dataset) -> dict[int, Organ]:
    found: dict[int, Organ] = {}
    for item in seg.SegmentSequence:
        kind = (item.get("SegmentedPropertyTypeCodeSequence") or [Dataset()])[0]
        if str(kind.get("CodeValue", "")) == _BACKGROUND:
            continue
        number = int(item.SegmentNumber)
        label = str(item.get("SegmentLabel") or f"segment_{number}").strip()
        found[number] = organ_by_code(kind) or foreign_organ(label, number)
    return found
