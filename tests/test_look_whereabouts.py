"""One pass finds where organs lie, in any storage order, and counts what ``measure`` counts."""

from __future__ import annotations

import numpy as np
import pytest
from look_maker import BOXES, HU, write_case

from segmate_cli import organs, scans
from segmate_cli.errors import GeometryError
from segmate_cli.look.whereabouts import HU_LOW, HU_STEP, locate
from segmate_cli.measurement import measure
from segmate_cli.volume import Labels


def look(folder, directions="SPL"):
    path, scan = write_case(folder, directions)
    labels = scans.open_labels(path)
    return labels, locate(labels, scans.find_scan(scan))


def test_boxes_and_centres(tmp_path):
    _, found = look(tmp_path)
    assert found.places.keys() == BOXES.keys()  # the spleen is nowhere
    for name, box in BOXES.items():
        place = found.places[name]
        assert place.box == tuple((first, end - 1) for first, end in box)
        assert place.centre == tuple((first + end - 1) // 2 for first, end in box)


@pytest.mark.parametrize("directions", ["SPL", "PSL", "RIA"])
def test_the_numbers_are_those_of_measure(tmp_path, directions):
    path, scan = write_case(tmp_path, directions)
    _, found = look(tmp_path, directions)
    assert found.stats == measure(scans.load_labels(path), scans.load(scan))


def test_the_centre_of_a_bent_organ_is_not_beside_it(tmp_path):
    path, _ = write_case(tmp_path)
    labels = scans.load_labels(path)
    ring = np.zeros_like(labels.values)
    ring[5, 2:30, 2:30] = 1
    ring[5, 6:26, 6:26] = 0
    place = locate(Labels(ring, labels.geometry, labels.organs), None).places["liver"]
    assert ring[:, place.centre[1]].any()
    assert ring[:, :, place.centre[2]].any()


def test_histograms_count_every_voxel_once(tmp_path):
    _, found = look(tmp_path)
    for each in found.stats:
        counts = found.histograms[each.organ.key]
        assert counts.sum() == each.voxels
        if each.voxels:
            assert counts[(HU[each.organ.key] - HU_LOW) // HU_STEP] == each.voxels


def test_hu_beyond_the_histogram_count_at_its_ends(tmp_path):
    path, scan = write_case(tmp_path)
    labels, volume = scans.load_labels(path), scans.load(scan)
    hu = volume.hu.copy()
    hu[labels.values == 1] = np.where(np.arange((labels.values == 1).sum()) % 2, 3000, -2000)
    from dataclasses import replace

    found = locate(labels, replace(volume, hu=hu).as_scan())
    counts = found.histograms["liver"]
    assert counts[0] == counts[-1] == counts.sum() / 2


def test_the_body_leaves_the_air_out(tmp_path):
    _, found = look(tmp_path)
    assert found.body == ((0, 23), (4, 35), (2, 45))


def test_values_without_a_name_are_counted_too(tmp_path):
    path, _ = write_case(tmp_path)
    labels = scans.load_labels(path)
    values = labels.values.astype(np.uint16)
    values[0, 0, 0] = 700
    found = locate(Labels(values, labels.geometry, labels.organs), None)
    assert found.organs[700].key == "label_700"
    assert found.stats[-1].voxels == 1
    assert found.places["label_700"].centre == (0, 0, 0)


def test_two_values_of_one_organ_are_one_place(tmp_path):
    path, _ = write_case(tmp_path)
    labels = scans.load_labels(path)
    table = {**labels.organs, 2: organs.organ("liver")}
    place = locate(Labels(labels.values, labels.geometry, table), None).places["liver"]
    assert place.box == ((4, 11), (10, 29), (6, 37))


def test_a_scan_on_another_grid_is_refused(tmp_path):
    path, _ = write_case(tmp_path / "a")
    _, scan = write_case(tmp_path / "b", "PSL")
    labels = scans.open_labels(path)
    with pytest.raises(GeometryError, match="does not lie on"):
        locate(labels, scans.find_scan(scan))
