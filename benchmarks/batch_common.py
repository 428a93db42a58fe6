"""What the checks of ``benchmarks.batch`` share: a row, the command, what must be the same."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    measured: str
    bar: str
    met: bool

    def as_text(self) -> str:
        verdict = "yes" if self.met else "NO"
        return f"| {self.what} | {self.measured} | {self.bar} | {verdict} |"


def command(scans: Path, out: Path, model: Path, *more: object) -> list[str]:
    """A batch as a shell starts it."""
    line = [sys.executable, "-m", "segmate_cli", "batch", scans, "-o", out, "--model", model]
    return [str(word) for word in (*line, "--quiet", *more)]


def run(line: list[str]) -> int:
    """Run a command to its end; gives its exit code."""
    return subprocess.run(line, stdout=subprocess.DEVNULL, check=False).returncode


def outputs(out: Path) -> dict[str, bytes]:
    """What must be the same byte by byte: label maps, DICOM objects and the cohort's table."""
    wanted = [*out.glob("*/*.nii.gz"), *out.glob("*/*.dcm"), *out.glob("*/report.json")]
    return {str(path.relative_to(out)): path.read_bytes() for path in (*wanted, out / "cohort.csv")}


def receipts(out: Path) -> dict[str, tuple[int, int]]:
    """Records that are there, by case, as one can tell whether they are written again."""
    found = {}
    for folder in os.scandir(out) if out.is_dir() else ():
        try:
            status = os.stat(Path(folder.path, "case.json"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        found[folder.name] = (status.st_ino, status.st_mtime_ns)
    return found


def cases(out: Path) -> dict[str, dict[str, str]]:
    """Rows of ``cases.csv``, by case."""
    with (out / "cases.csv").open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def events(out: Path, kind: str) -> Iterator[dict[str, object]]:
    """Events of a kind; a line that a power cut tore is left out."""
    with (out / "events.jsonl").open() as file:
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event["event"] == kind:
                yield event
