"""SIGINT and SIGTERM that end a command even where something on the way swallows what they raise.

A signal becomes an exception, so that temporary files are removed on the way out. Native code that
is just being imported may swallow it; the command would then go on to its end. So it is remembered,
and raised again where the command comes by.
"""

from __future__ import annotations

import signal
from types import FrameType

_EXITS = {signal.SIGINT: 130, signal.SIGTERM: 143}

_told: list[int] = []


def listen() -> None:
    """Turn both signals into exceptions from now on; SIGINT only if nobody has had it ignored."""
    _told.clear()
    signal.signal(signal.SIGTERM, _raise)
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _raise):
        signal.signal(signal.SIGINT, _raise)


def check() -> None:
    """Raise what a signal has raised before, if nothing has come of that."""
    if _told:
        _raise(_told[0], None)


def exit_code() -> int | None:
    """How a command ends to which a signal came, whatever error that has become; else None."""
    return _EXITS[signal.Signals(_told[0])] if _told else None


def _raise(signum: int, frame: FrameType | None) -> None:
    _told.append(signum)
    code = _EXITS[signal.Signals(signum)]
    raise SystemExit(code) if signum == signal.SIGTERM else KeyboardInterrupt
