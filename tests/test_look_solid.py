"""The small volume of a viewer: few voxels, at their places, with the scan's HU and labels."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from look_maker import BOXES, HU, NAMES, arrays, geometry

from segmate_cli.geometry import ras_affine
from segmate_cli.look import solid
from segmate_cli.look.solid import Shrinker, Solid, factors

WHOLE = ((0, 23), (0, 39), (0, 47))


def shrunk(directions="SPL", body=WHOLE, numbers=None) -> Solid:
    hu, values = arrays(directions)
    shrinker = Shrinker(geometry(directions), body, numbers or {1: 1, 2: 2, 3: 3})
    for k, (plane, slice_hu) in enumerate(zip(values, hu, strict=True)):
        shrinker.add(k, plane, slice_hu)
    return shrinker.solid()


def read(data: bytes) -> nibabel.Nifti1Image:
    import gzip

    return nibabel.Nifti1Image.from_bytes(gzip.decompress(data))


def test_few_voxels_stay_as_they_are():
    found = shrunk()
    hu, values = arrays()
    assert found.geometry.same_as(geometry())
    assert (found.labels == values).all()
    image = read(found.scan_nifti())
    assert np.abs(image.get_fdata().transpose(2, 1, 0) - hu).max() <= solid.STEP_HU / 2
    np.testing.assert_allclose(image.affine, ras_affine(geometry()))
    assert image.get_data_dtype() == np.uint8


@pytest.mark.parametrize("directions", ["SPL", "IAR", "PSR", "LIP"])
@pytest.mark.parametrize("most", [12000, 4000])
def test_joined_voxels_lie_where_they_did(directions, most, monkeypatch):
    monkeypatch.setattr(solid, "MOST_VOXELS", most)
    body = tuple((1, n - 2) for n in geometry(directions).shape)
    found = shrunk(directions, body)
    assert found.scan.size <= most
    image = read(found.scan_nifti())
    labels = read(found.labels_nifti())
    assert image.shape == labels.shape
    assert labels.header.get_intent()[0] == "label"
    # The middle of each organ, in millimetres, has its number and its HU.
    for number, name in enumerate(NAMES[:3], 1):
        middle = [(a + b - 1) / 2 for a, b in BOXES[name]]
        mm = geometry().to_lps_mm(middle) * (-1, -1, 1)
        voxel = np.linalg.inv(image.affine) @ [*mm, 1]
        i, j, k = np.rint(voxel[:3]).astype(int)
        assert labels.get_fdata()[i, j, k] == number
        assert image.get_fdata()[i, j, k] == pytest.approx(HU[name], abs=solid.STEP_HU)


def test_joined_hu_are_means(monkeypatch):
    monkeypatch.setattr(solid, "MOST_VOXELS", 3000)
    hu, _ = arrays()
    found = shrunk()
    f, g, h = factors(WHOLE, geometry().spacing_mm)
    mean = hu[-f:, -g:, -h:].mean()
    assert read(found.scan_nifti()).get_fdata()[-1, -1, -1] == pytest.approx(
        max(mean, solid.LOW_HU), abs=solid.STEP_HU
    )
    edge = hu[:f, :g, h * 3 : h * 4].mean()
    got = read(found.scan_nifti()).get_fdata()[3, 0, 0]
    assert got == pytest.approx(edge, abs=solid.STEP_HU)


def test_blocks_become_cubes(monkeypatch):
    monkeypatch.setattr(solid, "MOST_VOXELS", 1_000_000)
    body = ((0, 399), (0, 511), (0, 511))
    joined = factors(body, (1.5, 0.75, 0.75))
    sizes = [f * mm for f, mm in zip(joined, (1.5, 0.75, 0.75), strict=True)]
    assert max(sizes) / min(sizes) < 1.6
    # Slices far apart are not joined before pixels are as long.
    assert factors(((0, 39), (0, 511), (0, 511)), (5.0, 0.7, 0.7))[0] == 1
    assert factors(((0, 0), (0, 4000), (0, 4000)), (5.0, 0.7, 0.7))[0] == 1


def test_hu_beyond_the_ends_are_the_ends():
    shrinker = Shrinker(geometry(), WHOLE, {})
    hu = np.full((40, 48), -3000, np.int16)
    hu[20:] = 3000
    for k in range(24):
        shrinker.add(k, np.zeros((40, 48), np.uint16), hu)
    values = read(shrinker.solid().scan_nifti()).get_fdata()
    assert set(np.unique(values)) == {solid.LOW_HU, solid.HIGH_HU}


def test_values_without_a_number_are_left_out():
    found = shrunk(numbers={1: 1, 3: 2})
    assert set(np.unique(found.labels)) == {0, 1, 2}
    assert found.labels[5, 25, 33] == 0  # the kidney


def test_the_same_bytes_each_time():
    assert shrunk().scan_nifti() == shrunk().scan_nifti()
