"""Gates on the command line: which count, what is printed, how a command ends."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from segmate_cli import console, scans
from segmate_cli import report as reports
from segmate_cli.doubt.gates_file import read_gates
from segmate_cli.doubt.rules import RULES, Rule
from segmate_cli.doubt.words import Verdict
from segmate_cli.errors import ExitCode, UsageError
from segmate_cli.gate_list import gate_list
from segmate_cli.look import terminal
from segmate_cli.outputs import deliver


def rules_of(args: Namespace) -> tuple[Rule, ...] | None:
    """The gates of ``--gates``; None where it is not given."""
    return read_gates(Path(args.gates)) if args.gates else None


def gate_exit(args: Namespace, words: Sequence[str]) -> ExitCode:
    """How a command ends whose scans got these verdicts."""
    wanted = "review" in words and not args.no_gate_exit
    return ExitCode.REVIEW if wanted else ExitCode.DONE


def report_tables(args: Namespace, paths: Sequence[Path], output: Path | None) -> ExitCode:
    """``segmate report`` as table, CSV, TSV or JSON; errors as ``scans.examine_path``."""
    rules = rules_of(args)
    table = []
    verdicts: dict[str, Verdict] = {}
    for path in paths:
        measured = scans.examine_path(
            path,
            table=args.table,
            ct=args.ct,
            series=args.series,
            organs=args.organs,
            rules=rules,
        )
        table += reports.rows(str(path), measured.stats, measured.verdict)
        if measured.verdict:
            verdicts[str(path)] = measured.verdict
    if args.format == "table" and output is None and terminal.wants_colour(sys.stdout):
        terminal.print_table(table, verdicts, sys.stdout)
    else:
        deliver(reports.render(table, args.format, verdicts), output)
    return tell(args, verdicts)


def tell(args: Namespace, verdicts: Mapping[str, Verdict]) -> ExitCode:
    """Say on stderr what asks for a review, by label map; gives the exit code."""
    for name, verdict in verdicts.items():
        for reason in verdict.reasons:
            console.say(f"{name}: review: {reason}")
    return gate_exit(args, [each.word for each in verdicts.values()])


def list_gates(args: Namespace) -> ExitCode:
    """``segmate gates``."""
    if (args.action == "explain") != (args.rule is not None):
        raise UsageError("'gates list' takes no rule, 'gates explain' takes one: its id.")
    sys.stdout.write(gate_list(rules_of(args) or RULES, args.format, args.rule))
    return ExitCode.DONE
