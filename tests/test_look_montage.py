"""The preview is one PNG with a row an organ, outlines in the organs' colours."""

from __future__ import annotations

import numpy as np
from look_maker import write_case
from PIL import Image

from segmate_cli import organs


def colours(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB")).reshape(-1, 3)


def has(picture: Image.Image, key: str) -> int:
    """Pixels of an organ's very colour."""
    return int((colours(picture) == organs.organ(key).rgb).all(axis=1).sum())


def test_the_preview_shows_each_organ(tmp_path, run):
    labels, scan = write_case(tmp_path)
    out = tmp_path / "preview.png"
    assert run("report", labels, "--ct", scan, "-o", out)[1] == f"{out}\n"
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        for key in ("liver", "kidney_left", "lung_right"):
            assert has(picture, key) > 300, key  # more than the square beside its name
        assert has(picture, "spleen") < 300  # that square alone


def test_only_what_was_asked_for_has_a_row(tmp_path, run):
    labels, scan = write_case(tmp_path)
    for name, words in (("one.png", "liver"), ("two.png", "liver,kidney_left")):
        command = ("report", labels, "--ct", scan, "-o", tmp_path / name, "--no-gate-exit")
        assert run(*command, "--organs", words)[0] == 0
    heights = []
    for name in ("one.png", "two.png"):
        with Image.open(tmp_path / name) as picture:
            heights.append(picture.size[1])
    assert heights[1] > 1.5 * heights[0]


def test_it_exists_already(tmp_path, run):
    labels, _ = write_case(tmp_path)
    out = tmp_path / "preview.png"
    command = ("report", labels, "-o", out, "--no-gate-exit")
    assert run(*command)[0] == 0
    assert run(*command)[0] == 8
    assert run(*command, "--overwrite")[0] == 0
