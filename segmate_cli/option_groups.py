"""Options that several commands share, and what their values may be."""

from __future__ import annotations

import argparse
import re
from typing import Any

# More take all memory, and longer to start than to work.
_MOST_THREADS = 1024


def add_engine(add: argparse.ArgumentParser) -> None:
    """Model, engine, device, threads and memory."""
    add.add_argument("--model", default="default", help="name of a model, or a bundle's path")
    engines = ("auto", "onnx", "torchscript", "pt2")
    add.add_argument("--engine", choices=engines, default="auto")
    add.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add.add_argument("--batch-size", type=at_least_one, help="slices a batch")
    add.add_argument("--threads", type=thread_count, help="CPU threads of the engine")
    add.add_argument(
        "--memory-cap",
        help="for the whole process, such as 500MB; default: 80 %% of what is left free",
    )


def add_gpu(add: argparse.ArgumentParser) -> None:
    """A GPU's memory."""
    add.add_argument(
        "--gpu-memory-cap",
        metavar="SIZE",
        help="on a GPU: for the engine, beside CUDA's own context, such as 295MB; default: no cap",
    )


def add_scan(add: argparse.ArgumentParser) -> None:
    """How a scan is found where it is named."""
    add.add_argument(
        "--series",
        metavar="auto|UID|NUMBER|KEY=VALUE,...",
        help="DICOM: which series, as inspect lists them; auto: if one is clearly the best",
    )
    add.add_argument("--assume-ras", action="store_true", help="NIfTI without orientation is RAS")


def add_month(add: argparse.ArgumentParser) -> None:
    """What a sidecar keeps of the date."""
    add.add_argument(
        "--keep-month",
        action="store_true",
        help="DICOM: the sidecar tells month, not year alone; for trends by month",
    )


def add_gates(add: argparse.ArgumentParser) -> None:
    """Limits, and whether they count."""
    add.add_argument("--gates", metavar="FILE.toml", help="limits of one's own; see 'gates list'")
    add.add_argument(
        "--no-gate-exit", action="store_true", help="end with 0 even if the verdict is review"
    )


def add_seg(parser: argparse.ArgumentParser) -> None:
    """DICOM objects that are written."""
    add = parser.add_argument_group("DICOM SEG and RTSTRUCT (need [dicom])")
    add.add_argument(
        "--seg-type",
        choices=("binary", "labelmap"),
        help="binary (default): every reader takes it; labelmap: newer and smaller",
    )
    add.add_argument(
        "--seg-compress", action="store_true", help="deflate it; not every reader takes it"
    )
    add.add_argument(
        "--reference-dicom",
        metavar="PATH",
        help="for a NIfTI scan: the DICOM series that it was made of",
    )
    add.add_argument("--uid-root", help="root of its UIDs; default 2.25")


class _Once(argparse.Action):
    """Keeps a value, and refuses a second one, which else would take the first one's place."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            raise argparse.ArgumentError(self, "given twice; a run of this command writes one file")
        setattr(namespace, self.dest, values)


def add_output(add: argparse.ArgumentParser, what: str = "") -> None:
    """Where a table goes that else is printed; `what` says what names lead to."""
    wanted = f"write to this file instead of stdout{what}"
    add.add_argument("-o", "--output", action=_Once, type=some_path, help=wanted)
    add.add_argument("--overwrite", action="store_true", help="replace an output that exists")


def add_progress(parser: argparse.ArgumentParser) -> None:
    """What a run tells while it works."""
    parser.add_argument("--progress", choices=("auto", "bar", "json", "none"), default="auto")
    parser.add_argument("--quiet", action="store_true", help="no progress, no messages")


def words(text: str) -> tuple[str, ...]:
    """Names with commas between; at least one."""
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    if not words:
        raise argparse.ArgumentTypeError("names no one; give names with commas between")
    return words


def at_least_one(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)


def thread_count(text: str) -> int:
    """A number of threads that a process can have."""
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_THREADS:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a whole number of at least 1 and at most {_MOST_THREADS}"
        )
    return int(text)


def some_path(text: str) -> str:
    """A path as it was given, but for the empty one, which would mean the folder one is in."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path; is a variable of the shell unset?")
    return text


def at_least_zero(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number")
    return int(text)


def duration(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``20m`` or ``2h``."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)([smh]?)", text.strip().lower())
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no time; write it like 90s, 20m or 2h")
    return seconds
