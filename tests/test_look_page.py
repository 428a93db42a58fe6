"""The page is one file that loads nothing, says what is known, and reads well in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, needs_shared, save_nifti
from look_maker import write_case

from segmate_cli import cli, organs, saving, scans
from segmate_cli.doubt.anatomy import VOLUMES
from segmate_cli.geometry import Geometry
from segmate_cli.look.content import Source, gather
from segmate_cli.look.page import LARGEST_BYTES, render_page
from segmate_cli.volume import Labels

BROWSER = ROOT / "tests" / "browser"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
needs_chromium = pytest.mark.skipif(
    shutil.which("node") is None
    or not Path(CHROMIUM).exists()
    or not (BROWSER / "node_modules").is_dir(),
    reason="needs Chromium, Node and, once, 'npm install --ignore-scripts' in tests/browser",
)
VOID = {"meta", "link", "input", "br"}


class Outline(HTMLParser):
    """Checks that tags nest, and collects attributes that could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.loads += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.loads += [v or "" for k, v in attrs if k in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        self.text.append(data)


def parse(text: str) -> Outline:
    parser = Outline()
    parser.feed(text)
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def torso(tmp_path_factory):
    """The small torso in a folder, with its page, by the command line."""
    folder = tmp_path_factory.mktemp("torso")
    labels, scan = write_case(folder)
    command = ("report", labels, "--ct", scan, "-o", folder / "report.html")
    assert cli.main([str(part) for part in command]) == 3
    return folder


@pytest.fixture(scope="module")
def page(torso):
    """The torso's page."""
    return (torso / "report.html").read_text(encoding="utf-8")


def test_it_is_one_file_that_loads_nothing(page):
    parser = parse(page)
    assert all(re.match(r"#|data:", address) for address in parser.loads), parser.loads
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert "url(" not in page
    assert len(page.encode()) < LARGEST_BYTES


def test_it_says_what_report_says(page, torso, run):
    _, out, _ = run("report", torso / "labels.nii.gz", "--format", "json")
    words = " ".join(parse(page).text)
    for row in json.loads(out)["rows"]:
        title = organs.organ(row["organ"]).title
        assert title in words
        if row["volume_ml"] is not None:
            assert f"{row['volume_ml']:.1f}" in words
    assert "absent" in words or "not found" in words  # the spleen
    assert "0.0" not in words
    assert "\u2212800 \u00b1 0" in words


def test_the_verdict_is_that_of_the_report(page, torso, run):
    labels, scan = torso / "labels.nii.gz", torso / "scan.nii.gz"
    _, out, _ = run("report", labels, "--ct", scan, "--format", "json")
    (told,) = json.loads(out)["scans"]
    assert told["verdict"] == "review"
    words = " ".join(parse(page).text)
    assert "Review needed" in words
    for finding in told["findings"]:
        assert finding["text"] in words


def test_ranges_and_their_sources_are_shown(page):
    words = " ".join(parse(page).text)
    liver = VOLUMES["liver"]
    assert f"{liver.low_ml:.0f} to {liver.high_ml:.0f}" in words
    assert liver.source in words
    assert page.count('class="range"') == 2  # the lung is cut, so its volume says little


def test_without_gates_nothing_is_said_to_be_in_order(predicted, tmp_path, run):
    labels, scan = predicted  # of a model for which no gate holds
    out = tmp_path / "page.html"
    assert run("report", labels, "--ct", scan, "-o", out)[0] == 0
    assert "Not checked" in out.read_text()


def test_each_organ_found_has_three_planes_with_itself_outlined(page):
    for key in ("liver", "kidney-left", "lung-right"):
        card = page[page.index(f'id="organ-{key}"') :]
        card = card[: card.index("</article>")]
        assert card.count("<image ") == 3
        assert card.count('<path class="own" stroke') == 3
        assert card.count('class="hist"') == 1
        for plane in ("Axial", "Coronal", "Sagittal"):
            assert f"{plane}, " in card
    assert 'id="organ-spleen"' not in page


def test_organs_of_air_are_seen_in_the_lung_window(page):
    card = page[page.index('id="organ-lung-right"') :]
    assert "lung, " in card[: card.index("</article>")]


def test_provenance(predicted, tmp_path, run):
    labels, scan = predicted
    out = tmp_path / "page.html"
    assert run("report", labels, "--ct", scan, "-o", out)[0] == 0
    words = " ".join(parse(out.read_text()).text)
    told = json.loads((tmp_path / "labels.json").read_text())
    assert told["output"]["file_sha256"] in words
    assert told["input"]["pixels_sha256"] in words
    assert told["model"]["weights_sha256"] in words
    assert told["engine_description"] in words
    assert "yes, voxel by voxel" in words


def test_a_volume_s_interval_is_told_where_the_sidecar_has_one(tmp_path, run):
    from test_volume_change import with_sidecar

    labels, scan = write_case(tmp_path)
    with_sidecar(labels, liver=(29.5, 32.25))
    out = tmp_path / "p.html"
    run("report", labels, "--ct", scan, "-o", out)
    text = out.read_text(encoding="utf-8")
    assert text.count("Volume between") == 1
    assert "29.5 and 32.2 ml" in text


def test_another_scan_than_the_one_segmented_is_told(predicted, tmp_path, run):
    import nibabel

    labels, scan = predicted
    image = nibabel.load(scan)
    other = np.asarray(image.dataobj).copy()
    other[0, 0, 0] += 1
    nibabel.save(nibabel.Nifti1Image(other, image.affine, image.header), tmp_path / "o.nii.gz")
    assert run("report", labels, "--ct", tmp_path / "o.nii.gz", "-o", tmp_path / "p.html")[0] == 0
    assert "not the one that was segmented" in (tmp_path / "p.html").read_text()


@pytest.fixture
def predicted(tmp_path, run, tiny_bundle):
    from conftest import ball_scan

    scan = ball_scan(tmp_path / "scan.nii.gz")
    labels = tmp_path / "labels.nii.gz"
    assert run("predict", scan, "-o", labels, "--model", tiny_bundle, "--quiet")[0] == 0
    return labels, scan


def test_names_are_text_and_nothing_else(tmp_path):
    path, _ = write_case(tmp_path)
    labels = scans.load_labels(path)
    evil = organs.foreign_organ("<script>alert('x')</script>", 1)
    named = Labels(labels.values, labels.geometry, {**labels.organs, 1: evil}, labels.source)
    odd = tmp_path / "a<b>&c.nii.gz"
    saving.save(named, odd, with_sidecar=False)
    text = render_page(gather(Source(odd)))
    parse(text)
    assert "<script" not in text
    assert "a&lt;b&gt;&amp;c" in text


def test_without_a_scan_labels_are_filled(tmp_path, run):
    labels, _ = write_case(tmp_path)
    out = tmp_path / "r.html"
    assert run("report", labels, "-o", out, "--organs", "liver", "--no-gate-exit")[0] == 0
    text = out.read_text()
    assert "<image" not in text
    assert 'class="tile blank"' in text
    assert "HU, mean" not in text
    assert "Left kidney" not in text


def test_nothing_found_is_a_page_too(tmp_path, run):
    labels, scan = write_case(tmp_path)
    out = tmp_path / "r.html"
    assert run("report", labels, "--ct", scan, "-o", out, "--organs", "spleen")[1] == f"{out}\n"
    text = out.read_text()
    parse(text)
    assert "0 of 1 organs found" in text


def many_organs(folder: Path) -> Path:
    """117 labels in noise, so that neither pictures nor outlines compress well."""
    rng = np.random.default_rng(7)
    shape = (60, 120, 120)
    coarse = rng.integers(1, 118, (6, 12, 12), dtype=np.uint8)
    values = coarse.repeat(10, 0).repeat(10, 1).repeat(10, 2)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])[:, [2, 1, 0, 3]]
    geometry = Geometry(affine, shape)
    hu = rng.integers(-160, 240, shape, dtype=np.int16)
    save_nifti(folder / "scan.nii.gz", hu, geometry)
    table = {n: organs.foreign_organ(f"part_{n}", n) for n in range(1, 118)}
    path = folder / "labels.nii.gz"
    saving.save(Labels(values, geometry, table), path, with_sidecar=False)
    return path


def test_a_page_of_very_many_organs_keeps_its_limit(tmp_path):
    path = many_organs(tmp_path)
    text = render_page(gather(Source(path, ct=tmp_path / "scan.nii.gz")))
    assert len(text.encode()) <= LARGEST_BYTES
    assert text.count("<article") == 117


def test_wrong_usage(tmp_path, run):
    labels, scan = write_case(tmp_path)
    assert run("report", labels, labels, "-o", tmp_path / "a.html")[0] == 2
    assert run("report", labels, "--format", "html")[0] == 2
    assert run("report", labels, "--with-identity")[0] == 2
    code, _, error = run(
        "report", labels, "--ct", scan, "-o", tmp_path / "a.html", "--with-identity"
    )
    assert (code, "DICOM series" in error) == (2, True)
    assert not (tmp_path / "a.html").exists()


def look_in_browser(
    page: Path, *outputs: Path, script: str = "look.mjs", within_s: int = 240
) -> dict:
    done = subprocess.run(
        ["node", str(BROWSER / script), str(page), *map(str, outputs)],
        env={**os.environ, "CHROMIUM": CHROMIUM},
        capture_output=True,
        text=True,
        timeout=within_s,
        check=True,
    )
    return json.loads(done.stdout)


@needs_chromium
def test_chromium_loads_it_without_a_word_and_axe_finds_nothing(torso, tmp_path):
    shot, pdf = tmp_path / "s.png", tmp_path / "p.pdf"
    seen = look_in_browser(torso / "report.html", shot, pdf)
    assert seen["messages"] == []
    assert seen["requests"] == []
    assert seen["scripts"] == 0
    assert seen["violations"] == []
    assert seen["images"] == 12
    assert seen["outlines"] == [True, False]  # by the space bar
    assert "Liver" in seen["focused"]
    assert not seen["overflow"]
    assert not seen["narrowOverflow"]
    assert seen["printOverflow"] == []
    assert shot.stat().st_size > 20_000
    assert pdf.read_bytes()[:5] == b"%PDF-"
    assert pages_of(pdf) == 3  # numbers, pictures, provenance


def pages_of(pdf: Path) -> int:
    """Pages of what Chromium printed."""
    return len(re.findall(rb"/Type /Page\n", pdf.read_bytes()))


@needs_shared
def test_a_real_scan(tmp_path):
    shared = ROOT.parent / "shared" / "ct" / "train"
    case = shared / "ircad01"
    names = tmp_path / "names.csv"
    names.write_text("value,organ\n8,liver\n9,kidney_left\n10,kidney_right\n11,spleen\n")
    content = gather(Source(case / "labels.nii.gz", str(names), case / "ct.nii.gz"))
    text = render_page(content)
    parse(text)
    assert len(text.encode()) <= LARGEST_BYTES
    assert "not found" not in text


def test_a_patient_is_named_only_on_request(tmp_path, run, tiny_bundle):
    from dicom_maker import PATIENT
    from seg_maker import STUDY, WHOLE, series_and_labels

    tags = {**STUDY, "SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jürgen"}
    series_and_labels(tmp_path / "dicom", WHOLE.but(shape=(6, 16, 12), tags=tags))
    labels = tmp_path / "l.nii.gz"
    assert run("predict", tmp_path / "dicom", "-o", labels, "--model", tiny_bundle)[0] == 0
    command = ("report", labels, "--ct", tmp_path / "dicom", "-o", tmp_path / "r.html")
    assert run(*command)[0] == 0
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Müller" not in text
    assert PATIENT not in text
    assert run(*command, "--overwrite", "--with-identity")[0] == 0
    assert "Müller^Jürgen" in (tmp_path / "r.html").read_text(encoding="utf-8")
