"""What all DICOM objects that segmate writes have in common; no highdicom here."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from pydicom.config import disable_value_validation
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.valuerep import DSfloat

from segmate_cli.dicom.header import Header, StoredValues
from segmate_cli.dicom.reference import Reference
from segmate_cli.errors import UsageError
from segmate_cli.organs import CODE_SCHEME, Organ
from segmate_cli.volume import LabelMap

# CID 7150 as pydicom has it; others write 123037004, which SNOMED calls "Body structure".
ANATOMY = ("91723000", CODE_SCHEME, "Anatomical Structure")
ARTIFICIAL_INTELLIGENCE = ("123110", "DCM", "Artificial Intelligence")


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


def model_of(labels: LabelMap) -> dict[str, str]:
    """Name, version and hash of the model that made the labels."""
    model = (labels.run or {}).get("model")
    if not isinstance(model, dict):
        raise UsageError(
            "a DICOM object must say which model made it; write what predict returned."
        )
    return {name: str(model[name]) for name in ("name", "version", "weights_sha256")}


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


def source_image(header: Header) -> Dataset:
    """A slice as highdicom wants it, without its patient."""
    image = blank_patient()
    image.SOPClassUID, image.SOPInstanceUID = header.sop_class_uid, header.sop_uid
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


def add_patient(target: Dataset, shared: Mapping[str, bytes]) -> None:
    """Put the study's attributes into an object as they stand in the source, byte for byte."""
    charset = shared.get("SpecificCharacterSet", b"")
    needs_charset = False
    for keyword, value in shared.items():
        if keyword != "SpecificCharacterSet" and (value or keyword in target):
            _put(target, keyword, value)
            needs_charset |= not value.isascii() or b"\x1b" in value
    if charset and needs_charset:
        _put(target, "SpecificCharacterSet", charset)


def _put(target: Dataset, keyword: str, value: bytes) -> None:
    tag = Tag(keyword)
    kind = dictionary_VR(tag)
    padded = value + (b"\0" if kind == "UI" else b" ") * (len(value) % 2)
    target[tag] = RawDataElement(tag, kind, len(padded), padded, 0, False, True)


def drop_the_clock(target: Dataset) -> None:
    """Remove what highdicom takes from the clock and DICOM does not ask for."""
    del target.InstanceCreationDate, target.InstanceCreationTime
    for item in target.ContributingEquipmentSequence:
        item.pop("ContributionDateTime", None)
