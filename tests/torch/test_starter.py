"""The starter checkpoint, converted and run as a user would, gives the Dice its README states."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import ROOT, SHARED, needs_shared

# ../shared/starter/README.md, section "What it gives".
STATED = {
    "segthor07": {
        **{"lung_left": 0.980, "lung_right": 0.978, "trachea": 0.830, "esophagus": 0.783},
        **{"heart": 0.949, "aorta": 0.862},
    },
    "segthor26": {
        **{"lung_left": 0.972, "lung_right": 0.974, "trachea": 0.828, "esophagus": 0.823},
        **{"heart": 0.919, "aorta": 0.920},
    },
    "ircad01": {
        **{"lung_left": 0.938, "lung_right": 0.945, "aorta": 0.727, "liver": 0.959},
        **{"kidney_left": 0.929, "kidney_right": 0.925, "spleen": 0.919},
    },
    "btcv05": {
        **{"aorta": 0.814, "liver": 0.936, "kidney_left": 0.903, "kidney_right": 0.919},
        **{"spleen": 0.956},
    },
    "ts_dicom20": {"spinal_cord": 0.899, "aorta": 0.922, "liver": 0.970, "spleen": 0.960},
    "imlab1": {"lung_left": 0.962, "lung_right": 0.972},
}
VALUES = (
    *("lung_left", "lung_right", "trachea", "esophagus", "spinal_cord", "heart", "aorta"),
    *("liver", "kidney_left", "kidney_right", "spleen"),
)


@pytest.fixture(scope="module")
def starter(tmp_path_factory) -> Path:
    from segmate_cli.convert import convert_checkpoint

    folder = tmp_path_factory.mktemp("models") / "starter"
    checkpoint = SHARED / "starter" / "starter.pth"
    if not checkpoint.is_file():
        pytest.skip("needs the starter checkpoint of ../shared/starter, which is not here")
    recipe = ROOT / "weights" / "starter" / "recipe.json"
    return convert_checkpoint(checkpoint, folder, to=("onnx",), recipe=recipe, precision="fp16")


@needs_shared
@pytest.mark.parametrize("case", STATED)
def test_the_stated_dice_is_reached_within_003(starter, run, tmp_path, case):
    source = SHARED / "ct" / "train" / case
    out = tmp_path / "labels.nii.gz"
    code, _, err = run("predict", source / "ct.nii.gz", "-o", out, "--model", starter)
    assert code == 0, err
    found = np.asarray(nibabel.load(out).dataobj)
    truth = np.asarray(nibabel.load(source / "labels.nii.gz").dataobj)
    labels = {
        row["value"]: row["organ"]
        for row in json.loads(out.with_suffix("").with_suffix(".json").read_text())["labels"]
    }
    assert labels == dict(enumerate(VALUES, 1))
    off = {}
    for organ, stated in STATED[case].items():
        value = VALUES.index(organ) + 1
        a, b = found == value, truth == value
        dice = 2.0 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))
        if abs(dice - stated) > 0.03:
            off[organ] = (round(float(dice), 3), stated)
    assert off == {}
