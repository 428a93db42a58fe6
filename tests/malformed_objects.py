"""Damaged SEG, SR and RTSTRUCT through the real command line: one sentence, or a report.

``python tests/malformed_objects.py --count 2000 --seed 1`` runs many and prints figures; pytest
runs a few. See ``malformed.py``, which does the same to series.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pydicom
from dicom_maker import PATIENT
from malformed import (
    MOST_SECONDS,
    cpu_seconds,
    cut,
    deep,
    flipped,
    junk,
    memory_mb,
    moved,
    saved,
    wrong_length,
)
from pydicom.dataset import Dataset
from test_dicom_check import objects

sys.path.insert(0, str(Path(__file__).parent.parent))
from segmate_cli import cli

# Also 2: a LABELMAP is no subject of an SR; 3: findings, or nothing in it; 4: two series fit.
ALLOWED_EXITS = {0, 2, 3, 4, 6}
_ODD = (0, 1, -1, 65535, 2**31 - 1, "1e308", "-1e308", "1e-300", "nan", "inf", "", "x" * 300)
_ODD += ("1.2.3", [], ["1", "2"], ["1e300"] * 3, ["0"] * 6, None)


def places(item: Dataset) -> Iterator[tuple[Dataset, pydicom.tag.BaseTag]]:
    """Every attribute at every depth."""
    for element in item:
        yield item, element.tag
        if element.VR == "SQ":
            for inner in element.value:
                yield from places(inner)


def changed(content: bytes, random_: random.Random) -> bytes:
    """Attributes at any depth are missing, empty, doubled, or hold what they cannot."""
    data = pydicom.dcmread(io.BytesIO(content))
    everywhere = list(places(data))
    for _ in range(random_.choice((1, 1, 1, 3))):
        item, tag = random_.choice(everywhere)
        if tag not in item:
            continue
        element, how = item[tag], random_.random()
        if how < 0.35:
            del item[tag]
        elif element.VR == "SQ":
            element.value = list(element.value)[:8] * random_.choice((0, 2, 3))
        else:
            element._value = random_.choice(_ODD)
    with contextlib.suppress(Exception):  # a value that pydicom cannot write
        return saved(data)
    return content


MUTATIONS = (cut, flipped, flipped, moved, wrong_length, wrong_length, deep, junk, *[changed] * 6)


class ObjectBench:
    """Objects of one made series to mutate, and the commands that read them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        whole = objects(folder / "binary")
        labelmap = objects(folder / "labelmap", seg_type="labelmap")["seg"]
        deflated = objects(folder / "deflated", compress=True)["seg"]
        self.dicom = folder / "binary" / "dicom"
        paths = {**whole, "labelmap": labelmap, "deflated": deflated}
        self.made = {kind: path.read_bytes() for kind, path in paths.items()}

    def run(self, seed: int) -> list[tuple[str, str, float]]:
        """One case: (command and mutation, "exit N" or what is wrong, seconds) of each command."""
        random_ = random.Random(seed)
        kind, mutate = random_.choice(list(self.made)), random_.choice(MUTATIONS)
        path = self.folder / f"{kind}.dcm"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, of what is being made wrong
            path.write_bytes(mutate(self.made[kind], random_))
        found = []
        for command in self.commands(kind, path):
            start = cpu_seconds()
            code, out, err = call(command)
            seconds = cpu_seconds() - start
            name = f"{mutate.__name__} {kind}: {' '.join(command[:2])} {command[3:4]}"
            found.append((name, fault(code, out, err, seconds) or f"exit {code}", seconds))
        return found

    def commands(self, kind: str, path: Path) -> Iterator[list[str]]:
        yield ["dicom", "check", str(path)]
        yield ["dicom", "check", str(path), "--reference-dicom", str(self.dicom)]
        if kind != "sr":
            yield ["report", str(path), "--format", "json"]
            yield ["report", str(path), "--format", "csv", "--ct", str(self.dicom)]
        if kind in ("seg", "deflated"):
            sr = str(self.folder / "out.dcm")
            yield ["report", str(path), "--format", "dicom-sr", "--overwrite", "-o", sr]


def call(command: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(command)
        except BaseException:
            code = -1
            traceback.print_exc(file=err)
    return code, out.getvalue(), err.getvalue()


def fault(code: int, out: str, err: str, seconds: float) -> str | None:
    if code not in ALLOWED_EXITS:
        return f"FAULT exit {code}: {err[-1500:]}"
    if seconds > MOST_SECONDS:
        return f"FAULT took {seconds:.0f} s"
    if PATIENT in out + err:
        return f"FAULT names the patient: {out}{err}"
    alone = err.startswith("segmate: error: ") and err.count("segmate: ") == 1
    if not ((alone and len(err) < 3000) if code not in (0, 3) else "arning:" not in err):
        return f"FAULT not one sentence: {err[:1500]}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as name:
        bench = ObjectBench(Path(name))
        outcomes: Counter[str] = Counter()
        slowest, start = 0.0, time.perf_counter()
        for seed in range(args.seed * 10**6, args.seed * 10**6 + args.count):
            for command, outcome, seconds in bench.run(seed):
                slowest = max(slowest, seconds)
                outcomes[outcome[:6]] += 1
                if outcome.startswith("FAULT"):
                    print(json.dumps({"seed": seed, "command": command, "outcome": outcome}))
        print(
            f"{args.count} objects in {time.perf_counter() - start:.0f} s: {dict(outcomes)}; "
            f"slowest command {slowest:.1f} s; peak {memory_mb()[0]:.0f} MB"
        )
    return int(any(outcome.startswith("FAULT") for outcome in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
