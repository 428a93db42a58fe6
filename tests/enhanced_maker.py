"""Enhanced CT files: the slices of a made series as the frames of one file."""

from __future__ import annotations

from pathlib import Path

import dicom_maker as maker
import numpy as np
from dicom_maker import Made, Recipe
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame

ENHANCED = "1.2.840.10008.5.1.4.1.1.2.1"
LEGACY = "1.2.840.10008.5.1.4.1.1.2.2"
_RAW = (maker.IMPLICIT, maker.EXPLICIT, maker.DEFLATED)


def make_enhanced(path: Path, recipe: Recipe, sop_class: str = ENHANCED) -> Made:
    """Write a series as one file; frames come in the order in which files would."""
    hu = maker.asymmetric(recipe.shape)
    order = [k for k in range(recipe.shape[0]) if k not in recipe.leave_out]
    if recipe.shuffle:
        np.random.default_rng(recipe.series).shuffle(order)
    frames = [maker.dataset_of(recipe, k, hu[k]) for k in order]
    data = frames[0]
    if recipe.syntax in _RAW:
        pixels = b"".join(bytes(frame.PixelData) for frame in frames)
    else:
        pixels = encapsulate([get_frame(bytes(each.PixelData), 0) for each in frames])
    data.PerFrameFunctionalGroupsSequence = [_groups(frame) for frame in frames]
    data.SharedFunctionalGroupsSequence = [_shared(data, recipe)]
    for keyword in (
        *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
        *("RescaleSlope", "RescaleIntercept", "ConvolutionKernel"),
    ):
        delattr(data, keyword)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = sop_class
    data.ImageType, data.NumberOfFrames = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], len(frames)
    data.PixelData = pixels
    for keyword, value in (recipe.tags or {}).items():
        setattr(data, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return Made(path.parent, {}, hu, maker.affine_of(recipe), f"{maker.UID_ROOT}{recipe.series}")


def _groups(frame: Dataset) -> Dataset:
    item = Dataset()
    item.PlanePositionSequence = [_item(ImagePositionPatient=frame.ImagePositionPatient)]
    item.PixelValueTransformationSequence = [
        _item(
            RescaleSlope=frame.RescaleSlope,
            RescaleIntercept=frame.RescaleIntercept,
            RescaleType="HU",
        )
    ]
    item.FrameContentSequence = [_item(FrameAcquisitionNumber=1, InStackPositionNumber=3)]
    return item


def _shared(data: Dataset, recipe: Recipe) -> Dataset:
    item = Dataset()
    item.PlaneOrientationSequence = [_item(ImageOrientationPatient=data.ImageOrientationPatient)]
    item.PixelMeasuresSequence = [
        _item(PixelSpacing=list(recipe.pixel_mm), SliceThickness=recipe.step_mm)
    ]
    item.CTImageFrameTypeSequence = [_item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])]
    item.CTReconstructionSequence = [_item(ConvolutionKernel="B30f")]
    return item


def _item(**values: object) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item
