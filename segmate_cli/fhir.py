"""Measurements as a FHIR R4 bundle of Observations, for what reads no DICOM SR.

Plain JSON, whose shape the tests check against somebody else's model of FHIR. It names no patient:
the Observations have no subject, and whoever stores them says whose they are. The study that they
derive from is named by its UID, where the sidecar tells it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segmate_cli import __version__
from segmate_cli.doubt.words import Verdict
from segmate_cli.organs import LATERALITY_CODES, Organ, foreign_organ

_SNOMED = "http://snomed.info/sct"
_UCUM = "http://unitsofmeasure.org"
_DICOM = "http://dicom.nema.org/resources/ontology/DCM"
_HL7 = "http://terminology.hl7.org/CodeSystem"
_UID_SYSTEM = "urn:dicom:uid"
# SNOMED CT's attribute that gives a structure its side.
_LATERALITY = "272741003"
_VOLUME = {"system": _SNOMED, "code": "118565006", "display": "Volume"}
_ATTENUATION = {"system": _DICOM, "code": "112031", "display": "Attenuation Coefficient"}
_MEAN = {"system": _SNOMED, "code": "373098007", "display": "Mean"}
_SPREAD = {"system": _SNOMED, "code": "386136009", "display": "Standard Deviation"}
_CT = {"system": _SNOMED, "code": "77477000", "display": "Computed tomography"}
# Why there is no number, in FHIR's words.
_ABSENT = {"absent": ("not-performed", "Not Performed"), "not_found": ("unknown", "Unknown")}
# Names in this space are those of segmate's resources.
_SPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:segmate:fhir")


@dataclass(frozen=True, slots=True)
class Reported:
    """One label map.

    Attributes:
        identity: What makes it this one, such as sha256 of it and of its scan: the same gives the
            same identifiers.
        rows: Of its organs, as ``report.rows`` has them.
        verdict: Of the gates; None where nothing was judged.
        sidecar: What stands beside it; None without.
    """

    identity: str
    rows: Sequence[Mapping[str, Any]]
    verdict: Verdict | None
    sidecar: Mapping[str, Any] | None


def render_fhir(reported: Sequence[Reported]) -> str:
    """A Bundle, as JSON that ends in a newline.

    Of each label map it holds the Device that measured, an Observation of the whole with the
    verdict, and one an organ: its volume in mL, HU and interval as components. A lower bound has
    the comparator ``>=``, an organ without a volume the reason why there is none. What is given
    twice is there once, since no two entries may have one address.
    """
    once = {each.identity: each for each in reported}
    entries = [entry for each in once.values() for entry in _entries(each)]
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": entries}
    return json.dumps(bundle, indent=2) + "\n"


def _entries(each: Reported) -> list[dict[str, Any]]:
    device = _address(each, "device")
    organs = [
        {"fullUrl": _address(each, str(row["organ"])), "resource": _organ(each, row, device)}
        for row in each.rows
    ]
    members = [{"reference": entry["fullUrl"]} for entry in organs]
    whole = {"fullUrl": _address(each, "whole"), "resource": _whole(each, device, members)}
    return [{"fullUrl": device, "resource": _device(each)}, whole, *organs]


def _address(each: Reported, name: str) -> str:
    return f"urn:uuid:{uuid.uuid5(_SPACE, f'{each.identity} {name}')}"


def _device(each: Reported) -> dict[str, Any]:
    """What measured: segmate, and the model of the label map."""
    model = (each.sidecar or {}).get("model") or {}
    versions = [{"type": {"text": "segmate"}, "value": __version__}]
    if model.get("version"):
        versions.append({"type": {"text": "model"}, "value": str(model["version"])})
    if model.get("weights_sha256"):
        kind = {"text": "sha256 of the model's weights"}
        versions.append({"type": kind, "value": str(model["weights_sha256"])})
    names = [{"name": "segmate", "type": "manufacturer-name"}]
    if model.get("name"):
        names.append({"name": str(model["name"]), "type": "model-name"})
    return {
        "resourceType": "Device",
        "deviceName": names,
        "type": {"text": "Software that segments organs in CT; research only, not for diagnosis"},
        "version": versions,
    }


def _common(each: Reported, device: str) -> dict[str, Any]:
    told = each.sidecar or {}
    category = {"system": f"{_HL7}/observation-category", "code": "imaging", "display": "Imaging"}
    found: dict[str, Any] = {
        "resourceType": "Observation",
        # No physician has looked.
        "status": "preliminary",
        "category": [{"coding": [category]}],
    }
    if told.get("created"):
        found["issued"] = str(told["created"])
    study = ((told.get("input") or {}).get("dicom") or {}).get("study_uid")
    if study:
        identifier = {"system": _UID_SYSTEM, "value": f"urn:oid:{study}"}
        found["derivedFrom"] = [{"type": "ImagingStudy", "identifier": identifier}]
    return {**found, "device": {"reference": device}}


def _whole(each: Reported, device: str, members: list[dict[str, Any]]) -> dict[str, Any]:
    """The label map: its organs, and what the gates say."""
    found = {
        **_common(each, device),
        "code": {"text": "Organ volumes by segmentation of a CT scan"},
        "method": {"coding": [_CT], "text": "segmentation of a CT scan by software"},
    }
    if each.verdict is None:
        reason = {"text": "no gate was applied"}
        found["dataAbsentReason"] = _with_coding(reason, ("not-performed", "Not Performed"))
    else:
        found["valueCodeableConcept"] = {"text": each.verdict.word}
        if each.verdict.reasons:
            found["note"] = [{"text": reason} for reason in each.verdict.reasons]
    return {**found, **({"hasMember": members} if members else {})}


def _organ(each: Reported, row: Mapping[str, Any], device: str) -> dict[str, Any]:
    organ = foreign_organ(str(row["organ"]), 1)
    found = {
        **_common(each, device),
        "code": {"coding": [_VOLUME], "text": f"{organ.title}: volume"},
        "bodySite": body_site(organ),
        **_volume(row),
    }
    status = str(row["status"]).replace("_", " ")
    words = [f"status: {status}", *map(str, row["reasons"])]
    if row["is_lower_bound"]:
        words.append("the volume is a lower bound")
    found["note"] = [{"text": "; ".join(words)}]
    components = _components(row)
    return {**found, **({"component": components} if components else {})}


def body_site(organ: Organ) -> dict[str, Any]:
    """An organ as a CodeableConcept.

    With a side there are two codings: SNOMED CT's expression of structure and laterality, and the
    structure alone, for those who read no expressions.
    """
    if organ.code is None:
        return {"text": organ.title}
    plain = {"system": _SNOMED, "code": organ.code, "display": organ.meaning}
    if organ.side is None:
        return {"coding": [plain], "text": organ.title}
    side = f"{organ.code}:{_LATERALITY}={LATERALITY_CODES[organ.side][0]}"
    return {"coding": [{"system": _SNOMED, "code": side}, plain], "text": organ.title}


def _volume(row: Mapping[str, Any]) -> dict[str, Any]:
    if row["volume_ml"] is None:
        coding = _ABSENT.get(str(row["status"]), _ABSENT["not_found"])
        text = {"text": str(row["status"]).replace("_", " ")}
        return {"dataAbsentReason": _with_coding(text, coding)}
    bound = {"comparator": ">="} if row["is_lower_bound"] else {}
    return {"valueQuantity": {**_quantity(row["volume_ml"], "mL", "mL"), **bound}}


def _with_coding(concept: dict[str, Any], coding: tuple[str, str]) -> dict[str, Any]:
    code, display = coding
    system = f"{_HL7}/data-absent-reason"
    return {"coding": [{"system": system, "code": code, "display": display}], **concept}


def _components(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name, what in (("mean_hu", _MEAN), ("sd_hu", _SPREAD)):
        if row.get(name) is not None:
            code = {"coding": [_ATTENUATION, what], "text": f"{what['display']} of HU"}
            quantity = _quantity(row[name], "HU", "[hnsf'U]")
            found.append({"code": code, "valueQuantity": quantity})
    low, high = row.get("volume_low_ml"), row.get("volume_high_ml")
    if low is not None and high is not None:
        ends = {"low": _quantity(low, "mL", "mL"), "high": _quantity(high, "mL", "mL")}
        code = {"coding": [_VOLUME], "text": "Interval of the volume"}
        found.append({"code": code, "valueRange": ends})
    return found


def _quantity(value: float, unit: str, code: str) -> dict[str, Any]:
    return {"value": value, "unit": unit, "system": _UCUM, "code": code}
