"""A page with a viewer: one file, one script that its policy names, organs that can be gone to."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from look_maker import write_case
from test_look_page import look_in_browser, needs_chromium, pages_of, parse

from segmate_cli import organs
from segmate_cli.look import viewer
from segmate_cli.look.page import LARGEST_BYTES

BUILD = ROOT / "viewer"
ASSETS = ROOT / "segmate_cli" / "look"
needs_build = pytest.mark.skipif(
    shutil.which("node") is None or not (BUILD / "node_modules").is_dir(),
    reason="needs Node and, once, 'npm ci --ignore-scripts' in viewer",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of the small torso with a viewer, by the command line."""
    from segmate_cli import cli

    folder = tmp_path_factory.mktemp("viewer")
    labels, scan = write_case(folder)
    out = folder / "report.html"
    command = ("report", labels, "--ct", scan, "-o", out, "--viewer", "--no-gate-exit")
    assert cli.main([str(part) for part in command]) == 0
    return out


def data_of(page: Path) -> dict:
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="viewer-data">(.*?)</script>', text, re.DOTALL)[1])


def test_it_is_one_file_with_one_script_that_its_policy_allows(page):
    text = page.read_text(encoding="utf-8")
    parser = parse(text)
    assert all(re.match(r"#|data:", address) for address in parser.loads), parser.loads
    assert "http" not in text.replace("http-equiv", "")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 1
    assert text.replace(scripts[0], "").count("<script") == 2  # the other is data
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src"
    assert f"{policy} 'sha256-{digest}'\">" in text
    assert len(text.encode()) < LARGEST_BYTES


def test_each_organ_found_can_be_gone_to_and_hidden(page):
    text = page.read_text(encoding="utf-8")
    found = data_of(page)["organs"]
    assert [each["title"] for each in found] == ["Liver", "Left kidney", "Right lung"]
    assert [each["window"] for each in found] == ["soft tissue", "soft tissue", "lung"]
    assert found[0]["rgb"] == list(organs.organ("liver").rgb)
    assert text.count("data-organ=") == text.count("data-shown=") == 3
    for each in found:
        assert f'aria-label="Show {each["title"]}"' in text


def test_only_what_was_asked_for_is_in_it(tmp_path, run):
    labels, scan = write_case(tmp_path)
    out = tmp_path / "r.html"
    command = ("report", labels, "--ct", scan, "-o", out, "--viewer", "--organs", "kidney_left")
    run(*command)
    assert [each["title"] for each in data_of(out)["organs"]] == ["Left kidney"]


def test_names_stay_text(tmp_path, run):
    labels, scan = write_case(tmp_path)
    table = tmp_path / "names.csv"
    table.write_text("value,organ\n1,</script><script>alert(1)\n2,kidney_left\n3,lung_right\n")
    out = tmp_path / "r.html"
    run("report", labels, "--ct", scan, "--labels", table, "-o", out, "--viewer")
    assert data_of(out)["organs"][0]["title"].startswith("</script>")
    assert "<script>alert" not in out.read_text(encoding="utf-8")


def test_wrong_usage(tmp_path, run):
    labels, scan = write_case(tmp_path)
    code, _, error = run("report", labels, "-o", tmp_path / "r.html", "--viewer")
    assert (code, "--ct" in error) == (2, True)
    for name in ("r.png", "r.csv"):
        command = ("report", labels, "--ct", scan, "-o", tmp_path / name, "--viewer")
        assert run(*command)[0] == 2
    assert not list(tmp_path.glob("r.*"))


def test_the_bundle_is_the_one_that_was_built():
    told = json.loads((ASSETS / "viewer.json").read_text())
    code = viewer.script()
    assert hashlib.sha256(code.encode()).hexdigest() == told["sha256"]
    wanted = json.loads((BUILD / "package.json").read_text())
    assert told["packages"]["@niivue/niivue"] == wanted["dependencies"]["@niivue/niivue"]
    assert told["esbuild"] == wanted["devDependencies"]["esbuild"]
    locked = json.loads((BUILD / "package-lock.json").read_text())["packages"]
    for name, version in told["packages"].items():
        assert locked[f"node_modules/{name}"]["version"] == version
        assert f"{name} {version}" in code  # with its licence
    assert "Copyright (c) 2021, Niivue" in code
    assert not any("resolved" in each for each in locked.values())


@needs_build
def test_a_build_gives_the_same_bytes(tmp_path):
    subprocess.run(
        ["node", str(BUILD / "build.mjs"), str(tmp_path)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    for name in ("viewer.js", "viewer.json"):
        assert (tmp_path / name).read_bytes() == (ASSETS / name).read_bytes(), (
            "run 'npm run build' in viewer"
        )


@needs_chromium
def test_chromium_opens_it_and_an_organ_moves_the_crosshair(page):
    seen = look_in_browser(page, script="viewer.mjs", within_s=290)
    assert seen["state"] == "open"
    assert seen["messages"] == []
    assert seen["requests"] == []
    for each in data_of(page)["organs"]:
        words = seen["places"][each["title"]].replace("\u2212", "-")
        place = [int(n) for n in re.match(r"x (-?\d+), y (-?\d+), z (-?\d+) mm", words).groups()]
        centre = [-each["centre_mm"][0], -each["centre_mm"][1], each["centre_mm"][2]]
        # To the voxel: the crosshair snaps to none.
        assert all(abs(a - b) <= 1 for a, b in zip(place, centre, strict=True)), words
        assert words.endswith(each["title"])
    assert "60 HU" in seen["places"]["Liver"] or "62 HU" in seen["places"]["Liver"]
    for change in (seen["byKeyboard"], seen["byMouse"]):
        assert change[0] != change[1]
    pictures = seen["pictures"]
    assert pictures["first"] == pictures["again"]
    shown = ("first", "hidden", "opaque", "scan_alone", "edges", "lung", "axial", "solid")
    assert len({pictures[name] for name in shown}) == len(shown)


@needs_chromium
def test_without_webgl_it_says_so_and_axe_finds_nothing(page, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_WEBGL", "1")
    shot, pdf = tmp_path / "s.png", tmp_path / "p.pdf"
    seen = look_in_browser(page, shot, pdf)
    assert pages_of(pdf) == 3  # without the viewer
    assert seen["violations"] == []
    assert not seen["overflow"]
    assert not seen["narrowOverflow"]
    assert "did not start" in seen["viewer"]
