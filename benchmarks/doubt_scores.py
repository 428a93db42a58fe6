"""What the network's own doubt is worth: against hands, on validation patients.

    python -m benchmarks.doubt_scores ../shared/ct --cache FOLDER [--minutes M] [--write BUNDLE ...]

Each validation patient is segmented with ``--uncertainty`` (and ``--fast``, on the body alone, for
time), once for each network: FOLDER keeps what was found. Printed are half-widths of intervals,
within which nine tenths of hands' volumes lay, with the share that lies within them when each
patient's own are left out; ``--write`` puts them into the manifests of bundles. And what the gates
about scores say: their limits come from training cases, ``--others`` of which are looked at, too,
and validation patients tell what they are worth. Run it again when the weights change.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.doubt import MASKED, cases
from benchmarks.doubt_failures import Patient, on_body
from segmate_cli import pipeline, scans
from segmate_cli.bundle import MANIFEST_NAME, Bundle, Intervals, open_bundle, parse_manifest
from segmate_cli.doubt.rules import BY_ID
from segmate_cli.nifti import open_nifti
from segmate_cli.nifti_labels import read_labels
from segmate_cli.variants import interval
from segmate_cli.volume import Labels

# Gates about the scores; made to fire on every organ, so that a run tells what they measured.
MEASURES = ("confidence", "agreement", "surface-entropy", "overlap")
TELLING = tuple(replace(BY_ID[name], limits={"*": (None, -1.0)}) for name in MEASURES)
SHARE = 0.9
# So narrow that what is left of an interval is the variants' own.
NARROW = 1e-6
# Hands label a part of these only: slices without a hand's label do not count.
TUBES = ("aorta", "esophagus", "spinal_cord", "trachea")
GROUPS = {
    "lungs": ("lung_left", "lung_right"),
    "liver, spleen, heart": ("liver", "spleen", "heart"),
    "kidneys": ("kidney_left", "kidney_right"),
    "the others": TUBES,
}


def found_in(path: Path, name: str, model: Any) -> list[dict[str, Any]]:
    """An organ's row of the sidecar, what its scores said, and a hand's label beside it."""
    info = json.loads((path.parent / "info.json").read_text())
    scan = scans.load(path)
    hands = read_labels(open_nifti(path.parent / "labels.nii.gz"), {})
    first = -int(info["full_body_slices"]) if name.startswith(MASKED) else 0
    patient = Patient(name, scan, replace_values(hands, scan)).but(
        hu=scan.hu[first:], values=hands.values[first:]
    )
    if not name.startswith(MASKED):
        patient = on_body(patient)
    options = pipeline.PredictOptions(
        check_hu=False, fast=True, uncertainty=True, threads=1, rules=TELLING
    )
    labels = pipeline.segment(patient.volume.as_scan(), model, options).labels()
    doubt = labels.run["doubt"]
    told = {(each["organ"], each["rule"]): each["value"] for each in doubt["findings"]}
    rows = []
    for value, organ in labels.organs.items():
        row = next(each for each in doubt["organs"] if each["organ"] == organ.key)
        if row["volume_ml"] is None:
            continue
        hand = patient.labels.values == info["labels"].get(organ.key, -1)
        beside = compared(labels.values == value, hand, organ.key in TUBES) if hand.any() else {}
        own = {rule: told[organ.key, rule] for rule in MEASURES if (organ.key, rule) in told}
        rows.append({"patient": name, **row, **beside, **own})
    return rows


def compared(mask: Any, hand: Any, is_tube: bool) -> dict[str, float]:
    """Dice, and the logarithm of the volume over the hand's."""
    if is_tube:
        known = np.flatnonzero(hand.any(axis=(1, 2)))
        hand, mask = (each[known[0] : known[-1] + 1] for each in (hand, mask))
    dice = 2 * int((hand & mask).sum()) / int(hand.sum() + mask.sum())
    return {"dice": dice, "error": float(np.log(max(mask.sum(), 1) / hand.sum()))}


def replace_values(hands: Labels, scan: Any) -> Labels:
    """The hand's labels on the scan's geometry."""
    return replace(hands, geometry=scan.geometry)


def half_widths(rows: list[dict[str, Any]]) -> dict[str, float]:
    """By organ key: within what SHARE of a stranger's volumes should lie, of the organ's group."""
    found = {}
    for keys in GROUPS.values():
        errors = sorted(abs(each["error"]) for each in rows if each["organ"] in keys)
        if errors:
            place = min(len(errors), int(np.ceil(SHARE * (len(errors) + 1)))) - 1
            found |= dict.fromkeys(keys, max(0.01, round(errors[place], 2)))
    return found


def is_within(row: dict[str, Any], widths: dict[str, float]) -> bool:
    """Whether a hand's volume lies in the interval that these half-widths make."""
    # 2 spreads, as the interval without any half-width says.
    spread = float(np.log(row["volume_high_ml"] / row["volume_ml"])) / 2
    low, high = interval(widths[row["organ"]], [float(np.exp(spread))])
    return low <= float(np.exp(-row["error"])) <= high


def within(rows: list[dict[str, Any]]) -> tuple[int, int]:
    """How many volumes of all lie within, each patient's own left out of what makes the width."""
    inside = []
    for patient in {each["patient"] for each in rows}:
        widths = half_widths([each for each in rows if each["patient"] != patient])
        own = [each for each in rows if each["patient"] == patient and each["organ"] in widths]
        inside += [is_within(each, widths) for each in own]
    return sum(inside), len(inside)


def tell(rows: list[dict[str, Any]], name: str) -> Intervals:
    """Print how far volumes were off, and give what a manifest should say."""
    patients = len({each["patient"] for each in rows})
    inside, of = within(rows)
    note = (
        f"{name} against hands' volumes of {patients} validation patients; with each patient left "
        f"out of his own, {inside} of {of} ({inside / max(1, of):.0%}) lay within"
    )
    print(note)
    widths = half_widths(rows)
    for title, keys in GROUPS.items():
        count = sum(each["organ"] in keys for each in rows)
        print(f"{title}: {count} volumes, half-width {widths.get(keys[0])}")
    return Intervals(half_widths=widths, share=SHARE, note=note)


def passes(name: str, value: float) -> bool:
    low, high = BY_ID[name].limits["*"]
    return (low is None or value >= low) and (high is None or value <= high)


def tell_limits(learned: list[dict[str, Any]], strangers: list[dict[str, Any]]) -> None:
    """Print what gates about the scores say of training cases and, with Dice, of validation's."""
    print("| gate | training | beyond | validation | beyond | their Dice | others' Dice |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in MEASURES:
        cells = []
        for rows in (learned, strangers):
            values = [row[name] for row in rows if name in row]
            beyond = sum(not passes(name, value) for value in values)
            ends = f"{min(values):.3f} to {max(values):.3f}" if values else "none"
            cells += [f"{ends} ({len(values)})", str(beyond)]
        labelled = [row for row in strangers if name in row and "dice" in row]
        for inside in (False, True):
            dice = [each["dice"] for each in labelled if passes(name, each[name]) == inside]
            cells.append(f"{np.mean(dice):.3f} ({len(dice)})" if dice else "-")
        print(f"| `{name}` | {' | '.join(cells)} |")


def put_into(folder: Path, intervals: Intervals) -> None:
    """Write what was measured into a bundle's manifest, and leave the rest of it as it is."""
    place = folder / MANIFEST_NAME
    manifest = {**json.loads(place.read_text()), "intervals": intervals.model_dump()}
    data = json.dumps(manifest, indent=2) + "\n"
    parse_manifest(data.encode(), str(place))
    part = place.with_suffix(".part")
    part.write_text(data)
    os.replace(part, place)


def narrow(bundle: Bundle) -> Bundle:
    """The same model, with intervals that hold nothing but what the variants say."""
    keys = [each.key for each in bundle.manifest.organ_table()]
    bare = Intervals(half_widths=dict.fromkeys(keys, NARROW), share=SHARE, note="none")
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"intervals": bare}))


def measured(
    listed: Iterable[tuple[str, Path]], bundle: Bundle, cache: Path, minutes: float
) -> list[dict[str, Any]]:
    """Rows of all patients for which there is, or was, time."""
    hashes = {each.sha256[:12] for each in bundle.manifest.network.files}
    options = pipeline.PredictOptions()
    model, started, rows = None, time.monotonic(), []
    for name, path in listed:
        place = cache / f"{name}.{min(hashes)}.json"
        if not place.exists():
            if time.monotonic() - started > 60 * minutes:
                continue
            model = model or pipeline.ensure_loading(narrow(bundle), options).loaded()
            place.write_text(json.dumps(found_in(path, name, model)))
            print(name, flush=True)
        rows += json.loads(place.read_text())
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="folder with train/ and unlabelled/")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no scan after that long")
    parser.add_argument("--model", default="weights/validated", help="never saw these patients")
    parser.add_argument(
        "--config", type=Path, default=Path("training/configs/lite0-e.json"), help="names them"
    )
    parser.add_argument("--others", type=int, default=15, help="training cases, for limits' sake")
    parser.add_argument("--write", nargs="*", type=Path, default=[], help="bundles' folders")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    wanted = set(json.loads(args.config.read_text())["validation"])
    with_hands = [each for each in cases(args.root) if each[1].parent.parent.name == "train"]
    listed = [each for each in with_hands if each[0] in wanted]
    others = [each for each in with_hands if each[0] not in wanted]
    others = random.Random(2).sample(others, min(args.others, len(others)))
    bundle = open_bundle(args.model)
    minutes, started = args.minutes, time.monotonic()
    found = measured(listed, bundle, args.cache, minutes)
    rows = [each for each in found if "dice" in each]
    missing = len(listed) - len({each["patient"] for each in found})
    left = minutes - (time.monotonic() - started) / 60
    learned = measured(others, bundle, args.cache, left)
    if not rows:
        parser.error("no patient has been measured: more --minutes are needed.")
    intervals = tell(rows, f"{args.model} {bundle.manifest.version}")
    tell_limits(learned, found)
    if missing and args.write:
        parser.error(f"{missing} patients are still to be measured: nothing is written.")
    for folder in args.write:
        put_into(folder, intervals)


if __name__ == "__main__":
    main()
