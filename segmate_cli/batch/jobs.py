"""What is handed to a worker, and what comes back."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from segmate_cli.batch.cases import Case
from segmate_cli.batch.records import Record


@dataclass(frozen=True, slots=True)
class Job:
    """A case to be done, as it travels to a worker.

    Attributes:
        case: Which.
        out: The batch's output folder.
        config_sha256: Identity of the configuration.
        making_sha256: Of the configuration less the gates, on which no voxel depends; where that
            is the same, it may be left out.
        attempt: From 1.
        halvings: How often the batch of slices is halved: once an attempt that cost a worker.
        paranoid: Read known outputs instead of trusting size, time and inode.
    """

    case: Case
    out: str
    config_sha256: str
    attempt: int = 1
    halvings: int = 0
    paranoid: bool = False
    making_sha256: str = ""

    @property
    def folder(self) -> Path:
        """The case's folder."""
        return Path(self.out) / self.case.case_id

    def as_json(self) -> dict[str, Any]:
        """For the way to a worker."""
        return dataclasses.asdict(self)


How = Literal["segmented", "judged", "known", "taken"]


@dataclass(frozen=True, slots=True)
class Done:
    """A case's record, and whether the network ran for it.

    Attributes:
        record: What is on disk now.
        how: ``segmented``; ``judged``, its results were there, and were judged by other gates;
            ``known``, its results were there; ``taken``, another case's were.
    """

    record: Record
    how: How


def job_of(raw: dict[str, Any]) -> Job:
    """The inverse of ``Job.as_json``."""
    return Job(**{**raw, "case": Case(**raw["case"])})
