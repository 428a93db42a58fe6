"""What a batch finds to do, and what it calls it."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile

import pytest
from conftest import ball_scan
from dicom_maker import Recipe, make_series
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segmate_cli.batch.cases import find_cases, in_shard
from segmate_cli.batch.ids import Names, case_id, is_safe
from segmate_cli.batch.series_index import SeriesIndex, stamp
from segmate_cli.errors import UnreadableError, UsageError


def found(*places, out=None, stdin=None):
    cases = find_cases(map(str, places), SeriesIndex(), out or "/nowhere", stdin)
    return {case.case_id: case for case in cases}


def touch(path, data=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


path_texts = st.lists(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1),
    min_size=1,
    max_size=4,
).map("/".join)


@settings(max_examples=200, deadline=None)
@given(path_texts)
@example("events.0")
@example("Run.1/scan.nii.gz")
def test_an_id_is_always_a_safe_name(path):
    name = case_id(path)
    assert is_safe(name) or name.startswith("_")
    assert len(os.fsencode(name)) <= 110
    assert "/" not in name
    assert name not in (".", "..")


@settings(max_examples=200, deadline=None)
@given(path_texts, path_texts)
def test_two_paths_have_two_ids(one, other):
    def plain(path):
        return [word for word in path.split("/") if word not in ("", ".")]

    ends = (".nii", ".nii.gz", ".zip", ".tar", ".tar.gz", ".tgz")
    if plain(one) != plain(other) and not (one + other).lower().endswith(ends):
        assert case_id(one) != case_id(other)


def test_ids_are_readable():
    assert case_id("pat1/ct.nii.gz") == "pat1--ct"
    assert case_id("a_b-c.d/CT.NII") == "a_b-c.d--CT"
    assert case_id("pat1", "1.2.3").startswith("pat1--")
    assert case_id("Mü ller.nii.gz").startswith("M_ller-")
    assert case_id("cohort.csv.nii.gz").startswith("cohort_csv-")
    assert case_id("a--b.nii.gz") != case_id("a/b.nii.gz")


def test_names_that_differ_only_in_case_or_suffix_are_told_apart_by_a_hash():
    names = Names()
    given_names = [names.take(name, path) for name, path in (("a", "1"), ("A", "2"), ("a", "3"))]
    assert len({name.lower() for name in given_names}) == 3
    assert given_names[0] == "a"


def test_a_tree_of_everything(tmp_path):
    root, out = tmp_path / "in", tmp_path / "in" / "out"
    touch(root / "one.nii.gz")
    touch(root / "deep" / "two.nii")
    touch(root / "notes.txt")
    touch(root / ".hidden.nii.gz")
    touch(root / "._mac.nii.gz")
    touch(out / "labels" / "labels.nii.gz")
    make_series(root / "ct")
    make_series(root / "study" / "s1", Recipe(series=2))
    make_series(root / "study" / "s2", Recipe(series=3))
    with zipfile.ZipFile(root / "packed.zip", "w") as archive:
        for file in make_series(tmp_path / "other", Recipe(series=4)).folder.iterdir():
            archive.write(file, file.name)
    with tarfile.open(root / "rolled.tar.gz", "w:gz") as archive:
        archive.add(make_series(tmp_path / "fifth", Recipe(series=5)).folder, "ct")
    touch(root / "bad.zip")
    cases = found(root, out=out)
    assert sorted(cases) == [
        *("bad", "ct", "deep--two", "one", "packed", "rolled", "study--s1", "study--s2"),
    ]
    assert cases["packed"].series.endswith(".4")
    assert cases["rolled"].series.endswith(".5")
    assert cases["bad"].series is None


def test_each_series_of_a_folder_is_a_case_with_a_stable_name(tmp_path):
    make_series(tmp_path / "in" / "ct", Recipe(series=1))
    make_series(tmp_path / "in" / "ct", Recipe(series=2, name="more{n}"))
    first = found(tmp_path / "in")
    assert len(first) == 2
    assert all(name.startswith("ct--") for name in first)
    assert sorted(case.series[-2:] for case in first.values()) == [".1", ".2"]
    make_series(tmp_path / "in" / "ct", Recipe(series=3, name="again{n}"))
    assert set(first) < set(found(tmp_path / "in"))


def test_dicom_that_lies_at_the_root_is_named_after_it(tmp_path):
    make_series(tmp_path / "CT_THORAX")
    assert list(found(tmp_path / "CT_THORAX")) == ["CT_THORAX"]


def test_links_in_circles_and_two_names_for_a_folder(tmp_path):
    touch(tmp_path / "in" / "a" / "one.nii.gz")
    (tmp_path / "in" / "a" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "b").symlink_to(tmp_path / "in" / "a")
    (tmp_path / "in" / "nowhere.nii.gz").symlink_to(tmp_path / "gone")
    assert sorted(found(tmp_path / "in")) == ["a--one", "nowhere"]


def test_a_manifest(tmp_path):
    ball_scan(tmp_path / "x.nii.gz")
    make_series(tmp_path / "ct")
    table = tmp_path / "cases.csv"
    table.write_text(
        "path,case_id,series,options\nx.nii.gz,patient-7,,organs=liver+heart;no_hu_check\nct,,,\n"
    )
    cases = found(table)
    assert sorted(cases) == ["ct", "patient-7"]
    assert cases["patient-7"].options == {"organs": ["liver", "heart"], "check_hu": False}
    assert cases["patient-7"].path == str(tmp_path / "x.nii.gz")
    table.with_suffix(".tsv").write_text("path\tseries\nct\t1\n")
    assert found(table.with_suffix(".tsv"))["ct"].series == "1"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("file\nx\n", "columns"),
        ("path,case_id\nx,../y\n", "safe file name"),
        ("path,options\nx,quick\n", "quick"),
        ("path\n,\n", "path"),
    ],
)
def test_a_manifest_that_makes_no_sense_says_where(tmp_path, text, word):
    table = tmp_path / "cases.csv"
    table.write_text(text)
    with pytest.raises(UsageError, match=word):
        found(table)


def test_paths_on_stdin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/ct.nii.gz", "b/ct.nii.gz"):
        (tmp_path / name).parent.mkdir()
        ball_scan(tmp_path / name)
    cases = found("-", stdin=io.StringIO("a/ct.nii.gz\nb/ct.nii.gz\n\n"))
    assert len(cases) == 2
    # What went away since it was listed fails as a case of its own; what was typed is refused.
    gone = found("-", stdin=io.StringIO("a/ct.nii.gz\nx/gone.nii.gz\nx/folder/\n"))
    assert {name: case.path for name, case in gone.items()} == {
        **{"ct": "a/ct.nii.gz", "gone": "x/gone.nii.gz", "folder": "x/folder/"}
    }
    with pytest.raises(UnreadableError, match="gone"):
        found("gone.nii.gz")


def test_shards_share_all_cases_out_and_never_change(tmp_path):
    for n in range(40):
        touch(tmp_path / f"scan{n}.nii.gz")
    cases = found(tmp_path).values()
    shards = [{c.case_id for c in cases if in_shard(c, n, 3)} for n in (1, 2, 3)]
    assert sum(map(len, shards)) == 40
    assert set.union(*shards) == {case.case_id for case in cases}
    touch(tmp_path / "another.nii.gz")
    again = found(tmp_path).values()
    assert shards[0] <= {c.case_id for c in again if in_shard(c, 1, 3)}


def test_a_stamp_sees_changes_and_no_renaming(tmp_path):
    folder = make_series(tmp_path / "ct").folder
    before = stamp(str(folder))
    assert stamp(str(folder.rename(tmp_path / "moved"))) == before
    folder = tmp_path / "moved"
    file = next(folder.iterdir())
    os.utime(file, ns=(1, 1))
    assert stamp(str(folder)) != before


def test_the_index_reads_a_folder_once(tmp_path, monkeypatch):
    make_series(tmp_path / "ct")
    path = tmp_path / "series.json"
    index = SeriesIndex(path)
    uids = index.series_of(str(tmp_path / "ct"))
    index.save()
    monkeypatch.setattr("segmate_cli.dicom.find_series", lambda path: pytest.fail("looked again"))
    assert SeriesIndex(path).series_of(str(tmp_path / "ct")) == uids
    path.write_text("[1, 2")
    with pytest.raises(pytest.fail.Exception):
        SeriesIndex(path).series_of(str(tmp_path / "ct"))
