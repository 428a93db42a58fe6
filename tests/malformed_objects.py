"""Damaged SEG, SR and RTSTRUCT through the real command line: one sentence, or a report.

``python tests/malformed_objects.py --count 2000 --seed 1`` runs many and prints figures; pytest
runs a few. See ``malformed.py``, which does the same to series.
"""

from __future__ import annotations

import contextlib
import io
import random
import warnings
from collections.abc import Iterator
from pathlib import Path

import damage
import pydicom
from damage import Called, Case
from malformed import cut, deep, flipped, junk, moved, saved, wrong_length
from pydicom.dataset import Dataset
from test_dicom_check import objects

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

    def run(self, seed: int) -> list[Case]:
        """One object, by each command that reads it."""
        random_ = random.Random(seed)
        kind, mutate = random_.choice(list(self.made)), random_.choice(MUTATIONS)
        path = self.folder / f"{kind}.dcm"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, of what is being made wrong
            path.write_bytes(mutate(self.made[kind], random_))
        found = []
        for command in self.commands(kind, path):
            done = damage.call(command)
            what = f"{mutate.__name__} {kind}: {' '.join(command[:2])} {command[3:4]}"
            found.append(Case(what, fault(done) or f"exit {done.code}", done.seconds))
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


def fault(done: Called) -> str | None:
    """What is wrong with how a command ended."""
    if wrong := damage.fault(done, ALLOWED_EXITS):
        return wrong
    quiet = done.code in (0, 3)
    if not ("arning:" not in done.err if quiet else damage.one_sentence(done.err)):
        return f"FAULT not one sentence: {done.err[:1500]}"
    return None


if __name__ == "__main__":
    raise SystemExit(damage.main(__doc__ or "", ObjectBench))
