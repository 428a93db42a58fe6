"""DICOM CT: find the series in a folder, file or .zip, choose one, read it as a volume.

`find_series` reads headers only and accounts for every file, `choose_series` takes the only CT
series or the one asked for, `read_series` reads its voxels.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from segmate_cli.dicom.files import FileStore, open_store
from segmate_cli.dicom.header import MALFORMED, Header, Rejected, read_header
from segmate_cli.dicom.pixels import as_scan as _as_scan
from segmate_cli.dicom.pixels import check_fit
from segmate_cli.dicom.series import (
    DERIVED,
    IMAGE,
    MULTI_FRAME,
    SINGLE,
    SeriesInfo,
    group_series,
)
from segmate_cli.dicom.stack import Gap
from segmate_cli.errors import AmbiguousSeriesError, InputError, UnreadableError, UsageError
from segmate_cli.volume import Scan, Volume

__all__ = ["Finding", "Gap", "SeriesInfo", "as_scan", "choose_series", "find_series", "read_series"]

# Parsing holds Python's lock; a few threads hide the latency of a network share.
_THREADS = 4
_LISTED = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """Everything that lies under a path; each file is in exactly one place.

    Attributes:
        path: What was looked at.
        series: What DICOM says it holds, CT first, in the order of their numbers.
        not_dicom: Names of files of other kinds.
        skipped: (name, reason) of damaged files, DICOMDIRs, links, copies, empty files ...
    """

    path: Path
    series: tuple[SeriesInfo, ...]
    not_dicom: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def candidates(self) -> tuple[SeriesInfo, ...]:
        """CT series that `choose_series` would take unasked: derived ones if there is no other."""
        for kinds in ((IMAGE, MULTI_FRAME), (DERIVED,)):
            found = tuple(one for one in self.series if one.kind in kinds)
            if found:
                return found
        return ()


def find_series(path: Path) -> Finding:
    """Look at every file under ``path``, headers only.

    Args:
        path: A folder (with all below it, whatever the names), a .zip, or one DICOM file.

    Raises:
        UnreadableError: ``path`` does not exist, cannot be opened, or is a damaged .zip.
        InputError: a .zip that is not safe to read; too many files.
    """
    with open_store(path) as store:
        with ThreadPoolExecutor(_THREADS) as pool:
            results = list(pool.map(lambda name: read_header(store, name), store.names))
        headers = [one for one in results if isinstance(one, Header)]
        rejected = [one for one in results if isinstance(one, Rejected)]
        headers, copies = _without_copies(store, headers)
    skipped = [(one.file, one.reason) for one in rejected if one.is_dicom]
    unreadable = [one for one in rejected if not one.is_dicom and one.reason != "not DICOM"]
    skipped += [(one.file, one.reason) for one in unreadable]
    not_dicom = [one.file for one in rejected if not one.is_dicom and one not in unreadable]
    return Finding(
        path,
        group_series(headers),
        tuple(not_dicom),
        (*store.skipped, *skipped, *copies),
    )


def _without_copies(
    store: FileStore, headers: Sequence[Header]
) -> tuple[list[Header], list[tuple[str, str]]]:
    """Leave out files that are another one byte for byte; equal UIDs alone are no proof."""
    counts = Counter(header.sop_uid for header in headers)
    kept: list[Header] = []
    copies: list[tuple[str, str]] = []
    first_of: dict[tuple[str, bytes], str] = {}
    for header in headers:
        if header.sop_uid and counts[header.sop_uid] > 1:
            key = (header.sop_uid, _digest(store, header.file))
            first = first_of.setdefault(key, header.file)
            if first != header.file:
                copies.append((header.file, f"a copy of {first}"))
                continue
        kept.append(header)
    return kept, copies


def _digest(store: FileStore, name: str) -> bytes:
    """Hash of a file; of its name where it cannot be read, so that it equals no other."""
    digest = hashlib.blake2b()
    try:
        with store.open(name) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except MALFORMED:
        return name.encode("utf-8", "replace")
    return digest.digest()


def choose_series(finding: Finding, wanted: str | None = None) -> SeriesInfo:
    """The series to segment.

    Args:
        finding: Of `find_series`.
        wanted: A SeriesInstanceUID, a unique ending of one, or the number in the table; None or
            "auto" takes the only CT series.

    Raises:
        AmbiguousSeriesError: several CT series and none was named.
        UsageError: ``wanted`` names none, or several.
        UnreadableError: there is no DICOM file at all.
        InputError: there are DICOM files, but no CT series.
        GeometryError: the series is incomplete, uneven, tilted or mixed, with the places.
    """
    if wanted is not None and wanted.strip().lower() != "auto":
        chosen = _wanted(finding, wanted.strip())
        check_fit(finding.path, chosen)
        return chosen
    candidates = finding.candidates
    if len(candidates) == 1:
        check_fit(finding.path, candidates[0])
        return candidates[0]
    if not candidates:
        raise _none_found(finding)
    raise AmbiguousSeriesError(
        f"{finding.path} holds {len(candidates)} CT series; choose one with --series NUMBER or "
        f"--series UID:\n{series_table(candidates)}{_others(finding)}"
    )


def as_scan(where: Finding | Path, series: SeriesInfo) -> Scan:
    """The series, ready to be read slice by slice; see `segmate_cli.dicom.pixels.as_scan`."""
    return _as_scan(where if isinstance(where, Path) else where.path, series)


def read_series(where: Finding | Path, series: SeriesInfo) -> Volume:
    """All voxels of a series as Hounsfield units; see `segmate_cli.dicom.pixels.as_scan`."""
    return as_scan(where, series).read()


def series_table(series: Sequence[SeriesInfo]) -> str:
    """A line a series: number, description, slices, spacing (k, j, i) in mm, UID."""
    rows = [("no.", "description", "slices", "spacing mm", "UID")]
    for one in series:
        spacing = " x ".join(f"{value:.2f}" for value in one.spacing_mm or ()) or "unknown"
        about = one.description or "(no description)"
        rows.append((str(one.number), about, str(len(one.slices)), spacing, one.series_uid))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join("  " + "  ".join(row).rstrip() for row in padded)


def _wanted(finding: Finding, wanted: str) -> SeriesInfo:
    if wanted.isdigit() and 1 <= int(wanted) <= len(finding.series):
        return finding.series[int(wanted) - 1]
    found = [one for one in finding.series if one.series_uid == wanted]
    found = found or [one for one in finding.series if wanted and one.series_uid.endswith(wanted)]
    # A localizer may share its series' UID; the slices are meant.
    fit = [one for one in found if one in finding.candidates] or found
    if len(fit) == 1:
        return fit[0]
    what = "fits several" if fit else "is none"
    raise UsageError(
        f"--series {wanted} {what} of the series in {finding.path}; give a number or a UID of:\n"
        f"{series_table(finding.series)}"
    )


def _none_found(finding: Finding) -> InputError:
    path = finding.path
    if not finding.series:
        if finding.skipped:
            name, reason = finding.skipped[0]
            only = f"{path}" if path.name == name else f"{path}, {name}"
            return UnreadableError(
                f"{only}: {reason}; no DICOM image was found{_others(finding, first=False)}"
            )
        count = len(finding.not_dicom)
        what = f"none of its {count} files is DICOM" if count != 1 else "its only file is not DICOM"
        if count == 0:
            what = "there is no file in it"
        return UnreadableError(f"{path} holds no CT: {what}; give a folder of a CT's DICOM files.")
    if [one.kind for one in finding.series] == [SINGLE]:
        return InputError(
            f"{path} holds a single CT slice; give the folder or .zip of the whole series."
        )
    kinds = Counter(one.kind for one in finding.series)
    listed = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    return InputError(
        f"{path} holds no CT series of slices, but: {listed}{_others(finding)} "
        "`segmate inspect` lists the files."
    )


def _others(finding: Finding, *, first: bool = True) -> str:
    """What else lies there, as the end of a message."""
    parts = []
    if finding.not_dicom:
        parts.append(f"not DICOM: {_names(finding.not_dicom)}")
    if finding.skipped and first:
        parts.append(f"skipped: {_names([name for name, _ in finding.skipped])}")
    return "".join(f"\n  {part}" for part in parts) if parts else "."


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
