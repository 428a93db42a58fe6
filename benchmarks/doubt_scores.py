"""What the network's own doubt is worth: against hands, on validation patients.

    python -m benchmarks.doubt_scores ../shared/ct --cache FOLDER [--minutes M]

Each validation patient is segmented with ``--uncertainty`` (and ``--fast``, on the body alone, for
time), once: FOLDER keeps what was found. Printed are Dice below and above the limit of the gate
``confidence``, the share of hands' volumes within their intervals, and what ``variants._LEAST``
should be. Run it again when the weights change.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.doubt import MASKED, cases
from benchmarks.doubt_failures import Patient, on_body
from segmate_cli import pipeline, scans
from segmate_cli.doubt.rules import BY_ID
from segmate_cli.volume import Labels

CONFIG = Path("training/configs/lite0-d.json")
# Hands label a part of these only: slices without a hand's label do not count.
TUBES = ("aorta", "esophagus", "spinal_cord", "trachea")
GROUPS = {
    "lungs": ("lung_left", "lung_right"),
    "liver, spleen, heart": ("liver", "spleen", "heart"),
    "kidneys": ("kidney_left", "kidney_right"),
    "the others": TUBES,
}


def found_in(path: Path, name: str, model: Any) -> list[dict[str, Any]]:
    """An organ's row of the sidecar, with Dice and volume of the hand's label beside it."""
    info = json.loads((path.parent / "info.json").read_text())
    scan = scans.load(path)
    hands = scans.nifti.read_labels(scans.nifti.open_nifti(path.parent / "labels.nii.gz"), {})
    first = -int(info["full_body_slices"]) if name.startswith(MASKED) else 0
    patient = Patient(name, scan, replace_values(hands, scan)).but(
        hu=scan.hu[first:], values=hands.values[first:]
    )
    if not name.startswith(MASKED):
        patient = on_body(patient)
    options = pipeline.PredictOptions(check_hu=False, fast=True, uncertainty=True)
    labels = pipeline.segment(patient.volume.as_scan(), model, options).labels()
    values = {organ.key: value for value, organ in labels.organs.items()}
    rows = []
    for row in labels.run["doubt"]["organs"]:
        number = info["labels"].get(row["organ"])
        hand = patient.labels.values == number
        if number is None or row["volume_ml"] is None or not hand.any():
            continue
        mask = labels.values == values[row["organ"]]
        if row["organ"] in TUBES:
            known = np.flatnonzero(hand.any(axis=(1, 2)))
            hand, mask = (each[known[0] : known[-1] + 1] for each in (hand, mask))
        together = int(hand.sum() + mask.sum())
        dice = 2 * int((hand & mask).sum()) / together
        error = float(np.log(max(mask.sum(), 1) / hand.sum()))
        rows.append({"patient": name, "dice": dice, "error": error, **row})
    return rows


def replace_values(hands: Labels, scan: Any) -> Labels:
    """The hand's labels on the scan's geometry."""
    return replace(hands, geometry=scan.geometry)


def tell(rows: list[dict[str, Any]]) -> None:
    """Print what the numbers are worth."""
    limit = BY_ID["confidence"].limits["*"][0]
    below = [each["dice"] for each in rows if each["confidence"] < limit]
    above = [each["dice"] for each in rows if each["confidence"] >= limit]
    print(f"confidence below {limit}: {len(below)} organs, mean Dice {np.mean(below):.3f}")
    print(f"at least that: {len(above)} organs, mean Dice {np.mean(above):.3f}")
    halves = [float(np.log(each["volume_high_ml"] / each["volume_ml"])) for each in rows]
    inside = [abs(each["error"]) <= half for each, half in zip(rows, halves, strict=True)]
    patients = len({each["patient"] for each in rows})
    print(f"within their interval: {sum(inside)} of {len(inside)} volumes, {patients} patients")
    for title, keys in GROUPS.items():
        errors = sorted(abs(each["error"]) for each in rows if each["organ"] in keys)
        if errors:
            place = min(len(errors) - 1, int(np.ceil(0.9 * (len(errors) + 1))) - 1)
            print(f"{title}: {len(errors)} volumes, nine tenths within {errors[place]:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="folder with train/ and unlabelled/")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no scan after that long")
    parser.add_argument("--model", default="weights/validated", help="never saw these patients")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    wanted = set(json.loads(CONFIG.read_text())["validation"])
    model = pipeline.ensure_loading(args.model, pipeline.PredictOptions()).loaded()
    started = time.monotonic()
    rows: list[dict[str, Any]] = []
    for name, path in cases(args.root):
        place = args.cache / f"{name}.json"
        if name not in wanted:
            continue
        if not place.exists():
            if time.monotonic() - started > 60 * args.minutes:
                continue
            place.write_text(json.dumps(found_in(path, name, model)))
            print(name, flush=True)
        rows += json.loads(place.read_text())
    tell(rows)


if __name__ == "__main__":
    main()
