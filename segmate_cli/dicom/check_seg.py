"""What is wrong with a DICOM SEG; see ``check``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from pydicom.dataset import Dataset

from segmate_cli.dicom.check_common import (
    Finding,
    Sources,
    missing_sources,
    off_source,
    places,
    referred,
)

_DEFLATED = "1.2.840.10008.1.2.1.99"
_RAW = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_NO_LABELMAP = "3D Slicer without dcmqi 1.5, DCMTK 3.6, itk-wasm, pydicom-seg"


def check_seg(seg: Dataset, sources: Sources | None) -> Iterator[Finding]:
    """Everything about a SEG that segmate can tell itself."""
    yield from _kind(seg)
    yield from _pixels(seg)
    yield from _segments(seg)
    yield from _frames(seg, sources)
    if not seg.get("FrameOfReferenceUID"):
        yield Finding("error", "FrameOfReferenceUID", "is missing", "all")


def _kind(seg: Dataset) -> Iterator[Finding]:
    kind, syntax = seg.get("SegmentationType"), str(seg.file_meta.TransferSyntaxUID)
    if kind == "LABELMAP":
        yield Finding("warning", "SegmentationType", "is LABELMAP", _NO_LABELMAP)
    if kind == "FRACTIONAL":
        what = "is FRACTIONAL: probabilities, not labels"
        yield Finding("warning", "SegmentationType", what, "readers of label maps")
    if syntax == _DEFLATED:
        yield Finding("warning", "TransferSyntaxUID", "is deflated", "itk-wasm, dciodvfy")
    elif kind == "BINARY" and syntax not in _RAW:
        yield Finding("warning", "TransferSyntaxUID", "packs the bits", "dcmqi, 3D Slicer, OHIF")


def _pixels(seg: Dataset) -> Iterator[Finding]:
    frames = int(seg.get("NumberOfFrames") or 0)
    described = len(seg.get("PerFrameFunctionalGroupsSequence") or [])
    if frames != described:
        what = f"is {frames}, while {described} frames are described"
        yield Finding("error", "NumberOfFrames", what, "all")
    if "PixelData" not in seg:
        yield Finding("error", "PixelData", "is missing", "all")
    elif str(seg.file_meta.TransferSyntaxUID) in (*_RAW, _DEFLATED):
        bits = int(seg.Rows) * int(seg.Columns) * frames * int(seg.BitsAllocated)
        whole = -(-bits // 8)
        if len(seg.PixelData) not in (whole, whole + whole % 2):
            what = f"has {len(seg.PixelData)} bytes, while frames need {whole}"
            yield Finding("error", "PixelData", what, "all")
        elif whole % 2:
            yield Finding("note", "PixelData", "is padded by a byte", "OHIF (adapters 5.14)")


def _segments(seg: Dataset) -> Iterator[Finding]:
    numbers = [int(item.get("SegmentNumber") or 0) for item in seg.get("SegmentSequence") or []]
    if not numbers:
        yield Finding("error", "SegmentSequence", "has no segment", "all")
    first = 0 if seg.get("SegmentationType") == "LABELMAP" and 0 in numbers else 1
    if seg.get("SegmentationType") == "BINARY" and numbers != list(
        range(first, first + len(numbers))
    ):
        what = "numbers its segments otherwise than 1, 2, 3 ..."
        yield Finding("error", "SegmentSequence", what, "highdicom, OHIF")
    for number, item in zip(numbers, seg.get("SegmentSequence") or [], strict=True):
        where = f"segment {number}"
        for name in ("Category", "Type"):
            codes = item.get(f"SegmentedProperty{name}CodeSequence") or [Dataset()]
            if not codes[0].get("CodeValue") or not codes[0].get("CodingSchemeDesignator"):
                what = f"has no code of its property's {name.lower()}"
                yield Finding("error", where, what, "dcmqi, 3D Slicer")
        if not item.get("SegmentLabel"):
            yield Finding("error", where, "has no SegmentLabel", "OHIF, 3D Slicer")
        if number and not item.get("RecommendedDisplayCIELabValue"):
            yield Finding("note", where, "has no colour, so that readers choose one")


def _frames(seg: Dataset, sources: Sources | None) -> Iterator[Finding]:
    shared = (seg.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    frames = list(seg.get("PerFrameFunctionalGroupsSequence") or [])
    listed = _listed(seg)
    if not listed:
        yield Finding("error", "ReferencedSeriesSequence", "lists no slice", "OHIF, 3D Slicer")
    orientations = [_group(one, shared, "PlaneOrientation") for one in frames]
    positions = [one.get("PlanePositionSequence") or [Dataset()] for one in frames]
    spots = [one[0].get("ImagePositionPatient") for one in positions]
    turns = [one.get("ImageOrientationPatient") for one in orientations]
    if not all(spots) or not all(turns):
        what = "have no position or orientation"
        yield Finding("error", "frames", what, "all but tools that ask the source")
        return
    if not frames:
        return
    row, column = np.array(turns[0], dtype=np.float64).reshape(2, 3)
    if abs(row @ column) + abs(row @ row - 1) + abs(column @ column - 1) > 1e-3:
        yield Finding("error", "ImageOrientationPatient", "is no pair of right angles", "all")
    if len({tuple(map(float, turn)) for turn in turns}) > 1:
        yield Finding("warning", "frames", "have several orientations", "dcmqi, 3D Slicer")
    yield from places("frames", np.cross(row, column), np.array(spots, dtype=np.float64))
    yield from _numbers(seg, frames, spots)
    images = [_source_of(frame) for frame in frames]
    named = [str(image.get("ReferencedSOPInstanceUID", "")) for image in images]
    if not all(named):
        what = f"{named.count('')} of {len(frames)} name no source slice"
        yield Finding("warning", "frames", what, "OHIF, highdicom, by source")
    by_uid = {uid: f"frame {n}" for n, uid in enumerate(named, start=1) if uid}
    yield from missing_sources(by_uid, listed, sources)
    for n, (image, spot, turn) in enumerate(zip(images, spots, turns, strict=True), start=1):
        header = referred(image, sources)
        if header and (why := off_source(spot, turn, header)):
            yield Finding("error", f"frame {n}", why, "all, silently")


def _numbers(
    seg: Dataset, frames: list[Dataset], spots: Sequence[Sequence[float]]
) -> Iterator[Finding]:
    """Frames by segment: of none, twice, or a segment without any."""
    if seg.get("SegmentationType") != "BINARY":
        return
    known = {int(item.SegmentNumber) for item in seg.SegmentSequence}
    shared = (seg.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    shown: Counter[int] = Counter()
    at: Counter[tuple[float, ...]] = Counter()
    for frame, spot in zip(frames, spots, strict=True):
        number = int(
            _group(frame, shared, "SegmentIdentification").get("ReferencedSegmentNumber", 0)
        )
        shown[number] += 1
        key = (number, *map(float, spot))
        at[key] += 1
    for number in sorted(set(shown) - known):
        yield Finding("error", "frames", f"show segment {number}, which is not described", "all")
    for number in sorted(known - set(shown)):
        yield Finding("note", f"segment {number}", "has no frame, so is empty")
    doubled = sum(count > 1 for count in at.values())
    if doubled:
        yield Finding(
            "error", "frames", f"{doubled} lie where another of their segment does", "all"
        )


def _group(frame: Dataset, shared: Dataset, name: str) -> Dataset:
    items = frame.get(f"{name}Sequence") or shared.get(f"{name}Sequence") or [Dataset()]
    first: Dataset = items[0]
    return first


def _source_of(frame: Dataset) -> Dataset:
    derivation = frame.get("DerivationImageSequence") or [Dataset()]
    images = derivation[0].get("SourceImageSequence") or [Dataset()]
    first: Dataset = images[0]
    return first


def _listed(seg: Dataset) -> set[str]:
    series = seg.get("ReferencedSeriesSequence") or []
    return {
        str(item.get("ReferencedSOPInstanceUID", ""))
        for one in series
        for item in one.get("ReferencedInstanceSequence") or []
    }
