"""Prepared cases: what lies in the cache, and what is known about each organ in each slice.

Conventions: arrays are (k, j, i) in LPS array order: slices from inferior to superior, rows from
anterior to posterior, columns from the patient's right to left. In-plane spacing is the model's
(``PIXEL_MM``); the slice distance stays the scan's own, so that training can sample any distance.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ORGANS = (
    *("lung_left", "lung_right", "trachea", "esophagus", "spinal_cord", "heart"),
    *("aorta", "liver", "kidney_left", "kidney_right", "spleen"),
)
#: In-plane spacing of the model's grid, and of every prepared case.
PIXEL_MM = 1.5
#: Distance of the slices that the model sees.
SLICE_MM = 3.0
#: HU of air, and of what lies outside a slice.
AIR_HU = -1000.0
#: How names of cases begin that nobody scanned.
INVENTED = ("phantom", "synthetic")
#: Label of a voxel that is no other organ, and about which the aorta is unsure (its branches).
AMBIGUOUS_AORTA = 254


class Known(IntEnum):
    """What the labels of a slice say about one organ."""

    NO = 0
    HAND = 1
    TEACHER = 2
    ABSENT = 3
    PSEUDO = 4


@dataclass(frozen=True, slots=True)
class CaseInfo:
    """One prepared case.

    Attributes:
        case_id: name of the case's folder in the source and in the cache.
        slice_mm: distance of its slices.
        pixel_mm: in-plane spacing.
        quality: ``A``, ``B``, ``C`` as its source says, or an empty string.
    """

    case_id: str
    slice_mm: float
    pixel_mm: float
    quality: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One prepared case with its arrays, memory-mapped.

    Attributes:
        info: spacings and names.
        hu: int16 (k, j, i).
        labels: uint8 (k, j, i); 1 to 11 the organs in order, other values other structures.
        known: uint8 (k, organ) of ``Known``; a row of zeros is a slice not to be used.
        usable: bool (k,), slices that may be sampled.
        pseudo: uint8 (k, j, i) labels predicted by an earlier model, or None.
        unsure: uint16 (k, j, i), bit c set where organ c must not be trained, or None.
    """

    info: CaseInfo
    hu: NDArray[np.int16]
    labels: NDArray[np.uint8]
    known: NDArray[np.uint8]
    usable: NDArray[np.bool_]
    pseudo: NDArray[np.uint8] | None = None
    unsure: NDArray[np.uint16] | None = None


def source_of(case_id: str) -> str:
    """Name of a case's source: the letters that its own begins with."""
    return "".join(itertools.takewhile(str.isalpha, case_id))


def save_case(folder: Path, case: Case) -> None:
    """Write a case's arrays and ``case.json`` into its folder of the cache."""
    target = folder / case.info.case_id
    target.mkdir(parents=True, exist_ok=True)
    for name in ("hu", "labels", "known", "usable"):
        np.save(target / f"{name}.npy", getattr(case, name))
    (target / "case.json").write_text(json.dumps(asdict(case.info), indent=1) + "\n")


def save_round(
    folder: Path,
    name: str,
    labels: NDArray[np.uint8],
    known: NDArray[np.uint8],
    unsure: NDArray[np.uint16] | None = None,
) -> None:
    """Write a case's labels of one round of pseudo labels, as ``load_case`` reads them.

    Args:
        folder: the case's folder.
        name: the round's.
        labels: as ``Case.pseudo``.
        known: as ``Case.known``, completed.
        unsure: as ``Case.unsure``; what lies there stays where none is given.
    """
    np.save(folder / f"{name}.npy", labels)
    np.save(folder / f"{name}_known.npy", known)
    if unsure is not None:
        np.save(folder / f"{name}_unsure.npy", unsure)


def load_case(folder: Path, pseudo: str = "") -> Case:
    """Open a case of the cache, arrays memory-mapped.

    Args:
        folder: the case's folder.
        pseudo: name of a round of pseudo labels (``<pseudo>.npy`` and ``<pseudo>_unsure.npy``
            with ``<pseudo>_known.npy``); an empty string for none.
    """
    info = CaseInfo(**json.loads((folder / "case.json").read_text()))
    arrays = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("hu", "labels", "known")
    }
    usable = np.load(folder / "usable.npy")
    if not pseudo or not (folder / f"{pseudo}.npy").exists():
        return Case(info, usable=usable, **arrays)
    arrays["known"] = np.load(folder / f"{pseudo}_known.npy")
    return Case(
        info,
        usable=usable,
        pseudo=np.load(folder / f"{pseudo}.npy", mmap_mode="r"),
        unsure=np.load(folder / f"{pseudo}_unsure.npy", mmap_mode="r"),
        **arrays,
    )


def load_cases(cache: Path, pseudo: str = "") -> list[Case]:
    """Open every case of the cache, in the order of their names."""
    return [load_case(path.parent, pseudo) for path in sorted(cache.glob("*/case.json"))]
