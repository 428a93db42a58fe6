"""DICOM Segmentation objects as label maps: segmate's and those of others, BINARY or LABELMAP.

Frames are placed by position alone. What an organ is comes from its code and side, else from the
segment's label. pydicom's values are used, never quoted: a file names a patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

from segmate_cli.dicom.header import MALFORMED
from segmate_cli.dicom.objects import check_inflated, organ_by_code, quiet
from segmate_cli.errors import GeometryError, InputError, UnreadableError
from segmate_cli.geometry import Geometry
from segmate_cli.organs import Organ, foreign_organ
from segmate_cli.volume import DicomSource, Labels

_BINARY_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"
_LABELMAP_CLASS = "1.2.840.10008.5.1.4.1.1.66.7"
_BACKGROUND = "125040"
# As the reader of scans: a share of the step by which a frame may lie off its even place.
_EVEN_SHARE = 0.1
_SAME_PLACE_MM = 1e-2
_MOST_PLANES = 10_000
_SAME_DIRECTION = 2e-3
_BROKEN = (*MALFORMED, InvalidDicomError, BytesLengthException)


@dataclass(frozen=True, slots=True)
class _Frames:
    """Where frames lie and what they show.

    Attributes:
        places: (n, 3) ImagePositionPatient.
        segments: Segment number of each; None for a LABELMAP, whose pixels tell.
        sources: SOPInstanceUID of the slice each was made on, or "".
        row, column: Unit vectors along which column and row index grow.
        pixel_mm: Distances between rows and between columns.
        step_mm: Distance between slices as the file says, or None.
    """

    places: npt.NDArray[np.float64]
    segments: tuple[int, ...] | None
    sources: tuple[str, ...]
    row: npt.NDArray[np.float64]
    column: npt.NDArray[np.float64]
    pixel_mm: tuple[float, float]
    step_mm: float | None


def read_seg(path: Path, names: dict[int, Organ] | None = None) -> Labels:
    """Read a DICOM SEG as a label map; values are segment numbers.

    The grid reaches over all slices that the SEG was made on where it lists them in order, as
    segmate's does, else from its first to its last frame. Only where it lists them may slices be
    uneven; those without a frame are then taken to lie evenly between the others.

    Args:
        path: The file.
        names: What the segment numbers mean; by default as the file says.

    Raises:
        UnreadableError: No SEG, damaged, or of a kind that is no label map (fractional).
        GeometryError: Frames that form no even stack.
        InputError: Segments that overlap.
    """
    try:
        with quiet():
            check_inflated(path)
            seg = pydicom.dcmread(path)
            _check_kind(path, seg)
            frames = _frames_of(path, seg)
            geometry, plane_of = _grid(path, seg, frames)
            values = _fill(path, seg, frames, plane_of, geometry.shape)
            return Labels(values, geometry, names or _organs(seg), _source(path, seg))
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


def _frames_of(path: Path, seg: Dataset) -> _Frames:
    shared = seg.SharedFunctionalGroupsSequence[0]
    frames = list(seg.PerFrameFunctionalGroupsSequence)
    groups = [{**_groups(shared), **_groups(frame)} for frame in frames]
    orientations = np.array(
        [group["PlaneOrientationSequence"].ImageOrientationPatient for group in groups],
        dtype=np.float64,
    )
    if np.abs(orientations - orientations[0]).max() > _SAME_DIRECTION:
        raise GeometryError(f"{path}: its frames have more than one orientation.")
    measures = groups[0]["PixelMeasuresSequence"]
    row, column = orientations[0].reshape(2, 3)
    places = [group["PlanePositionSequence"].ImagePositionPatient for group in groups]
    segments = None
    if seg.SegmentationType == "BINARY":
        identified = (group["SegmentIdentificationSequence"] for group in groups)
        segments = tuple(int(each.ReferencedSegmentNumber) for each in identified)
    step_mm = float(measures.get("SpacingBetweenSlices") or 0)
    return _Frames(
        places=np.array(places, dtype=np.float64),
        segments=segments,
        sources=tuple(map(_source_of, frames)),
        row=row / np.linalg.norm(row),
        column=column / np.linalg.norm(column),
        pixel_mm=(float(measures.PixelSpacing[0]), float(measures.PixelSpacing[1])),
        step_mm=step_mm if step_mm > 0 else None,
    )


def _groups(item: Dataset) -> dict[str, Dataset]:
    return {each.keyword: each.value[0] for each in item if each.VR == "SQ" and each.value}


def _source_of(frame: Dataset) -> str:
    derivation = frame.get("DerivationImageSequence") or [Dataset()]
    images = derivation[0].get("SourceImageSequence") or [Dataset()]
    return str(images[0].get("ReferencedSOPInstanceUID", ""))


def _grid(path: Path, seg: Dataset, frames: _Frames) -> tuple[Geometry, npt.NDArray[np.intp]]:
    """The geometry, and the plane on which each frame lies."""
    along = frames.places @ np.cross(frames.row, frames.column)
    first, last = int(along.argmin()), int(along.argmax())
    step_mm = frames.step_mm or _least_step_mm(along) or _thickness_mm(seg)
    planes = np.rint((along - along[first]) / step_mm).astype(np.intp)
    count = int(planes.max()) + 1
    step = np.cross(frames.row, frames.column) * step_mm
    if count > 1:
        step = (frames.places[last] - frames.places[first]) / (count - 1)
    off = frames.places - frames.places[first] - planes[:, None] * step
    even = count <= _MOST_PLANES and np.linalg.norm(off, axis=1).max() <= _EVEN_SHARE * step_mm
    slices = _slices_listed(seg, frames)
    agree = slices is not None and len(set(slices - planes)) == 1
    # Others list the slices that have frames, so that a jump among them is no gap in the scan.
    own = seg.get("Manufacturer") == "segmate" and frames.step_mm is None
    if slices is not None and not (even and agree) and own:
        return _uneven(seg, frames, slices, len(_listed(seg)))
    if not even:
        raise GeometryError(f"{path}: its frames form no even stack of slices.")
    before, total = 0, count
    if slices is not None and agree:
        before, total = int(slices[0] - planes[0]), len(_listed(seg))
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = frames.column * frames.pixel_mm[0]
    affine[:3, 2] = frames.row * frames.pixel_mm[1]
    affine[:3, 3] = frames.places[first] - before * step
    shape = (total, int(seg.Rows), int(seg.Columns))
    return Geometry(affine, shape), planes + before


def _least_step_mm(along: npt.NDArray[np.float64]) -> float | None:
    apart = np.diff(np.sort(along))
    apart = apart[apart > _SAME_PLACE_MM]
    return float(apart.min()) if apart.size else None


def _thickness_mm(seg: Dataset) -> float:
    """Of a single slice, for want of a distance to the next."""
    measures = _groups(seg.SharedFunctionalGroupsSequence[0])["PixelMeasuresSequence"]
    return float(measures.SliceThickness)


def _listed(seg: Dataset) -> list[str]:
    """SOPInstanceUIDs of the slices that the SEG was made on, in its order."""
    series = seg.get("ReferencedSeriesSequence") or [Dataset()]
    listed = series[0].get("ReferencedInstanceSequence") or []
    return [str(item.ReferencedSOPInstanceUID) for item in listed]


def _slices_listed(seg: Dataset, frames: _Frames) -> npt.NDArray[np.intp] | None:
    """Number of each frame's slice among those listed; None where they are not in order."""
    index = {uid: n for n, uid in enumerate(_listed(seg))}
    if not all(source in index for source in frames.sources):
        return None
    slices = np.array([index[source] for source in frames.sources], dtype=np.intp)
    along = frames.places @ np.cross(frames.row, frames.column)
    order = np.argsort(along, kind="stable")
    apart, steps = np.diff(along[order]), np.diff(slices[order])
    in_order = ((apart > _SAME_PLACE_MM) == (steps > 0)) & (steps >= 0)
    return slices if in_order.all() else None


def _uneven(
    seg: Dataset, frames: _Frames, slices: npt.NDArray[np.intp], total: int
) -> tuple[Geometry, npt.NDArray[np.intp]]:
    """The geometry of uneven slices, as far as frames tell of them, and the frames' slices."""
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
    affine = np.eye(4)
    affine[:3, 0] = (places[-1] - places[0]) / (total - 1)
    affine[:3, 1] = frames.column * frames.pixel_mm[0]
    affine[:3, 2] = frames.row * frames.pixel_mm[1]
    affine[:3, 3] = places[0]
    return Geometry(affine, (total, int(seg.Rows), int(seg.Columns)), places), slices


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


def _fill(
    path: Path,
    seg: Dataset,
    frames: _Frames,
    plane_of: npt.NDArray[np.intp],
    shape: tuple[int, int, int],
) -> npt.NDArray[np.unsignedinteger[Any]]:
    from pydicom.pixels import iter_pixels

    highest = max(int(item.SegmentNumber) for item in seg.SegmentSequence)
    values = np.zeros(shape, dtype=np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16)
    for n, pixels in enumerate(iter_pixels(seg, raw=True)):
        plane = values[plane_of[n]]
        inside = pixels > 0
        if plane[inside].any():
            raise InputError(
                f"{path}: its segments overlap, which label maps cannot hold; export them one by "
                "one."
            )
        plane[inside] = pixels[inside] if frames.segments is None else frames.segments[n]
    return values


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
