"""Limits of a site's own (``--gates FILE.toml``).

[volume]
limits = { spleen = [60, 900], liver = [400, 5000] }
[scan-thickness]
severity = "review"
limits = { "*" = [-inf, 3] }
[hu]
enabled = false
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from segmate_cli import organs
from segmate_cli.doubt.rules import BY_ID, RULES, Limits, Rule
from segmate_cli.errors import UsageError, one_line

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_KEYS = {"enabled", "severity", "limits"}


def read_gates(path: Path) -> tuple[Rule, ...]:
    """The built-in gates with what a file changes.

    Raises:
        UsageError: It cannot be read, or names a rule, key or limit that there is not.
    """
    return parse_gates(read_text(path), str(path))


def read_text(path: Path) -> str:
    """The text of a file of gates; UsageError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check the path.") from error
    except ValueError as error:
        raise UsageError(f"{path}: is no TOML ({one_line(error)}).") from error


def parse_gates(text: str, path: str) -> tuple[Rule, ...]:
    """As ``read_gates``, of a file's text; ``path`` is what messages call it."""
    try:
        given = tomllib.loads(text)
    except ValueError as error:
        raise UsageError(f"{path}: is no TOML ({one_line(error)}).") from error
    unknown = sorted(set(given) - set(BY_ID))
    if unknown:
        raise UsageError(
            f"{path}: there is no gate '{unknown[0]}'; 'segmate gates list' shows them."
        )
    changed = (_changed(rule, given.get(rule.id, {}), path) for rule in RULES)
    return tuple(rule for rule in changed if rule is not None)


def strange_names(rules: Iterable[Rule]) -> tuple[str, ...]:
    """What limits are set for that neither their gate nor the table of organs has, by gate.

    No error, since a model or label table of the user's may have it; a slip is more likely.
    """
    named = ((rule, name) for rule in rules for name in rule.limits)
    return tuple(
        f"[{rule.id}] {name}"
        for rule, name in named
        if name not in BY_ID[rule.id].limits and not organs.is_known(name)
    )


def _changed(rule: Rule, given: Any, path: str) -> Rule | None:
    where = f"{path}: [{rule.id}]"
    if not isinstance(given, dict) or not set(given) <= _KEYS:
        raise UsageError(f"{where} takes enabled, severity and limits.")
    if not isinstance(given.get("enabled", True), bool):
        raise UsageError(f"{where} enabled is true or false.")
    severity = given.get("severity", rule.severity)
    if severity not in ("review", "note"):
        raise UsageError(f"{where} severity is 'review' or 'note', not '{severity}'.")
    limits = given.get("limits", {})
    if not isinstance(limits, dict):
        raise UsageError(f"{where} limits is a table, such as {{ liver = [400, 4000] }}.")
    own = {name: _limits(name, pair, where) for name, pair in limits.items()}
    if not given.get("enabled", True):
        return None
    return dataclasses.replace(rule, severity=severity, limits={**rule.limits, **own})


def _limits(name: str, pair: Any, where: str) -> Limits:
    numbers = isinstance(pair, list) and len(pair) == 2
    if not numbers or not all(isinstance(n, int | float) and not math.isnan(n) for n in pair):
        raise UsageError(f"{where} limits of {name} are two numbers, such as [400, 4000] or -inf.")
    low, high = (None if math.isinf(n) else float(n) for n in pair)
    if low is not None and high is not None and low > high:
        raise UsageError(f"{where} limits of {name}: the first is larger than the second.")
    return low, high
