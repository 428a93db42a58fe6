"""Every error that segmate raises on purpose, each with the exit code the command line returns.

A message says what is wrong, where, and what to do about it, in one or two sentences. Only
``segmate_cli.cli`` catches these; library users get them as ordinary exceptions.
"""

from __future__ import annotations

import enum
from typing import ClassVar


class ExitCode(enum.IntEnum):
    """What a ``segmate`` command returns to the shell."""

    DONE = 0
    BUG = 1
    USAGE = 2
    REVIEW = 3
    AMBIGUOUS = 4
    MEMORY = 5
    BAD_INPUT = 6
    BAD_MODEL = 7
    CANNOT_WRITE = 8
    BATCH_SOME_FAILED = 9
    BATCH_NONE_SUCCEEDED = 10

    @property
    def meaning(self) -> str:
        """One phrase for the help text and the README's table."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.BUG: "a bug in segmate",
    ExitCode.USAGE: "wrong usage (option, organ name, missing engine or device)",
    ExitCode.REVIEW: "done, but the result needs review",
    ExitCode.AMBIGUOUS: "ambiguous input: several series fit",
    ExitCode.MEMORY: "the memory cap is too small, or memory ran out",
    ExitCode.BAD_INPUT: "bad or unsupported input",
    ExitCode.BAD_MODEL: "bad model",
    ExitCode.CANNOT_WRITE: "cannot write the output",
    ExitCode.BATCH_SOME_FAILED: "of several cases or series some failed",
    ExitCode.BATCH_NONE_SUCCEEDED: "of several cases or series none succeeded",
}


def one_line(error: BaseException, most: int = 200) -> str:
    """Another library's error as a phrase that fits into one of segmate's messages."""
    return " ".join(str(error).split())[:most] or type(error).__name__


class SegmateError(Exception):
    """Root of the tree; never raised itself."""

    exit_code: ClassVar[ExitCode] = ExitCode.BUG


class UsageError(SegmateError):
    """An option or argument does not make sense, or names something that is not installed."""

    exit_code = ExitCode.USAGE


class UnknownOrganError(UsageError):
    """An organ name that neither the table nor the file at hand knows."""


class EngineMissingError(UsageError):
    """The inference engine or device that was asked for is not installed or not reachable."""


class InputError(SegmateError):
    """A scan or label map that cannot be read or must not be trusted."""

    exit_code = ExitCode.BAD_INPUT


class UnreadableError(InputError):
    """The file is not what its name says, is cut short, or cannot be decoded."""


class GeometryError(InputError):
    """Voxel sizes, directions or slice positions that do not describe a volume."""


class ChangedError(InputError):
    """The input changed while it was read; a copy may still be under way."""


class NotHounsfieldError(InputError):
    """Voxel values that are surely not Hounsfield units."""


class AmbiguousSeriesError(InputError):
    """More than one CT series fits and none was chosen."""

    exit_code = ExitCode.AMBIGUOUS


class NothingFoundError(SegmateError):
    """No organ was found, and the output that was asked for cannot say so."""

    exit_code = ExitCode.REVIEW


class ModelError(SegmateError):
    """A model bundle or checkpoint that cannot be used."""

    exit_code = ExitCode.BAD_MODEL


class ManifestError(ModelError):
    """The bundle's manifest is missing, of an unknown version, or inconsistent."""


class HashMismatchError(ModelError):
    """A file of the bundle is not the one its manifest names."""


class MemoryCapError(SegmateError):
    """The work does not fit under the memory cap."""

    exit_code = ExitCode.MEMORY


class OutputError(SegmateError):
    """The result cannot be written where it was asked for."""

    exit_code = ExitCode.CANNOT_WRITE


class OutputExistsError(OutputError):
    """The output is already there and ``--overwrite`` was not given."""


class TakenError(OutputError):
    """Somebody else holds the lock of the output folder, or of a case in it."""


class BatchStoppedError(SegmateError):
    """A batch cannot go on, since no worker process comes to life; some cases are done."""

    exit_code = ExitCode.BATCH_SOME_FAILED


class BatchNeverStartedError(BatchStoppedError):
    """A batch cannot go on, since no worker process comes to life; no case is done."""

    exit_code = ExitCode.BATCH_NONE_SUCCEEDED
