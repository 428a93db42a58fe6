"""Where voxels lie in the patient: the one convention for axes and units.

Arrays are indexed (k, j, i) = (slice, row, column) in the order in which a file stores them, and
are C-contiguous. An affine (4 x 4, float64) maps (k, j, i, 1) to millimetres in the patient
system LPS: x grows to the patient's Left, y to Posterior, z to Superior, as in DICOM and ITK.
NIfTI's RAS is turned into LPS at the door and back on the way out. Directions are letters, one an
array axis: "S" means that the index grows towards superior. A voxel's coordinate is its centre.

Slices that are tilted against their stack, unevenly spaced or have gaps between them fit no affine
of even steps: then ``places_mm`` says where each slice lies, and the affine's first column is their
mean step. Whatever is measured uses the places; ``upright`` lays such slices on an even grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from segmate_cli.errors import GeometryError

Affine = npt.NDArray[np.float64]
ScalarT = TypeVar("ScalarT", bound=np.generic)

# (letter, axis of LPS, sign): the letter whose direction is the positive or negative LPS axis.
_LETTERS = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
_LETTER_OF = {value: letter for letter, value in _LETTERS.items()}
# Rounded headers differ from each other by less; a real difference moves a voxel by more.
SAME_GRID_MM = 0.05
# Smaller than any detector sees, and larger than a head: a header in micrometres or metres.
_VOXEL_MM = (0.005, 100.0)


@dataclass(frozen=True, slots=True)
class Geometry:
    """A voxel grid in the patient.

    Attributes:
        affine: (4, 4) float64, maps (k, j, i, 1) to LPS millimetres; read-only.
        shape: Voxels along (k, j, i).
        places_mm: (k, 3) float64, LPS millimetres of each slice's first voxel, where slices lie off
            the affine's places; then k grows along the slices' normal, row x column direction, and
            the affine's first column is their mean step. None for an even stack.
    """

    affine: Affine
    shape: tuple[int, int, int]
    places_mm: Affine | None = None

    def __post_init__(self) -> None:
        """Check that the affine describes a volume; freeze it."""
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise GeometryError("the affine is not a 4 x 4 matrix of finite numbers.")
        sizes_mm = np.linalg.norm(affine[:3, :3], axis=0)
        if (sizes_mm <= 0).any():
            raise GeometryError(f"a voxel size is zero: {sizes_mm[::-1]} mm (i, j, k).")
        if not (_VOXEL_MM[0] <= sizes_mm.min() <= sizes_mm.max() <= _VOXEL_MM[1]):
            sizes = " x ".join(f"{size:.4g}" for size in sizes_mm[::-1])
            raise GeometryError(
                f"voxels of {sizes} mm (i, j, k) are no scan's of a person; is the unit wrong?"
            )
        # Relative to a cube of the same edges: 1 for orthogonal axes, 0 for axes in one plane.
        if abs(np.linalg.det(affine[:3, :3])) < 1e-4 * sizes_mm.prod():
            raise GeometryError("the affine is singular: two voxel axes point the same way.")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise GeometryError(f"a volume needs three axes with voxels, not {self.shape}.")
        affine.flags.writeable = False
        object.__setattr__(self, "affine", affine)
        if self.places_mm is not None:
            places = np.array(self.places_mm, dtype=np.float64)
            if places.shape != (self.shape[0], 3) or not (np.diff(places @ self.normal) > 0).all():
                raise GeometryError("slices do not follow each other along their normal.")
            places.flags.writeable = False
            object.__setattr__(self, "places_mm", places)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along (k, j, i); of uneven slices the mean."""
        k, j, i = (float(size) for size in np.linalg.norm(self.affine[:3, :3], axis=0))
        if self.places_mm is not None:
            k = abs(float(self.affine[:3, 0] @ self.normal))
        return k, j, i

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        """Unit vector across the slices: direction of i x direction of j."""
        normal = np.cross(self.affine[:3, 2], self.affine[:3, 1])
        return np.asarray(normal / np.linalg.norm(normal))

    @property
    def slice_extents_mm(self) -> npt.NDArray[np.float64]:
        """How much along the normal each slice stands for: half way to its neighbours.

        An outermost slice reaches out by half of its own distance or, where that is a gap, of the
        next one.
        """
        count = self.shape[0]
        if self.places_mm is None:
            return np.full(count, abs(self.affine[:3, 0] @ self.normal))
        apart = np.diff(self.places_mm @ self.normal)
        first, last = apart[:2].min(), apart[-2:].min()
        padded = np.concatenate([[first], apart, [last]])
        return np.asarray((padded[:-1] + padded[1:]) / 2)

    @property
    def slice_voxel_ml(self) -> npt.NDArray[np.float64]:
        """True volume of a voxel on each slice in millilitres."""
        area_mm2 = np.linalg.norm(np.cross(self.affine[:3, 2], self.affine[:3, 1]))
        return np.asarray(self.slice_extents_mm * area_mm2 / 1000.0)

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def voxel_ml(self) -> float:
        """True volume of a voxel in millilitres, sheared or not."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def directions(self) -> tuple[str, str, str]:
        """Closest anatomical direction in which k, j and i grow, such as ("S", "P", "L")."""
        letters = [""] * 3
        cosines = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        left = np.abs(cosines)
        # Greedy over the largest cosine: every LPS axis is given away exactly once.
        for _ in range(3):
            lps, axis = np.unravel_index(int(np.argmax(left)), left.shape)
            sign = 1 if cosines[lps, axis] > 0 else -1
            letters[axis] = _LETTER_OF[(int(lps), sign)]
            left[lps, :] = left[:, axis] = -1.0
        return letters[0], letters[1], letters[2]

    @property
    def obliqueness_deg(self) -> float:
        """Largest angle between a voxel axis and its closest anatomical axis."""
        cosines = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        lps = [_LETTERS[letter][0] for letter in self.directions]
        worst = min(abs(cosines[lps[axis], axis]) for axis in range(3))
        return float(np.degrees(np.arccos(min(1.0, worst))))

    def to_lps_mm(self, index: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """LPS millimetres of indices (..., 3) given as (k, j, i), whole or between voxels."""
        points = np.asarray(index, dtype=np.float64)
        if self.places_mm is None:
            return np.asarray(points @ self.affine[:3, :3].T + self.affine[:3, 3])
        return np.asarray(self._place_at(points[..., 0]) + points[..., 1:] @ self.affine[:3, 1:3].T)

    def to_index(self, points_mm: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Indices (..., 3), as (k, j, i), of LPS millimetres; the inverse of ``to_lps_mm``."""
        points = np.asarray(points_mm, dtype=np.float64)
        inverse = np.linalg.inv(self.affine[:3, :3])
        if self.places_mm is None:
            return np.asarray((points - self.affine[:3, 3]) @ inverse.T)
        along = self.places_mm @ self.normal
        # Beyond the ends by mean steps, so that what lies outside is seen to.
        step_mm = self.spacing_mm[0]
        known = np.concatenate([[along[0] - step_mm], along, [along[-1] + step_mm]])
        k = np.asarray(np.interp(points @ self.normal, known, np.arange(-1, len(along) + 1)))
        inside = (points - self._place_at(k)) @ np.linalg.pinv(self.affine[:3, 1:3]).T
        return np.concatenate([k[..., None], inside], axis=-1)

    def _place_at(self, k: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """First voxel's place of slices, or between them, of an uneven stack."""
        places = np.asarray(self.places_mm)
        axes = [np.interp(k, np.arange(len(places)), places[:, axis]) for axis in range(3)]
        return np.stack(axes, axis=-1)

    def reoriented(self, directions: Sequence[str]) -> tuple[Geometry, Reorientation]:
        """The same voxels with their axes permuted and flipped to grow in ``directions``.

        Raises:
            GeometryError: Uneven slices, whose axes have but one order.
        """
        turn = Reorientation.between(self.directions, directions)
        if self.places_mm is not None:
            if turn != Reorientation((0, 1, 2), (False, False, False)):
                raise GeometryError("slices that are tilted or uneven cannot be turned.")
            return self, turn
        matrix = np.eye(4)
        matrix[:3, :3] = 0.0
        for new, (old, flip) in enumerate(zip(turn.axes, turn.flips, strict=True)):
            matrix[old, new] = -1.0 if flip else 1.0
            matrix[old, 3] = self.shape[old] - 1 if flip else 0.0
        k, j, i = (self.shape[old] for old in turn.axes)
        return Geometry(self.affine @ matrix, (k, j, i)), turn

    def difference_mm(self, other: Geometry) -> float:
        """Largest distance between equal corner voxels; infinite when the shapes differ."""
        if self.shape != other.shape:
            return float("inf")
        even = self.places_mm is None and other.places_mm is None
        ends = [(0, n - 1) for n in self.shape]
        ks = ends[0] if even else tuple(range(self.shape[0]))
        corners = np.array(np.meshgrid(ks, *ends[1:])).reshape(3, -1).T
        apart = self.to_lps_mm(corners) - other.to_lps_mm(corners)
        return float(np.linalg.norm(apart, axis=1).max())

    def same_as(self, other: Geometry) -> bool:
        """Whether both grids have their voxels at the same places."""
        return self.difference_mm(other) < SAME_GRID_MM


@dataclass(frozen=True, slots=True)
class Reorientation:
    """A permutation and flips of array axes: new axis n is old axis ``axes[n]``, maybe reversed."""

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def between(cls, have: Sequence[str], want: Sequence[str]) -> Reorientation:
        """The turn that takes an array whose axes grow to ``have`` to one growing to ``want``."""
        lps_have = [_LETTERS[letter] for letter in have]
        axes, flips = [], []
        for letter in want:
            lps, sign = _LETTERS[letter]
            old = next(n for n, (axis, _) in enumerate(lps_have) if axis == lps)
            axes.append(old)
            flips.append(lps_have[old][1] != sign)
        return cls((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))

    def inverse(self) -> Reorientation:
        """The turn that undoes this one."""
        axes, flips = [0, 0, 0], [False] * 3
        for new, (old, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            axes[old], flips[old] = new, flip
        return Reorientation((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))

    def view(self, array: npt.NDArray[ScalarT]) -> npt.NDArray[ScalarT]:
        """The array with its axes turned; a view, so writing to it writes to ``array``."""
        k, j, i = (slice(None, None, -1 if flip else None) for flip in self.flips)
        turned: npt.NDArray[ScalarT] = array.transpose(self.axes)[k, j, i]
        return turned


def geometry_from_ras(affine_ras: npt.ArrayLike, shape_ijk: Sequence[int]) -> Geometry:
    """Geometry of a NIfTI image, whose affine maps (i, j, k) to RAS millimetres."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine_ras, dtype=np.float64)
    i, j, k = shape_ijk
    return Geometry(affine[:, [2, 1, 0, 3]], (k, j, i))


def ras_affine(geometry: Geometry) -> Affine:
    """The NIfTI affine, (i, j, k) to RAS millimetres, of a geometry."""
    return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.affine[:, [2, 1, 0, 3]])
