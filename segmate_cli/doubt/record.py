"""Verdicts and statuses as sidecars and reports hold them, and how they are read back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from segmate_cli.doubt.verdict import Earlier, Judgement
from segmate_cli.doubt.words import NOT_TOLD, Certainty, Finding, OrganStatus, Verdict


def status_row(status: OrganStatus, certainty: Certainty) -> dict[str, Any]:
    """An organ's status, and what the network tells of it, as reports and sidecars say it."""
    return {
        **certainty.as_dict(),
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
            said = status_row(status, judgement.certainty.get(key, NOT_TOLD))
            rows.append({"organ": key, "volume_ml": volume_ml, **said})
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
    certainty = {str(row["organ"]): _certainty_in(row) for row in record["organs"]}
    return Earlier(None if circle is None else bool(circle), findings, gates, certainty)


def _certainty_in(row: Mapping[str, Any]) -> Certainty:
    """Of an organ's row; sidecars of older versions tell nothing."""

    def number(name: str) -> float | None:
        return None if row.get(name) is None else float(row[name])

    low, high = number("volume_low_ml"), number("volume_high_ml")
    return Certainty(
        confidence=number("confidence"),
        volume_pv_ml=number("volume_pv_ml"),
        interval_ml=None if low is None or high is None else (low, high),
        agreement=number("agreement"),
    )
