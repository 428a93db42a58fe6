"""A case's record, ``case.json``: what came of it, of what, by what, and proof of its outputs.

It is written last, after the outputs have been read back; without it a case has not been done.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from segmate_cli import files
from segmate_cli.errors import OutputError

NAME = "case.json"
STATE_FOLDER = ".segmate"
LOCK_NAME = ".lock"
# Beside the record of a case that a watch has set aside.
NOTE = "failure.txt"
OUTPUTS = (
    *("labels.nii.gz", "labels.json", "seg.dcm", "sr.dcm", "rtstruct.dcm", "report.json"),
    "report.html",
)


Text = Annotated[str, BeforeValidator(files.storable)]
State = Literal["done", "review", "failed"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Content(_Part):
    """What a case was made of; neither names nor dates of files are in it.

    Attributes:
        sha256: Of the file's bytes; for DICOM of the sorted sha256 of the series' files.
        files: How many.
        pixels_sha256: Of the voxels as HU; empty where they were never read.
        geometry_sha256: Of where they lie.
    """

    sha256: str
    files: int
    pixels_sha256: str = ""
    geometry_sha256: str = ""


class Output(_Part):
    """A file that was written and read back; ``seen`` is its size, mtime (ns) and inode then."""

    sha256: str
    seen: tuple[int, int, int]


class Made(Protocol):
    """What knows the configuration that results are, or were, made with."""

    @property
    def config_sha256(self) -> str:
        """Identity of it."""

    @property
    def making_sha256(self) -> str:
        """Identity of it less the gates, on which no voxel depends; "" where that is the same."""


def making_of(made: Made) -> str:
    """Identity of what decides the voxels."""
    return made.making_sha256 or made.config_sha256


class Record(_Part):
    """What is known about one case.

    Attributes:
        schema_: Which kind of file this is.
        schema_version: Of this layout.
        case: The case's name.
        state: ``done``, ``review`` (done, somebody should look) or ``failed``.
        exit_code: As ``segmate predict`` would return; 124 after a timeout, 128 + n after signal n.
        cause: One word for failures: input, memory, timeout, crash, output, usage, model, bug.
        message: One sentence for people.
        notes: What of it could not be written, and why; None in records of older versions.
        attempts: How often it was tried in that run.
        path: The input as it was given, in printable form.
        series: SeriesInstanceUID, for DICOM.
        content: What was read; None where it could not be.
        stamp: Sizes, times and inode numbers of the input, to tell quickly that it is the same.
        config_sha256: Identity of weights, options and version; see ``settings.identity``.
        making_sha256: See ``Job``.
        options: Of this case alone.
        outputs: By file name.
        organs: Rows of the cohort table.
        warnings: About the scan.
        seconds: By stage.
        peak_memory_bytes: Of the worker, during this case.
        batch_size: Slices a batch.
        finished: When, UTC.
        segmate_version: What made it.
        scanner: What made a DICOM series: manufacturer, model, kernel; year, and month if wanted.
        taken_from: The case whose outputs were taken over, since the content was the same.
    """

    schema_: Literal["segmate-case"] = Field(default="segmate-case", alias="schema")
    schema_version: Literal[1] = 1
    case: str
    state: State
    exit_code: int
    cause: str = ""
    message: Text = ""
    notes: tuple[Text, ...] | None = None
    attempts: int = 1
    path: Text
    series: str | None = None
    content: Content | None = None
    stamp: str = ""
    config_sha256: str
    making_sha256: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    outputs: dict[str, Output] = Field(default_factory=dict)
    organs: tuple[dict[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: dict[str, float] = Field(default_factory=dict)
    peak_memory_bytes: int = 0
    batch_size: int | None = None
    finished: str = ""
    segmate_version: str = ""
    scanner: dict[str, str] = Field(default_factory=dict)
    taken_from: str | None = None

    @property
    def succeeded(self) -> bool:
        """Whether there are outputs."""
        return self.state != "failed"


def now() -> str:
    """UTC, as every file here has it."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def read(folder: Path) -> Record | None:
    """The record of a case's folder; None where there is none that can be read."""
    try:
        return Record.model_validate_json((folder / NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def write(folder: Path, record: Record) -> None:
    """Write a record; OutputError where that fails."""
    text = record.model_dump_json(by_alias=True, indent=1)
    files.write_text(folder / NAME, text + "\n")


def all_records(out: Path) -> Iterator[Record]:
    """The records of an output folder, by case."""
    for name in sorted(_folders(out)):
        record = read(out / name)
        if record is not None and record.case == name:
            yield record


def _folders(out: Path) -> list[str]:
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(out) as entries:
        return [each.name for each in entries if not each.name.startswith(".") and each.is_dir()]
    return []


def outputs_whole(folder: Path, record: Record, *, paranoid: bool = False) -> bool:
    """Whether a record's outputs are there, as they were written.

    Args:
        folder: The case's.
        record: Of it.
        paranoid: Read all of them, even those whose size, time and inode are unchanged.
    """
    return all(
        _as_written(folder / name, output, paranoid) for name, output in record.outputs.items()
    )


def _as_written(path: Path, output: Output, paranoid: bool) -> bool:
    try:
        return (not paranoid and seen(path) == output.seen) or (
            files.sha256_of_file(path) == output.sha256
        )
    except OSError:
        return False


def seen(path: Path) -> tuple[int, int, int]:
    """Size, mtime in ns, inode of a file; OSError where there is none."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ino


def read_back(path: Path) -> Output:
    """What lies on disk now, for the record.

    Raises:
        OutputError: It cannot be read.
    """
    try:
        return Output(sha256=files.sha256_of_file(path), seen=seen(path))
    except OSError as error:
        raise OutputError(f"{path}: cannot be read back after writing ({error}).") from error


def clear(folder: Path) -> None:
    """Remove what an earlier attempt left in a case's folder, the record first.

    Files that are not segmate's stay.

    Raises:
        OutputError: Something cannot be removed.
    """
    leftovers = [path for path in folder.glob(".*.part") if path.is_file()]
    try:
        for path in (folder / NAME, *(folder / name for name in (*OUTPUTS, NOTE)), *leftovers):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be cleared ({error.strerror}).") from error


def make_folder(folder: Path) -> None:
    """Make a case's folder; OutputError where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be made ({error.strerror}); choose a place that can be written to."
        ) from error


class ContentIndex:
    """Which case holds a content's results: a file a content, so that it needs no lock.

    It is a hint, checked against the case's record before use.
    """

    def __init__(self, out: Path) -> None:
        self._root = out / STATE_FOLDER / "content"

    def add(self, content_sha256: str, config_sha256: str, case: str) -> None:
        """Remember a case; OutputError where that fails."""
        place = self._place(content_sha256, config_sha256)
        make_folder(place.parent)
        files.write_text(place, case)

    def find(self, content_sha256: str, config_sha256: str) -> str | None:
        """The case that last had this content under this configuration."""
        try:
            return self._place(content_sha256, config_sha256).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def _place(self, content_sha256: str, config_sha256: str) -> Path:
        return self._root / content_sha256[:2] / f"{content_sha256[2:34]}-{config_sha256[:16]}"
