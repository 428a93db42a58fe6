"""Meshes are closed, in mm where the organ is, and hold its volume within 2 %."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from look_maker import write_case

from segmate_cli import examining, organs, scans
from segmate_cli.geometry import Geometry
from segmate_cli.look.meshes import make_meshes
from segmate_cli.look.whereabouts import locate
from segmate_cli.volume import Labels


def grid(spacing_mm: tuple[float, float, float], shape: tuple[int, int, int]) -> Geometry:
    """Oblique, so that no axis of the file is one of the patient's."""
    k, j, i = spacing_mm
    turn = trimesh.transformations.rotation_matrix(0.3, [1.0, 2.0, 0.5])[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([[0, 0, i], [0, j, 0], [k, 0, 0]])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2) + (10.0, 20.0, 30.0)
    return Geometry(affine, shape)


def shapes(geometry: Geometry) -> np.ndarray:
    """A ball of 30 mm, a rod of 6 mm, a shell between 12 and 16 mm; apart from each other."""
    index = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1)
    x, y, z = np.moveaxis(geometry.to_lps_mm(index) - (10.0, 20.0, 30.0), -1, 0)
    values = np.zeros(geometry.shape, np.uint8)
    values[np.sqrt((x + 25) ** 2 + y**2 + z**2) < 30] = 1
    values[(np.hypot(x - 30, y) < 6) & (np.abs(z) < 35)] = 2
    far = np.sqrt((x - 30) ** 2 + (y - 35) ** 2 + z**2)
    values[(far > 12) & (far < 16)] = 3
    return values


TABLE = {n: organs.organ(key) for n, key in enumerate(("liver", "aorta", "stomach"), 1)}


@pytest.mark.parametrize("spacing_mm", [(1.4, 1.0, 1.0), (2.5, 0.9, 1.1), (5.0, 1.5, 1.5)])
def test_volumes_and_places_are_kept(spacing_mm):
    shape = tuple(int(150 / mm) for mm in spacing_mm)
    geometry = grid(spacing_mm, shape)
    values = shapes(geometry)
    labels = Labels(values, geometry, TABLE)
    meshes = make_meshes(labels, locate(labels, None))
    assert [mesh.organ.key for mesh in meshes] == ["liver", "aorta", "stomach"]
    for value, mesh in enumerate(meshes, 1):
        body = trimesh.Trimesh(mesh.points_mm, mesh.triangles, process=False)
        assert body.is_watertight
        voxels_ml = np.count_nonzero(values == value) * geometry.voxel_ml
        assert body.volume / 1000 == pytest.approx(voxels_ml, rel=0.02)
        assert mesh.volume_ml == pytest.approx(voxels_ml, rel=0.02)
        middle = geometry.to_lps_mm(np.argwhere(values == value)).mean(axis=0)
        assert np.linalg.norm(body.center_mass - middle) < 0.5


def test_a_single_voxel_has_a_surface():
    geometry = grid((2.0, 2.0, 2.0), (9, 9, 9))
    values = np.zeros(geometry.shape, np.uint8)
    values[4, 4, 4] = 1
    labels = Labels(values, geometry, TABLE)
    (mesh,) = make_meshes(labels, locate(labels, None))
    assert mesh.volume_ml == pytest.approx(geometry.voxel_ml, rel=0.02)


def test_the_surface_is_smooth():
    """A voxel staircase on a ball has half as much area again as the ball."""
    geometry = grid((1.5, 1.5, 1.5), (60, 80, 80))
    labels = Labels(np.where(shapes(geometry) == 1, 1, 0).astype(np.uint8), geometry, TABLE)
    mesh = make_meshes(labels, locate(labels, None))[0]
    body = trimesh.Trimesh(mesh.points_mm, mesh.triangles, process=False)
    sphere = (36 * np.pi * body.volume**2) ** (1 / 3)
    assert body.area < 1.06 * sphere


def test_a_glb_holds_each_organ_by_name_and_colour(tmp_path, run):
    labels, _ = write_case(tmp_path)
    out = tmp_path / "organs.glb"
    assert run("report", labels, "-o", out) == (0, f"{out}\n", "")
    scene = trimesh.load(out)
    assert set(scene.geometry) == {"liver", "kidney_left", "lung_right"}
    for key, body in scene.geometry.items():
        colour = np.asarray(body.visual.material.baseColorFactor)[:3]
        assert tuple(int(c) for c in colour) == organs.organ(key).rgb
    stats = {each.organ.key: each.volume_ml for each in examining.measure_path(labels)}
    for key, body in scene.geometry.items():
        assert body.volume / 1000 == pytest.approx(stats[key], rel=0.02)


def test_an_stl_of_one_organ(tmp_path, run):
    labels, _ = write_case(tmp_path)
    out = tmp_path / "liver.stl"
    assert run("report", labels, "--organs", "liver", "-o", out)[0] == 0
    body = trimesh.load(out)
    liver = examining.measure_path(labels, organs=["liver"])[0]
    assert body.volume / 1000 == pytest.approx(liver.volume_ml, rel=0.02)
    assert out.stat().st_size == 84 + 50 * len(body.faces)  # binary


def test_nothing_found_is_no_file(tmp_path, run):
    labels, _ = write_case(tmp_path)
    out = tmp_path / "spleen.stl"
    assert run("report", labels, "--organs", "spleen", "-o", out)[0] == 3
    assert not out.exists()


def test_the_same_voxels_in_any_storage_give_the_same_place(tmp_path):
    bounds = []
    for directions in ("SPL", "RIA"):
        labels, _ = write_case(tmp_path / directions, directions)
        opened = scans.open_labels(labels)
        mesh = make_meshes(opened, locate(opened, None))[0]
        bounds.append([mesh.points_mm.min(axis=0), mesh.points_mm.max(axis=0)])
    assert np.allclose(bounds[0], bounds[1], atol=1.0)
