"""Model bundles: every way in which one can be wrong is one sentence, told before anything runs."""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, manifest_dict, threshold_network, write_bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from segmate_cli import bundle, bundle_files
from segmate_cli.bundle import Bundle, open_bundle, parse_manifest
from segmate_cli.errors import ExitCode, HashMismatchError, ManifestError, ModelError

NETWORK = threshold_network()
FILE = {"engine": "onnx", "file": "model.onnx", "sha256": "0" * 64}
LIVER = {"key": "liver", "channel": 0}
WINDOW = {"low_hu": -1000, "high_hu": 400, "scale": 1.0, "offset": 0.0}
MISSING = object()

GRID, PADDING = "preprocessing__grid", "preprocessing__padding"
WRONG: list[tuple[str, Any, str]] = [
    ("format", "other-bundle", "does not describe a segmate bundle"),
    ("format", MISSING, "does not describe a segmate bundle"),
    ("format_version", 2, "bundle format 2 is unknown .* reads format 1"),
    ("format_version", "1", "bundle format '1' is unknown"),
    ("format_version", MISSING, "bundle format None is unknown"),
    ("surprise", 1, "surprise: Extra inputs"),
    ("name", MISSING, "name: Field required"),
    ("name", "", "name: "),
    ("name", "../up", "name: "),
    ("name", "two words", "name: "),
    ("name", "x" * 65, "name: "),
    ("name", "tiny\n", "name: "),
    ("version", 1, "version: Input should be a valid string"),
    ("title", None, "title: "),
    ("organs", [], "organs: "),
    ("organs", [LIVER, {"key": "heart", "channel": 0}], "an organ or a channel is named twice"),
    ("organs", [LIVER, {"key": "liver", "channel": 1}], "an organ or a channel is named twice"),
    ("organs", [{"key": "brain", "channel": 0}], "'brain'.* not in segmate's organ table"),
    ("organs", [{"key": "liver", "channel": 1}], "channel 1 of a network with 1"),
    ("organs", [{"key": "liver", "channel": -1}], "organs.0.channel"),
    ("organs", [{"key": "liver", "channel": 0.5}], "organs.0.channel"),
    ("organs", [{"key": "liver", "channel": True}], "organs.0.channel"),
    ("organs", [{"key": "liver"}], "organs.0.channel: Field required"),
    *[
        ("organs", [{**LIVER, "threshold": t}], "organs.0.threshold")
        for t in (0, 1, -0.5, 2, "0.5", True, math.nan, math.inf)
    ],
    ("activation", "softmax", "activation: "),
    ("overlap", "first", "overlap: "),
    ("preprocessing", {}, r"preprocessing.grid: Field required \(and 3 more\)"),
    *[
        (f"{GRID}__spacing_mm", mm, f"{GRID.replace('__', '.')}.spacing_mm")
        for mm in ([2, 2], [2, 2, 2, 2], [2, 0, 2], [2, -1, 2], [2, math.nan, 2], ["2", "2", "2"])
    ],
    (f"{GRID}__spacing_mm", [2, 2, 1e999], "spacing_mm"),
    (f"{GRID}__directions", ["S", "P", "R", "L"], "directions"),
    (f"{GRID}__directions", ["S", "P", "X"], "directions"),
    (f"{GRID}__directions", "SPL", "directions"),
    (f"{GRID}__directions", ["S", "I", "L"], "name one axis twice"),
    ("preprocessing__window", {**WINDOW, "high_hu": -1000}, "low_hu < high_hu"),
    ("preprocessing__window", {**WINDOW, "scale": 0}, "a scale other than 0"),
    ("preprocessing__window", {**WINDOW, "offset": math.inf}, "offset"),
    ("preprocessing__window", {**WINDOW, "gamma": 2}, "gamma: Extra inputs"),
    ("preprocessing__neighbours_mm", [], "neighbours_mm"),
    ("preprocessing__neighbours_mm", [0.0] * 16, "neighbours_mm"),
    ("preprocessing__neighbours_mm", [-1.0, 0.0, 1.0], "not whole steps of 2.0 mm"),
    ("preprocessing__neighbours_mm", [-2.0, 0.0, 2.1], "not whole steps"),
    ("preprocessing__neighbours_mm", [0.0, 1e9], "over 64 slices"),
    ("preprocessing__neighbours_mm", [1.7e308], "over 64 slices"),
    ("preprocessing__edge", "mirror", "edge"),
    (f"{PADDING}__multiple", 0, "multiple"),
    (f"{PADDING}__multiple", 1024, "multiple"),
    (f"{PADDING}__value", math.nan, "value"),
    ("preprocessing__resampling", {"image": "cubic"}, "resampling.image"),
    ("preprocessing__slice_position", "guess", "slice_position"),
    ("preprocessing__slice_position", "estimate", "asks for a network that takes one"),
    ("preprocessing__slice_position_min_ml", math.inf, "slice_position_min_ml"),
    ("clean_up", {"heart": {}}, r"clean_up names organs .*\['heart'\]"),
    ("clean_up", {"liver": {"fill_holes": 1}}, "clean_up.liver.fill_holes"),
    ("intervals", {"half_widths": {"heart": 0.1}, "share": 0.9, "note": ""}, r"intervals names .*"),
    ("intervals", {"half_widths": {"liver": 0}, "share": 0.9, "note": ""}, "half_widths.liver"),
    ("intervals", {"half_widths": {}, "share": 0.9, "note": ""}, "intervals.half_widths"),
    ("intervals", {"half_widths": {"liver": 0.1}, "share": 90.0, "note": ""}, "intervals.share"),
    ("clean_up", {"liver": {"min_component_ml": -1}}, "min_component_ml"),
    ("clean_up", {"liver": {"min_component_ml": math.inf}}, "min_component_ml"),
    ("provenance", {"licence": "MIT"}, "provenance.intended_use: Field required"),
    ("provenance__scores", {"dice": math.nan}, "provenance.scores.dice"),
    ("network__channels", 0, "network.channels"),
    ("network__channels", 10**30, "network.channels"),
    ("network__bytes_per_pixel", 0, "network.bytes_per_pixel"),
    ("network__files", [], "network.files"),
    ("network__files", [{**FILE, "engine": "tensorrt"}], "network.files.0.engine"),
    ("network__files", [{**FILE, "sha256": "0" * 63}], "network.files.0.sha256"),
    ("network__files", [{**FILE, "sha256": "A" * 64}], "network.files.0.sha256"),
    *[
        ("network__files", [{**FILE, "file": name}], "network.files.0.file")
        for name in ("../model.onnx", "/etc/passwd", "sub/model.onnx", ".hidden", "", "a\\b", "a\n")
    ],
]


def changed(name: str, value: Any) -> bytes:
    raw = manifest_dict(NETWORK)
    if value is MISSING:
        del raw[name]
    else:
        raw = manifest_dict(NETWORK, **{name: value})
    return json.dumps(raw).encode()


def test_a_good_manifest_says_everything():
    manifest = parse_manifest(changed("title", "A threshold"), "here")
    assert manifest.preprocessing.neighbour_steps() == (-1, 0, 1)
    assert [organ.key for organ in manifest.organ_table()] == ["liver"]
    assert manifest.threshold_logits() == (0.0,)


@pytest.mark.parametrize(("name", "value", "words"), WRONG)
def test_every_way_to_be_wrong_is_one_sentence(name, value, words):
    with pytest.raises(ManifestError, match=words) as caught:
        parse_manifest(changed(name, value), "bundles/mine")
    message = str(caught.value)
    assert message.startswith("bundles/mine: ")
    assert message.isprintable()
    assert len(message) < 400
    assert caught.value.exit_code == ExitCode.BAD_MODEL


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"nonsense", b"\xff\xfe{}", b"[]", b"null", b"7", b'"segmate-bundle"'),
        *(b"[" * 100_000, b'{"format": "segmate-bundle", "format_version": true}'),
        b'{"format": "segmate-bundle", "format_version": ' + b"9" * 5000 + b"}",
        b'{"format": "segmate-bundle", "format_version": 1, "name": "\\ud800"}',
        b'{"format": "segmate-bundle", "format_version": 1}',
    ],
)
def test_what_is_no_manifest_is_one_sentence(data):
    with pytest.raises(ManifestError, match=r"^here: ") as caught:
        parse_manifest(data, "here")
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(st.permutations(["LR", "AP", "SI"]), st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_all_48_directions_are_taken(axes, ends):
    letters = [axis[end] for axis, end in zip(axes, ends, strict=True)]
    manifest = parse_manifest(changed(f"{GRID}__directions", letters), "here")
    assert list(manifest.preprocessing.grid.directions) == letters


@pytest.mark.parametrize(
    ("spacing_mm", "neighbours_mm", "steps"),
    [
        (2.0, [-2.0, 0.0, 2.0], (-1, 0, 1)),
        (1.5, [-3, 0, 3], (-2, 0, 2)),
        (0.1, [-0.3, 0, 0.3], (-3, 0, 3)),
        (2.5, [5.0, 0.0, -2.5], (2, 0, -1)),
        (3.0, [0.0], (0,)),
        (1.0, [-64.0, 64.0], (-64, 64)),
    ],
)
def test_neighbours_are_told_in_millimetres_and_used_in_slices(spacing_mm, neighbours_mm, steps):
    raw = manifest_dict(NETWORK, preprocessing__neighbours_mm=neighbours_mm)
    raw["preprocessing"]["grid"]["spacing_mm"][0] = spacing_mm
    manifest = parse_manifest(json.dumps(raw).encode(), "here")
    assert manifest.preprocessing.neighbour_steps() == steps


@settings(deadline=None)
@given(st.floats(1e-6, 1 - 1e-6))
def test_a_threshold_is_its_logit(threshold):
    manifest = parse_manifest(changed("organs", [{**LIVER, "threshold": threshold}]), "here")
    (logit,) = manifest.threshold_logits()
    assert 1 / (1 + math.exp(-logit)) == pytest.approx(threshold)


def test_a_manifest_cannot_be_changed_and_comes_back_from_its_own_words():
    manifest = parse_manifest(changed("title", "x"), "here")
    with pytest.raises(ValueError, match="frozen"):
        manifest.title = "other"
    again = parse_manifest(json.dumps(manifest.model_dump(mode="json")).encode(), "here")
    assert again == manifest


# --- folders and zips ------------------------------------------------------------------------


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def whole() -> dict[str, bytes]:
    manifest = json.dumps(manifest_dict(NETWORK)).encode()
    return {"manifest.json": manifest, "model.onnx": NETWORK}


def read(opened: Bundle) -> bytes:
    network_file = opened.network_file("onnx")
    assert network_file is not None
    return opened.read_network(network_file)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_is_a_bundle(tmp_path, kind):
    opened = open_bundle(kind(write_bundle(tmp_path / "b")))
    assert opened.manifest.name == "tiny"
    assert opened.location == tmp_path / "b"
    assert read(opened) == NETWORK
    assert opened.network_file("torchscript") is None


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_zip_is_a_bundle(tmp_path, method):
    opened = open_bundle(zipped(tmp_path / "tiny.segmate", whole(), method))
    assert read(opened) == NETWORK
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.segmate"]


def test_odd_members_of_a_zip_are_left_alone(tmp_path):
    odd = {
        **whole(),
        "../outside.txt": b"x",
        "/absolute.txt": b"x",
        "folder/": b"",
        "folder/manifest.json": b"{}",
        "MANIFEST.JSON": b"{}",
        "\x1b[31mred": b"x",
    }
    opened = open_bundle(zipped(tmp_path / "odd.segmate", odd))
    assert read(opened) == NETWORK
    assert [path.name for path in tmp_path.iterdir()] == ["odd.segmate"]


def encrypted(data: bytes) -> bytes:
    """Set the flag that says so, in the local and the central headers."""
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = data.find(mark)
        while start >= 0:
            data = data[: start + at] + b"\x01" + data[start + at + 1 :]
            start = data.find(mark, start + 4)
    return data


def unknown_method(data: bytes) -> bytes:
    for mark, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        start = data.find(mark)
        data = data[: start + at] + b"\x63" + data[start + at + 1 :]
    return data


def damaged(data: bytes) -> bytes:
    start = data.find(b"manifest.json") + len("manifest.json")
    return data[:start] + b"\xff" * 40 + data[start + 40 :]


BROKEN_ZIPS = {
    "encrypted": encrypted,
    "unknown method": unknown_method,
    "damaged": damaged,
    "cut": lambda data: data[: len(data) // 2],
    "text": lambda data: b"a model, I swear",
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("kind", BROKEN_ZIPS)
def test_a_broken_zip_is_one_sentence(tmp_path, kind):
    good = zipped(tmp_path / "good.segmate", whole()).read_bytes()
    path = tmp_path / "bad.segmate"
    path.write_bytes(BROKEN_ZIPS[kind](good))
    with pytest.raises(ManifestError, match=r"bad\.segmate") as caught:
        open_bundle(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("missing", ["manifest.json", "model.onnx"])
def test_a_missing_member_is_told(tmp_path, packed, missing):
    if packed:
        members = {name: data for name, data in whole().items() if name != missing}
        path = zipped(tmp_path / "b.segmate", members)
    else:
        path = write_bundle(tmp_path / "b")
        (path / missing).unlink()
    with pytest.raises(ManifestError, match=f"{missing} is missing"):
        read(open_bundle(path))


def test_a_zip_of_the_folder_instead_of_its_files(tmp_path):
    nested = {f"tiny/{name}": data for name, data in whole().items()}
    with pytest.raises(ManifestError, match=r"manifest\.json is missing"):
        open_bundle(zipped(tmp_path / "b.segmate", nested))


@pytest.mark.parametrize("packed", [False, True])
def test_a_manifest_that_is_a_bomb_is_not_read(tmp_path, packed):
    bomb = {**whole(), "manifest.json": b" " * (2 << 20)}
    if packed:
        path = zipped(tmp_path / "b.segmate", bomb)
    else:
        path = write_bundle(tmp_path / "b")
        (path / "manifest.json").write_bytes(bomb["manifest.json"])
    with pytest.raises(ManifestError, match="more than the 1048576"):
        open_bundle(path)


def test_a_network_beyond_all_bounds_is_not_read(tmp_path, monkeypatch):
    opened = open_bundle(write_bundle(tmp_path / "b"))
    monkeypatch.setattr(bundle_files, "_NETWORK_BYTES", 100)
    with pytest.raises(ManifestError, match="more than the 100"):
        read(opened)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("harm", ["one bit", "cut", "longer", "empty"])
def test_a_network_that_was_changed_is_refused(tmp_path, packed, harm):
    changes = {
        "one bit": NETWORK[:-1] + bytes([NETWORK[-1] ^ 1]),
        "cut": NETWORK[:-1],
        "longer": NETWORK + b"\0",
        "empty": b"",
    }
    members = {**whole(), "model.onnx": changes[harm]}
    if packed:
        path = zipped(tmp_path / "b.segmate", members)
    else:
        path = write_bundle(tmp_path / "b")
        (path / "model.onnx").write_bytes(members["model.onnx"])
    opened = open_bundle(path)
    with pytest.raises(HashMismatchError, match=r"model\.onnx has sha256 .* install it again"):
        read(opened)


# --- names -----------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A single installed model called ``default``, in a current folder of its own."""
    folder = write_bundle(tmp_path / "weights" / "default", title="The installed one")
    monkeypatch.setattr(bundle, "bundled_folders", lambda: iter([folder]))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return folder


def test_an_installed_model_is_found_by_name(installed):
    assert open_bundle().location == installed
    assert open_bundle("default").manifest.title == "The installed one"


def test_a_folder_that_happens_to_be_called_so_does_not_replace_it(installed):
    write_bundle(Path("default"), title="Somebody's")
    assert open_bundle("default").manifest.title == "The installed one"
    assert open_bundle().manifest.title == "The installed one"
    assert open_bundle("./default").manifest.title == "Somebody's"
    assert open_bundle(Path("default")).manifest.title == "Somebody's"


@pytest.mark.parametrize("name", ["nobody", "", "no/where", "x" * 5000, "default.segmate"])
def test_an_unknown_model_gets_the_list(installed, name):
    with pytest.raises(ModelError, match=r"there is no model .* installed \(default\)"):
        open_bundle(name)


def test_no_model_installed_is_told(monkeypatch):
    monkeypatch.setattr(bundle, "bundled_folders", lambda: iter([]))
    with pytest.raises(ModelError, match="none is"):
        open_bundle("default")


def test_a_folder_that_is_no_bundle(tmp_path):
    with pytest.raises(ManifestError, match="not a whole segmate bundle"):
        open_bundle(tmp_path)


SHIPPED = sorted(ROOT.glob("weights/*/manifest.json"))


@pytest.mark.skipif(not SHIPPED, reason="no model lies in weights/ here")
def test_the_models_that_are_shipped_are_whole():
    folders = list(bundle.bundled_folders())
    assert folders == [path.parent for path in SHIPPED]
    for folder in folders:
        opened = open_bundle(folder)
        for network_file in opened.manifest.network.files:
            data = opened.read_network(network_file)
            assert hashlib.sha256(data).hexdigest() == network_file.sha256
        assert opened.manifest.provenance.licence
        assert opened.manifest.provenance.intended_use


def test_a_zip_with_something_before_it(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in whole().items():
            archive.writestr(name, data)
    # Bytes before the archive, as self-extracting archives have them, do no harm.
    (tmp_path / "b.segmate").write_bytes(b"#!/bin/sh\n" + stream.getvalue())
    assert read(open_bundle(tmp_path / "b.segmate")) == NETWORK
