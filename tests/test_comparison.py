"""Two label maps: what changed, by how much, where, and into what."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import save_nifti
from look_maker import NAMES, arrays, geometry, write_case

from segmate_cli import organs, saving, scans
from segmate_cli.comparison import compare_case
from segmate_cli.errors import UnknownOrganError
from segmate_cli.evaluation import CasePair
from segmate_cli.geometry import Geometry
from segmate_cli.volume import Labels

VOXEL_ML = 0.012
GRID = Geometry(np.diag([3.0, 2.0, 2.0, 1.0]), (6, 10, 10))
TABLE = {n: organs.organ(name) for n, name in enumerate(NAMES, 1)}


def write(path, values, table=TABLE, grid=None):
    source = scans.find_scan(
        save_nifti(path.with_name(f"ct_{path.name}"), values.astype(np.int16), grid or geometry())
    ).source
    labels = Labels(values, grid or geometry(), table, source)
    return saving.save(labels, path, with_sidecar=False)


def compared(tmp_path, change, table=TABLE, wanted=None):
    """The torso against itself after ``change`` of its label values."""
    _, values = arrays()
    first = write(tmp_path / "a.nii.gz", values)
    other = values.copy()
    change(other)
    second = write(tmp_path / "b.nii.gz", other, table)
    found = compare_case(CasePair("case", first, second), wanted=wanted)
    return found, {each.organ: each for each in found.organs}


def test_the_same_twice_differs_in_nothing(tmp_path):
    case, rows = compared(tmp_path, lambda values: None)
    assert case.same_voxels
    assert case.changed_share == 0.0
    for name in ("liver", "kidney_left", "lung_right"):
        each = rows[name]
        assert (each.dice, each.change_ml, each.only_a_ml, each.only_b_ml) == (1.0, 0.0, 0.0, 0.0)
        assert (each.moved_mm, each.where, each.became, each.came_from) == (0.0, (), (), ())
    assert rows["spleen"].dice is None
    assert rows["spleen"].volume_a_ml is None


def test_a_cut_slab_is_measured_and_found(tmp_path):
    def cut(values):
        values[10:12][values[10:12] == 1] = 0  # two of the liver's eight slices, the upper ones

    case, rows = compared(tmp_path, cut)
    liver = rows["liver"]
    assert liver.volume_a_ml == pytest.approx(8 * 20 * 16 * VOXEL_ML)
    assert liver.change_percent == pytest.approx(-25.0)
    assert liver.dice == pytest.approx(2 * 6 / (8 + 6))
    assert liver.only_a_ml == pytest.approx(2 * 20 * 16 * VOXEL_ML)
    assert liver.only_b_ml == 0.0
    assert liver.where == ("superior",)
    assert liver.moved_mm == pytest.approx(3.0)  # one slice, half of what is gone
    assert liver.became == (("background", 1.0),)
    assert rows["kidney_left"].dice == 1.0
    labelled = sum(n for n in (8 * 20 * 16, 6 * 8 * 8, 10 * 24 * 14))
    assert case.changed_share == pytest.approx(2 * 20 * 16 / labelled)


def test_what_became_of_voxels_is_told(tmp_path):
    def take(values):
        part = values[:, :, 6:9]  # the liver's right edge becomes spleen
        part[part == 1] = 4

    _, rows = compared(tmp_path, take)
    assert rows["liver"].became == (("spleen", 1.0),)
    assert rows["liver"].where == ("right",)
    assert rows["spleen"].came_from == (("liver", 1.0),)
    assert rows["spleen"].volume_a_ml is None
    assert rows["spleen"].change_ml is None
    assert rows["spleen"].dice == 0.0


def test_other_label_values_of_the_same_organs_do_not_matter(tmp_path):
    def renumber(values):
        values[values > 0] += 100

    table = {value + 100: organ for value, organ in TABLE.items()}
    case, rows = compared(tmp_path, renumber, table)
    assert rows["liver"].dice == 1.0
    assert rows["liver"].where == ()
    assert case.changed_share == 0.0


@pytest.mark.parametrize("directions", ["PSL", "RIA"])
def test_other_storage_of_the_same_voxels_does_not_matter(tmp_path, directions):
    first, _ = write_case(tmp_path / "a")
    second, _ = write_case(tmp_path / "b", directions)
    found = compare_case(CasePair("case", first, second))
    assert found.same_voxels
    assert found.changed_share == 0.0


def test_other_voxels_are_compared_by_volume(tmp_path):
    _, values = arrays()
    affine = geometry().affine.copy()
    affine[:3, :3] *= 1.1
    first = write(tmp_path / "a.nii.gz", values)
    second = write(tmp_path / "b.nii.gz", values, grid=Geometry(affine, values.shape))
    found = compare_case(CasePair("case", first, second))
    assert not found.same_voxels
    liver = found.organs[0]
    assert liver.change_percent == pytest.approx(100 * (1.1**3 - 1))
    assert liver.dice is None
    assert liver.where == ()


def test_a_change_of_what_is_cut_is_marked(tmp_path):
    _, rows = compared(tmp_path, lambda values: None)
    assert rows["lung_right"].status_a == "truncated"
    assert rows["lung_right"].is_lower_bound
    assert not rows["liver"].is_lower_bound


def test_organs_of_one_alone_are_rows_too(tmp_path):
    table = {**TABLE, 4: organs.organ("stomach")}
    _, rows = compared(tmp_path, lambda values: None, table)
    assert (rows["spleen"].status_b, rows["stomach"].status_a) == (None, None)


def test_only_those_asked_for(tmp_path):
    _, rows = compared(tmp_path, lambda values: None, wanted=["liver"])
    assert list(rows) == ["liver"]
    with pytest.raises(UnknownOrganError):
        compare_case(
            CasePair("c", tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"), wanted=["stomach"]
        )


def test_a_table_names_values_on_either_side_that_do_not_say_themselves(run, tmp_path):
    _, values = arrays()
    bare = save_nifti(tmp_path / "bare.nii.gz", values, geometry())
    named = write(tmp_path / "named.nii.gz", values)
    rows = [f"{value},{organ.key}\n" for value, organ in TABLE.items()]
    (tmp_path / "table.csv").write_text("value,organ\n" + "".join(rows))
    outputs = [
        run("compare", *pair, "--labels", tmp_path / "table.csv", "--format", "csv")
        for pair in ((bare, named), (named, bare))
    ]
    assert [code for code, *_ in outputs] == [0, 0]
    assert all("liver" in out and ",1.0," in out for _, out, _ in outputs)


def test_what_became_of_an_organ_of_two_values_is_counted_whole(tmp_path):
    values = np.zeros((6, 10, 10), np.uint8)
    values[2:4, 2:8, 2:4], values[2:4, 2:8, 4:8] = 1, 2
    liver, spleen = organs.organ("liver"), organs.organ("spleen")
    first = write(tmp_path / "a.nii.gz", values, {1: liver, 2: liver}, GRID)
    other = np.where(values == 1, 3, 0).astype(np.uint8)
    other[2, 2, 4] = 3
    second = write(tmp_path / "b.nii.gz", other, {3: spleen}, GRID)
    row, _ = compare_case(CasePair("case", first, second)).organs
    assert row.organ == "liver"
    # 24 voxels of value 1 and one of 2 are spleen, 47 nothing.
    assert row.became == (("background", 47 / 72), ("spleen", 25 / 72))
