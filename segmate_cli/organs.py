"""The one table of organs: names, codes, colours, and how a user's words find them.

Codes are SNOMED CT (checked against pydicom's dictionary of DICOM context groups); laterality is
a modifier, never a pre-coordinated code. Colours are segmate's own: sides and neighbours differ.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from segmate_cli.errors import UnknownOrganError

CODE_SCHEME = "SCT"
LATERALITY_CODES = {"left": ("7771000", "Left"), "right": ("24028007", "Right")}


@dataclass(frozen=True, slots=True)
class Organ:
    """One anatomical structure.

    Attributes:
        key: Stable name used in files and options, such as ``kidney_left``.
        title: Name for people, such as ``Left kidney``.
        code: SNOMED CT code of the structure, without its side; None for a foreign label.
        meaning: Code meaning that goes with ``code``.
        side: ``left``, ``right`` or None.
        rgb: Display colour, 0 to 255 each.
        aliases: Other accepted names; case, spaces, hyphens and underscores do not matter.
    """

    key: str
    title: str
    code: str | None
    meaning: str | None
    side: str | None
    rgb: tuple[int, int, int]
    aliases: tuple[str, ...] = ()


ORGANS: tuple[Organ, ...] = (
    Organ("lung_left", "Left lung", "39607008", "Lung", "left", (120, 180, 235)),
    Organ("lung_right", "Right lung", "39607008", "Lung", "right", (60, 120, 200)),
    Organ("trachea", "Trachea", "44567001", "Trachea", None, (0, 200, 210), ("windpipe",)),
    Organ("esophagus", "Esophagus", "32849002", "Esophagus", None, (225, 130, 60), ("oesophagus",)),
    Organ("spinal_cord", "Spinal cord", "2748008", "Spinal cord", None, (245, 220, 60), ("cord",)),
    Organ("heart", "Heart", "80891009", "Heart", None, (200, 40, 60)),
    Organ("aorta", "Aorta", "15825003", "Aorta", None, (240, 90, 100)),
    Organ("liver", "Liver", "10200004", "Liver", None, (150, 75, 50)),
    Organ("kidney_left", "Left kidney", "64033007", "Kidney", "left", (165, 205, 80)),
    Organ("kidney_right", "Right kidney", "64033007", "Kidney", "right", (90, 150, 40)),
    Organ("spleen", "Spleen", "78961009", "Spleen", None, (150, 90, 180)),
    Organ("stomach", "Stomach", "69695003", "Stomach", None, (230, 170, 140)),
    Organ("pancreas", "Pancreas", "15776009", "Pancreas", None, (250, 190, 110)),
    Organ("gallbladder", "Gallbladder", "28231008", "Gallbladder", None, (70, 160, 110)),
    Organ("urinary_bladder", "Urinary bladder", "89837001", "Bladder", None, (240, 210, 140)),
)

_BY_KEY = {organ.key: organ for organ in ORGANS}
# Distinct colours for labels that are not in the table (golden-angle walk over the hue circle).
_GOLDEN_ANGLE_TURNS = 0.61803398875


def organ(key: str) -> Organ:
    """Return the table's organ with this exact key; UnknownOrganError if there is none."""
    try:
        return _BY_KEY[key]
    except KeyError:
        raise UnknownOrganError(_unknown(key, ORGANS)) from None


def is_known(key: str) -> bool:
    """Whether the table has an organ with this exact key."""
    return key in _BY_KEY


def foreign_organ(name: str, value: int) -> Organ:
    """An organ for a label of somebody else's: the table's where the name is known.

    TotalSegmentator, for instance, names the kidneys as this table does and has a hundred others.
    """
    found = [known for known in ORGANS if _normal(name) in _names(known)]
    if found:
        return found[0]
    title = name.replace("_", " ").strip().capitalize()
    return Organ(name, title, None, None, None, _colour(value))


def select(words: Iterable[str], known: Sequence[Organ]) -> tuple[Organ, ...]:
    """Find organs by users' words among those a model or file has.

    ``kidney`` means both sides. The order is that of the words; doubles are dropped.

    Raises:
        UnknownOrganError: A word fits none; the message lists what is known and what is nearest.
    """
    chosen: dict[str, Organ] = {}
    for word in words:
        wanted = _normal(word)
        hits = [each for each in known if wanted in _names(each) | _pair_names(each)]
        if not hits:
            raise UnknownOrganError(_unknown(word, known))
        chosen.update((each.key, each) for each in hits)
    return tuple(chosen.values())


def _normal(word: str) -> str:
    return re.sub(r"[\s_\-]+", " ", word).strip().lower()


def _names(entry: Organ) -> set[str]:
    names = {_normal(entry.key), _normal(entry.title), *map(_normal, entry.aliases)}
    if entry.side:
        base = _normal(entry.key).removesuffix(entry.side).strip()
        names |= {f"{entry.side} {base}", f"{base} {entry.side}", f"{base} {entry.side[0]}"}
    return names


def _pair_names(entry: Organ) -> set[str]:
    """Names that mean both sides of a pair, such as ``kidney`` and ``kidneys``."""
    if entry.side is None:
        return set()
    base = _normal(entry.key).removesuffix(entry.side).strip()
    return {base, base + "s"}


def _unknown(word: str, known: Sequence[Organ]) -> str:
    names = {name: entry.key for entry in known for name in sorted(_names(entry))}
    near = difflib.get_close_matches(_normal(word), names, n=3, cutoff=0.6)
    hint = f"; nearest: {', '.join(dict.fromkeys(names[n] for n in near))}" if near else ""
    return f"unknown organ '{word}'{hint}. Known here: {', '.join(entry.key for entry in known)}."


def _colour(value: int) -> tuple[int, int, int]:
    import colorsys

    red, green, blue = colorsys.hsv_to_rgb(value * _GOLDEN_ANGLE_TURNS % 1.0, 0.65, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)
