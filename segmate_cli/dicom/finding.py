"""Look at every file under a path, headers only, and account for each."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from segmate_cli.dicom.data_set import pixel_data
from segmate_cli.dicom.files import FileStore, Place, open_store
from segmate_cli.dicom.header import Header, Rejected
from segmate_cli.dicom.malformed import MALFORMED
from segmate_cli.dicom.multiframe import read_headers
from segmate_cli.dicom.series import DERIVED, IMAGE, MULTI_FRAME, SeriesInfo, group_series

# Parsing holds Python's lock; a few threads hide the latency of a network share.
_THREADS = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """Everything that lies under a path; each file is in exactly one place.

    Attributes:
        path: What was looked at.
        series: What DICOM says it holds, CT first, in the order of their numbers.
        not_dicom: Names of files of other kinds.
        skipped: (name, reason) of damaged files, DICOMDIRs, links, copies, empty files ...
    """

    path: Place
    series: tuple[SeriesInfo, ...]
    not_dicom: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def candidates(self) -> tuple[SeriesInfo, ...]:
        """The stacks of CT slices, among which a choice is made."""
        return tuple(one for one in self.series if one.kind in (IMAGE, DERIVED, MULTI_FRAME))


def find_series(path: Place) -> Finding:
    """Look at every file under ``path``, headers only.

    Args:
        path: A folder (with all below it, whatever the names), a .zip or .tar (.tar.gz), one DICOM
            file, or a list of files.

    Raises:
        UnreadableError: ``path`` does not exist, cannot be opened, or is a damaged archive.
        InputError: an archive that is not safe to read; too many files.
    """
    with open_store(path) as store:
        with ThreadPoolExecutor(_THREADS) as pool:
            read = pool.map(lambda name: read_headers(store, name), store.names)
            results = [one for of_file in read for one in of_file]
        headers = [one for one in results if isinstance(one, Header)]
        rejected = [one for one in results if isinstance(one, Rejected)]
        headers, copies = _without_copies(store, headers)
        headers, repeats = _without_repeats(store, headers)
    skipped = [(one.file, one.reason) for one in rejected if one.is_dicom]
    unreadable = [one for one in rejected if not one.is_dicom and one.reason != "not DICOM"]
    skipped += [(one.file, one.reason) for one in unreadable]
    not_dicom = [one.file for one in rejected if not one.is_dicom and one not in unreadable]
    return Finding(
        path,
        group_series(headers),
        tuple(not_dicom),
        (*store.skipped, *skipped, *copies, *repeats),
    )


def _without_copies(
    store: FileStore, headers: Sequence[Header]
) -> tuple[list[Header], list[tuple[str, str]]]:
    """Leave out files that are another one byte for byte; equal UIDs alone are no proof."""
    # Frames of one file have one UID.
    counts = Counter(uid for uid, _ in {(header.sop_uid, header.file) for header in headers})
    kept: list[Header] = []
    copies: list[tuple[str, str]] = []
    first_of: dict[tuple[str, bytes], str] = {}
    digests: dict[str, bytes] = {}
    for header in headers:
        if header.sop_uid and counts[header.sop_uid] > 1:
            if header.file not in digests:
                digests[header.file] = _digest(store, header.file)
            key = (header.sop_uid, digests[header.file])
            first = first_of.setdefault(key, header.file)
            if first != header.file:
                if header.frame in (None, 1):
                    copies.append((header.file, f"a copy of {first}"))
                continue
        kept.append(header)
    return kept, copies


def _without_repeats(
    store: FileStore, headers: Sequence[Header]
) -> tuple[list[Header], list[tuple[str, str]]]:
    """Leave out slices that another one repeats: same series, place, acquisition and voxels."""
    counts = Counter(map(_slot, headers))
    kept: list[Header] = []
    repeats: list[tuple[str, str]] = []
    first_of: dict[tuple[Hashable, bytes], str] = {}
    for header in headers:
        slot = _slot(header)
        if header.position_mm and counts[slot] > 1 and header.frame is None:
            first = first_of.setdefault((slot, _pixel_digest(store, header.file)), header.file)
            if first != header.file:
                repeats.append((header.file, f"the same image as {first}"))
                continue
        kept.append(header)
    return kept, repeats


def _slot(header: Header) -> Hashable:
    """What two slices have in common of which one may be too many."""
    place = tuple(round(value, 2) for value in header.position_mm or ())
    how = (header.orientation, header.pixel_spacing_mm, header.rows, header.columns)
    told = (header.image_type, header.kernel, header.acquisition)
    return header.series_uid, place, how, told, header.values, header.syntax_uid


def _pixel_digest(store: FileStore, name: str) -> bytes:
    """Hash of a slice's pixels as they are stored; of its name where they cannot be read."""
    try:
        with store.open(name) as file:
            value, _ = pixel_data(file, store.size(name))
    except MALFORMED:
        return name.encode("utf-8", "replace")
    return hashlib.blake2b(value).digest()


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
