"""Names of cases: stable, readable, safe as file names on every system."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable

# What lies beside the cases' folders.
RESERVED = ("cohort", "cases", "events", "run")
# What holds the DICOM files of a case in one.
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_SUFFIX = re.compile(r"\.(nii\.gz|nii|zip|tar|tar\.gz|tgz)$", re.IGNORECASE)
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST = 100
_JOINT = "--"


def case_id(path: str, part: str = "") -> str:
    """A name for the scan at a relative path, the same whatever else there is.

    ``a/b/scan.nii.gz`` is ``a--b--scan``. Where letters had to be replaced or cut, a hash of the
    path is added, so that two paths never get one name by that.

    Args:
        path: Relative, with ``/`` between.
        part: What tells apart the scans of one path, such as a series UID.
    """
    stem = _SUFFIX.sub("", path)
    words = [word for word in stem.split("/") if word not in ("", ".")]
    name = _JOINT.join(_UNSAFE.sub("_", word).strip("._-") or "_" for word in words) or "scan"
    if _is_reserved(name):
        name = name.replace(".", "_", 1)
    faithful = name.split(_JOINT) == words and len(name) <= _LONGEST
    name = name[:_LONGEST] if faithful else f"{name[: _LONGEST - 9]}-{short_hash(path)}"
    return f"{name}{_JOINT}{short_hash(part)}" if part else name


def short_hash(text: str) -> str:
    """Eight hexadecimal digits; any file name can be hashed, in whatever encoding it is."""
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]


class Names:
    """Names given so far; what differs only in case is one name to some file systems."""

    def __init__(self, is_held: Callable[[str, str], bool] = lambda name, path: False) -> None:
        """None is given yet.

        Args:
            is_held: Whether results of another scan than that of a path lie under a name.
        """
        self._taken: set[str] = set()
        self._is_held = is_held

    def take(self, name: str, path: str, part: str = "", *, given: bool = False) -> str:
        """The name, or with a hash where another scan has it already, here or in the output.

        Args:
            name: Wanted.
            path: Of the scan.
            part: What tells apart the scans of one path.
            given: Somebody chose the name, who may want it to stand for another scan now.
        """
        held = not given and self._is_held(name, path)
        if held or name.casefold() in self._taken:
            name = f"{name}-{short_hash(f'{path}{chr(10)}{part}')}"
        self._taken.add(name.casefold())
        return name


def is_safe(name: str) -> bool:
    """Whether a name that somebody chose can be a case's."""
    return (
        re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None
        and len(name) <= 2 * _LONGEST
        and not _is_reserved(name)
    )


def _is_reserved(name: str) -> bool:
    """Whether a file of that name may be one of those beside the cases' folders."""
    return name.lower().startswith(tuple(f"{one}." for one in RESERVED))
