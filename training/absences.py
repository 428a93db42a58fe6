"""What a model finds where there is nothing to find: ``python -m training.absences CACHE``.

Necks, chests cut above the liver, and abdomens cut below kidneys and liver, of prepared cases, each
through the whole of ``segmate.predict`` as a scan of its own. None can hold the organs asked for.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from segmate_cli import predict
from segmate_cli.bundle import open_bundle
from segmate_cli.engines import LoadedModel, load_model
from segmate_cli.geometry import Geometry
from segmate_cli.volume import Volume
from training.cases import INVENTED, ORGANS, Case, Known, load_cases
from training.sources import ABDOMINAL, THORACIC

#: A part ends so far from the nearest organ that it must not hold, and is at least so long.
APART_MM, LEAST_MM = 20.0, 60.0
_NECKS = ("kbp", "hnc")


def parts_without(case: Case) -> Iterator[tuple[str, slice, tuple[str, ...]]]:
    """Parts of a case: what it is, its slices, and the organs that it cannot hold."""
    name = case.info.case_id
    if name.startswith(_NECKS):
        yield "neck", slice(0, case.hu.shape[0]), ABDOMINAL
        return
    # The liver first: of a chest that ends below it, it is what must be known.
    channels = [ORGANS.index(organ) for organ in ABDOMINAL]
    trusted = np.isin(case.known[:, channels], (Known.HAND, Known.TEACHER)).any(axis=0)
    if name.startswith(INVENTED) or not trusted[0]:
        return
    shown = np.isin(case.labels, [channel + 1 for channel in channels]).any(axis=(1, 2))
    rows, usable = np.flatnonzero(shown), np.flatnonzero(case.usable)
    apart, least = (round(mm / case.info.slice_mm) for mm in (APART_MM, LEAST_MM))
    # A teacher's labels may end below a dome: above them it must be known that there is none.
    unknown = np.flatnonzero((case.known[:, channels] == Known.NO).any(axis=1) & case.usable)
    above = max(int(rows[-1]) + apart, int(unknown.max(initial=-1)) + 1)
    below = int(rows[0]) - apart
    if usable[-1] - above >= least:
        yield "chest", slice(above, int(usable[-1]) + 1), ABDOMINAL
    if trusted.all() and below - usable[0] >= least:
        yield "pelvis", slice(int(usable[0]), below), (*ABDOMINAL, *THORACIC)


def found_ml(case: Case, rows: slice, organs: Sequence[str], model: LoadedModel) -> float:
    """Millilitres of the organs that a model finds in some slices of a case."""
    spacing = (case.info.slice_mm, case.info.pixel_mm, case.info.pixel_mm)
    # LPS: slices grow upwards, rows to the back, columns to the left, as the cache keeps them.
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = *spacing, 1.0
    hu = np.ascontiguousarray(case.hu[rows])
    labels = np.asarray(predict(Volume(hu, Geometry(affine, hu.shape)), model).values)
    wanted = [value for value, organ in enumerate(ORGANS, 1) if organ in organs]
    return float(np.isin(labels, wanted).sum()) * float(np.prod(spacing)) / 1000


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and print what was found of each kind of part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path, help="folder of prepared cases")
    parser.add_argument("--model", default="default", help="bundle")
    parser.add_argument("--cases", nargs="+", help="these alone")
    options = parser.parse_args(arguments)
    model = load_model(open_bundle(options.model))
    found: dict[str, list[tuple[float, str]]] = {}
    for case in load_cases(options.cache):
        if options.cases and case.info.case_id not in options.cases:
            continue
        for kind, rows, organs in parts_without(case):
            ml = found_ml(case, rows, organs, model)
            found.setdefault(kind, []).append((ml, case.info.case_id))
    for kind, values in found.items():
        over = [f"{ml:.1f} ml in {where}" for ml, where in sorted(values, reverse=True) if ml >= 1]
        print(f"{kind}: {len(values)} parts, {len(over)} with 1 ml or more", *over, sep="; ")


if __name__ == "__main__":
    main()
