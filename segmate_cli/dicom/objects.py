"""What all DICOM objects that segmate writes have in common; no highdicom here."""

from __future__ import annotations

import hashlib
import logging
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.config import disable_value_validation
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.tag import Tag
from pydicom.uid import CTImageStorage
from pydicom.valuerep import DSfloat

from segmate_cli import __version__
from segmate_cli.dicom.header import Header, StoredValues
from segmate_cli.dicom.reference import Reference
from segmate_cli.dicom.uids import UidMaker
from segmate_cli.errors import UnreadableError, UsageError
from segmate_cli.organs import CODE_SCHEME, LATERALITY_CODES, ORGANS, Organ
from segmate_cli.volume import LabelMap

# CID 7150 as pydicom has it; others write 123037004, which SNOMED calls "Body structure".
ANATOMY = ("91723000", CODE_SCHEME, "Anatomical Structure")
ARTIFICIAL_INTELLIGENCE = ("123110", "DCM", "Artificial Intelligence")
_LONG_STRING = 64
_DEFLATED = "1.2.840.10008.1.2.1.99"
_META_AT = 128 + 4 + 12
_CHUNK = 1 << 20
# A bit a voxel: 2000 slices of 512 x 512 with 15 organs are one gigabyte.
_MOST_BYTES = 1 << 30


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom and highdicom from checking, and from quoting, what the source has."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def identity_of(reference: Reference) -> dict[str, Any]:
    """All of a series that decides what an object made of it says; for ``UidMaker.of``."""
    shared = repr(sorted(reference.shared.items())).encode()
    return {
        "turn": repr(reference.turn),
        "slices": [
            repr(replace(one, file="", syntax_uid="", values=StoredValues()))
            for one in reference.slices
        ],
        "shared": hashlib.sha256(shared).hexdigest(),
        "made_at": reference.made_at,
    }


def facts_of(labels: LabelMap, digest: str, reference: Reference) -> dict[str, Any]:
    """All of a label map with this sha256 that decides what an object says; for ``UidMaker.of``."""
    return {
        "model": model_of(labels),
        "organs": {value: repr(organ) for value, organ in labels.organs.items()},
        "voxels": digest,
        **identity_of(reference),
    }


def model_of(labels: LabelMap) -> dict[str, str]:
    """Name, version and hash of the model that made the labels."""
    model = (labels.run or {}).get("model")
    if not isinstance(model, dict):
        raise UsageError(
            "a DICOM object must say which model made it; write what predict returned."
        )
    return {name: str(model[name]) for name in ("name", "version", "weights_sha256")}


def algorithm_of(model: Mapping[str, str]) -> tuple[str, str]:
    """(name, version) by which objects call the model that made the labels."""
    name, version = f"segmate {model['name']}", f"{__version__}, model {model['version']}"
    return name[:_LONG_STRING], version[:_LONG_STRING]


def tracking_uids(series_uid: str, model: Mapping[str, str], root: str | None) -> UidMaker:
    """Maker of tracking UIDs by organ key.

    What is tracked is an organ on a series as a model found it: SEG and SR of one run say the
    same, whether or not they knew of each other.
    """
    facts = {"object": "tracking", "series": series_uid, "model": dict(model)}
    return UidMaker.of(facts, root)


def segment_numbers(
    labels: LabelMap,
) -> tuple[npt.NDArray[np.unsignedinteger[Any]], frozenset[int], str]:
    """Voxels as segment numbers, the numbers that occur, and sha256 of the labels themselves.

    Segments are the label map's organs in the order of their values, from 1.

    Raises:
        UsageError: A voxel's value has no organ.
    """
    order = sorted(labels.organs)
    number_of = np.zeros(np.iinfo(labels.dtype).max + 1, dtype=np.uint16)
    number_of[order] = np.arange(1, len(order) + 1)
    dtype = np.uint8 if len(order) <= np.iinfo(np.uint8).max else np.uint16
    numbers = np.empty(labels.geometry.shape, dtype=dtype)
    counts = np.zeros(number_of.size, dtype=np.int64)
    digest = hashlib.sha256()
    for k, plane in enumerate(labels.planes()):
        digest.update(np.ascontiguousarray(plane, dtype=labels.dtype.newbyteorder("<")).data)
        counts += np.bincount(plane.reshape(-1), minlength=counts.size)
        numbers[k] = number_of[plane]
    present = set(np.flatnonzero(counts).tolist()) - {0}
    if unnamed := sorted(present - set(order)):
        raise UsageError(f"nobody says what the label {unnamed[0]} means; name its organ.")
    found = frozenset(int(number_of[value]) for value in present)
    return numbers, found, digest.hexdigest()


def type_code(organ: Organ) -> tuple[str, str, str]:
    """An organ's own code; for one without, only that it is anatomy."""
    if organ.code is None:
        return ANATOMY
    return organ.code, CODE_SCHEME, organ.meaning or organ.title


def blank_patient() -> Dataset:
    """Attributes that highdicom cannot do without, empty."""
    blank = Dataset()
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex"):
        setattr(blank, keyword, "")
    for keyword in ("StudyID", "StudyDate", "StudyTime", "AccessionNumber"):
        setattr(blank, keyword, "")
    return blank


def stand_in_uid(header: Header) -> str:
    """A UID that a slice has for itself alone, though it be a frame of a file with others."""
    if header.frame is None:
        return header.sop_uid
    return UidMaker.of({"frame": [header.sop_uid, header.frame]}).uid()


def source_image(header: Header) -> Dataset:
    """A slice as highdicom wants it, without its patient.

    A frame of a multi-frame file passes for a slice, under its `stand_in_uid`.
    """
    image = blank_patient()
    image.SOPClassUID = header.sop_class_uid if header.frame is None else CTImageStorage
    image.SOPInstanceUID = stand_in_uid(header)
    image.StudyInstanceUID, image.SeriesInstanceUID = header.study_uid, header.series_uid
    image.FrameOfReferenceUID = header.frame_of_reference_uid
    image.Modality, image.Rows, image.Columns = header.modality, header.rows, header.columns
    image.ImagePositionPatient = _decimals(header.position_mm)
    image.ImageOrientationPatient = _decimals(header.orientation)
    image.PixelSpacing = _decimals(header.pixel_spacing_mm)
    if header.thickness_mm:
        image.SliceThickness = DSfloat(header.thickness_mm, auto_format=True)
    image.LossyImageCompression = "01" if header.lossy else "00"
    return image


def _decimals(values: tuple[float, ...] | None) -> list[DSfloat]:
    return [DSfloat(value, auto_format=True) for value in values or ()]


def check_inflated(path: Path) -> None:
    """Refuse a deflated file that holds more than a SEG could; pydicom inflates without bound.

    Raises:
        UnreadableError: It does.
    """
    with path.open("rb") as stream:
        meta = read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") != _DEFLATED:
            return
        # The preamble, the mark and the group's length element come before what it counts.
        stream.seek(_META_AT + int(meta.FileMetaInformationGroupLength))
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        size, packed = 0, b" "
        while packed and not inflate.eof:
            packed = inflate.unconsumed_tail or stream.read(_CHUNK)
            size += len(inflate.decompress(packed, _CHUNK))
            if size > _MOST_BYTES:
                raise UnreadableError(f"{path}: inflates to more than a SEG holds; not read.")


def organ_by_code(kind: Dataset) -> Organ | None:
    """The table's organ of a code and its side; None where a side is needed and not told."""
    modifiers = kind.get("SegmentedPropertyTypeModifierCodeSequence") or []
    sides = {str(modifier.get("CodeValue", "")) for modifier in modifiers}
    for organ in ORGANS:
        if organ.code != str(kind.get("CodeValue", "")):
            continue
        if organ.side is None or LATERALITY_CODES[organ.side][0] in sides:
            return organ
    return None


def add_patient(target: Dataset, shared: Mapping[str, bytes]) -> None:
    """Put the study's attributes into an object as they stand in the source, byte for byte."""
    charset = shared.get("SpecificCharacterSet", b"")
    needs_charset = False
    for keyword, value in shared.items():
        if keyword != "SpecificCharacterSet" and (value or keyword in target):
            put_raw(target, keyword, value)
            needs_charset |= not value.isascii() or b"\x1b" in value
    if charset and needs_charset:
        put_raw(target, "SpecificCharacterSet", charset)


def put_raw(target: Dataset, keyword: str, value: bytes) -> None:
    """Set an attribute to the bytes that shall stand in the file, padded to an even length."""
    tag = Tag(keyword)
    kind = dictionary_VR(tag)
    padded = value + (b"\0" if kind == "UI" else b" ") * (len(value) % 2)
    target[tag] = RawDataElement(tag, kind, len(padded), padded, 0, False, True)


def side_codes(organ: Organ) -> list[Dataset]:
    """An organ's side as the value of a modifier sequence; empty for one without."""
    if organ.side is None:
        return []
    value, meaning = LATERALITY_CODES[organ.side]
    return [code_item((value, CODE_SCHEME, meaning))]


def code_item(code: tuple[str, str, str]) -> Dataset:
    """A code (value, scheme, meaning) as an item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item


def drop_the_clock(target: Dataset) -> None:
    """Remove what highdicom takes from the clock and DICOM does not ask for."""
    del target.InstanceCreationDate, target.InstanceCreationTime
    for item in target.ContributingEquipmentSequence:
        item.pop("ContributionDateTime", None)
