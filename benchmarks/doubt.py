"""How often the gates are wrong: false alarms on real scans, and built failures that pass.

    python -m benchmarks.doubt label ../shared/ct --cache FOLDER [--patients 40] [--minutes M]
    python -m benchmarks.doubt limits ../shared/ct --cache FOLDER [--only WORDS ...]
    python -m benchmarks.doubt rates ../shared/ct --cache FOLDER [--tries 200] [--only WORDS ...]

``label`` runs the network, once a scan and once for each failure that only it can answer, and
keeps the label maps (KIND__CASE.npz in a folder of that network's own); killed or out of time, it
goes on where it was. ``limits`` prints what gates about spacing and sides measure on one half of
the patients, which their limits are made of, and on the other. ``rates`` builds the failures and
prints the tables of docs/gates.md, each half apart. A try is a patient in a field of view of at
least 15 cm; scans under 10 cm are left out, since there is a note that they cannot be judged. Real
CT stays where it is; nothing of it is printed. Run all again when the weights change.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from benchmarks.doubt_failures import (
    BUILT,
    LONG,
    LONG_MM,
    NEEDED,
    ON_LABELS,
    SEEN_ANEW,
    SHOWN_MM,
    TITLES,
    TRUE_LENGTH,
    Patient,
    field_of_view,
    on_body,
    varied,
    whole,
)
from segmate_cli import pipeline, scans
from segmate_cli.doubt import handed, sizes, tissue
from segmate_cli.doubt.case import Case
from segmate_cli.doubt.rules import BY_ID
from segmate_cli.doubt.scan_evidence import ScanEvidence, ScanWatcher
from segmate_cli.doubt.survey import Survey, Surveyor
from segmate_cli.doubt.verdict import Judgement, judge
from segmate_cli.errors import NotHounsfieldError
from segmate_cli.hounsfield import check_hu
from segmate_cli.volume import Labels

# Masked outside the treated region: only so many of its highest slices are whole.
MASKED = "kbp"
LEAST_MM, LEAST_SCAN_MM = 150.0, 100.0
LEAST_SCANS_MM = {"normal": 0.0} | dict.fromkeys(LONG, LONG_MM)
PARTS = "parts of trunks, as below"
Measure = Callable[[Case], dict[str, float]]
# What has its limits from one half of the patients, and what their usual numbers come from.
LIMITED: dict[str, Measure] = {
    **{"squeezed": tissue.squeezed, "handed": handed.handedness},
    **{"size-across": sizes.size_across, "size-along": sizes.size_along},
    "size-facing": sizes.size_facing,
}
USUAL: dict[str, Measure] = {
    **{"beside": handed.beside_mm, "across": sizes.across_mm},
    **{"shape": sizes.shapes, "facing": sizes.facings},
}


def is_fit(name: str) -> bool:
    """Whether a patient is of the half that limits are made of: by name, so that none changes."""
    return zlib.crc32(name.encode()) % 2 == 0


def cases(root: Path) -> list[tuple[str, Path]]:
    found = (path for part in ("unlabelled", "train") for path in (root / part).glob("*/ct.nii.gz"))
    return sorted((path.parent.name, path) for path in found)


def trunks(root: Path) -> list[tuple[str, Path]]:
    """In an order that mixes the sources."""
    listed = [each for each in cases(root) if not each[0].startswith(MASKED)]
    random.Random(1).shuffle(listed)
    return listed


def load(name: str, path: Path) -> Patient:
    patient = Patient(name, scans.load(path))
    if name.startswith(MASKED):
        info = json.loads((path.parent / "info.json").read_text())
        patient = patient.but(hu=patient.volume.hu[-int(info["full_body_slices"]) :])
    return patient


def shown_mm(kind: str) -> tuple[float, float]:
    """How much of a body the network is shown, from and to."""
    return SHOWN_MM.get(kind, (LEAST_MM, 320.0))


def made(patient: Patient, kind: str) -> Patient:
    """The scan that the network sees: whole, or one of SEEN_ANEW in a field of view of its own."""
    if kind == "normal":
        return patient
    rng = random.Random(f"{kind} {patient.name}")
    seen = field_of_view(varied(patient, kind), rng, *shown_mm(kind))
    return SEEN_ANEW[kind](on_body(seen))


def folder_of_model(cache: Path) -> Path:
    """Where label maps of the default model lie: those of other weights are not its own."""
    manifest = pipeline.open_bundle("default").manifest
    folder = cache / f"{manifest.version}-{manifest.network.files[0].sha256[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def label(root: Path, folder: Path, patients: int, minutes: float, only: list[str]) -> None:
    """Fill the cache, on one core."""
    model = pipeline.ensure_loading("default", pipeline.PredictOptions(threads=1)).loaded()
    started = time.monotonic()
    wanted = [("normal", each) for each in cases(root)]
    kinds = [kind for kind in SEEN_ANEW if not only or kind in only]
    wanted += [(kind, each) for each in trunks(root)[:patients] for kind in kinds]
    for kind, (name, path) in wanted:
        place = folder / f"{kind}__{name}.npz"
        if place.exists() or time.monotonic() - started > 60 * minutes:
            continue
        patient = load(name, path)
        if patient.height_mm < LEAST_SCANS_MM.get(kind, LEAST_SCAN_MM):
            continue
        options = pipeline.PredictOptions(check_hu=False, fast=kind != "normal", threads=1)
        labels = pipeline.segment(made(patient, kind).volume.as_scan(), model, options).labels()
        part = folder / f"part{os.getpid()}.npz"  # its own, where two fill one cache
        np.savez_compressed(part, values=labels.values)
        os.replace(part, place)
        print(kind, name, flush=True)


@cache
def organs_by_value() -> dict[int, object]:
    table = pipeline.open_bundle("default").manifest.organ_table()
    return dict(enumerate(table, 1))


def labelled(patient: Patient, kind: str, folder: Path) -> Patient:
    values = np.load(folder / f"{kind}__{patient.name}.npz")["values"]
    return replace(patient, labels=Labels(values, patient.volume.geometry, organs_by_value()))


def survey_of(patient: Patient) -> Survey:
    surveyor = Surveyor(patient.labels.geometry, max(organs_by_value()))
    for plane in patient.labels.values:
        surveyor.add(plane)
    return surveyor.survey()


def scan_evidence_of(patient: Patient) -> ScanEvidence:
    watcher = ScanWatcher(patient.volume.geometry)
    for plane in patient.volume.hu:
        watcher.add(plane)
    return watcher.evidence()


class Seen:
    """A patient and what is known of labels and scan, so that each is looked at once, if at all."""

    def __init__(self, patient: Patient, before: Seen | None = None, failure: str = "") -> None:
        """What a failure leaves as it is, is what was seen before."""
        self.patient = patient
        self._labels_of = before if failure.startswith(("HU", "8-bit", "MR")) else None
        self._scan_of = before if failure in ON_LABELS else None

    @cached_property
    def survey(self) -> Survey:
        return self._labels_of.survey if self._labels_of else survey_of(self.patient)

    @cached_property
    def scan(self) -> ScanEvidence:
        return self._scan_of.scan if self._scan_of else scan_evidence_of(self.patient)

    def judged(self) -> Judgement:
        return judge(self.survey, organs_by_value(), self.scan)

    def told(self, measures: Mapping[str, Measure]) -> dict[str, float]:
        """What some measures of gates say, whatever their limits."""
        found: dict[str, float] = {}

        def look(case: Case) -> dict[str, float]:
            for title, measure in measures.items():
                found.update({f"{title}: {name}": each for name, each in measure(case).items()})
            return {}

        listen = (replace(BY_ID["found"], measure=look),)
        judge(self.survey, organs_by_value(), self.scan, listen)
        return found


def caught(name: str, seen: Seen) -> bool:
    """Whether a failure is refused, asks for a review or, of a cut organ, is said to be cut."""
    try:
        check_hu(seen.patient.volume)
    except NotHounsfieldError:
        return True
    judged = seen.judged()
    if name.startswith("liver cut"):
        liver = judged.status["liver"]
        return liver.is_lower_bound and "inferior" in liver.faces
    return judged.verdict.word == "review"


def share(hits: int, tries: int) -> str:
    return f"{hits} of {tries} ({hits / tries:.1%})" if tries else "-"


def in_halves(results: Iterable[tuple[str, bool]]) -> str:
    """Cells of a table: how many hits of how many, of both halves together and of each."""
    listed = list(results)
    parts = [
        listed,
        *([each for each in listed if is_fit(each[0]) == half] for half in (True, False)),
    ]
    cells = [share(sum(hit for _, hit in part), len(part)) for part in parts]
    return f"{len({name for name, _ in listed})} | {' | '.join(cells)}"


def false_alarms(patients: Iterable[Patient], title: str) -> None:
    results, alarms = [], []
    for patient in patients:
        verdict = Seen(patient).judged().verdict
        results.append((patient.name, verdict.word == "review"))
        if verdict.word == "review":
            rules = {each.rule for each in verdict.findings if each.severity == "review"}
            alarms.append(f"{patient.name}: {', '.join(sorted(rules))}")
    told = "; ".join(f"{each} ({alarms.count(each)})" for each in dict.fromkeys(alarms))
    print(f"| {title} | {in_halves(results)} | {told} |", flush=True)


def views(
    patients: list[Patient], name: str, tries: int, least: float, most: float = 1e4
) -> Iterator[Patient]:
    """Patients in turn, each time in another field of view: three times as many as are wanted."""
    for n in range(3 * tries if patients else 0):
        patient = patients[n % len(patients)]
        yield field_of_view(patient, random.Random(f"{name} {patient.name} {n}"), least, most)


def row(title: str, results: Iterable[tuple[str, bool]]) -> None:
    listed = list(results)
    missed = sorted(name for name, hit in listed if not hit)
    told = ", ".join(f"{each} ({missed.count(each)})" for each in dict.fromkeys(missed))
    print(f"| {title} | {in_halves(listed)} | {told} |", flush=True)


def seen_anew(kind: str, root: Path, folder: Path, tries: int) -> Iterator[Patient]:
    """Views of scans with a failure that the network has seen."""
    there = [each for each in trunks(root) if (folder / f"{kind}__{each[0]}.npz").exists()]
    patients = [labelled(made(load(*each), kind), kind, folder) for each in there]
    least_mm = shown_mm(kind)[0] * TRUE_LENGTH.get(kind, 1.0)
    return itertools.islice(views(patients, kind, tries, least_mm), tries)


def built(name: str, patients: list[Patient], tries: int) -> Iterator[tuple[str, bool]]:
    done = 0
    needed = NEEDED.get(name, ())
    # What is not whole in the whole scan is so in no part of it.
    patients = [each for each in patients if not needed or whole(Seen(each).judged(), *needed)]
    for view in views(patients, name, tries, LEAST_MM):
        if done >= tries:
            return
        seen = Seen(view)
        # What is not there cannot be cut, removed or renamed.
        if needed and not whole(seen.judged(), *needed):
            continue
        broken = BUILT[name](view, random.Random(f"{name} {done}"), patients)
        if broken is not None:
            done += 1
            yield view.name, caught(name, Seen(broken, seen, name))


def those_to_cut(root: Path, folder: Path) -> list[Patient]:
    """Trunks that are tall enough to cut parts out of, with their labels."""
    fresh = (labelled(load(*each), "normal", folder) for each in trunks(root))
    return [on_body(each) for each in fresh if each.height_mm >= LEAST_SCAN_MM]


def unbroken(root: Path, folder: Path, tries: int) -> Iterator[tuple[str, Iterable[Patient]]]:
    """Scans that nothing was done to, whole and in parts: those that a review is wrong for."""
    listed = cases(root)

    def fresh(masked: bool) -> Iterator[Patient]:
        some = (each for each in listed if each[0].startswith(MASKED) == masked)
        return (labelled(load(*each), "normal", folder) for each in some)

    yield "trunks", fresh(masked=False)
    yield "masked necks", fresh(masked=True)
    cut = those_to_cut(root, folder)
    yield PARTS, itertools.islice(views(cut, "nothing", tries, LEAST_MM), tries)
    yield (
        "parts of 10 to 15 cm",
        itertools.islice(views(cut, "short", tries, LEAST_SCAN_MM, LEAST_MM), tries),
    )


def rates(root: Path, folder: Path, tries: int, only: list[str]) -> None:
    """Print the tables."""
    if not only or "false" in only:
        print("| scans | patients | review | of the fit half | of the held half | which |")
        print("| --- | --- | --- | --- | --- | --- |")
        for title, patients in unbroken(root, folder, tries):
            false_alarms(patients, title)
    print("\n| failure | patients | caught | of the fit half | of the held half | missed |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kind, title in TITLES.items():
        if not only or kind in only:
            seen = seen_anew(kind, root, folder, tries)
            row(title, ((view.name, caught(kind, Seen(view))) for view in seen))
    names = [name for name in BUILT if not only or any(each in name for each in only)]
    if names:
        patients = those_to_cut(root, folder)
        for name in names:
            row(name, built(name, patients, tries))


def limits(root: Path, folder: Path, tries: int, only: list[str]) -> None:
    """Print what the numbers and the limits of some gates are made of, on each half."""
    print("| measured | of | half | tries | least | 5 % | median | 95 % | most |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    if not only or "false" in only:
        for title, patients in unbroken(root, folder, tries):
            tell_halves(title, patients, {**LIMITED, **USUAL})
    for kind, title in TITLES.items():
        if not only or kind in only:
            tell_halves(title, seen_anew(kind, root, folder, tries), LIMITED)


def tell_halves(title: str, patients: Iterable[Patient], measures: Mapping[str, Measure]) -> None:
    """Print what is measured of each half of some patients."""
    found: dict[str, list[tuple[str, float]]] = {}
    for patient in patients:
        for name, value in Seen(patient).told(measures).items():
            found.setdefault(name, []).append((patient.name, value))
    for name, values in sorted(found.items()):
        for half in (True, False):
            own = [value for patient, value in values if is_fit(patient) == half]
            if own:
                ends = " | ".join(f"{each:.2f}" for each in np.percentile(own, (0, 5, 50, 95, 100)))
                which = "fit" if half else "held"
                print(f"| {name} | {title} | {which} | {len(own)} | {ends} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["label", "limits", "rates"])
    parser.add_argument("root", type=Path, help="folder with train/ and unlabelled/")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--patients", type=int, default=40, help="that the network sees anew")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no scan after that long")
    parser.add_argument("--tries", type=int, default=200, help="of each failure")
    parser.add_argument("--only", nargs="*", default=[], help="false, or parts of failures' names")
    args = parser.parse_args()
    folder = folder_of_model(args.cache)
    if args.what == "label":
        label(args.root, folder, args.patients, args.minutes, args.only)
    elif args.what == "limits":
        limits(args.root, folder, args.tries, args.only)
    else:
        rates(args.root, folder, args.tries, args.only)


if __name__ == "__main__":
    main()
