"""Where the frames of a DICOM SEG lie, and the grid of slices that they are of.

Frames are placed by position. How far slices are apart, and how many there are before the first
frame and behind the last, is told by positions and by the list of sources, and by what the file
claims only where that agrees: tools copy claims from the source, and empty frames are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from segmate_cli.dicom.stack import EVEN_SHARE, SAME_DIRECTION
from segmate_cli.errors import GeometryError
from segmate_cli.geometry import Geometry

_SAME_PLACE_MM = 1e-2
_MOST_PLANES = 10_000
# Share of a pixel by which a frame may lie sideways of a scan's slice.
_SIDEWAYS_PIXELS = 0.25


@dataclass(frozen=True, slots=True)
class Frames:
    """Where frames lie and what they show.

    Attributes:
        places: (n, 3) ImagePositionPatient.
        segments: Segment number of each; None for a LABELMAP, whose pixels tell.
        sources: SOPInstanceUID of the slice each was made on, or "".
        listed: SOPInstanceUIDs of the slices that the SEG was made on, in its order.
        row, column: Unit vectors along which column and row index grow.
        size: Rows and columns.
        pixel_mm: Distances between rows and between columns.
        step_mm: Distance between slices as the file says, or None.
        thickness_mm: Of a slice as the file says, or None.
        is_own: Whether segmate wrote it, and so lists all slices of the scan, upwards.
    """

    places: npt.NDArray[np.float64]
    segments: tuple[int, ...] | None
    sources: tuple[str, ...]
    listed: tuple[str, ...]
    row: npt.NDArray[np.float64]
    column: npt.NDArray[np.float64]
    size: tuple[int, int]
    pixel_mm: tuple[float, float]
    step_mm: float | None
    thickness_mm: float | None
    is_own: bool

    @property
    def along(self) -> npt.NDArray[np.float64]:
        """(n,) millimetres along the normal."""
        return np.asarray(self.places @ np.cross(self.row, self.column))


@dataclass(frozen=True, slots=True)
class Grid:
    """The slices of a SEG.

    Attributes:
        geometry: Where they lie.
        plane_of: (n,) slice of each frame.
        ends_known: Whether the first and last slice are the scan's.
    """

    geometry: Geometry
    plane_of: npt.NDArray[np.intp]
    ends_known: bool


def frames_of(path: Path, seg: Dataset) -> Frames:
    """Read where frames lie.

    Raises:
        GeometryError: They have more than one orientation.
        Other errors of ``malformed.MALFORMED``: Attributes that are missing or no numbers.
    """
    shared = seg.SharedFunctionalGroupsSequence[0]
    frames = list(seg.PerFrameFunctionalGroupsSequence)
    groups = [{**_groups(shared), **_groups(frame)} for frame in frames]
    orientations = np.array(
        [group["PlaneOrientationSequence"].ImageOrientationPatient for group in groups],
        dtype=np.float64,
    )
    if np.abs(orientations - orientations[0]).max() > SAME_DIRECTION:
        raise GeometryError(f"{path}: its frames have more than one orientation.")
    measures = groups[0]["PixelMeasuresSequence"]
    row, column = orientations[0].reshape(2, 3)
    segments = None
    if seg.SegmentationType == "BINARY":
        identified = (group["SegmentIdentificationSequence"] for group in groups)
        segments = tuple(int(each.ReferencedSegmentNumber) for each in identified)
    return Frames(
        places=np.array(
            [group["PlanePositionSequence"].ImagePositionPatient for group in groups],
            dtype=np.float64,
        ),
        segments=segments,
        sources=tuple(map(_source_of, frames)),
        listed=_listed(seg),
        row=row / np.linalg.norm(row),
        column=column / np.linalg.norm(column),
        size=(int(seg.Rows), int(seg.Columns)),
        pixel_mm=(float(measures.PixelSpacing[0]), float(measures.PixelSpacing[1])),
        step_mm=_length_mm(measures, "SpacingBetweenSlices"),
        thickness_mm=_length_mm(measures, "SliceThickness"),
        is_own=seg.get("Manufacturer") == "segmate",
    )


def _groups(item: Dataset) -> dict[str, Dataset]:
    return {each.keyword: each.value[0] for each in item if each.VR == "SQ" and each.value}


def _length_mm(measures: Dataset, keyword: str) -> float | None:
    length = float(measures.get(keyword) or 0)
    return length if length > 0 else None


def _source_of(frame: Dataset) -> str:
    derivation = frame.get("DerivationImageSequence") or [Dataset()]
    images = derivation[0].get("SourceImageSequence") or [Dataset()]
    return str(images[0].get("ReferencedSOPInstanceUID", ""))


def _listed(seg: Dataset) -> tuple[str, ...]:
    series = seg.get("ReferencedSeriesSequence") or [Dataset()]
    listed = series[0].get("ReferencedInstanceSequence") or []
    return tuple(str(item.ReferencedSOPInstanceUID) for item in listed)


def grid_of(path: Path, frames: Frames) -> Grid:
    """The grid of slices, by what the SEG alone tells.

    It reaches over all slices that the SEG was made on where it lists them in order, as segmate's
    does, else from its first to its last frame. Only where it lists slices without frames, too, as
    segmate always does, may slices be uneven; those are taken to lie evenly between the others.

    Raises:
        GeometryError: Frames that form no even stack.
    """
    along = frames.along
    first, last = int(along.argmin()), int(along.argmax())
    step_mm = _step_mm(frames)
    planes = np.rint((along - along[first]) / step_mm).astype(np.intp)
    count = int(planes.max()) + 1
    step = np.cross(frames.row, frames.column) * step_mm
    if count > 1:
        step = (frames.places[last] - frames.places[first]) / (count - 1)
    off = frames.places - frames.places[first] - planes[:, None] * step
    even = count <= _MOST_PLANES and np.linalg.norm(off, axis=1).max() <= EVEN_SHARE * step_mm
    slices = _slices_listed(frames)
    agree = slices is not None and len(set(slices - planes)) == 1
    # Others may list the slices that have frames: then a jump among them is no gap in the scan.
    all_listed = frames.is_own or set(frames.listed) != set(frames.sources)
    # Of their claims of even slices nothing is kept; segmate makes none where they are not.
    claims = frames.is_own and frames.step_mm is not None
    if slices is not None and not (even and agree) and all_listed and not claims:
        return Grid(_uneven(frames, slices), slices, ends_known=True)
    if not even:
        raise GeometryError(
            f"{path}: its frames form no even stack of slices; give the scan with --ct."
        )
    before, total = 0, count
    if slices is not None and agree:
        before, total = int(slices[0] - planes[0]), len(frames.listed)
    affine = _affine(frames, step, frames.places[first] - before * step)
    return Grid(Geometry(affine, (total, *frames.size)), planes + before, agree and all_listed)


def grid_on(frames: Frames, scan: Geometry) -> Grid | None:
    """The slices of a scan as the grid, where every frame lies on one of them; else None."""
    if scan.shape[1:] != frames.size:
        return None
    far = frames.column * frames.pixel_mm[0] * (frames.size[0] - 1)
    far = far + frames.row * frames.pixel_mm[1] * (frames.size[1] - 1)
    planes = np.rint(scan.to_index(frames.places)[:, 0]).astype(np.intp)
    if planes.min() < 0 or planes.max() >= scan.shape[0]:
        return None
    for corner, offset in (((0, 0), 0.0), ((frames.size[0] - 1, frames.size[1] - 1), far)):
        off = scan.to_index(frames.places + offset)
        off -= np.column_stack([planes, np.tile(corner, (len(planes), 1))])
        if np.abs(off[:, 0]).max() > EVEN_SHARE or np.abs(off[:, 1:]).max() > _SIDEWAYS_PIXELS:
            return None
    return Grid(scan, planes, ends_known=True)


def _step_mm(frames: Frames) -> float:
    """Distance between slices: by places and sources, by what the file says if that fits them."""
    apart = np.diff(np.sort(frames.along))
    apart = apart[apart > _SAME_PLACE_MM]
    if not apart.size:
        return _single_mm(frames)
    least_mm = float(apart.min())
    if (by_sources := _step_by_sources(frames)) is not None:
        return by_sources
    if frames.step_mm is not None:
        ratio = least_mm / frames.step_mm
        if round(ratio) >= 1 and abs(ratio - round(ratio)) <= EVEN_SHARE:
            return frames.step_mm
    return least_mm


def _single_mm(frames: Frames) -> float:
    """How much a single slice stands for."""
    step_mm, thickness_mm = frames.step_mm, frames.thickness_mm
    if thickness_mm is None and step_mm is None:
        raise ValueError("neither thickness nor distance of slices")
    if step_mm is None or (thickness_mm is not None and step_mm > 2 * thickness_mm):
        return float(thickness_mm or 0)
    return step_mm


def _step_by_sources(frames: Frames) -> float | None:
    """By how many listed slices lie between the outermost frames; None where that misfits."""
    rank = _ranks(frames.sources, {uid: n for n, uid in enumerate(frames.listed)})
    if rank is None:
        return None
    along = frames.along
    first, last = int(along.argmin()), int(along.argmax())
    between = abs(int(rank[last] - rank[first]))
    if between == 0:
        return None
    step_mm = float(along[last] - along[first]) / between
    off_mm = along - along[first] - np.abs(rank - rank[first]) * step_mm
    return step_mm if np.abs(off_mm).max() <= EVEN_SHARE * step_mm else None


def _slices_listed(frames: Frames) -> npt.NDArray[np.intp] | None:
    """Number of each frame's slice among those listed; None where they are in no order.

    They may be listed upwards or downwards, which a single slice does not tell.
    """
    along = frames.along
    order = np.argsort(along, kind="stable")
    apart = np.diff(along[order])
    if not (apart > _SAME_PLACE_MM).any() and not frames.is_own and len(frames.listed) > 1:
        return None
    for listed in (frames.listed, frames.listed[::-1]):
        slices = _ranks(frames.sources, {uid: n for n, uid in enumerate(listed)})
        if slices is None:
            return None
        steps = np.diff(slices[order])
        if (((apart > _SAME_PLACE_MM) == (steps > 0)) & (steps >= 0)).all():
            return slices
    return None


def _ranks(sources: tuple[str, ...], index: Mapping[str, int]) -> npt.NDArray[np.intp] | None:
    if not all(source in index for source in sources):
        return None
    return np.array([index[source] for source in sources], dtype=np.intp)


def _uneven(frames: Frames, slices: npt.NDArray[np.intp]) -> Geometry:
    """Uneven slices, as far as frames tell of them."""
    total = len(frames.listed)
    known, at = np.unique(slices, return_index=True)
    places = np.empty((total, 3))
    for axis in range(3):
        along = frames.places[at, axis]
        places[:, axis] = np.interp(np.arange(total), known, along)
        for end, inner in ((slice(None, known[0]), 0), (slice(known[-1] + 1, None), -2)):
            # Beyond the frames as far apart as the outermost two.
            slope = (along[inner + 1] - along[inner]) / (known[inner + 1] - known[inner])
            nearest = 0 if inner == 0 else -1
            beyond = np.arange(total)[end] - known[nearest]
            places[end, axis] = along[nearest] + beyond * slope
    affine = _affine(frames, (places[-1] - places[0]) / (total - 1), places[0])
    return Geometry(affine, (total, *frames.size), places)


def _affine(
    frames: Frames, step: npt.NDArray[np.float64], origin: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = frames.column * frames.pixel_mm[0]
    affine[:3, 2] = frames.row * frames.pixel_mm[1]
    affine[:3, 3] = origin
    return affine
