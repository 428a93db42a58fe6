"""Label maps as DICOM Segmentation objects on the source's own frames (PS3.3 A.51), by highdicom.

The same labels on the same series give the same bytes: UIDs are derived (see ``dicom_uids``) and
times are the source's. highdicom never sees the patient: those attributes are put in as raw bytes
afterwards, since it would check them, and name them in its log.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import numpy.typing as npt
import pydicom
from highdicom.color import CIELabColor
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset

from segmate_cli import __version__, files
from segmate_cli.dicom.objects import (
    ANATOMY,
    ARTIFICIAL_INTELLIGENCE,
    add_patient,
    algorithm_of,
    drop_the_clock,
    facts_of,
    model_of,
    quiet,
    segment_numbers,
    side_codes,
    source_image,
    stand_in_uid,
    tracking_uids,
    type_code,
)
from segmate_cli.dicom.reference import Reference, SegOptions
from segmate_cli.dicom.uids import UidMaker
from segmate_cli.errors import GeometryError, NothingFoundError
from segmate_cli.volume import LabelMap

SERIES_NUMBER = 300
_EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_RLE = "1.2.840.10008.1.2.5"
_LONG_STRING = 64
_SHORT_TEXT = 960
_SAME_PLACE_MM = 1e-3


def write_seg(
    labels: LabelMap, path: Path, reference: Reference, options: SegOptions | None = None
) -> str:
    """Write a label map as a DICOM SEG.

    Segments are the label map's organs in the order of their values, so a model's n-th organ is
    segment n unless only some were asked for. An organ that was not found is a segment without
    frames.

    Args:
        labels: What was segmented; ``run`` must say by which model.
        path: The file.
        reference: Of ``reference_for``.
        options: See SegOptions.

    Returns:
        sha256 of the label map's voxels: little-endian, in (k, j, i) order.

    Raises:
        NothingFoundError: No voxel has a label; nothing is written.
        UsageError: The labels do not say what made them; a UID root that is none.
        GeometryError: A frame does not lie where its source does.
        InputError: The source cannot be referred to.
        OutputError: The file cannot be written.
    """
    options = options or SegOptions()
    numbers, found, digest = segment_numbers(labels)
    if not found:
        raise NothingFoundError(
            f"{path}: no organ was found, so no DICOM SEG was written (an empty one misleads "
            "readers); look at the scan."
        )
    uids = UidMaker.of(_facts(labels, digest, reference, options), options.uid_root)
    with quiet():
        seg = _build(labels, reference.turn.view(numbers), reference, options, uids)
        del numbers  # a byte a voxel, while writing takes copies of the frames
        _describe_segments(seg, labels, found, reference)
        _refer_to_frames(seg, reference)
        _make_reproducible(seg, uids)
        add_patient(seg, reference.shared)
        check_places(seg, reference)
        if options.compress:
            seg.file_meta.TransferSyntaxUID = _DEFLATED
        with files.write_atomically(path) as stream:
            seg.save_as(stream, enforce_file_format=True)
    return digest


def _facts(
    labels: LabelMap, digest: str, reference: Reference, options: SegOptions
) -> dict[str, Any]:
    """All that decides the object's bytes."""
    return {
        "object": "SEG",
        "writers": [__version__, highdicom.__version__, pydicom.__version__],
        **facts_of(labels, digest, reference),
        "options": [options.seg_type, options.compress],
    }


def _build(
    labels: LabelMap,
    numbers: npt.NDArray[np.unsignedinteger[Any]],
    reference: Reference,
    options: SegOptions,
    uids: UidMaker,
) -> Segmentation:
    model = model_of(labels)
    tracking = tracking_uids(reference.slices[0].series_uid, model, options.uid_root)
    labelmap = options.seg_type == "labelmap"
    return Segmentation(
        source_images=[source_image(one) for one in reference.slices],
        pixel_array=np.ascontiguousarray(numbers),
        segmentation_type=options.seg_type.upper(),
        segment_descriptions=_descriptions(labels, model, tracking),
        series_instance_uid=uids.uid("series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=uids.uid("instance"),
        instance_number=1,
        manufacturer="segmate",
        manufacturer_model_name="segmate",
        software_versions=__version__,
        device_serial_number=model["weights_sha256"][:_LONG_STRING],
        content_label="SEGMATE",
        content_description="Organs segmented by segmate, not reviewed",
        content_creator_name="segmate^",
        content_date=reference.made_at[0],
        content_time=reference.made_at[1],
        series_description="segmate organs",
        # Deflating is of the whole file, so what is deflated is not packed before.
        transfer_syntax_uid=_RLE if labelmap and not options.compress else _EXPLICIT_LITTLE,
        omit_empty_frames=True,
    )


def _descriptions(
    labels: LabelMap, model: dict[str, str], tracking: UidMaker
) -> list[SegmentDescription]:
    name, version = algorithm_of(model)
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=name,
        family=CodedConcept(*ARTIFICIAL_INTELLIGENCE),
        version=version,
        source="segmate",
        parameters={"weights_sha256": model["weights_sha256"]},
    )
    return [
        SegmentDescription(
            segment_number=number,
            segment_label=organ.title[:_LONG_STRING],
            segmented_property_category=CodedConcept(*ANATOMY),
            segmented_property_type=CodedConcept(*type_code(organ)),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            tracking_id=organ.key[:_LONG_STRING],
            tracking_uid=tracking.uid(organ.key),
            display_color=CIELabColor.from_rgb(*organ.rgb),
        )
        for number, (_, organ) in enumerate(sorted(labels.organs.items()), start=1)
    ]


def _describe_segments(
    seg: Segmentation, labels: LabelMap, found: frozenset[int], reference: Reference
) -> None:
    """Add what highdicom has no argument for: sides, organs without a voxel, gaps in the scan."""
    missing = "; ".join(reference.missing)
    gaps = f"Slices of the scan are missing: {missing}"[:_SHORT_TEXT] if missing else ""
    organs = [organ for _, organ in sorted(labels.organs.items())]
    for item in seg.SegmentSequence:
        number = int(item.SegmentNumber)
        if number == 0:  # a label map's background
            continue
        if sides := side_codes(organs[number - 1]):
            kind = item.SegmentedPropertyTypeCodeSequence[0]
            kind.SegmentedPropertyTypeModifierCodeSequence = sides
        if number not in found or gaps:
            absent = "" if number in found else "Not found in this scan"
            item.SegmentDescription = ". ".join(filter(None, (absent, gaps)))


def _refer_to_frames(seg: Segmentation, reference: Reference) -> None:
    """Refer to frames of multi-frame files by the file's UID and their number."""
    slices = {stand_in_uid(one): one for one in reference.slices if one.frame is not None}
    if not slices:
        return
    for frame in seg.PerFrameFunctionalGroupsSequence:
        for source in frame.DerivationImageSequence[0].SourceImageSequence:
            header = slices[str(source.ReferencedSOPInstanceUID)]
            source.ReferencedSOPClassUID = header.sop_class_uid
            source.ReferencedSOPInstanceUID = header.sop_uid
            source.ReferencedFrameNumber = header.frame
    for series in seg.ReferencedSeriesSequence:
        items: dict[str, Dataset] = {}
        for item in series.ReferencedInstanceSequence:
            header = slices[str(item.ReferencedSOPInstanceUID)]
            item.ReferencedSOPClassUID = header.sop_class_uid
            item.ReferencedSOPInstanceUID = header.sop_uid
            items.setdefault(item.ReferencedSOPInstanceUID, item)
        series.ReferencedInstanceSequence = list(items.values())


def _make_reproducible(seg: Segmentation, uids: UidMaker) -> None:
    """Replace what highdicom takes from the clock or from chance."""
    drop_the_clock(seg)
    organization = uids.uid("dimensions")
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization


def check_places(seg: Dataset, reference: Reference) -> None:
    """Check that each frame lies where its source does.

    Raises:
        GeometryError: One does not, or names no source of the series.
    """
    place_of = {(one.sop_uid, one.frame): np.array(one.position_mm) for one in reference.slices}
    for n, frame in enumerate(seg.PerFrameFunctionalGroupsSequence, start=1):
        place = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=np.float64)
        sources = frame.DerivationImageSequence[0].SourceImageSequence
        uids = [
            (str(source.ReferencedSOPInstanceUID), source.get("ReferencedFrameNumber"))
            for source in sources
        ]
        off = [np.linalg.norm(place - place_of[uid]) for uid in uids if uid in place_of]
        if len(off) != 1 or off[0] > _SAME_PLACE_MM:
            raise GeometryError(
                f"frame {n} of the SEG does not lie on its source, so nothing was written; this "
                "is a bug in segmate: please report it."
            )
