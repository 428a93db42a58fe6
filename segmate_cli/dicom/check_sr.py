"""What is wrong with a DICOM Structured Report of measurements; see ``check``."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset

from segmate_cli.dicom.check_common import Finding, is_uid

_LABELMAP_CLASS = "1.2.840.10008.5.1.4.1.1.66.7"
_GROUP = "125007"
_TRACKING_UID = "112040"
_DEEPEST = 40
_FLAGS = {
    "CompletionFlag": ("COMPLETE", "PARTIAL"),
    "VerificationFlag": ("VERIFIED", "UNVERIFIED"),
}


def check_sr(report: Dataset) -> Iterator[Finding]:
    """Everything about an SR that segmate can tell itself."""
    templates = report.get("ContentTemplateSequence") or [Dataset()]
    if str(templates[0].get("TemplateIdentifier", "")) != "1500":
        where = "ContentTemplateSequence"
        yield Finding("warning", where, "names no TID 1500", "tid1500reader, 3D Slicer, OHIF")
    if not report.get("ContentSequence"):
        yield Finding("error", "ContentSequence", "is missing or empty", "all")
        return
    listed = _listed(report)
    items = list(_items(report, 0))
    for item in items:
        yield from _item(item, listed)
    if not any(_code(item, "ConceptNameCodeSequence") == _GROUP for item in items):
        yield Finding("warning", "ContentSequence", "has no measurement group", "tid1500reader")
    for keyword, flags in _FLAGS.items():
        if report.get(keyword) not in flags:
            yield Finding("error", keyword, f"is neither {' nor '.join(flags)}", "DCMTK")


def _item(item: Dataset, listed: set[str]) -> Iterator[Finding]:
    where = str(item.get("ValueType", "item"))
    if where == "NUM":
        yield from _number(item)
    is_tracking = _code(item, "ConceptNameCodeSequence") == _TRACKING_UID
    if is_tracking and not is_uid(str(item.get("UID", ""))):
        yield Finding("error", "tracking UID", "is no UID", "dcmqi")
    for reference in item.get("ReferencedSOPSequence") or []:
        if str(reference.get("ReferencedSOPInstanceUID", "")) not in listed:
            what = "refers to an object that the list of evidence lacks"
            yield Finding("error", where, what, "DCMTK, archives")
        if str(reference.get("ReferencedSOPClassUID", "")) == _LABELMAP_CLASS:
            what = "refers to a LABELMAP SEG"
            yield Finding("warning", where, what, "DCMTK 3.6, itk-wasm, dciodvfy")


def _items(parent: Dataset, depth: int) -> Iterator[Dataset]:
    if depth < _DEEPEST:
        for item in parent.get("ContentSequence") or []:
            yield item
            yield from _items(item, depth + 1)


def _code(item: Dataset, keyword: str) -> str:
    return str((item.get(keyword) or [Dataset()])[0].get("CodeValue", ""))


def _number(item: Dataset) -> Iterator[Finding]:
    where = f"NUM {_code(item, 'ConceptNameCodeSequence') or 'without a code'}"
    measured = item.get("MeasuredValueSequence") or []
    if not measured:
        if not item.get("NumericValueQualifierCodeSequence"):
            yield Finding("error", where, "has neither a value nor a reason for none", "DCMTK")
    elif measured[0].get("NumericValue") is None:
        yield Finding("error", where, "has no value", "all")
    elif not _code(measured[0], "MeasurementUnitsCodeSequence"):
        yield Finding("error", where, "has no unit", "DCMTK, dcmqi")


def _listed(report: Dataset) -> set[str]:
    keywords = ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
    return {
        str(one.get("ReferencedSOPInstanceUID", ""))
        for keyword in keywords
        for study in report.get(keyword) or []
        for series in study.get("ReferencedSeriesSequence") or []
        for one in series.get("ReferencedSOPSequence") or []
    }
