"""The cohort's page links to cases, loads nothing, and reads well in a browser."""

from __future__ import annotations

import re

import pytest
from cohort_maker import odd_cases, of_scanners, write_cohort, write_records
from test_look_page import look_in_browser, needs_chromium, parse

from segmate_cli.batch import records


@pytest.fixture
def page(tmp_path, run):
    out = write_records(tmp_path / "out", [*odd_cases().values(), *of_scanners(40, 1.35)])
    (out / "huge" / "report.html").write_text("<!DOCTYPE html>")
    old = write_cohort(tmp_path / "old", 50, scale=0.75, seed=9)
    target = tmp_path / "pages" / "cohort.html"
    target.parent.mkdir()
    assert run("cohort", out, "--reference", old, "-o", target)[:2] == (0, f"{target}\n")
    return target


def test_it_loads_nothing_and_links_lead_to_files(page):
    text = page.read_text(encoding="utf-8")
    links = [a for a in parse(text).loads if not a.startswith(("#", "data:"))]
    assert "../out/huge/report.html" in links
    assert "../out/broken/case.json" in links
    for link in links:
        assert (page.parent / link).is_file()
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")


def test_it_says_what_to_review_and_what_has_drifted(page):
    text = page.read_text(encoding="utf-8")
    words = " ".join(parse(text).text)
    assert "46 cases" in words
    assert "cut short in slice 3." in words
    assert "liver: 9000.0 ml" in words
    assert len(re.findall(r"Liver, ml: median [\d.]+, was [\d.]+", words)) == 1
    assert text.count('class="out"') == 2
    for by in ("month", "scanner"):
        assert f"By {by}: volume, ml" in words
        assert f"By {by}: mean HU" in words
    assert re.search(r"Other, kernel B30f: Spleen, ml: median [\d.]+, elsewhere [\d.]+", words)
    assert text.count("<svg") == 6


def test_it_leads_to_the_pages_that_a_batch_wrote(tmp_path, run, tiny_bundle):
    from conftest import ball_scan

    out = tmp_path / "out"
    for name in ("one", "two"):
        (tmp_path / "in").mkdir(exist_ok=True)
        ball_scan(tmp_path / "in" / f"{name}.nii.gz", size=16 if name == "one" else 20)
    command = ("batch", tmp_path / "in", "-o", out, "--format", "html", "--model", tiny_bundle)
    assert run(*command)[0] == 0
    page = (out / "one" / "report.html").read_text(encoding="utf-8")
    assert "one" in page
    assert "yes, voxel by voxel" in page
    assert '<image href="data:image/jpeg' in page
    record = records.read(out / "one")
    assert "report.html" in record.outputs
    # A page that is lost is made again, as all outputs are.
    (out / "two" / "report.html").unlink()
    assert run(*command)[0] == 0
    assert (out / "two" / "report.html").is_file()
    lost = record.model_copy(update={"state": "review", "message": "look at it."})
    records.write(out / "one", lost)
    assert run("cohort", out, "-o", out / "cohort.html")[0] == 0
    assert 'href="one/report.html"' in (out / "cohort.html").read_text(encoding="utf-8")


@needs_chromium
def test_chromium_and_axe_have_nothing_to_say(page, tmp_path):
    seen = look_in_browser(page, tmp_path / "s.png")
    assert seen["messages"] == []
    assert seen["requests"] == []
    assert seen["violations"] == []
    assert not seen["overflow"]
    assert not seen["narrowOverflow"]
    assert seen["printOverflow"] == []
