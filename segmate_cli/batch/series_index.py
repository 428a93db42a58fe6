"""Which CT series lie in a folder or archive, remembered for the next run.

Finding them means reading a header of every file. Names, sizes, times and inode numbers tell
whether a folder is still as it was; the index is a cache, and may be deleted.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from segmate_cli import files
from segmate_cli.batch.settings import digest_of
from segmate_cli.errors import InputError, OutputError


class SeriesIndex:
    """Series by folder, kept in a JSON file."""

    def __init__(self, path: Path | None = None) -> None:
        """Read what an earlier run left in ``path``; None keeps nothing."""
        self._path = path
        self._known: dict[str, tuple[str, list[str]]] = {}
        self._used: dict[str, tuple[str, list[str]]] = {}
        if path is not None:
            self._known = _read(path)

    def series_of(self, place: str) -> list[str]:
        """UIDs of the CT series in a folder or archive; none where there is none or it is damaged.

        Series that somebody derived from others count where there is no other.
        """
        seen = stamp(place)
        key = os.path.abspath(place)
        known = self._known.get(key)
        if known is None or known[0] != seen:
            known = (seen, _look(place))
        self._used[key] = known
        return known[1]

    def save(self) -> None:
        """Write the places of this run for the next; a failure costs only time."""
        if self._path is None or self._used == self._known:
            return
        try:
            files.write_text(self._path, json.dumps(self._used))
        except OutputError:
            return


def stamp(place: str) -> str:
    """What changes when a file, or a file below a folder, is changed, added or taken away.

    Names do not count, so that a moved or renamed scan keeps its stamp.
    """
    if not os.path.isdir(place):
        return digest_of(_status(place))
    return digest_of(sorted(_status(path) for path in files.files_below(place)))


def _status(path: str) -> list[int]:
    try:
        status = os.stat(path)
    except OSError:  # gone meanwhile, or a link that leads nowhere
        return [-1, 0, 0]
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _look(place: str) -> list[str]:
    from segmate_cli import dicom
    from segmate_cli.dicom.series import DERIVED

    try:
        finding = dicom.find_series(Path(place))
    except InputError:
        return []  # the case will say why
    made = [one for one in finding.candidates if one.kind != DERIVED]
    return list(dict.fromkeys(one.series_uid for one in made or finding.candidates))


def _read(path: Path) -> dict[str, tuple[str, list[str]]]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(place): (str(seen), [str(uid) for uid in found])
            for place, (seen, found) in raw.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
