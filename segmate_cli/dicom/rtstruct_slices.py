"""Where the slices lie that an RTSTRUCT was drawn on, as far as it tells.

It lists the slices of its series, and each contour names its own. So contours on two slices that
are neighbours in the list show how far these are apart: a gap in the scan can be told from slices
on which nothing was drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from segmate_cli.dicom.stack import EVEN_SHARE, WHOLE_SHARE

Places = npt.NDArray[np.float64]

_SAME_PLACE_MM = 1e-2
# Steps from one slice to the next that are a gap.
_GAP_STEPS = 2 - WHOLE_SHARE


def listed_images(found: Dataset) -> tuple[str, ...]:
    """The slices of the first series that an RTSTRUCT names, in its order."""
    for frame in found.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            for series in study.get("RTReferencedSeriesSequence") or []:
                return tuple(map(_name, series.get("ContourImageSequence") or []))
    return ()


def image_of(contour: Dataset) -> str:
    """The slice that a contour was drawn on, or ""."""
    images = contour.get("ContourImageSequence") or []
    return _name(images[0]) if images else ""


def even_or_not_mm(
    listed: Sequence[str], drawn: Mapping[str, Sequence[float]], *, is_own: bool
) -> Places | None:
    """Where the slices that a file lists lie along their normal, ascending.

    Slices without a contour are taken to lie evenly between the others.

    Args:
        listed: As ``listed_images`` gives them.
        drawn: By slice, where its contours lie along the normal.
        is_own: Whether segmate wrote the file, and so lists all slices of the scan. A list of
            others tells that only where it has slices without contours.

    Returns:
        None where the file does not tell.
    """
    number = {image: n for n, image in enumerate(listed)}
    if len(drawn) < 2 or len(number) < len(listed) or not drawn.keys() <= number.keys():
        return None
    if not is_own and len(drawn) == len(listed):
        return None
    if any(np.ptp(places) > _SAME_PLACE_MM for places in drawn.values()):
        return None
    order = sorted(drawn, key=lambda image: float(np.mean(drawn[image])))
    along = np.array([np.mean(drawn[image]) for image in order])
    at = np.array([number[image] for image in order])
    if at[0] > at[-1]:
        at = len(listed) - 1 - at
    if (np.diff(at) <= 0).any() or (np.diff(along) <= _SAME_PLACE_MM).any():
        return None
    steps = np.diff(along) / np.diff(at)
    usual = float(np.median(np.repeat(steps, np.diff(at))))
    places = np.interp(np.arange(len(listed)), at, along)
    places[: at[0]] = along[0] - usual * np.arange(at[0], 0, -1)
    places[at[-1] + 1 :] = along[-1] + usual * np.arange(1, len(listed) - at[-1])
    return np.asarray(places)


def is_uneven(places_mm: Places) -> bool:
    """Whether slices at these places lie unevenly."""
    steps = np.diff(places_mm)
    usual = float(np.median(steps))
    return bool(np.abs(steps - usual).max() > EVEN_SHARE * usual)


def jumps(along_mm: npt.ArrayLike, step_mm: float) -> bool:
    """Whether contours leave out slices: missing ones, or such as nothing was drawn on."""
    apart = np.diff(np.unique(np.asarray(along_mm, dtype=np.float64)))
    return bool((apart > _GAP_STEPS * step_mm).any())


def _name(image: Dataset) -> str:
    frame = image.get("ReferencedFrameNumber")
    return str(image.ReferencedSOPInstanceUID) + ("" if frame is None else f" {frame}")
