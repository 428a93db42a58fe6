"""Gates as a command's options say: which count, and how the command ends."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segmate_cli import console
from segmate_cli.errors import ExitCode

if TYPE_CHECKING:
    from segmate_cli.doubt.rules import Rule


def rules_of(args: Namespace) -> tuple[Rule, ...] | None:
    """The gates of ``--gates``; None where it is not given."""
    if not args.gates:
        return None
    from segmate_cli.doubt.gates_file import read_gates

    rules = read_gates(Path(args.gates))
    say_strange_names(args.gates, rules)
    return rules


def say_strange_names(path: str, rules: Sequence[Rule]) -> None:
    """Say on stderr which limits of a file of gates are for organs that segmate does not know."""
    from segmate_cli.doubt.gates_file import strange_names

    for name in strange_names(rules):
        console.say(
            f"{path}: {name}: not in segmate's table of organs; these limits count only where a "
            "model or label table has that name."
        )


def gate_exit(args: Namespace, words: Sequence[str]) -> ExitCode:
    """How a command ends whose scans got these verdicts."""
    wanted = "review" in words and not args.no_gate_exit
    return ExitCode.REVIEW if wanted else ExitCode.DONE
