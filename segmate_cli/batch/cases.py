"""What there is to do: the scans of a folder tree, a manifest, or a list of paths, as cases."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from segmate_cli import nifti
from segmate_cli.batch.ids import ARCHIVES, Names, case_id, is_safe
from segmate_cli.batch.series_index import SeriesIndex
from segmate_cli.batch.settings import parse_case_options
from segmate_cli.errors import UnreadableError, UsageError

_FOREIGN = (
    *(".json", ".txt", ".csv", ".tsv", ".md", ".log", ".xml", ".html", ".pdf", ".png", ".jpg"),
    *(".jpeg", ".gif", ".py", ".sh", ".yaml", ".yml", ".bval", ".bvec", ".mat", ".npy", ".npz"),
    *(".nii", ".zip", ".gz", ".bz2", ".7z", ".tar", ".tgz", ".part", ".tmp", ".mha", ".mhd"),
    *(".nrrd", ".raw"),
)
_TABLES = (".csv", ".tsv")
_COLUMNS = ("path", "case_id", "series", "options")


@dataclass(frozen=True, slots=True)
class Case:
    """One scan to segment.

    Attributes:
        case_id: Its name, and its folder's in the output.
        path: A NIfTI file, a folder with DICOM files, or a .zip or .tar.
        series: SeriesInstanceUID or number, for DICOM.
        options: What a manifest says of it; see ``Settings.for_case``.
    """

    case_id: str
    path: str
    series: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Item:
    """A place with one scan, or several series; ``name`` is what its id is made of."""

    path: str
    name: str
    dicom: bool
    given_id: str = ""
    series: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


def find_cases(
    places: Iterable[str],
    index: SeriesIndex,
    leave_out: Path,
    stdin: TextIO | None = None,
    is_held: Callable[[str, str], bool] = lambda name, path: False,
) -> list[Case]:
    """All cases, by name.

    Args:
        places: Folders, files, manifests (.csv, .tsv), or ``-`` for paths on stdin.
        index: Knows the series of folders; looks at those it does not know.
        leave_out: The output folder, which may lie inside a place.
        stdin: Where ``-`` reads.
        is_held: See ``Names``.

    Raises:
        UnreadableError: A place does not exist; what a list or manifest names may be gone.
        UsageError: A manifest that does not say what to do.
    """
    names = Names(is_held)
    cases: list[Case] = []
    for place in places:
        for item in _items(place, leave_out, stdin):
            cases += _cases_of(item, index, names)
    return sorted(cases, key=lambda case: case.case_id)


def in_shard(case: Case, number: int, of: int) -> bool:
    """Whether a case is of shard ``number`` (from 1); by its name's hash, so it never changes."""
    from segmate_cli.batch.ids import short_hash

    return int(short_hash(case.case_id), 16) % of == number - 1


def _items(place: str, leave_out: Path, stdin: TextIO | None) -> Iterator[_Item]:
    if place == "-":
        yield from _listed(stdin, leave_out)
    elif place.lower().endswith(_TABLES):
        yield from _manifest(Path(place), leave_out)
    else:
        yield from _place(place, _typed(place), leave_out)


def _listed(stdin: TextIO | None, leave_out: Path) -> Iterator[_Item]:
    if stdin is None or stdin.isatty():
        raise UsageError("- means paths on stdin; pipe them in, one a line.")
    for line in stdin:
        path = line.rstrip("\r\n")
        if not path.strip():
            continue
        if os.path.lexists(path):
            yield from _place(path, _typed(path), leave_out)
        else:  # gone since it was listed: a case that fails, as in a manifest
            name = os.path.basename(_typed(path)) or path
            yield _Item(path, name, not nifti.is_nifti_name(Path(path)))


def _typed(path: str) -> str:
    """A path as it was typed, without what says only where one stands."""
    return path.lstrip("/").rstrip("/")


def _place(path: str, name: str, leave_out: Path) -> Iterator[_Item]:
    """The items of a path that was given: of a folder, named by what lies below it."""
    if not os.path.lexists(path):
        raise UnreadableError(f"{path}: there is no such file or folder; check the path.")
    if os.path.isdir(path):
        yield from _tree(path, name, leave_out)
    else:
        yield _Item(path, os.path.basename(name), not nifti.is_nifti_name(Path(path)))


def _tree(root: str, name: str, leave_out: Path) -> Iterator[_Item]:
    """Every scan below a folder, each folder once; hidden files and the output are left out."""
    seen: set[tuple[int, int]] = set()
    unit = ""  # the folder whose DICOM, with all below, was the last item
    for folder, below, files in os.walk(root, followlinks=True):
        if _visited(folder, seen) or _same(folder, leave_out):
            below.clear()
            continue
        below[:] = sorted(each for each in below if not each.startswith("."))
        shown = sorted(each for each in files if not each.startswith("."))
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        inside = "" if relative == "." else f"{relative}/"
        for file in shown:
            packed = file.lower().endswith(ARCHIVES)
            if packed or nifti.is_nifti_name(Path(file)):
                yield _Item(os.path.join(folder, file), f"{inside}{file}", packed)
        if unit and folder.startswith(unit):  # what is below a folder comes right after it
            continue
        if any(_looks_like_dicom(os.path.join(folder, file)) for file in shown):
            unit = os.path.join(folder, "")
            yield _Item(folder, inside.rstrip("/") or os.path.basename(name), True)


def _visited(folder: str, seen: set[tuple[int, int]]) -> bool:
    """Whether a folder has been walked under another name; links can make circles."""
    status = os.stat(folder)
    key = (status.st_dev, status.st_ino)
    if key in seen and status.st_ino != 0:
        return True
    seen.add(key)
    return False


def _same(folder: str, other: Path) -> bool:
    return os.path.exists(other) and os.path.samefile(folder, other)


def _looks_like_dicom(path: str) -> bool:
    """By name or first bytes; a DICOMDIR is an index, no image."""
    name = os.path.basename(path)
    suffix = os.path.splitext(name)[1].lower()
    if suffix in (".dcm", ".ima"):
        return True
    if suffix in _FOREIGN or name.upper() == "DICOMDIR" or not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            start = file.read(132)
    except OSError:
        return False
    # Without a preamble a file starts with its groups 2 or 8.
    return start[128:] == b"DICM" or start[:4] in (b"\x08\x00\x05\x00", b"\x08\x00\x08\x00")


def _manifest(path: Path, leave_out: Path) -> Iterator[_Item]:
    for number, row in _rows(path):
        where = f"{path}, line {number}"
        place = str((row.get("path") or "").strip())
        if not place:
            raise UsageError(f"{where}: it has no path.")
        given = (row.get("case_id") or "").strip()
        if given and not is_safe(given):
            raise UsageError(
                f"{where}: case_id '{given:.50}' is no safe file name; use letters, digits, "
                "'.', '_' and '-'."
            )
        series = (row.get("series") or "").strip() or None
        options = parse_case_options(row.get("options") or "", where)
        full = str(path.parent / place)  # an absolute place stays what it is
        if not os.path.isdir(full):
            is_dicom = not nifti.is_nifti_name(Path(full))
            yield _Item(full, _typed(place), is_dicom, given, series, options)
        elif given or series:
            yield _Item(full, _typed(place), True, given, series, options)
        else:
            for item in _tree(full, _typed(place), leave_out):
                below = "" if item.path == full else f"/{item.name}"
                name = f"{_typed(place)}{below}"
                yield _Item(item.path, name, item.dicom, "", None, options)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str | None]]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter)
            columns = tuple(reader.fieldnames or ())
            if "path" not in columns or set(columns) - set(_COLUMNS):
                raise UsageError(
                    f"{path}: a manifest has the columns {','.join(_COLUMNS)}, of which only "
                    f"path is needed; this one has {','.join(map(str, columns))[:100] or 'none'}."
                )
            for row in reader:
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnreadableError(f"{path}: the manifest cannot be read ({error}).") from error


def _cases_of(item: _Item, index: SeriesIndex, names: Names) -> Iterator[Case]:
    """The cases of an item: for DICOM one a series, unless the series was named."""
    if not item.dicom or item.series:
        yield _case(item, item.series, item.given_id or case_id(item.name), names)
        return
    found = index.series_of(item.path)
    for uid in found or (None,):
        part = uid if uid and len(found) > 1 else ""
        name = case_id(item.given_id or item.name, part)
        yield _case(item, uid, name, names)


def _case(item: _Item, series: str | None, name: str, names: Names) -> Case:
    unique = names.take(name, item.path, series or "", given=bool(item.given_id))
    return Case(unique, item.path, series, item.options)
