"""Every gate fires on a failure made for it, and measures a well body without a word.

A gate that is in none of the tables below fails here, so that none can be broken without anybody
seeing. A phantom with its true labels stands for a body; networks made for it give the scores.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from body_maker import FAILURES, Body, make_body, renamed, scaled
from conftest import ball_scan, linear_network, save_nifti, write_bundle
from phantom import LABELS

from segmate_cli import nifti
from segmate_cli.doubt.case import Case
from segmate_cli.doubt.rules import BY_ID, RULES, Rule
from segmate_cli.doubt.words import Finding

Break = Callable[[Body], Body]


def brighter_tissue(body: Body) -> Body:
    return body.but(hu=np.where(body.hu > -500, body.hu + 120, body.hu))


def clipped(body: Body) -> Body:
    return body.but(hu=np.clip(body.hu, -1000, 250))


def slab(body: Body) -> Body:
    middle = slice(len(body.hu) // 2, len(body.hu) // 2 + 12)
    return body.but(hu=body.hu[middle], labels=body.labels[middle])


def grainy(body: Body) -> Body:
    return body.but(hu=body.hu + np.random.default_rng(5).normal(0, 70, body.hu.shape))


def with_metal(body: Body) -> Body:
    hu = body.hu.copy()
    hu[20:40, :9, :9] = 3071
    return body.but(hu=hu)


def speck_of_spleen(body: Body) -> Body:
    """Of the spleen a block is left, of a few millilitres."""
    values = body.labels.copy()
    k, j, i = np.median(np.argwhere(values == LABELS["spleen"]), axis=0).astype(int)
    values[values == LABELS["spleen"]] = 0
    values[k - 2 : k + 2, j - 2 : j + 2, i - 2 : i + 2] = LABELS["spleen"]
    return body.but(labels=values)


def kidney_in_the_chest(rows: int) -> Break:
    """The chest alone, with a block of so many rows in a lung that is called a kidney."""

    def put(body: Body) -> Body:
        first = np.flatnonzero((body.labels == LABELS["heart"]).any(axis=(1, 2)))[0]
        hu, values = body.hu[first:], body.labels[first:].copy()
        k, j, i = np.median(np.argwhere(values == LABELS["lung_left"]), axis=0).astype(int)
        values[k - 4 : k + 4, j : j + rows, i - 6 : i + 6] = LABELS["kidney_left"]
        return body.but(hu=hu, labels=values)

    return put


def fat_heart(body: Body) -> Body:
    return body.but(hu=np.where(body.labels == LABELS["heart"], -90, body.hu))


def grainy_liver(body: Body) -> Body:
    noise = np.random.default_rng(6).normal(0, 90, body.hu.shape)
    return body.but(hu=body.hu + noise * (body.labels == LABELS["liver"]))


def shrunken_kidney(body: Body) -> Body:
    values = body.labels.copy()
    right = np.argwhere(values == LABELS["kidney_right"])
    values[tuple(right[len(right) // 6 :].T)] = 0
    return body.but(labels=values)


def broken_kidney(body: Body) -> Body:
    values = body.labels.copy()
    middle = int(np.median(np.argwhere(values == LABELS["kidney_right"])[:, 0]))
    part = values[middle - 2 : middle + 2]
    part[part == LABELS["kidney_right"]] = 0
    return body.but(labels=values)


def hollow_spleen(body: Body) -> Body:
    values = body.labels.copy()
    inner = values == LABELS["spleen"]
    for axis, shift in itertools.product(range(3), (2, -2)):
        inner &= np.roll(values == LABELS["spleen"], shift, axis)
    values[inner] = 0
    return body.but(labels=values)


def kidney_that_comes_and_goes(body: Body) -> Body:
    values = body.labels.copy()
    values[::2][values[::2] == LABELS["kidney_left"]] = 0
    return body.but(labels=values)


BREAKS: dict[str, Break] = {
    "hu-air": FAILURES["100 HU up"][0],
    "hu-no-air": FAILURES["8 bit"][0],
    "hu-tissue": brighter_tissue,
    "scan-body": FAILURES["1024 HU down"][0],
    "scan-clipped": clipped,
    "scan-width": scaled(1, 2, 2),
    "scan-thickness": scaled(2, 1, 1),
    "scan-height": slab,
    "scan-noise": grainy,
    "scan-metal": with_metal,
    "scan-order": FAILURES["shuffled"][0],
    "scan-jump": FAILURES["stacked"][0],
    "label-order": FAILURES["shuffled"][0],
    "found": FAILURES["kidney removed"][0],
    "length": FAILURES["trachea lost but for its top"][0],
    "side": FAILURES["kidneys swapped"][0],
    "front": FAILURES["back to front"][0],
    "order": FAILURES["upside down"][0],
    "handed": FAILURES["mirrored, named by place"][0],
    "size-across": FAILURES["pixels half as large"][0],
    "size-along": FAILURES["slices twice as far apart"][0],
    "size-facing": FAILURES["slices twice as far apart"][0],
    "squeezed": FAILURES["half the slices"][0],
    "volume": speck_of_spleen,
    "volume-cut": renamed(("lung_left", "trachea")),
    "stray": kidney_in_the_chest(2),
    "hu": fat_heart,
    "pair": shrunken_kidney,
    "fragments": broken_kidney,
    "holes": hollow_spleen,
    "flicker": kidney_that_comes_and_goes,
    "noise": grainy_liver,
}
# What a gate measures within its limits, where that is not the body as it is.
WELL: dict[str, Break] = {"stray": kidney_in_the_chest(18)}
# These measure only what is wrong.
SILENT = {"found"}


@pytest.fixture(scope="module")
def body() -> Body:
    return make_body()


def applied(rule: Rule, body: Body) -> tuple[dict[str, float], list[Finding]]:
    """What one gate measures of a body, and what it says."""
    seen: dict[str, float] = {}

    def measure(case: Case) -> dict[str, float]:
        seen.update(rule.measure(case))
        return seen

    found = body.measured(rules=(dataclasses.replace(rule, measure=measure),))
    return seen, list(found.verdict.findings)


def test_no_gate_is_without_a_failure_made_for_it():
    scores = {*SCORES, "agreement"}
    assert scores == {rule.id for rule in RULES if rule.needs == "scores"}
    assert {*BREAKS} == {rule.id for rule in RULES} - scores


@pytest.mark.parametrize("rule", [BY_ID[name] for name in BREAKS], ids=lambda rule: rule.id)
def test_a_gate_fires_on_its_own_failure_and_passes_a_well_body(body, rule):
    _, findings = applied(rule, BREAKS[rule.id](body))
    assert findings
    assert {(each.rule, each.severity) for each in findings} == {(rule.id, rule.severity)}
    measured, findings = applied(rule, WELL.get(rule.id, lambda body: body)(body))
    assert findings == []
    assert bool(measured) == (rule.id not in SILENT)


# Two networks for each gate about scores: (slope, offset) of each organ's logit by what the network
# is given, -1 in air and 0.49 in the ball; the first makes the gate fire, the second does not.
SURE = ((10.0, 0.0), (10.0, -9.0))
SCORES = {
    "overlap": (((10.0, 0.0), (8.0, -1.0)), SURE),
    "surface-entropy": (((0.5, 0.0), (0.5, -0.5)), SURE),
    "confidence": (((0.5, 0.0), (0.5, -0.5)), SURE),
}
# The gate about variants, one of which is 10 HU brighter: HU of half the ball, whose least is -300.
AGREEMENT_HU = (-305, -340)


def said(run, folder: Path, scan: Path, lines: tuple[tuple[float, float], ...], *options: str):
    """Findings of a run, and the row of the liver, by the real command line."""
    network = linear_network(lines)
    organs = [{"key": key, "channel": n} for n, key in enumerate(("liver", "heart"))]
    model = write_bundle(
        folder / "model", network, gates="adult_ct", organs=organs, network__channels=2
    )
    labels = folder / "labels.nii.gz"
    predict = ("predict", scan, "-o", labels, "--model", model, "--no-hu-check", *options)
    assert run(*predict)[0] in (0, 3)
    doubt = json.loads((folder / "labels.json").read_text())["doubt"]
    again = json.loads(run("report", labels, "--format", "json")[1])
    (scan_said,) = again["scans"]
    # Scores are told in the sidecar alone, and `report` repeats what they said.
    key = lambda each: (each["rule"], str(each["organ"]))  # noqa: E731
    assert sorted(scan_said["findings"], key=key) == sorted(doubt["findings"], key=key)
    found = {(each["rule"], each["organ"]): each for each in doubt["findings"]}
    return found, next(row for row in again["rows"] if row["organ"] == "liver")


@pytest.mark.parametrize("rule", SCORES)
def test_a_gate_about_scores_fires_on_a_network_made_for_it(run, tmp_path, rule):
    scan = ball_scan(tmp_path / "ball.nii.gz", 40)
    fires, passes = SCORES[rule]
    for name, lines in (("fires", fires), ("passes", passes)):
        found, row = said(run, tmp_path / name, scan, lines)
        assert ((rule, "liver") in found) == (lines is fires)
        unsure = {"surface-entropy", "confidence"} & {each for each, _ in found}
        assert bool(unsure) == (lines is fires and rule != "overlap")
        assert row["voxels"] > 1000


def test_the_gate_about_variants_fires_where_a_little_brightness_moves_an_organ(run, tmp_path):
    sound = ball_scan(tmp_path / "ball.nii.gz", 40)
    file = nifti.open_nifti(sound)
    hu = nifti.read_volume(file).hu
    for half_hu in AGREEMENT_HU:
        changed = hu.copy()
        half = changed[:, :, 20:]
        half[half > -300] = half_hu
        folder = tmp_path / str(half_hu)
        folder.mkdir()
        scan = save_nifti(folder / "scan.nii.gz", changed, file.geometry)
        found, row = said(run, folder, scan, SURE, "--uncertainty")
        fires = half_hu == AGREEMENT_HU[0]
        assert (("agreement", "liver") in found) == fires
        assert (row["agreement"] < 0.9) == fires
        if fires:
            assert "says something else" in " ".join(row["reasons"])
