"""How often the gates are wrong: false alarms on real scans, and built failures that pass.

    python -m benchmarks.doubt ../shared/ct --cache FOLDER [--network 20] [--cases 40]

FOLDER keeps label maps between runs (KIND__CASE.nii.gz): of whole scans, and of as many of the
failures that only the network can answer as ``--network`` says. The other failures are built of the
scans and the label maps of the whole ones. Real CT stays where it is; nothing of it is printed.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segmate_cli import pipeline, scans
from segmate_cli.errors import NotHounsfieldError
from segmate_cli.geometry import Geometry
from segmate_cli.hounsfield import check_hu
from segmate_cli.measurement import Measured, examine
from segmate_cli.volume import Labels, Volume

Array = npt.NDArray[np.integer]
# Masked outside the treated region: only so many of its highest slices are whole.
MASKED = "kbp"


@dataclass(frozen=True)
class Patient:
    name: str
    volume: Volume
    labels: Labels | None = None

    def but(
        self, hu: Array | None = None, values: Array | None = None, affine: Array | None = None
    ) -> Patient:
        hu = self.volume.hu if hu is None else hu
        affine = self.volume.geometry.affine if affine is None else affine
        k, j, i = hu.shape
        geometry = Geometry(affine, (k, j, i))
        volume = Volume(np.ascontiguousarray(hu).astype(np.int16), geometry)
        if self.labels is None:
            return replace(self, volume=volume)
        values = self.labels.values if values is None else values
        labels = Labels(np.ascontiguousarray(values).astype(np.uint8), geometry, self.labels.organs)
        return replace(self, volume=volume, labels=labels)


Failure = Callable[[Patient, random.Random, list[Patient]], Patient | None]


def scaled(patient: Patient, *factors: float) -> Patient:
    affine = np.array(patient.volume.geometry.affine)
    affine[:3, :3] *= factors
    return patient.but(affine=affine)


# What the network has to see anew.
SEEN_ANEW: dict[str, Callable[[Patient], Patient]] = {
    "mirror": lambda one: one.but(hu=one.volume.hu[:, :, ::-1]),
    "upside": lambda one: one.but(hu=one.volume.hu[::-1]),
    "half": lambda one: one.but(hu=one.volume.hu[::2]),
    "xysmall": lambda one: scaled(one, 1, 0.5, 0.5),
    "zlong": lambda one: scaled(one, 2, 1, 1),
}
TITLES = {
    "mirror": "mirrored scan",
    "upside": "stored upside down",
    "half": "half the slices, spacing as before",
    "xysmall": "pixel spacing halved",
    "zlong": "slice spacing doubled",
}


def _value(patient: Patient, key: str) -> int:
    return next(value for value, organ in patient.labels.organs.items() if organ.key == key)


def whole(measured: Measured, *keys: str) -> bool:
    kinds = {each.organ.key: each.status.kind for each in measured.stats}
    return all(kinds[key] == "complete" for key in keys)


def liver_cut(patient: Patient, rng: random.Random, _: list[Patient]) -> Patient | None:
    slices = np.flatnonzero((patient.labels.values == _value(patient, "liver")).any(axis=(1, 2)))
    if slices.size < 8:
        return None
    cut = int(slices[0] + rng.uniform(0.2, 0.7) * slices.size)
    return patient.but(hu=patient.volume.hu[cut:], values=patient.labels.values[cut:])


def kidney_removed(patient: Patient, rng: random.Random, _: list[Patient]) -> Patient | None:
    values = patient.labels.values.copy()
    values[values == _value(patient, rng.choice(["kidney_left", "kidney_right"]))] = 0
    return patient.but(values=values)


def other_label(patient: Patient, rng: random.Random, _: list[Patient]) -> Patient | None:
    pairs = [("liver", "spleen"), ("kidney_left", "kidney_right"), ("lung_left", "lung_right")]
    one, other = (_value(patient, key) for key in rng.choice([*pairs, ("heart", "liver")]))
    values = patient.labels.values.copy()
    values[patient.labels.values == one] = other
    values[patient.labels.values == other] = one
    return patient.but(values=values)


def shuffled(patient: Patient, rng: random.Random, _: list[Patient]) -> Patient | None:
    order = list(range(patient.volume.hu.shape[0]))
    rng.shuffle(order)
    return patient.but(hu=patient.volume.hu[order], values=patient.labels.values[order])


def stacked(patient: Patient, rng: random.Random, others: list[Patient]) -> Patient | None:
    other = rng.choice([each for each in others if each.name != patient.name])
    rows, columns = patient.volume.hu.shape[1:]
    fitted = [
        np.full((one.shape[0], rows, columns), fill, one.dtype)
        for one, fill in ((other.volume.hu, -1000), (other.labels.values, 0))
    ]
    for target, one in zip(fitted, (other.volume.hu, other.labels.values), strict=True):
        part = one[:, :rows, :columns]
        target[:, : part.shape[1], : part.shape[2]] = part
    return patient.but(
        hu=np.concatenate([patient.volume.hu, fitted[0]]),
        values=np.concatenate([patient.labels.values, fitted[1]]),
    )


def shifted(by_hu: int) -> Failure:
    return lambda patient, rng, _: patient.but(hu=patient.volume.hu + by_hu)


def eight_bit(patient: Patient, rng: random.Random, _: list[Patient]) -> Patient | None:
    return patient.but(hu=np.clip((patient.volume.hu + 160.0) * 255 / 400, 0, 255))


def like_mr(patient: Patient, rng: random.Random, _: list[Patient]) -> Patient | None:
    hu = patient.volume.hu
    return patient.but(hu=np.where(hu < -900, hu % 7, np.abs(hu.astype(int) - 60) * 2 + 40))


BUILT: dict[str, Failure] = {
    "liver cut by the field of view": liver_cut,
    "kidney removed": kidney_removed,
    "other organ's label": other_label,
    "slices shuffled": shuffled,
    "two patients stacked": stacked,
    "HU 100 up": shifted(100),
    "HU 100 down": shifted(-100),
    "HU 1024 up": shifted(1024),
    "HU 1024 down": shifted(-1024),
    "8-bit range": eight_bit,
    "MR-like": like_mr,
}


def caught(name: str, patient: Patient) -> bool:
    """Whether a failure is refused, asks for a review or, of a cut organ, is said to be cut."""
    try:
        check_hu(patient.volume)
    except NotHounsfieldError:
        return True
    measured = examine(patient.labels, patient.volume)
    if name.startswith("liver cut"):
        (liver,) = (each for each in measured.stats if each.organ.key == "liver")
        return liver.status.is_lower_bound and "inferior" in liver.status.faces
    return measured.verdict.word == "review"


def cases(root: Path) -> list[tuple[str, Path]]:
    found = (path for part in ("unlabelled", "train") for path in (root / part).glob("*/ct.nii.gz"))
    return sorted((path.parent.name, path) for path in found)


def load(root: Path, name: str, path: Path) -> Patient:
    patient = Patient(name, scans.load(path))
    info = json.loads((path.parent / "info.json").read_text())
    if name.startswith(MASKED):
        patient = patient.but(hu=patient.volume.hu[-int(info["full_body_slices"]) :])
    return patient


def labelled(patient: Patient, kind: str, cache: Path, model: object, fast: bool) -> Patient:
    """The patient with the network's labels, from the cache where they are there."""
    place = cache / f"{kind}__{patient.name}.nii.gz"
    if not place.exists():
        options = pipeline.PredictOptions(check_hu=False, fast=fast)
        scans.save(pipeline.segment(patient.volume.as_scan(), model, options), place)
    labels = scans.load_labels(place)
    return replace(patient, labels=Labels(labels.values, patient.volume.geometry, labels.organs))


def false_alarms(patients: Iterator[Patient], title: str) -> None:
    tries, alarms = 0, []
    for patient in patients:
        verdict = examine(patient.labels, patient.volume).verdict
        tries += 1
        if verdict.word == "review":
            rules = {each.rule for each in verdict.findings if each.severity == "review"}
            alarms.append(f"{patient.name}: {', '.join(sorted(rules))}")
    share = len(alarms) / max(1, tries)
    print(f"| {title} | {tries} | {len(alarms)} | {share:.1%} | {'; '.join(alarms)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="folder with train/ and unlabelled/")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--network", type=int, default=0, help="cases that the network sees anew")
    parser.add_argument("--cases", type=int, default=40, help="cases to build failures of")
    parser.add_argument("--seed", type=int, default=4)
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    model = pipeline.ensure_loading("default", pipeline.PredictOptions()).loaded()
    listed = cases(args.root)
    trunks = [each for each in listed if not each[0].startswith(MASKED)]

    def fresh(some: list[tuple[str, Path]]) -> Iterator[Patient]:
        for name, path in some:
            yield labelled(load(args.root, name, path), "normal", args.cache, model, False)

    print("| scans | tries | review | share | which |\n| --- | --- | --- | --- | --- |")
    false_alarms(fresh(trunks), "trunks")
    false_alarms(fresh([each for each in listed if each not in trunks]), "masked necks")

    print("\n| failure | tries | caught | rate | missed |\n| --- | --- | --- | --- | --- |")
    rng = random.Random(args.seed)
    rng.shuffle(trunks)
    for kind, fail in SEEN_ANEW.items():
        there = [each for each in trunks if (args.cache / f"{kind}__{each[0]}.nii.gz").exists()]
        some = [*there, *(each for each in trunks if each not in there)]
        some = some[: max(len(there), args.network)]
        seen = (
            labelled(fail(load(args.root, *each)), kind, args.cache, model, True) for each in some
        )
        row(TITLES[kind], ((each.name, caught(kind, each)) for each in seen))
    patients = list(fresh(trunks[: args.cases]))
    for name, build in BUILT.items():
        row(name, tries(name, build, patients, rng))


def tries(
    name: str, build: Failure, patients: list[Patient], rng: random.Random
) -> Iterator[tuple[str, bool]]:
    for patient in patients:
        measured = examine(patient.labels, patient.volume)
        # What is not there cannot be cut, removed or renamed.
        needed = {
            "liver cut by the field of view": ("liver",),
            "kidney removed": ("kidney_left", "kidney_right"),
            "other organ's label": (),
        }.get(name, ())
        if whole(measured, *needed):
            made = build(patient, rng, patients)
            if made is not None:
                yield patient.name, caught(name, made)


def row(title: str, results: Iterator[tuple[str, bool]]) -> None:
    listed = list(results)
    missed = [name for name, hit in listed if not hit]
    rate = 1 - len(missed) / max(1, len(listed))
    found = len(listed) - len(missed)
    print(f"| {title} | {len(listed)} | {found} | {rate:.1%} | {', '.join(missed)} |", flush=True)


if __name__ == "__main__":
    main()
