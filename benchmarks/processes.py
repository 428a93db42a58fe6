"""One command in a process of its own: its time, its processors' time, its memory."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_INTERVAL_S = 0.03
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Cost:
    """What a command took.

    Attributes:
        wall_s: From start to end of the process.
        cpu_s: User and system seconds, children included.
        peak_mb: Most memory that the process and its children held, what they share counted once.
        largest_mb: Most memory that any one of them held.
        first_s: From the start to the first line on stderr that holds ``"segment"``, which
            segmate's JSON progress prints just before the first slice enters the network; or None.
        code: The exit code.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    largest_mb: float
    first_s: float | None
    code: int = 0


def run(command: list[str], allowed: tuple[int, ...] = (0,)) -> Cost:
    """Run a command to its end; CalledProcessError where it ends with a code not allowed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    watcher = _Watcher(process.pid)
    watcher.start()
    first_s = None
    said = []
    for line in process.stderr or ():
        said.append(line)
        if first_s is None and '"segment"' in line:
            first_s = time.monotonic() - start
    code = process.wait()
    wall_s = time.monotonic() - start
    watcher.stop()
    if code not in allowed:
        raise subprocess.CalledProcessError(code, command, stderr="".join(said[-20:]))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall_s, cpu_s, watcher.peak / 1e6, watcher.largest / 1e6, first_s, code)


class _Watcher(threading.Thread):
    """Adds up, again and again, what a process and all that it started hold."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self.largest = 0
        self._pid = pid
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(_INTERVAL_S):
            self.peak = max(self.peak, self._held())

    def stop(self) -> None:
        self._done.set()
        self.join()

    def _held(self) -> int:
        # By way of the children: to look through all processes of the machine, so often, would take
        # a tenth of a processor from what is measured.
        own: list[tuple[int, int]] = []
        left = [self._pid]
        while left:
            folder = Path(f"/proc/{left.pop()}")
            try:
                pages = (folder / "statm").read_text().split()  # size, resident, shared
                own.append((int(pages[1]) * _PAGE, int(pages[2]) * _PAGE))
                for task in (folder / "task").iterdir():
                    left += map(int, (task / "children").read_text().split())
            except (OSError, ValueError, IndexError):  # it has ended meanwhile
                continue
        self.largest = max(self.largest, *(resident for resident, _ in own), 0)
        shared = max((both for _, both in own), default=0)
        return shared + sum(resident - both for resident, both in own)
