"""How a batch is asked to stop, and by when."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# SIGTERM is followed by SIGKILL after 10 s or more (Docker, Slurm: 30 s); workers need 2 of them.
_GRACE_SECONDS = 6.0


class Stop:
    """Whether a stop has been asked for.

    The first SIGINT lets the cases under way come to their end, the second stops at once; SIGTERM
    gives them a few seconds.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self._deadline: float | None = None

    @property
    def asked(self) -> bool:
        """Whether no case may be begun any more."""
        return self.exit_code != 0

    @property
    def at_once(self) -> bool:
        """Whether cases under way are to be abandoned."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        """A signal handler."""
        again = self.asked
        self.exit_code = 128 + signum
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
