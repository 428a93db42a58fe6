"""Every error leaves by one exit code of the published table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from segmate_cli import errors
from segmate_cli.errors import ExitCode, SegmateError
from segmate_cli.options import build_parser

README = Path(__file__).parent.parent / "README.md"


def all_errors(root: type[SegmateError] = SegmateError) -> list[type[SegmateError]]:
    return [kind for sub in root.__subclasses__() for kind in (sub, *all_errors(sub))]


def test_no_error_class_stands_outside_the_tree():
    named = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert named == {SegmateError, *all_errors()}


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_code_of_its_own_kind_and_a_docstring(kind):
    assert isinstance(kind.exit_code, ExitCode)
    # 0 and 1 are for success and for bugs; 9 and 10 are a batch's alone.
    batch = issubclass(kind, errors.BatchStoppedError)
    assert kind.exit_code in ({9, 10} if batch else {2, 3, 4, 5, 6, 7, 8})
    assert kind.__doc__


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.UnknownOrganError, 2),
        (errors.EngineMissingError, 2),
        (errors.NothingFoundError, 3),
        (errors.AmbiguousSeriesError, 4),
        (errors.MemoryCapError, 5),
        (errors.NotHounsfieldError, 6),
        (errors.GeometryError, 6),
        (errors.UnreadableError, 6),
        (errors.ManifestError, 7),
        (errors.HashMismatchError, 7),
        (errors.OutputExistsError, 8),
        (errors.TakenError, 8),
        (errors.BatchStoppedError, 9),
        (errors.BatchNeverStartedError, 10),
    ],
)
def test_the_code_that_scripts_rely_on(kind, code):
    assert kind.exit_code == code


def test_the_table_is_whole_and_in_the_help():
    assert [int(code) for code in ExitCode] == list(range(11))
    shown = build_parser().format_help()
    for code in ExitCode:
        assert re.search(rf"^ +{int(code)}  {re.escape(code.meaning)}$", shown, re.MULTILINE)
    assert len({code.meaning for code in ExitCode}) == len(ExitCode)


def test_the_readme_lists_every_code():
    listed = re.findall(r"^\| (\d+) \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(code) for code in listed] == [int(code) for code in ExitCode]
