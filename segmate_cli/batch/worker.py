"""A worker process: loads the model once, then does case after case until its driver is gone.

``python -m segmate_cli.batch.worker FD SETTINGS`` talks JSON over one inherited socket: it says
``ready`` or ``unfit``, takes ``job``, answers ``done`` or ``failed``. It needs neither shared
memory nor semaphores, and is started afresh, never forked.
"""

from __future__ import annotations

import faulthandler
import json
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from segmate_cli.errors import ExitCode, MemoryCapError, SegmateError, one_line

Handler = Callable[[dict[str, Any]], dict[str, Any]]

_CAUSES = {
    ExitCode.USAGE: "usage",
    ExitCode.REVIEW: "review",
    ExitCode.AMBIGUOUS: "input",
    ExitCode.MEMORY: "memory",
    ExitCode.BAD_INPUT: "input",
    ExitCode.BAD_MODEL: "model",
    ExitCode.CANNOT_WRITE: "output",
}
# What may go better in a fresh process; the same input gives the others again.
_WORTH_ANOTHER_TRY = (ExitCode.BUG, ExitCode.MEMORY, ExitCode.CANNOT_WRITE)


def main() -> None:
    """Entry point of the process."""
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches the whole group
    signal.signal(signal.SIGTERM, _terminate)
    channel = Connection(int(sys.argv[1]))
    watch_for_orphanhood(channel)
    serve(channel, lambda: load_handler(json.loads(sys.argv[2])))


def load_handler(raw: dict[str, Any]) -> Handler:
    """Load the model; gives what does a case with it."""
    from segmate_cli import memory, pipeline
    from segmate_cli.batch.jobs import job_of
    from segmate_cli.batch.settings import settings_of
    from segmate_cli.batch.work import run_case
    from segmate_cli.bundle import open_bundle
    from segmate_cli.plan import fits_to_load

    settings = settings_of(raw)
    options = pipeline.PredictOptions(
        engine=settings.engine, device=settings.device, threads=settings.threads
    )
    bundle = open_bundle(settings.model)
    cap = memory.resolve_cap(settings.memory_cap_bytes)
    if not fits_to_load(bundle, cap):
        raise MemoryCapError(
            f"a worker's memory cap of {memory.human(cap.size_bytes or 0)} ({cap.origin}) does not "
            "even hold the model; give a larger --memory-cap, or fewer --jobs."
        )
    model = pipeline.ensure_loading(bundle, options).loaded()
    pipeline.select_values(model.manifest, settings.organs)

    def handle(job: dict[str, Any]) -> dict[str, Any]:
        done = run_case(job_of(job), settings, model)
        return {"record": done.record.model_dump(mode="json", by_alias=True), "how": done.how}

    return handle


def serve(channel: Connection, load: Callable[[], Handler]) -> None:
    """Do jobs until the other end closes."""
    loaded, trouble = attempt(load)
    if loaded is None:
        _send(channel, {"unfit": trouble})
        return
    _send(channel, {"ready": os.getpid()})
    while True:
        try:
            job = json.loads(channel.recv_bytes())
        except EOFError:
            return
        answer, trouble = attempt(partial(loaded, job))
        _send(channel, {"failed": trouble} if answer is None else {"done": answer})


def attempt(call: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """A call's result, or None and what went wrong; one case's error ends no other case.

    This is the batch's counterpart of ``cli.main``: the only other place that catches broadly.
    """
    try:
        return call(), {}
    except SegmateError as error:
        return None, describe(str(error), error.exit_code, type(error).__name__)
    except MemoryError:
        return None, describe("memory ran out.", ExitCode.MEMORY, "MemoryError")
    except Exception as error:
        traceback.print_exc()
        said = f"this is a bug in segmate ({type(error).__name__}: {one_line(error)})."
        return None, describe(said, ExitCode.BUG, type(error).__name__)


def describe(message: str, code: ExitCode, kind: str) -> dict[str, Any]:
    """A failure, as the driver records it."""
    again = code in _WORTH_ANOTHER_TRY or kind == "ChangedError"
    return {
        "exit_code": int(code),
        "cause": _CAUSES.get(code, "bug"),
        "message": message,
        "kind": kind,
        "again": again,
    }


def watch_for_orphanhood(channel: Connection) -> None:
    """End this process as soon as the driver's end of the channel is closed, even mid-case."""

    def wait() -> None:
        poll = select.poll()
        poll.register(channel.fileno(), 0)  # only a hang-up is reported
        poll.poll()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _send(channel: Connection, message: dict[str, Any]) -> None:
    with suppress(OSError):  # the driver has gone; so does this process
        channel.send_bytes(json.dumps(message).encode())


def _terminate(signum: int, frame: FrameType | None) -> None:
    # As an exception, so that temporary files are removed on the way out.
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    main()
