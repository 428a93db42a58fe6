"""What the scores tell: doubt, overlap and partial volume, on shapes whose truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import save_nifti, threshold_network, voxel_centres_mm, write_bundle

from segmate_cli.doubt.score_evidence import OrganScores, ScoreWatcher
from segmate_cli.geometry import Geometry


def watched(logits: np.ndarray, steps_mm=(3.0, 1.5, 1.5)) -> tuple[OrganScores, ...]:
    """Scores (channels, slices, rows, columns), looked at slice by slice."""
    wins = np.where(logits.max(axis=0) > 0, logits.argmax(axis=0) + 1, 0).astype(np.uint8)
    extents = [np.full(n, size) for n, size in zip(wins.shape, steps_mm, strict=True)]
    watcher = ScoreWatcher(range(len(logits)), [0.0] * len(logits), tuple(extents))
    for k, labels in enumerate(wins):
        watcher.add(k, labels, logits[:, k].astype(np.float32))
    return watcher.evidence()


def distances(steps_mm, radii_mm, offset_mm) -> np.ndarray:
    """About how far inside of an ellipsoid each voxel lies, in mm."""
    counts = [int(2.6 * radius / size) + 8 for radius, size in zip(radii_mm, steps_mm, strict=True)]
    sides = zip(counts, steps_mm, offset_mm, strict=True)
    axes = [(np.arange(count) - (count - 1) / 2) * size + shift for count, size, shift in sides]
    grid = np.meshgrid(*axes, indexing="ij")
    scaled = [side / radius for side, radius in zip(grid, radii_mm, strict=True)]
    length = np.sqrt(sum(each**2 for each in scaled))
    slope = np.sqrt(sum((s / r) ** 2 for s, r in zip(scaled, radii_mm, strict=True)))
    return (1 - length) * length / np.maximum(slope, 1e-6)


STEPS = [(0.7, 0.7, 0.7), (1.5, 0.8, 0.8), (3.0, 1.5, 1.5), (5.0, 1.5, 1.5)]


@pytest.mark.parametrize("steps_mm", STEPS)
@pytest.mark.parametrize("radii_mm", [(12, 12, 12), (20, 11, 13)])
def test_the_partial_volume_is_the_shapes_and_nearer_to_it_than_a_count(steps_mm, radii_mm):
    rng = np.random.default_rng(3)
    true_ml = 4 / 3 * np.pi * np.prod(radii_mm) / 1000
    counted, corrected = [], []
    for _ in range(4):
        logits = 3 * distances(steps_mm, radii_mm, rng.uniform(0, 1, 3) * steps_mm)
        (found,) = watched(logits[None], steps_mm)
        counted.append((logits > 0).sum() * np.prod(steps_mm) / 1000 / true_ml - 1)
        corrected.append(found.volume_pv_ml / true_ml - 1)
    assert np.abs(corrected).max() < 0.01
    if steps_mm[0] == 5.0:  # where voxels are thin there is nothing to correct
        assert np.square(corrected).mean() < 0.3 * np.square(counted).mean()


def test_confidence_falls_with_the_slope_of_the_scores_and_nothing_is_0():
    inside_mm = distances((3.0, 1.5, 1.5), (20, 20, 20), (0.3, 0.2, 0.1))
    found = [watched(slope * inside_mm[None])[0] for slope in (4.0, 1.0, 0.2)]
    confidences = [each.confidence for each in found]
    entropies = [each.surface_entropy for each in found]
    assert confidences == sorted(confidences, reverse=True)
    assert entropies == sorted(entropies)
    assert confidences[0] > 0.97 > 0.85 > confidences[2]
    assert 0 < entropies[0] < 0.6 < 0.95 < entropies[2] <= 1
    (nothing,) = watched(np.full((1, 4, 20, 20), -8.0))
    assert nothing == OrganScores(0.0, 0.0, 0.0, 0.0)


def test_confidence_is_the_dice_with_truths_drawn_by_the_probabilities():
    inside_mm = distances((3.0, 1.5, 1.5), (18, 18, 18), (0.0, 0.0, 0.0))
    logits = 0.5 * inside_mm
    logits = np.where(np.abs(logits) < 2.2, logits, np.sign(logits) * 20)
    (found,) = watched(logits[None])
    rng = np.random.default_rng(4)
    truth = rng.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits))
    mask = logits > 0
    dice = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
    assert found.confidence == pytest.approx(dice, abs=0.01)


def test_overlap_is_the_share_in_which_another_organ_passes_too():
    logits = np.full((2, 6, 24, 40), -8.0)
    logits[0, :, 4:20, :20] = 5.0
    logits[1, :, 4:20, 15:36] = 3.0  # loses from 15 to 20
    first, second = watched(logits)
    assert first.overlap == pytest.approx(0.25)
    assert second.overlap == 0.0


def fuzzy_ball(folder, spacing_mm: float):
    """A ball of 21 mm radius, each voxel with about the share of it that lies inside, in HU."""
    size = int(60 / spacing_mm)
    affine = np.diag([spacing_mm] * 3 + [1.0])[[2, 1, 0, 3]]
    affine[:3, 3] = -spacing_mm * (size - 1) / 2 + 0.3
    geometry = Geometry(affine, (size, size, size))
    inside_mm = 21.0 - np.linalg.norm(voxel_centres_mm(geometry), axis=-1)
    parts = np.clip(0.5 + inside_mm / spacing_mm, 0, 1)
    # Half way between -1000 and 400 HU the network's threshold is met.
    hu = np.round(-1000 + 1400 * parts).astype(np.int16)
    return save_nifti(folder / f"ball{spacing_mm}.nii.gz", hu, geometry)


# Voxels of 5 mm blur a ball of 21 mm so that the threshold itself lies further in.
@pytest.mark.parametrize(("spacing_mm", "within"), [(1.0, 0.02), (2.0, 0.02), (5.0, 0.05)])
def test_predict_and_report_give_the_partial_volume(run, tmp_path, spacing_mm, within):
    bundle = write_bundle(
        tmp_path / "model", threshold_network(), preprocessing__resampling={"labels": "scores"}
    )
    labels = tmp_path / "labels.nii.gz"
    scan = fuzzy_ball(tmp_path, spacing_mm)
    assert run("predict", scan, "-o", labels, "--model", bundle)[0] == 0
    (row,) = json.loads(run("report", labels, "--format", "json")[1])["rows"]
    true_ml = 4 / 3 * np.pi * 2.1**3
    assert row["volume_pv_ml"] == pytest.approx(true_ml, rel=within)
    assert 0.9 < row["confidence"] <= 1.0
    assert (row["volume_low_ml"], row["agreement"]) == (None, None)
    (own,) = json.loads((tmp_path / "labels.json").read_text())["doubt"]["organs"]
    assert own["volume_pv_ml"] == row["volume_pv_ml"]
    csv = run("report", labels, "--format", "csv")[1].splitlines()
    assert str(row["volume_pv_ml"]) in csv[1].split(",")


def test_an_unsure_network_makes_an_organ_low_confidence(run, tmp_path):
    bundle = write_bundle(
        tmp_path / "model",
        gates="adult_ct",
        preprocessing__window={"low_hu": -1000, "high_hu": 400, "scale": 1e-4, "offset": 3e-2},
    )
    labels = tmp_path / "labels.nii.gz"
    run("predict", fuzzy_ball(tmp_path, 2.0), "-o", labels, "--model", bundle)
    for options in ((), ("--ct", tmp_path / "ball2.0.nii.gz")):
        (row,) = json.loads(run("report", labels, "--format", "json", *options)[1])["rows"]
        assert "network was unsure" in " ".join(row["reasons"])
        assert row["confidence"] < 0.8
    gates = tmp_path / "gates.toml"
    gates.write_text("[confidence]\nenabled = false\n")
    out = run("report", labels, "--format", "json", "--gates", gates)[1]
    assert "unsure" not in " ".join(json.loads(out)["rows"][0]["reasons"])
