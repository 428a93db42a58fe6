"""Damaged DICOM series through the real command line: one sentence and exit 6, or a right result.

Each case is a small series of which one file, or every file, is mutated by a seeded generator.
``python tests/malformed.py --count 2000 --seed 1`` runs many and prints figures; pytest runs a few.
"""

from __future__ import annotations

import io
import random
import shutil
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import damage
import dicom_maker as maker
import numpy as np
import pydicom
from damage import Called, Case
from dicom_maker import Recipe, make_series

from segmate_cli import scans

PLAIN = (maker.EXPLICIT, maker.IMPLICIT, maker.BIG_ENDIAN, maker.DEFLATED)
PACKED = (maker.RLE, maker.JPEG_LS, maker.JPEG_LOSSLESS_SV1, maker.JPEG_2000_LOSSLESS)
CAP = "1GB"
_PACKED_SHARE = 0.3
# 5: every file claims sizes that the cap cannot hold, so that the plan refuses them.
ALLOWED_EXITS = {0, 4, 5, 6}
_ODD_LENGTHS = (0, 1, 0x7F, 0xFFFE, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFE, 0xFFFFFFFF)
_ITEM = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
_SEQUENCE = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff"

Mutation = Callable[[bytes, random.Random], bytes]


def cut(content: bytes, random_: random.Random) -> bytes:
    """The end is missing."""
    return content[: random_.randrange(len(content))]


def flipped(content: bytes, random_: random.Random) -> bytes:
    """A few bytes have other values, mostly in the header."""
    changed = bytearray(content)
    end = len(changed) if random_.random() < 0.3 else min(len(changed), 1600)
    for _ in range(random_.choice((1, 1, 2, 8, 40))):
        changed[random_.randrange(end)] = random_.choice((0, 0xFF, 0x7F, random_.randrange(256)))
    return bytes(changed)


def moved(content: bytes, random_: random.Random) -> bytes:
    """A piece is missing, doubled, or stands elsewhere."""
    start = random_.randrange(len(content))
    piece = content[start : start + random_.randrange(1, 200)]
    rest = content[:start] + content[start + len(piece) :]
    at = random_.randrange(len(rest) + 1)
    return random_.choice(
        (rest, content[:at] + piece + content[at:], rest[:at] + piece + rest[at:])
    )


def elements(content: bytes) -> list[int]:
    """Where elements seem to start, by their VR."""
    known = (b"UI", b"CS", b"DS", b"US", b"LO", b"SH", b"IS", b"PN", b"OW", b"OB", b"DA", b"UL")
    found = [content.find(vr, at) - 4 for vr in known for at in range(132, 1500, 90)]
    return sorted({at for at in found if at >= 132}) or [132]


def wrong_length(content: bytes, random_: random.Random) -> bytes:
    """An element states another length than it has."""
    at = random_.choice(elements(content))
    length = random_.choice((*_ODD_LENGTHS, random_.randrange(1 << 32)))
    if random_.random() < 0.5:
        return content[: at + 6] + struct.pack("<H", length & 0xFFFF) + content[at + 8 :]
    return content[: at + 8] + struct.pack("<L", length) + content[at + 12 :]


def deep(content: bytes, random_: random.Random) -> bytes:
    """Sequences inside sequences, thousands deep, ended or not."""
    at = random_.choice(elements(content))
    depth = random_.choice((3, 200, 5000, 40000))
    ends = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * depth
    return content[:at] + (_SEQUENCE + _ITEM) * depth + ends * random_.randrange(2) + content[at:]


def huge(content: bytes, random_: random.Random) -> bytes:
    """Sizes, frames and bits that no file could hold, in a data set that is well formed."""
    data = pydicom.dcmread(io.BytesIO(content))
    keyword, value = random_.choice(
        [
            *((name, size) for name in ("Rows", "Columns") for size in (0, 1, 30000, 65535)),
            *(("NumberOfFrames", n) for n in (-1, 0, 2, 99999, 2**31 - 1)),
            *(("BitsAllocated", n) for n in (0, 1, 8, 12, 32, 64, 65535)),
            *(("BitsStored", n) for n in (0, 1, 17, 64)),
            *(("SamplesPerPixel", n) for n in (0, 3, 65535)),
            *(("PixelRepresentation", n) for n in (2, 65535)),
            *((name, "1e308") for name in ("RescaleSlope", "RescaleIntercept")),
            *(("PixelSpacing", two) for two in (["1e-300", "1e-300"], ["1e300", "1"], ["-1", "1"])),
            ("ImagePositionPatient", ["1e300", "-1e300", "1e308"]),
            ("ImageOrientationPatient", ["1e200", "0", "0", "0", "1e200", "0"]),
            ("SliceThickness", "1e300"),
            ("SpecificCharacterSet", "ISO 2022 IR 999"),
            ("SeriesDescription", "x" * 60000),
        ]
    )
    setattr(data, keyword, value)
    return saved(data)


def without_a_tag(content: bytes, random_: random.Random) -> bytes:
    """One attribute is missing, or empty."""
    data = pydicom.dcmread(io.BytesIO(content))
    element = random_.choice([*data])
    if random_.random() < 0.7:
        del data[element.tag]
    else:
        data.add_new(element.tag, element.VR, None)
    return saved(data)


def saved(data: pydicom.Dataset) -> bytes:
    stream = io.BytesIO()
    data.save_as(stream)
    return stream.getvalue()


def junk(content: bytes, random_: random.Random) -> bytes:
    """Noise, zeros, or noise behind a true beginning."""
    return random_.choice((b"", content[: random_.randrange(600)])) + random_.choice(
        (random_.randbytes(random_.randrange(3000)), bytes(random_.randrange(3000)))
    )


MUTATIONS: tuple[Mutation, ...] = (
    *(cut, flipped, flipped, moved, wrong_length, wrong_length),
    *(deep, huge, huge, without_a_tag, without_a_tag, junk),
)


class Bench:
    """Series to mutate and a model to run on them."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        self.made = {}
        for n, syntax in enumerate((*PLAIN, *PACKED)):
            size = 32 if syntax in PACKED else 12
            recipe = Recipe(shape=(4, size, size), syntax=syntax, series=n + 1, shuffle=False)
            self.made[syntax] = make_series(folder / f"base{n}", recipe)

    def run(self, seed: int) -> list[Case]:
        """One case."""
        return [self.one(seed, packed=random.Random(seed).random() < _PACKED_SHARE)]

    def one(self, seed: int, *, packed: bool) -> Case:
        """One case, of a compressed series or not."""
        random_ = random.Random(seed)
        made = self.made[random_.choice(PACKED if packed else PLAIN)]
        mutate = random_.choice(MUTATIONS)
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(made.folder, work)
        hit = set(made.files) if random_.random() < 0.25 else {random_.choice([*made.files])}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, of what is being made wrong
            for k in hit:
                path = work / made.files[k]
                path.write_bytes(mutate(path.read_bytes(), random.Random(seed)))
        options = ("--model", self.model, "--memory-cap", CAP, "--no-hu-check", "--quiet")
        argv = ["predict", work, "-o", self.folder / "labels.nii.gz", "--overwrite", *options]
        done = damage.call([str(each) for each in argv])
        wrong = self.fault(done)
        if wrong is None and done.code == 0:
            wrong = self.wrong_result(work, made, hit)
        return Case(mutate.__name__, wrong or f"exit {done.code}", done.seconds)

    def fault(self, done: Called) -> str | None:
        """What is wrong with how a command ended."""
        if wrong := damage.fault(done, ALLOWED_EXITS):
            return wrong
        if done.code == 5 and "memory cap" not in done.err:
            return f"FAULT exit 5: {done.err[-1500:]}"
        if not (damage.one_sentence(done.err) if done.code else done.err == ""):
            return f"FAULT not one sentence: {done.err[:1500]}"
        return None

    def wrong_result(self, work: Path, made: maker.Made, hit: set[int]) -> str | None:
        """What is wrong with slices that nobody touched, where only one file was mutated."""
        if len(hit) > 1:
            return None
        volume = scans.find_scan(work).read()
        untouched = {k: made.hu[k] for k in made.files if k not in hit}
        lies = volume.geometry.to_lps_mm(np.array([(k, 0, 0) for k in range(len(volume.hu))]))
        found = 0
        for place, plane in zip(lies, volume.hu, strict=True):
            for k, hu in untouched.items():
                if np.linalg.norm(made.affine[:3, 3] + k * made.affine[:3, 0] - place) < 0.3:
                    found += 1
                    if not np.array_equal(plane, hu):
                        return f"FAULT slice {k} has other values"
        return None if found == len(untouched) else f"FAULT {found} of {len(untouched)} slices"


def _bench(folder: Path) -> Bench:
    from conftest import write_bundle

    return Bench(folder, write_bundle(folder / "model"))


if __name__ == "__main__":
    raise SystemExit(damage.main(__doc__ or "", _bench))
