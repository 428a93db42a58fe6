"""``segmate dicom check``: what is wrong with a SEG, SR or RTSTRUCT, and who would fail of it.

This is what segmate can tell itself, from what is known of readers; a validator such as dciodvfy
knows the rules of every attribute, and this none of them by heart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

from segmate_cli import dicom, files
from segmate_cli.dicom.check_common import Finding, Sources, common, shapes
from segmate_cli.dicom.check_rtstruct import check_rtstruct
from segmate_cli.dicom.check_seg import check_seg
from segmate_cli.dicom.check_sr import check_sr
from segmate_cli.dicom.malformed import MALFORMED
from segmate_cli.dicom.objects import check_inflated, quiet
from segmate_cli.errors import UnreadableError
from segmate_cli.report import align

_SEG = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
# Basic, Enhanced, Comprehensive, Comprehensive 3D, Extensible.
_SR = tuple(f"1.2.840.10008.5.1.4.1.1.88.{n}" for n in (11, 22, 33, 34, 35))
_MOST_TOLD = 100
_BROKEN = (*MALFORMED, InvalidDicomError, BytesLengthException, RecursionError)


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found in one file.

    Attributes:
        path: The file.
        kind: ``SEG``, ``SR`` or ``RTSTRUCT``.
        findings: Errors first, then warnings, then notes; a hundred at most.
    """

    path: Path
    kind: str
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Whether there is nothing but notes."""
        return all(each.level == "note" for each in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        findings = [asdict(each) for each in self.findings]
        return {
            "file": str(self.path),
            "kind": self.kind,
            "clean": self.clean,
            "findings": findings,
        }

    def as_text(self) -> str:
        """As a table for people."""
        head = f"{self.path}: {self.kind}, {'clean' if self.clean else 'with findings'}\n"
        if not self.findings:
            return head
        rows = [(one.level, one.where, one.what, one.readers or "-") for one in self.findings]
        return head + align([("level", "where", "what", "fails in"), *rows])


def check_file(path: Path, source: Path | None = None) -> Checked:
    """Check one object.

    Args:
        path: A SEG, SR or RTSTRUCT.
        source: Folder, .zip or file of the series that it lies on, to compare places with.

    Raises:
        UnreadableError: No DICOM object of these kinds, or damaged.
        InputError: The source holds no DICOM.
    """
    if not files.exists(path):
        raise UnreadableError(f"{path}: there is no such file; check the path.")
    sources = _headers(source) if source else None
    try:
        with quiet():
            check_inflated(path)
            found = pydicom.dcmread(path)
            kind, findings = _check(path, found, sources)
    except _BROKEN as error:
        raise UnreadableError(
            f"{path}: damaged, cut off, or no DICOM object; copy it again."
        ) from error
    rank = {"error": 0, "warning": 1, "note": 2}
    ordered = sorted(findings, key=lambda each: rank[each.level])
    return Checked(path, kind, tuple(ordered[:_MOST_TOLD]))


def _check(path: Path, found: Dataset, sources: Sources | None) -> tuple[str, list[Finding]]:
    findings = list(shapes(found))
    sop_class = str(found.get("SOPClassUID") or found.file_meta.get("MediaStorageSOPClassUID", ""))
    checks: Iterator[Finding]
    if sop_class in _SEG:
        kind, checks = "SEG", check_seg(found, sources)
    elif sop_class == _RTSTRUCT:
        kind, checks = "RTSTRUCT", check_rtstruct(found, sources)
    elif sop_class in _SR:
        kind, checks = "SR", check_sr(found)
    else:
        raise UnreadableError(
            f"{path}: neither a SEG nor an SR nor an RTSTRUCT; give one of these."
        )
    return kind, [*findings, *common(found), *checks]


def _headers(source: Path) -> Sources:
    finding = dicom.find_series(source)
    return {(one.sop_uid, one.frame): one for series in finding.series for one in series.slices}
