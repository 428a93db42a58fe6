"""Coronal and sagittal storage: turned by way of a file that is never left behind."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import tracemalloc
from collections import namedtuple

import numpy as np
import pytest
from conftest import save_nifti
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_geometry import directions, make
from test_pipeline import scan_of_shape, tiny_model  # noqa: F401

from segmate_cli import spool
from segmate_cli.bundle import open_bundle
from segmate_cli.errors import OutputError
from segmate_cli.pipeline import predict
from segmate_cli.planes import PackedPlanes
from segmate_cli.resample import ModelGrid
from segmate_cli.spool import planes_across
from segmate_cli.volume import Volume

shapes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))


@settings(deadline=None)
@given(shapes, st.sampled_from([1, 2]), st.booleans(), st.sampled_from([1, 40, 10**6]))
def test_planes_come_across(shape, axis, down, slab_bytes):
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    before, spool.SLAB_BYTES = spool.SLAB_BYTES, slab_bytes
    try:
        got = list(planes_across(iter(array), shape, axis, down=down))
    finally:
        spool.SLAB_BYTES = before
    want = np.moveaxis(array, axis, 0)[:: -1 if down else 1]
    assert np.array_equal(np.stack(got), want)


@settings(
    max_examples=48, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(directions)
def test_storage_changes_no_label(tiny_model, letters):  # noqa: F811
    volume, _ = scan_of_shape(letters, (1.3, 0.9, 1.7))
    geometry, turn = volume.geometry.reoriented(("S", "P", "L"))
    axial = Volume(np.ascontiguousarray(turn.view(volume.hu)), geometry)
    want = turn.inverse().view(predict(axial, tiny_model).values)
    assert np.array_equal(predict(volume, tiny_model).values, want)


@pytest.mark.parametrize("letters", ["PSL", "AIR", "LPS", "RSA", "SPL"])
def test_label_planes_come_in_stored_order(letters, tiny_bundle):
    geometry = make(letters, spacing=(1.0, 1.5, 0.8), shape=(40, 23, 31))
    grid = ModelGrid.fit(geometry, open_bundle(tiny_bundle).manifest.preprocessing)
    labels = np.random.default_rng(0).integers(0, 255, grid.shape).astype(np.uint8)
    index = [
        np.minimum(np.floor(np.arange(n) / step + 0.5).astype(int), count - 1)
        for n, step, count in zip(grid.source_shape, grid.steps, grid.shape, strict=True)
    ]
    want = grid.turn.inverse().view(labels[np.ix_(*index)])
    assert np.array_equal(np.stack(list(grid.back_planes(labels))), want)
    assert np.array_equal(grid.back(labels), want)


def test_a_stored_slice_needs_lines_of_the_labels_not_their_planes(tiny_bundle):
    geometry = make("PSL", spacing=(2.0, 2.0, 2.0), shape=(200, 300, 100))
    grid = ModelGrid.fit(geometry, open_bundle(tiny_bundle).manifest.preprocessing)
    labels = PackedPlanes(grid.shape)
    tracemalloc.start()
    next(grid.back_planes(labels))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < np.prod(grid.shape) / 2


Usage = namedtuple("Usage", "total used free")


def test_a_disk_without_room_is_known_before_a_slice_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 100))

    def unread():
        raise AssertionError("a slice was read")
        yield

    with pytest.raises(OutputError, match=r"temporary file of 1 MB there \(no space left"):
        next(planes_across(unread(), (10, 10, 10), 1, tmp_path))


def test_the_file_has_no_name_and_goes_with_whoever_reads(tmp_path):
    array = np.zeros((4, 3, 2), np.int16)
    planes = planes_across(iter(array), array.shape, 2, tmp_path)
    next(planes)
    assert sys.platform != "linux" or not list(tmp_path.iterdir())
    del planes
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_gone_is_told(tmp_path):
    planes = planes_across(iter(np.zeros((1, 1, 1), np.int16)), (1, 1, 1), 1, tmp_path / "gone")
    with pytest.raises(OutputError, match="set TMPDIR"):
        next(planes)


def test_a_full_disk_is_exit_8_and_leaves_nothing(tiny_bundle, tmp_path):
    geometry = make("PSL", spacing=(2.0, 2.0, 2.0), shape=(40, 64, 64))
    hu = np.full(geometry.shape, -1000, np.int16)
    hu[10:30, 10:30, 10:30] = 40
    scan = save_nifti(tmp_path / "coronal.nii.gz", hu, geometry)
    predict = f"{sys.executable} -m segmate_cli predict {scan} -o {tmp_path / 'labels.nii.gz'}"
    # A limit on the size of files stands in for a full disk: the write itself fails.
    script = f"trap '' XFSZ; ulimit -f 40; exec env -u TMPDIR {predict} --model {tiny_bundle}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 8
    assert f"{tmp_path}: a scan stored coronally or sagittally needs" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["coronal.nii.gz"]
