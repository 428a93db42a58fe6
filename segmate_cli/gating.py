"""Gates on the command line: which count, what is printed, how a command ends."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segmate_cli import console, examining, files, scans, sidecar
from segmate_cli import report as reports
from segmate_cli.doubt.rules import RULES
from segmate_cli.doubt.words import Verdict
from segmate_cli.errors import ExitCode, UsageError
from segmate_cli.fhir import Reported, render_fhir
from segmate_cli.gate_list import gate_list
from segmate_cli.gate_options import gate_exit, rules_of
from segmate_cli.look import terminal
from segmate_cli.outputs import deliver


def report_tables(args: Namespace, paths: Sequence[Path], output: Path | None) -> ExitCode:
    """``segmate report`` as table, CSV, TSV, JSON or FHIR; errors as ``examining.examine_path``."""
    rules = rules_of(args)
    table = []
    reported = []
    verdicts: dict[str, Verdict] = {}
    for path in paths:
        for warning in scans.warnings_of(path, args.table):
            console.say(f"{path}: warning: {warning}")
        measured = examining.examine_path(
            path,
            table=args.table,
            ct=args.ct,
            series=args.series,
            organs=args.organs,
            rules=rules,
        )
        rows = reports.rows(str(path), measured.stats, measured.verdict)
        table += rows
        if args.format == "fhir":
            reported.append(_reported(path, rows, measured.verdict))
        if measured.verdict:
            verdicts[str(path)] = measured.verdict
    if args.format == "fhir":
        deliver(render_fhir(reported), output)
    elif args.format == "table" and output is None and terminal.wants_colour(sys.stdout):
        terminal.print_table(table, verdicts, sys.stdout)
    else:
        deliver(reports.render(table, args.format, verdicts), output)
    return tell(args, verdicts)


def _reported(path: Path, rows: list[dict[str, Any]], verdict: Verdict | None) -> Reported:
    told = sidecar.content_of(path)
    # Empty label maps of two patients may be the same to the byte.
    scanned = ((told or {}).get("input") or {}).get("pixels_sha256") or ""
    return Reported(f"{files.sha256_of_file(path)} {scanned}".strip(), rows, verdict, told)


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
