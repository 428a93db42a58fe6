"""Whether DICOM objects that leave their scan's ends open are judged as the label map itself.

    python -m benchmarks.doubt_objects ../shared/ct [--every 3] [--minutes 8]

Each scan of a trunk is segmented with ``--fast``. Its labels are judged without the scan three
times: as they are, as a SEG that lists no slices (it ends with its frames), and as contours of
another tool, which name no slices. Printed is what asks for a review; the three should agree.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from benchmarks.doubt import MASKED
from segmate_cli import pipeline, scans
from segmate_cli.bundle import open_bundle
from segmate_cli.dicom.contours import outlines
from segmate_cli.dicom.rtstruct_read import Structure, StructureSet
from segmate_cli.dicom.rtstruct_sheets import sheets_of
from segmate_cli.engines import load_model
from segmate_cli.geometry import Geometry
from segmate_cli.measurement import Measured, examine, examine_slices
from segmate_cli.organs import Organ
from segmate_cli.sheets import Sheets
from segmate_cli.volume import Labels

ENDS = frozenset({"superior", "inferior"})


def as_frames(labels: Labels) -> Sheets:
    """From the first labelled slice to the last, with ends that nobody knows."""
    labelled = np.flatnonzero(labels.values.any(axis=(1, 2)))
    first, last = int(labelled[0]), int(labelled[-1]) + 1
    affine = labels.geometry.affine.copy()
    affine[:3, 3] += affine[:3, 0] * first
    values = labels.values[first:last].copy()
    return Sheets((Labels(values, Geometry(affine, values.shape), labels.organs),), ENDS)


def as_contours(labels: Labels) -> Sheets:
    """Contours alone."""
    drawn = [_structure(labels, value, organ) for value, organ in labels.organs.items()]
    return sheets_of(StructureSet(Path("contours"), tuple(drawn), None))


def _structure(labels: Labels, value: int, organ: Organ) -> Structure:
    found = []
    for k, plane in enumerate(labels.values == value):
        for polygon in outlines(plane):
            index = np.column_stack([np.full(len(polygon), float(k)), polygon])
            found.append(labels.geometry.to_lps_mm(index))
    return Structure(organ, tuple(found), ("",) * len(found))


def reviews(measured: Measured) -> set[str]:
    """What asks for a review, as rule and organ."""
    findings = measured.verdict.findings if measured.verdict else ()
    return {f"{each.rule} {each.organ or ''}" for each in findings if each.severity == "review"}


def main() -> None:
    """Judge and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="shared/ct")
    parser.add_argument("--every", type=int, default=3, help="take every n-th scan")
    parser.add_argument("--minutes", type=float, default=8.0)
    args = parser.parse_args()
    model = load_model(open_bundle("default"))
    options = pipeline.PredictOptions(fast=True, check_hu=False)
    start, tries, alike = time.monotonic(), 0, 0
    paths = sorted((args.folder / "train").glob("*/ct.nii.gz"))
    trunks = [path for path in paths if not path.parent.name.startswith(MASKED)]
    for path in trunks[:: args.every]:
        if time.monotonic() - start > 60 * args.minutes:
            break
        labels = pipeline.predict(scans.load(path), model, options)
        if labels.geometry.directions[0] not in "SI" or not labels.values.any():
            continue
        plain = reviews(examine(labels))
        others = [reviews(examine_slices(make(labels))) for make in (as_frames, as_contours)]
        tries, alike = tries + 1, alike + (others == [plain, plain])
        said = (sorted(each ^ plain) for each in others)
        print(path.parent.name, sorted(plain), *said, flush=True)
    print(f"{alike} of {tries} scans are judged alike in all three ways")


if __name__ == "__main__":
    main()
