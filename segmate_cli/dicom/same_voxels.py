"""Whether a NIfTI scan was made of a DICOM series: by its voxels, not by where they lie alone.

Two patients scanned by one protocol may lie on the very same grid. What is segmented on the one and
written as an object of the other would be a wrong patient's result, so a sample of voxels is
compared. Rounded, clipped and coarsely stored values pass; another body or a mirrored one does not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from segmate_cli import dicom
from segmate_cli.dicom.reference import Reference
from segmate_cli.errors import InputError
from segmate_cli.volume import DicomSource, Scan

Indices = npt.NDArray[np.intp]
_PLANES = 3
_VOXELS_A_PLANE = 5000
_LEAST_VOXELS = 100
# A plane shows something where this share of it is no air or lung.
_BODY_HU = -500
_BODY_SHARE = 0.05
# Windows that others store scans in, and metal, are no difference.
_CLIP_HU = (-1000.0, 1000.0)
# On four real series: 0.98 for the same in steps of 100 HU, 0.74 clipped to -125..275 HU; 0.31 at
# most for other bodies, mirrored ones or reversed slices.
_LEAST_CORRELATION = 0.6


def check_same_voxels(scan: Scan, reference: Reference) -> None:
    """Refuse a reference that lies where a scan does, but shows something else.

    Args:
        scan: What is segmented.
        reference: Of ``reference_for``; one without a series was the scan itself.

    Raises:
        InputError: It does; or its pixels cannot be read.
    """
    series = reference.series
    if series is None:
        return
    if isinstance(scan.source, DicomSource) and scan.source.series_uid == series.series_uid:
        return
    index, ours = _sample(scan)
    if not len(ours):
        return
    theirs = _at(dicom.as_scan(reference.path, series), _turned(index, scan, reference))
    body = np.maximum(ours, theirs) > _BODY_HU
    one, other = (np.clip(values[body], *_CLIP_HU) for values in (ours, theirs))
    if len(one) < _LEAST_VOXELS or one.std() == 0:
        return
    alike = float(np.corrcoef(one, other)[0, 1]) if other.std() else 0.0
    if alike < _LEAST_CORRELATION:
        raise InputError(
            f"{reference.path}: the series lies where the scan does, but holds other voxels "
            f"(correlation {alike:.2f}); give the series that the scan was made of."
        )


def _sample(scan: Scan) -> tuple[Indices, npt.NDArray[np.float64]]:
    """(n, 3) indices of voxels in planes that show something, and their HU."""
    random = np.random.default_rng(0)
    count, rows, columns = scan.geometry.shape
    indices, values, wait = [], [], 0
    for k, plane in enumerate(scan.planes()):
        if k < wait or np.count_nonzero(plane > _BODY_HU) < _BODY_SHARE * plane.size:
            continue
        j, i = (random.integers(size, size=_VOXELS_A_PLANE) for size in (rows, columns))
        indices.append(np.column_stack([np.full(_VOXELS_A_PLANE, k), j, i]))
        values.append(plane[j, i].astype(np.float64))
        wait = k + 1 + count // 20
        if len(values) == _PLANES:
            break
    if not values:
        return np.zeros((0, 3), np.intp), np.zeros(0)
    return np.concatenate(indices), np.concatenate(values)


def _turned(index: Indices, scan: Scan, reference: Reference) -> Indices:
    """The same voxels by the series' own axes."""
    shape = scan.geometry.shape
    found = [
        shape[old] - 1 - index[:, old] if flip else index[:, old]
        for old, flip in zip(reference.turn.axes, reference.turn.flips, strict=True)
    ]
    return np.column_stack(found)


def _at(series: Scan, index: Indices) -> npt.NDArray[np.float64]:
    """HU at (n, 3) indices, reading no further than needed."""
    values = np.empty(len(index))
    for k, plane in _up_to(series, int(index[:, 0].max())):
        here = index[:, 0] == k
        values[here] = plane[index[here, 1], index[here, 2]]
    return values


def _up_to(series: Scan, last: int) -> Iterator[tuple[int, npt.NDArray[np.int16]]]:
    for k, plane in enumerate(series.planes()):
        yield k, plane
        if k == last:
            return
