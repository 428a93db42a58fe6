"""How a batch is asked to stop, and by when."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# SIGTERM is followed by SIGKILL after 10 s or more (Docker, Slurm: 30 s); workers need 2 of them.
_GRACE_SECONDS = 6.0


_TICK_SECONDS = 0.2


class Stop:
    """Whether a stop has been asked for.

    While cases are under way, the first SIGINT lets them come to their end, the second stops at
    once; SIGTERM gives them a few seconds. Before and after, a signal ends the program on the spot:
    nothing is written then that does not appear whole or not at all.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self._deadline: float | None = None
        self._under_way = False

    @property
    def asked(self) -> bool:
        """Whether no case may be begun any more."""
        return self.exit_code != 0

    @property
    def at_once(self) -> bool:
        """Whether cases under way are to be abandoned."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    @contextmanager
    def cases_under_way(self) -> Iterator[None]:
        """Meanwhile a signal only asks."""
        self._under_way = True
        try:
            yield
        finally:
            self._under_way = False

    def wait(self, seconds: float) -> None:
        """Sleep, no longer than until a stop is asked for."""
        end = time.monotonic() + seconds
        with self.cases_under_way():
            while not self.asked and time.monotonic() < end:
                time.sleep(_TICK_SECONDS)

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        """A signal handler."""
        again = self.asked
        self.exit_code = 128 + signum
        if not self._under_way:
            raise SystemExit(self.exit_code)
        if again:
            self._deadline = time.monotonic()
        elif signum == signal.SIGTERM:
            self._deadline = time.monotonic() + _GRACE_SECONDS

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Handle SIGINT and SIGTERM meanwhile."""
        kinds = (signal.SIGINT, signal.SIGTERM)
        before = {kind: signal.signal(kind, self.on_signal) for kind in kinds}
        try:
            yield self
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)
