"""Options that several commands share, as users meet them."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    "command",
    [
        ["report", "labels.nii.gz"],
        ["evaluate", "ours.nii.gz", "theirs.nii.gz"],
        ["compare", "a.nii.gz", "b.nii.gz"],
        ["cohort", "out"],
    ],
)
def test_a_second_output_is_refused_not_taken_for_the_first(run, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*command, "-o", "page.html", "-o", "preview.png")
    assert (code, out) == (2, "")
    assert "-o/--output: given twice" in err
    assert not list(tmp_path.iterdir())
