"""The bundled model on the example phantom: what a new user sees first has to be right."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
from conftest import ROOT, save_nifti
from phantom import LABELS, make_phantom

from segmate_cli.geometry import Geometry

DEFAULT = ROOT / "weights" / "default"
LARGE = (
    *("lung_left", "lung_right", "heart", "liver"),
    *("kidney_left", "kidney_right", "spleen"),
)
# A patient that training never saw: its phantoms have seeds from 1000.
SEED = 3

pytestmark = [
    pytest.mark.skipif(not DEFAULT.is_dir(), reason="needs the weights of weights/default"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(SEED, (3.0, 2.0, 2.0))


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def test_large_organs_of_the_phantom_are_found(phantom, run, tmp_path):
    scan = save_nifti(
        tmp_path / "scan.nii.gz", phantom.hu, Geometry(phantom.affine, phantom.hu.shape)
    )
    out = tmp_path / "labels.nii.gz"
    code, _, err = run("predict", scan, "-o", out, "--model", DEFAULT, "--threads", 2)
    assert code == 0, err
    labels = np.asarray(nibabel.load(out).dataobj).T
    found = {organ: dice(labels == n, phantom.labels == LABELS[organ]) for n, organ in names()}
    assert {organ: value for organ, value in found.items() if organ in LARGE and value < 0.9} == {}
    left, right = (labels == value_of(f"kidney_{side}") for side in ("left", "right"))
    truth = phantom.labels == LABELS["kidney_left"]
    assert (left & truth).sum() > 10 * (right & truth).sum()


def names() -> list[tuple[int, str]]:
    manifest = json.loads((DEFAULT / "manifest.json").read_text())
    return [(value, entry["key"]) for value, entry in enumerate(manifest["organs"], 1)]


def value_of(organ: str) -> int:
    return {key: value for value, key in names()}[organ]


def test_every_organ_of_the_model_has_an_interval_that_was_measured():
    manifest = json.loads((DEFAULT / "manifest.json").read_text())
    assert sorted(manifest["intervals"]["half_widths"]) == sorted(organ for _, organ in names())
    assert "weights/validated" in manifest["intervals"]["note"]


def test_the_model_says_that_it_is_for_research_only():
    provenance = json.loads((DEFAULT / "manifest.json").read_text())["provenance"]
    assert "research only" in provenance["licence"]
    assert "not" in provenance["intended_use"].lower()
    assert provenance["scores"]["mean"] > 0.8
