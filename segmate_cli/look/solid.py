"""A scan and its labels with fewer voxels, for a viewer inside a page.

Voxels are joined in blocks while the slices of the second pass go by: HU are their block's mean,
labels those in its middle.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segmate_cli.geometry import Geometry, ras_affine
from segmate_cli.look.whereabouts import Box
from segmate_cli.volume import Hounsfield, LabelValues

Bytes = npt.NDArray[np.uint8]

# So many voxels at most, of a byte each: a few megabytes of a page, and smooth in a browser.
MOST_VOXELS = 4_000_000
# HU are kept in steps of 6 from -1024 to 506, in a byte; both ends stand for all beyond.
LOW_HU, STEP_HU = -1024, 6
HIGH_HU = LOW_HU + 255 * STEP_HU
# As many organs as a byte can tell apart.
MOST_ORGANS = 255
_VALUES = 1 << 16


@dataclass(frozen=True, slots=True)
class Solid:
    """A small volume.

    Attributes:
        geometry: Of its voxels.
        scan: (k, j, i) HU in steps of ``STEP_HU`` over ``LOW_HU``.
        labels: (k, j, i) numbers of organs, 0 for none.
    """

    geometry: Geometry
    scan: Bytes
    labels: Bytes

    def scan_nifti(self) -> bytes:
        """The scan as .nii.gz, in HU."""
        return self._nifti(self.scan, (STEP_HU, LOW_HU), (LOW_HU, HIGH_HU))

    def labels_nifti(self) -> bytes:
        """The labels as .nii.gz."""
        return self._nifti(self.labels, (1, 0), (0, MOST_ORGANS), "label")

    def _nifti(
        self, values: Bytes, scaling: tuple[int, int], shown: tuple[int, int], intent: str = "none"
    ) -> bytes:
        """Bytes with what they are multiplied by and added to, and which values to show."""
        import nibabel

        image = nibabel.Nifti1Image(values.transpose(2, 1, 0), ras_affine(self.geometry))
        image.header.set_xyzt_units("mm")
        image.header.set_slope_inter(*scaling)
        image.header.set_intent(intent)
        image.header["cal_min"], image.header["cal_max"] = shown
        return gzip.compress(image.to_bytes(), 9, mtime=0)


class Shrinker:
    """Makes a ``Solid`` of slices that go by in order.

    Args:
        geometry: Of the whole.
        body: What to keep: first and last index along (k, j, i).
        numbers: Of organs, by label value: 1 to ``MOST_ORGANS``; other values become 0.
    """

    def __init__(self, geometry: Geometry, body: Box, numbers: Mapping[int, int]) -> None:
        self._geometry, self._body = geometry, body
        self._factors = factors(body, geometry.spacing_mm)
        self._number_of = np.zeros(_VALUES, np.uint8)
        for value, number in numbers.items():
            self._number_of[value] = number
        self._sum: npt.NDArray[np.float32] | None = None
        self._joined = 0
        self._scan: list[Bytes] = []
        self._labels: list[Bytes] = []

    def add(self, k: int, labels: LabelValues, hu: Hounsfield) -> None:
        """Look at slice k."""
        (first, last), rows, columns = self._body
        if not first <= k <= last:
            return
        factor = self._factors[0]
        place = (k - first) % factor
        span = tuple(slice(a, b + 1) for a, b in (rows, columns))
        means = _block_means(hu[span], self._factors[1:])
        self._sum = means if self._sum is None else self._sum + means
        self._joined += 1
        start = k - place
        if k == min(start + factor // 2, last):
            self._labels.append(self._number_of[_middles(labels[span], self._factors[1:])])
        if place == factor - 1 or k == last:
            steps = np.rint((self._sum / self._joined - LOW_HU) / STEP_HU)
            self._scan.append(np.clip(steps, 0, 255).astype(np.uint8))
            self._sum, self._joined = None, 0

    def solid(self) -> Solid:
        """What came of it."""
        scan, labels = np.stack(self._scan), np.stack(self._labels)
        affine = self._geometry.affine.copy()
        corner = [
            span[0] + (factor - 1) / 2
            for span, factor in zip(self._body, self._factors, strict=True)
        ]
        affine[:3, 3] += affine[:3, :3] @ np.array(corner)
        affine[:3, :3] *= np.array(self._factors)
        k, j, i = scan.shape
        return Solid(Geometry(affine, (k, j, i)), scan, labels)


def factors(body: Box, spacing_mm: tuple[float, float, float]) -> tuple[int, int, int]:
    """How many voxels to join along (k, j, i): few enough, and blocks nearly cubes."""
    sizes = [last - first + 1 for first, last in body]
    joined = [1, 1, 1]

    def blocks() -> int:
        return int(np.prod([-(-n // f) for n, f in zip(sizes, joined, strict=True)]))

    while blocks() > MOST_VOXELS:
        # The axis whose blocks are shortest, of those that have more than one.
        lengths = [
            (f * mm if n > f else np.inf)
            for n, f, mm in zip(sizes, joined, spacing_mm, strict=True)
        ]
        joined[int(np.argmin(lengths))] += 1
    return joined[0], joined[1], joined[2]


def _block_means(plane: npt.NDArray[Any], factors: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Means of blocks of a plane; those at its end may be smaller."""
    total = plane.astype(np.float32)
    count = np.ones(1, np.float32)
    for axis, factor in enumerate(factors):
        starts = np.arange(0, plane.shape[axis], factor)
        total = np.add.reduceat(total, starts, axis=axis)
        sizes = np.diff([*starts, plane.shape[axis]]).astype(np.float32)
        count = np.multiply.outer(count, sizes)
    return np.asarray(total / count[0], dtype=np.float32)


def _middles(plane: npt.NDArray[Any], factors: tuple[int, ...]) -> npt.NDArray[Any]:
    """Values in the middle of blocks."""
    rows, columns = (
        np.minimum(np.arange(0, n, factor) + factor // 2, n - 1)
        for n, factor in zip(plane.shape, factors, strict=True)
    )
    return plane[np.ix_(rows, columns)]
