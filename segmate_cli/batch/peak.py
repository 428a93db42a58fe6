"""The most memory that a worker has held during one case."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from segmate_cli import memory


def restart_peak() -> None:
    """Forget the peak so far, where the system can (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """The peak since ``restart_peak``, or of the whole process where that cannot be told."""
    with suppress(OSError):
        match = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
        if match:
            return int(match[1]) * 1024
    return memory.peak_bytes()
