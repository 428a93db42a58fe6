"""What an output's name promises is what is written, or one sentence says why not."""

from __future__ import annotations

from pathlib import Path

import pytest
from look_maker import write_case

from segmate_cli.errors import UsageError
from segmate_cli.outputs import format_of


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("report.html", None, "html"),
        ("REPORT.CSV", None, "csv"),
        ("report.txt", None, "table"),
        ("volumes", None, "table"),
        ("report.txt", "json", "json"),
        ("sr.dcm", "dicom-sr", "dicom-sr"),
        (None, None, "table"),
        (None, "csv", "csv"),
    ],
)
def test_the_suffix_or_the_option_says_what_is_written(name, given, expected):
    assert format_of(Path(name) if name else None, given) == expected


@pytest.mark.parametrize("name", ["sr.dcm", "labels.nii.gz", "cohort.parquet", "table.xlsx"])
def test_a_table_is_not_written_under_the_name_of_something_else(name):
    with pytest.raises(UsageError, match="--format"):
        format_of(Path(name))


@pytest.mark.parametrize("options", [(), ("--format", "html")])
def test_a_pdf_is_told_how_to_be_printed(run, tmp_path, options):
    labels, _ = write_case(tmp_path)
    output = tmp_path / "report.pdf"
    code, out, err = run("report", labels, "-o", output, *options)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "--print-to-pdf=report.pdf report.html" in err
    assert not output.exists()
    code, _, err = run("compare", labels, labels, "-o", output)
    assert (code, "no PDF" in err, "html" in err) == (2, True, False)
