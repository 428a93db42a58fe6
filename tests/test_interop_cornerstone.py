"""OHIF's own code (@cornerstonejs/adapters, in Node) reads the SEG; see tests/interop."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest
from conftest import ROOT
from seg_maker import STUDY, WHOLE, labels_on, series_and_labels

from segmate_cli import saving
from segmate_cli.dicom.reference import SegOptions

INTEROP = ROOT / "tests" / "interop"
needs_node = pytest.mark.skipif(
    shutil.which("node") is None or not (INTEROP / "node_modules").is_dir(),
    reason="needs Node and, once, 'npm install --ignore-scripts' in tests/interop",
)
# The viewer refuses the byte that DICOM puts behind an odd number of them.
EVEN = WHOLE.but(shape=(6, 16, 12), tags=STUDY)


@needs_node
@pytest.mark.parametrize(("seg_type", "column"), [("binary", (0, 0, -1)), ("labelmap", (0, 1, 0))])
def test_each_slice_shows_the_same_voxels(tmp_path, seg_type, column):
    volume, _ = series_and_labels(tmp_path / "dicom", EVEN.but(column=column))
    labels = labels_on(volume)
    seg = tmp_path / "seg.dcm"
    saving.save(labels, seg, seg=SegOptions(seg_type=seg_type), with_sidecar=False)
    command = ["node", str(INTEROP / "read_seg.mjs"), str(seg), str(tmp_path / "dicom")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    uids = volume.source.sop_instance_uids
    expected = {
        uid: {
            str(value): int(np.count_nonzero(plane == value))
            for value in np.unique(plane[plane > 0])
        }
        for uid, plane in zip(uids, labels.values, strict=True)
        if plane.any()
    }
    assert json.loads(done.stdout) == expected
