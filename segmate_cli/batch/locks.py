"""Locks on files: whoever dies gives them back, however it dies."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segmate_cli.errors import OutputError, TakenError

_PAUSE_SECONDS = 0.05
# File systems without locks: some network and cluster file systems.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}
# What is said of a lock that another process holds.
_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


@contextmanager
def locked(path: Path, wait_seconds: float, *, shared: bool = False) -> Iterator[bool]:
    """Hold a lock file; it is removed at the end unless others may share it.

    Gives whether it is held: on a file system that knows no locks, nothing is.

    Raises:
        TakenError: Another process holds it for longer than ``wait_seconds``.
        OutputError: The file cannot be made, or locking fails.
    """
    handle, held = _take(path, time.monotonic() + wait_seconds, shared)
    try:
        yield held
    finally:
        if not shared:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        os.close(handle)


def _take(path: Path, deadline: float, shared: bool) -> tuple[int, bool]:
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            reason = error.strerror or "it cannot be made"
            raise OutputError(f"{path}: no lock file ({reason}); is it writable?") from error
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return handle, False
            os.close(handle)
            if error.errno not in _HELD:
                raise OutputError(f"{path}: cannot be locked ({error.strerror}).") from error
            if time.monotonic() > deadline:
                raise TakenError(
                    f"{path.parent}: another segmate batch is at work there."
                ) from error
            time.sleep(_PAUSE_SECONDS)
            continue
        if _still_there(path, handle):
            return handle, True
        os.close(handle)  # its last holder has just removed it


def _still_there(path: Path, handle: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(handle))
    return False
