"""Organs as closed surfaces in millimetres, in one GLB or STL file.

A surface is where a smoothed mask passes a level, and the level is chosen so that the surface
encloses the volume that the voxels have: smoothing alone would eat thin organs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segmate_cli.errors import EngineMissingError, NothingFoundError
from segmate_cli.geometry import Geometry
from segmate_cli.look.whereabouts import Box, Place, Whereabouts
from segmate_cli.organs import Organ
from segmate_cli.sheets import stacked_planes
from segmate_cli.volume import LabelMap

Field = npt.NDArray[np.float32]

# Surfaces need no finer grid than this; an organ smaller than so many voxels keeps its own.
_STEP_MM = 1.6
_LEAST_VOXELS = 24
_SIGMA_MM = 1.6
# How near the enclosed volume comes to the voxels', and how often a level is tried.
_VOLUME_SHARE = 0.005
_TRIES = 12


@dataclass(frozen=True, slots=True)
class Mesh:
    """A closed surface.

    Attributes:
        organ: Of which organ.
        points_mm: (n, 3) LPS millimetres.
        triangles: (m, 3) indices of points, outwards by the right hand.
        volume_ml: What it encloses.
    """

    organ: Organ
    points_mm: npt.NDArray[np.float64]
    triangles: npt.NDArray[np.int64]
    volume_ml: float


def check_libraries() -> None:
    """Refuse to go on without what makes meshes.

    Raises:
        EngineMissingError: It is not installed.
    """
    import importlib.util

    for module, package in (("skimage", "scikit-image"), ("trimesh", "trimesh")):
        if importlib.util.find_spec(module) is None:
            raise EngineMissingError(f"meshes need {package}; pip install 'segmate-cli[mesh]'.")


def make_meshes(labels: LabelMap, found: Whereabouts) -> list[Mesh]:
    """Surfaces of the organs that were measured and have voxels; one pass over the label map.

    Raises:
        NothingFoundError: None has.
    """
    present = [each for each in found.stats if each.organ.key in found.places]
    if not present:
        raise NothingFoundError("no organ has a voxel, so there is no surface to write.")
    makers = [
        _Gatherer(
            [value for value, organ in found.organs.items() if organ.key == each.organ.key],
            found.places[each.organ.key],
            labels.geometry,
        )
        for each in present
    ]
    for k, planes in enumerate(stacked_planes(labels)):
        for maker in makers:
            for plane in planes:
                maker.add(k, plane)
    return [
        _surface(each.organ, maker, each.volume_ml or 0.0, labels.geometry)
        for each, maker in zip(present, makers, strict=True)
    ]


class _Gatherer:
    """One organ's mask, in its box alone and averaged over blocks of voxels."""

    def __init__(self, values: Sequence[int], place: Place, geometry: Geometry) -> None:
        self._values = np.array(values)
        self._box: Box = place.box
        sizes = [last - first + 1 for first, last in place.box]
        self.steps = [
            max(1, min(int(_STEP_MM / mm), n // _LEAST_VOXELS))
            for n, mm in zip(sizes, geometry.spacing_mm, strict=True)
        ]
        # Blocks at the ends may reach out of the box; what is there counts as empty.
        shape = [-(-n // step) for n, step in zip(sizes, self.steps, strict=True)]
        self.field: Field = np.zeros(shape, np.float32)

    @property
    def corner(self) -> npt.NDArray[np.float64]:
        """Index (k, j, i) in the label map of the centre of the field's first block."""
        return np.array(
            [first + (step - 1) / 2 for (first, _), step in zip(self._box, self.steps, strict=True)]
        )

    def add(self, k: int, plane: npt.NDArray[Any]) -> None:
        """Look at slice k."""
        (first, last), rows, columns = self._box
        if not first <= k <= last:
            return
        mask = np.isin(plane[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1], self._values)
        _, step_j, step_i = self.steps
        _, high, wide = self.field.shape
        whole = np.zeros((high * step_j, wide * step_i), np.float32)
        whole[: mask.shape[0], : mask.shape[1]] = mask
        blocks = whole.reshape(high, step_j, wide, step_i).mean(axis=(1, 3))
        self.field[(k - first) // self.steps[0]] += blocks / self.steps[0]


def _surface(organ: Organ, maker: _Gatherer, volume_ml: float, geometry: Geometry) -> Mesh:
    from scipy.ndimage import gaussian_filter

    spacing = [mm * n for mm, n in zip(geometry.spacing_mm, maker.steps, strict=True)]
    margin = [int(np.ceil(3 * _SIGMA_MM / mm)) + 1 for mm in spacing]
    padded = np.pad(maker.field, [(n, n) for n in margin])
    # Along thick slices there is nothing to smooth away but the steps between them.
    sigma = [max(_SIGMA_MM / mm, 0.5) for mm in spacing]
    field = gaussian_filter(padded, sigma)
    corner = maker.corner - np.array(margin) * np.array(maker.steps)
    level = _level_of(field, float(padded.sum()))
    low, high = 0.0, float(field.max())
    mesh = _march(organ, field, level, corner, maker.steps, geometry)
    for _ in range(_TRIES):
        if abs(mesh.volume_ml - volume_ml) <= _VOLUME_SHARE * volume_ml:
            break
        low, high = (level, high) if mesh.volume_ml > volume_ml else (low, level)
        level = (low + high) / 2
        mesh = _march(organ, field, level, corner, maker.steps, geometry)
    return mesh


def _level_of(field: Field, voxels: float) -> float:
    """A level that about so many voxels are over; a first guess."""
    ordered = np.sort(field, axis=None)
    index = ordered.size - max(1, min(ordered.size, round(voxels)))
    return float(np.clip(ordered[index], 1e-3, 0.999 * ordered[-1]))


def _march(
    organ: Organ,
    field: Field,
    level: float,
    corner: npt.NDArray[np.float64],
    steps: Sequence[int],
    geometry: Geometry,
) -> Mesh:
    from skimage.measure import marching_cubes

    points, triangles, _, _ = marching_cubes(field, level, allow_degenerate=False)
    points_mm = geometry.to_lps_mm(corner + points * np.array(steps))
    volume_ml = _enclosed_ml(points_mm, triangles)
    if volume_ml < 0:
        triangles = triangles[:, ::-1]
    return Mesh(organ, points_mm, triangles.astype(np.int64), abs(volume_ml))


def _enclosed_ml(points_mm: npt.NDArray[np.float64], triangles: npt.NDArray[Any]) -> float:
    """Signed volume of the tetrahedra between the triangles and their middle."""
    a, b, c = (points_mm[triangles[:, n]] - points_mm.mean(axis=0) for n in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c))) / 6000.0


def as_file(meshes: Sequence[Mesh], kind: str) -> bytes:
    """Meshes as the bytes of a ``glb`` or ``stl`` file; STL has neither names nor colours."""
    import trimesh

    scene = trimesh.Scene()
    for mesh in meshes:
        red, green, blue = mesh.organ.rgb
        material = trimesh.visual.material.PBRMaterial(
            name=mesh.organ.key,
            baseColorFactor=[red, green, blue, 255],
            metallicFactor=0.0,
            roughnessFactor=0.7,
        )
        body = trimesh.Trimesh(mesh.points_mm, mesh.triangles, process=False)
        body.visual = trimesh.visual.TextureVisuals(material=material)
        scene.add_geometry(body, node_name=mesh.organ.key, geom_name=mesh.organ.key)
    if kind == "stl":
        return bytes(
            trimesh.util.concatenate(list(scene.geometry.values())).export(file_type="stl")
        )
    return bytes(scene.export(file_type="glb"))
