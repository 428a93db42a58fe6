"""How much memory there is, how much is used, and how much a scan will need."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import re
import sys
from decimal import Decimal
from pathlib import Path

from segmate_cli.errors import UsageError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
# Compression buffers, tables and what the allocator keeps: measured, rounded up.
_SLACK_BYTES = 8 * 10**6


def parse_size(text: str) -> int:
    """Bytes of a size such as ``2GB``, ``500MB`` or ``1.5GiB``; UsageError for anything else."""
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([KMGT]I?)?B?\s*", text.upper())
    size = int(Decimal(match[1]) * _UNITS[match[2] or ""]) if match else 0
    if size < 1:
        raise UsageError(f"'{text}' is no size; write it like 500MB or 2GB.")
    return size


def human(size: float) -> str:
    """A size for people, rounded up so that it can be given back as a cap."""
    megabytes = -(-math.ceil(size) // 10**6)
    return f"{megabytes} MB" if megabytes < 10_000 else f"{-(-megabytes // 100) / 10:.1f} GB"


def resident_bytes() -> int:
    """Memory that this process holds now (0 where the system does not say)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """The most memory that this process has held (0 where the system does not say)."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def give_back_free_pages() -> None:
    """Return what the C allocator holds but nobody uses to the system, where it knows how.

    Loading a network parses and copies it; with glibc this gives back 48 of 158 MB (measured with
    the bundled model), which would else count against every cap.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def available_bytes() -> int | None:
    """Memory that the machine, or this process's cgroup if that is less, leaves free."""
    free = [value for value in (_meminfo_available(), _cgroup_free()) if value is not None]
    return min(free) if free else None


def fixed_need(
    scan_shape: tuple[int, int, int],
    grid_shape: tuple[int, int, int],
    *,
    streams: bool,
    cleans_up: bool,
) -> int:
    """Bytes a run needs beside the batches, over what it holds before the scan is read.

    Args:
        scan_shape: Slices, rows and columns of the scan.
        grid_shape: The same on the model's grid.
        streams: Whether slices can flow; else the scan (int16) and its labels lie in memory.
        cleans_up: Whether organs are taken apart into components after the network.
    """
    plane = scan_shape[1] * scan_shape[2]
    on_grid = grid_shape[0] * grid_shape[1] * grid_shape[2]
    whole = 0 if streams else 3 * plane * scan_shape[0]
    # Components are numbered in 4 bytes a voxel of the box around an organ, at most half the grid.
    labels = on_grid * (4 if cleans_up else 1)
    return labels + 24 * plane + whole + _SLACK_BYTES  # 24: float slices in use


def _meminfo_available() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    match = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _cgroup_free() -> int | None:
    root = Path("/sys/fs/cgroup")
    for limit, used in (
        (root / "memory.max", root / "memory.current"),
        (root / "memory/memory.limit_in_bytes", root / "memory/memory.usage_in_bytes"),
    ):
        try:
            return int(limit.read_text()) - int(used.read_text())
        except (OSError, ValueError):  # no such cgroup version, or "max"
            continue
    return None
