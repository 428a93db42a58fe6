"""A signal ends a command even where what it raises is swallowed on the way."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest
from conftest import ball_scan

from segmate_cli import interrupts, nifti
from segmate_cli.errors import ModelError


@pytest.fixture(autouse=True)
def handlers():
    """Python's own, as a shell's "&" has SIGINT ignored for what it starts; then as before."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for each, handler in before.items():
        signal.signal(each, handler)
    interrupts._told.clear()


@pytest.mark.parametrize(
    ("sent", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_what_was_swallowed_is_raised_again(sent, raised):
    interrupts.listen()
    interrupts.check()
    with contextlib.suppress(raised):
        os.kill(os.getpid(), sent)
    with pytest.raises(raised):
        interrupts.check()
    interrupts.listen()  # another command
    interrupts.check()


def test_an_ignored_sigint_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupts.listen()
    os.kill(os.getpid(), signal.SIGINT)
    interrupts.check()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert interrupts.exit_code() is None


@pytest.mark.parametrize("becomes", [None, ImportError("numpy"), ModelError("no network")])
def test_predict_ends_although_an_import_swallows_ctrl_c(
    run, tiny_bundle, tmp_path, monkeypatch, becomes
):
    scan = ball_scan(tmp_path / "scan.nii.gz")

    def swallow() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        if becomes:
            raise becomes

    monkeypatch.setattr(nifti, "import_reader", swallow)
    code, out, err = run("predict", scan, "-o", tmp_path / "l.nii.gz", "--model", tiny_bundle)
    assert (code, out, err) == (130, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]
