"""The phantom of examples/: its truth must be true, or every test that leans on it is void."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import phantom
import pytest
import SimpleITK
from phantom import LABELS, Phantom, make_phantom

COARSE_MM = (6.0, 3.0, 3.0)

# Median HU in the portal venous phase, and without contrast.
EXPECTED_HU = {
    "lung_left": ((-900, -780), (-900, -780)),
    "lung_right": ((-900, -780), (-900, -780)),
    "trachea": ((-1024, -850), (-1024, -850)),
    "esophagus": ((20, 110), (10, 70)),
    "spinal_cord": ((5, 60), (5, 60)),
    "heart": ((85, 175), (30, 60)),
    "aorta": ((115, 180), (25, 60)),
    "liver": ((85, 130), (40, 75)),
    "kidney_left": ((120, 210), (15, 50)),
    "kidney_right": ((120, 210), (15, 50)),
    "spleen": ((95, 140), (30, 65)),
    "stomach": ((-40, 90), (-40, 60)),
    "pancreas": ((70, 125), (20, 60)),
    "gallbladder": ((-10, 40), (-10, 40)),
}

# Millilitres that an adult's organ may have here (tubes are cut by the field of view).
EXPECTED_ML = {
    "lung_left": (1000, 3500),
    "lung_right": (1200, 3800),
    "heart": (350, 950),
    "liver": (900, 2200),
    "kidney_left": (90, 260),
    "kidney_right": (90, 260),
    "spleen": (80, 400),
    "aorta": (120, 400),
    "trachea": (20, 70),
}


@pytest.fixture(scope="module")
def enhanced() -> Phantom:
    return make_phantom(3, COARSE_MM)


@pytest.fixture(scope="module")
def native() -> Phantom:
    return make_phantom(3, COARSE_MM, contrast=False)


def centre_mm(made: Phantom, organ: str) -> np.ndarray:
    """Mean position of an organ in LPS mm."""
    index = np.argwhere(made.labels == LABELS[organ]).mean(axis=0)
    return (made.affine @ [*index, 1])[:3]


@pytest.mark.parametrize("organ", LABELS)
def test_labels_lie_on_tissue_of_their_organ(
    organ: str, enhanced: Phantom, native: Phantom
) -> None:
    for made, (low, high) in zip((enhanced, native), EXPECTED_HU[organ], strict=True):
        inside = made.hu[made.labels == LABELS[organ]]
        assert low < np.median(inside) < high


@pytest.mark.parametrize("organ", EXPECTED_ML)
def test_organs_have_the_size_of_an_adults(organ: str, enhanced: Phantom) -> None:
    voxel_ml = abs(np.linalg.det(enhanced.affine[:3, :3])) / 1000
    volume_ml = float(np.sum(enhanced.labels == LABELS[organ]) * voxel_ml)
    low, high = EXPECTED_ML[organ]
    assert low < volume_ml < high


def test_left_is_left_and_up_is_up_in_lps(enhanced: Phantom) -> None:
    middle = centre_mm(enhanced, "spinal_cord")
    for organ in ("lung_left", "kidney_left", "spleen", "stomach"):
        assert centre_mm(enhanced, organ)[0] > middle[0] + 20
    for organ in ("lung_right", "kidney_right", "liver", "gallbladder"):
        assert centre_mm(enhanced, organ)[0] < middle[0] - 20
    assert centre_mm(enhanced, "lung_left")[2] > centre_mm(enhanced, "kidney_left")[2] + 80
    assert centre_mm(enhanced, "heart")[1] < middle[1] - 40  # in front of the cord
    assert np.linalg.det(enhanced.affine[:3, [2, 1, 0]]) > 0


def test_array_order_is_slice_row_column_with_growing_s_p_l(enhanced: Phantom) -> None:
    assert enhanced.hu.shape == enhanced.labels.shape
    assert (enhanced.hu.dtype, enhanced.labels.dtype) == (np.int16, np.uint8)
    directions = enhanced.affine[:3, :3]
    assert np.array_equal(directions, np.array([[0, 0, 3.0], [0, 3.0, 0], [6.0, 0, 0]]))


def test_same_seed_same_bytes_other_seed_other_patient(enhanced: Phantom) -> None:
    again = make_phantom(3, COARSE_MM)
    assert again.hu.tobytes() == enhanced.hu.tobytes()
    assert again.labels.tobytes() == enhanced.labels.tobytes()
    other = make_phantom(4, COARSE_MM)
    liver = enhanced.labels == LABELS["liver"], other.labels == LABELS["liver"]
    overlap = 2 * np.sum(liver[0] & liver[1]) / (np.sum(liver[0]) + np.sum(liver[1]))
    assert 0.4 < overlap < 0.97


def test_slab_size_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    spacing, shape = (20.0, 6.0, 6.0), (18, 40, 60)
    whole = make_phantom(1, spacing, shape)
    monkeypatch.setattr(phantom, "SLAB_VOXELS", 3 * 40 * 60)
    parts = make_phantom(1, spacing, shape)
    assert np.array_equal(whole.labels, parts.labels)
    assert np.abs(whole.hu.astype(int) - parts.hu).max() <= 1  # float32 sums in another order


def test_contrast_changes_hu_and_no_label(enhanced: Phantom, native: Phantom) -> None:
    assert np.array_equal(enhanced.labels, native.labels)
    aorta = enhanced.labels == LABELS["aorta"]
    assert np.median(enhanced.hu[aorta]) > np.median(native.hu[aorta]) + 70


def test_shape_and_spacing_are_as_asked() -> None:
    made = make_phantom(0, (12.5, 5.0, 4.0), (11, 50, 70))
    assert made.hu.shape == (11, 50, 70)
    assert np.allclose(np.linalg.norm(made.affine[:3, :3], axis=0), (12.5, 5.0, 4.0))
    assert make_phantom(0, (30.0, 8.0, 6.0)).hu.shape == (14, 38, 64)


def test_noise_has_the_sd_that_was_asked_for() -> None:
    quiet, loud = (make_phantom(2, (40.0, 2.0, 2.0), noise_hu=n) for n in (0.0, 20.0))
    liver = quiet.labels == LABELS["liver"]
    assert liver.sum() > 1000
    assert np.std((loud.hu.astype(float) - quiet.hu)[liver]) == pytest.approx(20, rel=0.1)


def test_arms_and_table_are_options() -> None:
    options = {"spacing_mm": (40.0, 4.0, 4.0), "shape": (8, 80, 140)}
    bare = make_phantom(0, **options, table=False, noise_hu=0.0)
    with_arms = make_phantom(0, **options, table=False, arms=True, noise_hu=0.0)
    with_table = make_phantom(0, **options, noise_hu=0.0)
    assert np.sum(with_arms.hu > -200) > 1.05 * np.sum(bare.hu > -200)
    behind = with_table.hu != bare.hu
    assert behind.sum() > 500
    assert np.median(bare.hu[behind]) == -1000  # a table takes the place of air
    assert np.array_equal(with_table.labels, bare.labels)


@pytest.mark.parametrize("bad", [{"spacing_mm": (3.0, 0.0, 1.0)}, {"shape": (0, 10, 10)}])
def test_nonsense_is_refused(bad: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match="give"):
        make_phantom(0, **bad)


def test_command_line_writes_what_nibabel_and_simpleitk_read_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan, truth = tmp_path / "p.nii.gz", tmp_path / "t.nii.gz"
    options = ["--spacing", "6", "5", "20", "--size", "60", "50", "18", "--seed", "5"]
    phantom.main(["-o", str(scan), "--labels", str(truth), *options])
    assert capsys.readouterr().out.split() == [str(scan), str(truth)]
    made = make_phantom(5, (20.0, 5.0, 6.0), (18, 50, 60))
    for path, array in ((scan, made.hu), (truth, made.labels)):
        image = nibabel.load(path)
        assert np.array_equal(np.asarray(image.dataobj).T, array)
        assert (image.header["sform_code"], image.header["qform_code"]) == (1, 1)
        assert image.header.get_xyzt_units()[0] == "mm"
        to_lps = np.diag([-1, -1, 1, 1]) @ image.affine
        assert np.allclose(to_lps, made.affine[:, [2, 1, 0, 3]], atol=1e-3)
        other = SimpleITK.ReadImage(str(path))
        assert np.array_equal(SimpleITK.GetArrayFromImage(other), array)
        assert np.allclose(other.GetSpacing(), (6, 5, 20), atol=1e-4)
        assert np.allclose(other.GetOrigin(), made.affine[:3, 3], atol=1e-3)
        assert np.allclose(other.GetDirection(), np.eye(3).ravel(), atol=1e-5)


def test_the_same_command_writes_the_same_file(tmp_path: Path) -> None:
    options = ["--spacing", "12", "12", "40", "--seed", "7", "--contrast", "none"]
    for name in ("a.nii.gz", "b.nii.gz"):
        phantom.main(["-o", str(tmp_path / name), *options])
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
