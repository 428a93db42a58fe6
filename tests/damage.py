"""What the benches of damaged files share: commands under a watchdog, and runs of many cases."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import json
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from dicom_maker import PATIENT

sys.path.insert(0, str(Path(__file__).parent.parent))
from segmate_cli import cli

# By the clock on the wall: a command that takes longer hangs, whether or not it is at work.
MOST_SECONDS = 30.0


class HangError(BaseException):
    """A command took too long; no Exception, so that nothing in segmate takes it for one."""


@dataclass(frozen=True)
class Called:
    """How a command ended: -1 is an exception that came out of it."""

    code: int
    out: str
    err: str
    seconds: float


@dataclass(frozen=True)
class Case:
    """What was done to which file by which command; "exit N" or what is wrong; seconds of wall."""

    what: str
    outcome: str
    seconds: float


class Bench(Protocol):
    """Files to damage."""

    def run(self, seed: int) -> list[Case]:
        """Damage one, and give it to one command or several."""


def call(argv: list[str]) -> Called:
    """Run the real command line in this process, and end it when it hangs."""
    out, err = io.StringIO(), io.StringIO()
    start = time.perf_counter()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with _watchdog(MOST_SECONDS):
                code = cli.main(argv)
        except BaseException:
            code = -1
            traceback.print_exc(file=err)
    return Called(code, out.getvalue(), err.getvalue(), time.perf_counter() - start)


@contextlib.contextmanager
def _watchdog(seconds: float) -> Iterator[None]:
    """Raise HangError in the main thread after so long; pytest's own timer goes on afterwards."""

    def bark(signum: int, frame: FrameType | None) -> None:
        raise HangError(f"a command took over {seconds:g} s")

    start = time.monotonic()
    handler = signal.signal(signal.SIGALRM, bark)
    before, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if before:
            left = before - (time.monotonic() - start)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3))


def fault(done: Called, allowed: Collection[int]) -> str | None:
    """What no command may do, whatever it was given."""
    if done.seconds > MOST_SECONDS:
        return f"FAULT took {done.seconds:.0f} s: {done.err[-1500:]}"
    if done.code not in allowed:
        return f"FAULT exit {done.code}: {done.err[-1500:]}"
    if PATIENT in done.out + done.err:
        return f"FAULT names the patient: {done.out}{done.err}"
    return None


def one_sentence(err: str) -> bool:
    """Whether an error is told in one sentence."""
    alone = err.startswith("segmate: error: ") and err.count("segmate: ") == 1
    return alone and len(err) < 3000 and "Traceback" not in err


def memory_mb() -> tuple[float, float]:
    """Peak resident megabytes of this process and of the largest child."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    own, children = (resource.getrusage(kind).ru_maxrss / 1e3 for kind in kinds)
    return own, children


def main(about: str, bench_in: Callable[[Path], Bench]) -> int:
    """Run many cases and print figures, each fault with its seed.

    A command that even the watchdog cannot end, since it hangs in native code, ends the run, with
    where each thread stands.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    warnings.simplefilter("error")
    start, cases = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as name:
        bench = bench_in(Path(name))
        for seed in range(args.seed * 10**6, args.seed * 10**6 + args.count):
            faulthandler.dump_traceback_later(20 * MOST_SECONDS, exit=True)
            for case in bench.run(seed):
                cases.append(case)
                if case.outcome.startswith("FAULT"):
                    print(json.dumps({"seed": seed, **vars(case)}), flush=True)
        faulthandler.cancel_dump_traceback_later()
    own, children = memory_mb()
    cpu = sum(sum(resource.getrusage(kind)[:2]) for kind in _OWN_AND_CHILDREN)
    print(
        f"{args.count} files, {len(cases)} commands in {time.perf_counter() - start:.0f} s, of "
        f"which {cpu:.0f} s of the CPU: {dict(Counter(case.outcome[:6] for case in cases))}; "
        f"slowest {max(case.seconds for case in cases):.1f} s by the clock; peak {own:.0f} MB, "
        f"decoders {children:.0f} MB"
    )
    return int(any(case.outcome.startswith("FAULT") for case in cases))


_OWN_AND_CHILDREN = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
