"""Slices of a scan that is stored the other way round, by way of a temporary file.

A scan stored coronally or sagittally gives its axial slices only once it has been read to the end.
It is written to a file in slabs of stored slices, each slab turned, so that an axial slice is read
back in a few pieces. In memory is one slab. The file has no name where the system allows it, so
that nothing is left behind however a run ends.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from segmate_cli import memory
from segmate_cli.errors import OutputError
from segmate_cli.volume import Hounsfield

SLAB_BYTES = 8 * 10**6
_ITEM_BYTES = 2


def planes_across(
    planes: Iterable[Hounsfield],
    shape: tuple[int, int, int],
    axis: int,
    folder: Path | None = None,
    *,
    down: bool = False,
) -> Iterator[Hounsfield]:
    """Yield a scan's slices across another axis than the one they are stored along.

    Args:
        planes: The stored slices k = 0, 1, ...; all are taken before the first is yielded.
        shape: Of the scan, (k, j, i).
        axis: 1 or 2; slices come out along it.
        folder: For the temporary file; None takes the system's.
        down: From the last to the first.

    Yields:
        (k, i) for axis 1, (k, j) for axis 2.

    Raises:
        OutputError: The file cannot be written, or the disk is full.
    """
    slices, count, other = shape[0], shape[axis], shape[3 - axis]
    thick = max(1, SLAB_BYTES // (count * other * _ITEM_BYTES))
    place = Path(tempfile.gettempdir()) if folder is None else folder
    size = slices * count * other * _ITEM_BYTES
    with ExitStack() as stack:
        with _explained(place, size):
            if shutil.disk_usage(place).free < size:
                raise OSError(errno.ENOSPC, "no space left on device")
            file = stack.enter_context(tempfile.TemporaryFile(prefix=".segmate-", dir=place))
        block = np.empty((count, min(thick, slices), other), np.int16)
        for k, stored in enumerate(planes):
            filled = k % thick + 1
            block[:, filled - 1] = stored if axis == 1 else stored.T
            if filled == thick or k == slices - 1:
                with _explained(place, size):
                    file.write(np.ascontiguousarray(block[:, :filled]).data)
        del block
        for n in range(count - 1, -1, -1) if down else range(count):
            plane = np.empty((slices, other), np.int16)
            with _explained(place, size):
                for start in range(0, slices, thick):
                    part = plane[start : start + thick]
                    file.seek(_ITEM_BYTES * other * (start * count + n * len(part)))
                    if file.readinto(part.data) < part.nbytes:
                        raise OSError(errno.EIO, "the file is shorter than it was")
            yield plane


@contextmanager
def _explained(folder: Path, size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{folder}: a scan stored coronally or sagittally needs a temporary file of "
            f"{memory.human(size)} there ({error.strerror or error}); free some space, or set "
            "TMPDIR to a folder that has it."
        ) from error
