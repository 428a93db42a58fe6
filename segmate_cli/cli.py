"""The command line: parse, call one command, turn errors into one sentence and an exit code.

This is the only place that catches segmate's errors, and the only one that catches broadly, beside
a batch's worker (``batch.worker.attempt``).
"""

from __future__ import annotations

import argparse
import atexit
import errno
import gc
import os
import sys
import traceback
from collections.abc import Sequence

from segmate_cli import interrupts
from segmate_cli.errors import ExitCode, SegmateError
from segmate_cli.options import build_parser
from segmate_cli.streams import open_streams

_SWITCH_S = 0.0005
_SIGINT_EXIT = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; the console script's entry point."""
    open_streams()
    args = build_parser().parse_args(argv)
    interrupts.listen()
    # NumPy multiplies nothing larger than 4 x 4 here; to start threads for it takes 50 ms.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # A thread that comes back from the network waits so long for one that runs Python: not the
    # usual 5 ms, in which a slice is read.
    sys.setswitchinterval(_SWITCH_S)
    # At the end, nothing is looked through for what might be given back: 0.05 s.
    atexit.register(gc.freeze)
    try:
        from segmate_cli import commands

        command = getattr(commands, args.command.replace("-", "_"))
        code = int(command(args))
        sys.stdout.flush()  # a full disk or a reader that left shows here, not at the exit
        return code
    except SegmateError as error:
        return _fail(args, str(error), error.exit_code)
    except MemoryError:
        remedy = "close other programs, or give a smaller --memory-cap or --batch-size"
        return _fail(args, f"memory ran out; {remedy}.", ExitCode.MEMORY)
    except KeyboardInterrupt:
        return _SIGINT_EXIT
    except BrokenPipeError:  # the reader of stdout, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            return _bug(args, error)
        return _fail(args, f"stdout takes no more ({error.strerror}).", ExitCode.CANNOT_WRITE)
    except Exception as error:
        return _bug(args, error)


def _bug(args: argparse.Namespace, error: Exception) -> int:
    kind = type(error).__name__
    message = f"this is a bug in segmate ({kind}); please report it with 'segmate doctor' and"
    return _fail(args, f"{message} what --debug shows.", ExitCode.BUG)


def _fail(args: argparse.Namespace, message: str, code: ExitCode) -> int:
    came = interrupts.exit_code()
    if came is not None:  # a module that was just being imported says that it cannot be
        return came
    if args.debug:
        traceback.print_exc()
    if sys.stderr is not None:  # closed by the caller: print would turn to stdout
        print(f"segmate: error: {message}", file=sys.stderr)
    return code
