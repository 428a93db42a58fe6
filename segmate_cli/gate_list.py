"""The table of gates as people and programs read it (``segmate gates``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from segmate_cli.doubt.rules import Limits, Rule
from segmate_cli.errors import UsageError
from segmate_cli.report import align

_NEEDS = {"labels": "", "scan": ", needs the scan", "scores": ", needs the network's scores"}


def gate_list(rules: Sequence[Rule], style: Literal["table", "json"], wanted: str | None) -> str:
    """All gates in a line each, or all that is known of one.

    Args:
        rules: The gates.
        style: For people or programs.
        wanted: Id of the one; None for the list.

    Raises:
        UsageError: There is no such gate.
    """
    chosen = [rule for rule in rules if wanted in (None, rule.id)]
    if not chosen:
        raise UsageError(f"there is no gate '{wanted}'; 'segmate gates list' shows them.")
    if style == "json":
        return json.dumps([_row(rule) for rule in chosen], indent=2) + "\n"
    if wanted is not None:
        return _explained(chosen[0])
    head = ("id", "severity", "needs", "measures", "unit")
    lines = [(rule.id, rule.severity, rule.needs, rule.what, rule.unit) for rule in chosen]
    return align([head, *lines])


def _row(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "severity": rule.severity,
        "what": rule.what,
        "unit": rule.unit,
        "limits": {name: list(pair) for name, pair in rule.limits.items()},
        "needs": rule.needs,
        "why": rule.why,
        "source": rule.source,
    }


def _explained(rule: Rule) -> str:
    lines = [
        f"{rule.id} ({rule.severity}{_NEEDS[rule.needs]})",
        f"  measures: {rule.what}{f', in {rule.unit}' if rule.unit else ''}",
        f"  if not:   {rule.why}",
        f"  source:   {rule.source}",
        "  limits:",
        *(f"    {name:<28} {_span(pair)}" for name, pair in rule.limits.items()),
    ]
    return "\n".join(lines) + "\n"


def _span(limits: Limits) -> str:
    low, high = limits
    if low is None:
        return "any" if high is None else f"at most {high:g}"
    return f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
