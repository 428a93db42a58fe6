"""Verdicts and statuses as sidecars and reports hold them, and how they are read back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from segmate_cli.doubt.verdict import Earlier, Judgement
from segmate_cli.doubt.words import Finding, OrganStatus, Verdict


def status_row(status: OrganStatus) -> dict[str, Any]:
    """An organ's status as reports and sidecars say it."""
    return {
        "status": status.kind,
        "is_lower_bound": status.is_lower_bound,
        "faces": list(status.faces),
        "edge_share": None if status.edge_share is None else round(status.edge_share, 4),
        "reasons": list(status.reasons),
    }


def about(verdict: Verdict, organs: Collection[str]) -> Verdict:
    """Less what is about organs that nobody asked for."""
    return Verdict(
        tuple(each for each in verdict.findings if each.organ is None or each.organ in organs)
    )


def judgement_record(judgement: Judgement, organs: Collection[str]) -> dict[str, Any]:
    """What a sidecar says of a scan and of the organs asked for."""
    rows = []
    for key, status in judgement.status.items():
        if key in organs:
            found = judgement.evidence[key]
            volume_ml = round(found.volume_ml, 3) if found.voxels else None
            rows.append({"organ": key, "volume_ml": volume_ml, **status_row(status)})
    return {
        **about(judgement.verdict, organs).as_dict(),
        "regions": list(judgement.regions),
        "phase": judgement.phase,
        "circle": judgement.circle,
        "gates": list(judgement.gates),
        "organs": rows,
    }


def earlier_in(record: Mapping[str, Any]) -> Earlier:
    """What a sidecar's record says; LookupError, TypeError or ValueError where it is odd."""
    circle = record["circle"]
    findings = tuple(
        Finding(
            rule=str(each["rule"]),
            severity="review" if each["severity"] == "review" else "note",
            organ=None if each["organ"] is None else str(each["organ"]),
            text=str(each["text"]),
            value=None if each["value"] is None else float(each["value"]),
        )
        for each in record["findings"]
    )
    gates = tuple(str(name) for name in record["gates"])
    return Earlier(None if circle is None else bool(circle), findings, gates)
