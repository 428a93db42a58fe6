"""The cache in a parcel small enough to send: ``python -m training.parcel CACHE PARCEL``.

A GPU that is lent for minutes sits behind a narrow door (tens of megabytes). A prepared cache of
nine gigabytes goes through it as video: HU companded to 8 bits, cut to the body, coded by HEVC
with an error of about 7 HU in soft tissue, below the noise that training adds anyway; labels
lossless. ``unpack`` makes a cache again on the other side. What is trained there is finished
here, on the cache itself. Packing needs ``ffmpeg``, unpacking ``opencv-python-headless``.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.cases import INVENTED, Case, CaseInfo, load_cases

#: Air and lung in steps of 16 HU, everything denser than fat in steps of 3.
_KNEE_HU, _COARSE_HU, _FINE_HU, _KNEE = -200.0, 16.0, 3.0, 50
_MARGIN = 6
_BLOCK = 8
#: Invented cases have no detail that is worth much of the parcel.
_COARSER = 9


def compand(hu: NDArray[np.integer]) -> NDArray[np.uint8]:
    """HU, clipped to -1000 ... 400, to levels 0 ... 250."""
    clipped = np.clip(hu.astype(np.float32), -1000, 400)
    coarse, fine = (clipped + 1000) / _COARSE_HU, _KNEE + (clipped - _KNEE_HU) / _FINE_HU
    return np.asarray(np.round(np.where(clipped < _KNEE_HU, coarse, fine)), dtype=np.uint8)


def expand(levels: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Levels back to HU."""
    value = levels.astype(np.float32)
    hu = np.where(value < _KNEE, value * _COARSE_HU - 1000, (value - _KNEE) * _FINE_HU + _KNEE_HU)
    return hu.astype(np.int16)


def body_box(hu: NDArray[np.int16]) -> tuple[slice, slice]:
    """Rows and columns in which a body lies, with a margin, in multiples of the codec's blocks."""
    dense = (hu[::4] > -300).mean(axis=0)
    box = []
    for axis in (1, 0):
        inside = np.flatnonzero(dense.max(axis=axis) > 0.15)
        length = dense.shape[1 - axis]
        first, last = (inside[0], inside[-1]) if inside.size else (0, length - 1)
        start = max(0, int(first) - _MARGIN)
        box.append(slice(start, min(length, int(last) + 1 + _MARGIN)))
    return box[0], box[1]


def encode(levels: NDArray[np.uint8], quality: int) -> bytes:
    """Slices (k, j, i) as HEVC in Matroska."""
    _, height, width = levels.shape
    source = f"-f rawvideo -pix_fmt gray -s {width}x{height} -r 25 -i -"
    codec = f"-c:v libx265 -preset medium -x265-params log-level=error:crf={quality}:aq-mode=0"
    command = f"ffmpeg -loglevel error {source} {codec} -pix_fmt gray -f matroska -"
    return subprocess.run(
        command.split(), input=levels.tobytes(), stdout=subprocess.PIPE, check=True
    ).stdout


def decode(path: Path) -> NDArray[np.uint8]:
    """Slices of a video that `encode` made."""
    import cv2

    capture, slices = cv2.VideoCapture(str(path)), []
    while True:
        more, frame = capture.read()
        if not more:
            return np.stack(slices)
        slices.append(frame[:, :, 0].copy())


def pack_case(case: Case, target: Path, quality: int) -> None:
    """Write one case's video, labels and tables."""
    rows, columns = body_box(case.hu)
    levels = compand(case.hu[:, rows, columns])
    height, width = levels.shape[1:]
    padding = ((0, 0), (0, -height % _BLOCK), (0, -width % _BLOCK))
    name = case.info.case_id
    video = target / f"{name}.mkv"
    if not video.exists():
        video.write_bytes(encode(np.pad(levels, padding, mode="edge"), quality))
    arrays = {
        "labels": case.labels[:, rows, columns],
        "known": case.known,
        "usable": case.usable,
    }
    if case.pseudo is not None and case.unsure is not None:
        arrays |= {"pseudo": case.pseudo[:, rows, columns], "unsure": case.unsure[:, rows, columns]}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    (target / f"{name}.npz.xz").write_bytes(lzma.compress(buffer.getvalue(), preset=4))
    facts = {"case_id": name, "slice_mm": case.info.slice_mm, "pixel_mm": case.info.pixel_mm}
    (target / f"{name}.json").write_text(json.dumps(facts | {"quality": case.info.quality}))


def pack(cache: Path, target: Path, pseudo: str, quality: int) -> None:
    """Write a parcel of every case, invented ones coarser; goes on where it was stopped."""
    target.mkdir(parents=True, exist_ok=True)
    for case in load_cases(cache, pseudo):
        name = case.info.case_id
        if not (target / f"{name}.json").exists():
            coarser = _COARSER if name.startswith(INVENTED) else 0
            pack_case(case, target, quality + coarser)


def unpack_case(facts: Path) -> Case:
    """Read one case of a parcel into memory."""
    stem = facts.with_suffix("")
    data = lzma.decompress(stem.with_suffix(".npz.xz").read_bytes())
    arrays = dict(np.load(io.BytesIO(data)))
    height, width = arrays["labels"].shape[1:]
    hu = expand(decode(stem.with_suffix(".mkv")))[:, :height, :width]
    return Case(CaseInfo(**json.loads(facts.read_text())), hu, **arrays)


def unpack(parcel: Path, threads: int) -> list[Case]:
    """Read every case of a parcel, in the order of their names."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(unpack_case, sorted(parcel.glob("*.json"))))


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and pack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path, help="folder of prepared cases")
    parser.add_argument("parcel", type=Path, help="folder to write")
    parser.add_argument("--pseudo", default="", help="round of pseudo labels to take along")
    parser.add_argument("--quality", type=int, default=15, help="of x265: lower is finer")
    options = parser.parse_args(arguments)
    pack(options.cache, options.parcel, options.pseudo, options.quality)


if __name__ == "__main__":
    main()
