"""Tables of label values: every form that people have them in, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segmate_cli import organs, sidecar
from segmate_cli.errors import InputError
from segmate_cli.label_table import read_label_table

WANT = {1: "liver", 7: "femur_left"}


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def found(path: Path) -> dict[int, str]:
    return {value: organ.key for value, organ in read_label_table(path).items()}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "value,organ\n1,liver\n7,femur_left\n"),
        ("t.csv", "organ,value\nliver,1\nfemur_left,7\n"),
        ("t.csv", "Label , Name\r\n1,liver\r\n7,femur_left\r\n"),
        ("t.csv", "id;structure;colour\n1;liver;red\n7;femur_left;blue\n"),
        ("t.csv", "id,label\n1,liver\n7,femur_left\n"),
        ("t.csv", "index,label,name\n3,1,liver\n4,7,femur_left\n"),
        ("t.csv", "\ufeffvalue,organ\n1,liver\n7,femur_left\n"),
        ("t.csv", '"value","organ"\n"1"," liver "\n"7","femur_left"\n\n'),
        ("t.csv", "value,organ\n1.0,liver\n7.0,femur_left\n"),
        ("t.csv", "0,background\n1,liver\n7,femur_left\n"),
        ("t.csv", "-1,ignore\n1,liver\n7,femur_left"),
        ("t.csv", "value,organ\n1,liver\n7,femur_left\n1,liver\n"),
        ("t.csv", "value,organ\n1,liver\n2,\n7,femur_left\n"),
        ("t.tsv", "value\torgan\n1\tliver\n7\tfemur_left\n"),
        ("t.txt", "1\tliver\n7\tfemur_left\n"),
        ("t.json", '{"1": "liver", "7": "femur_left"}'),
        ("t.json", '{"liver": 1, "femur_left": 7, "background": 0}'),
        ("t.json", '{"1": "liver", "7": "femur_left", "3": null}'),
        ("t.json", '{"labels": {"background": 0, "liver": 1, "femur_left": 7}}'),
        ("t.JSON", '[{"value": 1, "organ": "liver"}, {"id": 7, "name": "femur_left"}]'),
    ],
)
def test_forms_that_are_read(tmp_path, name, content):
    assert found(write(tmp_path, name, content)) == WANT


def test_names_of_the_table_bring_their_codes(tmp_path):
    table = read_label_table(write(tmp_path, "t.csv", "value,organ\n3,Left Kidney\n"))
    assert table == {3: organs.organ("kidney_left")}


def test_segmates_own_sidecar_is_a_table(tmp_path):
    rows = [sidecar.label_row(n, organ) for n, organ in enumerate(organs.ORGANS, 1)]
    path = write(tmp_path, "labels.json", json.dumps({"schema": "segmate-labels", "labels": rows}))
    assert read_label_table(path) == dict(enumerate(organs.ORGANS, 1))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", ""),
        ("t.csv", "\n\n"),
        ("t.csv", "liver\nheart\n"),
        ("t.csv", "value,colour\n1,red\n"),
        ("t.csv", "value,organ\none,liver\n"),
        ("t.csv", "value,organ\n1.5,liver\n"),
        ("t.csv", "value,organ\nnan,liver\n"),
        ("t.csv", "value,organ\n70000,liver\n"),
        ("t.csv", "1,liver\n2\n"),
        ("t.csv", "1,liver\n1,spleen\n"),
        ("t.csv", "1,liver\n²,spleen\n"),
        ("t.csv", "value,organ\n1," + "x" * 200_000),
        ("t.csv", b"\xff\xfe\x00\x01"),
        ("t.json", ""),
        ("t.json", "7"),
        ("t.json", '"liver"'),
        ("t.json", "[1, 2]"),
        ("t.json", '["value"]'),
        ("t.json", '[{"value": 1}]'),
        ("t.json", '{"liver": null}'),
        ("t.json", '{"liver": true}'),
        ("t.json", '{"liver": 1.5}'),
        ("t.json", '{"liver": Infinity}'),
        ("t.json", '{"liver": 1e999}'),
        ("t.json", '{"liver": [1]}'),
        ("t.json", '{"liver": 1, "spleen": 1}'),
        ("t.json", "[" * 100_000),
        ("t.json", '{"liver": ' + "9" * 5000 + "}"),
    ],
)
def test_what_is_no_table_is_one_sentence(tmp_path, name, content):
    path = write(tmp_path, name, content)
    with pytest.raises(InputError) as caught:
        read_label_table(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "value and organ columns" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_of_nothing_but_background(tmp_path):
    with pytest.raises(InputError, match="names no label over 0"):
        read_label_table(write(tmp_path, "t.json", '{"background": 0}'))


def test_a_missing_table(tmp_path):
    with pytest.raises(InputError, match=r"labels \(No such file or directory\);"):
        read_label_table(tmp_path / "none.csv")


def test_two_names_for_one_value_are_both_told(tmp_path):
    path = write(tmp_path, "t.csv", "value,organ\n1,liver\n1,spleen\n")
    with pytest.raises(InputError, match="value 1 is both 'liver' and 'spleen'"):
        read_label_table(path)
