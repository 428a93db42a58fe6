"""Sizes in and out, and what the system says about memory."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmate_cli import memory
from segmate_cli.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("500MB", 500_000_000),
        ("500 mb", 500_000_000),
        ("2GB", 2_000_000_000),
        ("2g", 2_000_000_000),
        (" 1.5 GiB ", 3 * 2**29),
        ("10KiB", 10_240),
        ("0.001K", 1),
        ("1TB", 10**12),
        ("2Ti", 2**41),
        ("8B", 8),
    ],
)
def test_sizes_that_are_read(text, size):
    assert memory.parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "lots", "-1GB", "0", "0GB", "0.0001", "1,5GB", "1e9", "GB", "2 PB", "1.GB"),
        *(".5GB", "nan", "inf", "9" * 400 + "GB", "1.2.3G", "2GBB", "2G B", "0x10", "²GB"),
    ],
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="write it like 500MB or 2GB"):
        memory.parse_size(text)


@settings(deadline=None)
@given(st.one_of(st.integers(1, 10**14), st.floats(1, 1e14)))
def test_a_size_that_was_shown_can_be_given_back(size):
    shown = memory.human(size)
    back = memory.parse_size(shown)
    assert back >= size
    assert back - size <= max(10**6, 0.011 * size)
    assert "e" not in shown.lower()


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        *((0, "0 MB"), (1, "1 MB"), (10**6, "1 MB"), (10**6 + 1, "2 MB"), (2 * 10**9, "2000 MB")),
        *((10**10, "10.0 GB"), (10**10 + 1, "10.1 GB"), (123_456_700_000_000, "123456.7 GB")),
    ],
)
def test_sizes_for_people_are_rounded_up(size, shown):
    assert memory.human(size) == shown


def test_what_is_held_grows_with_what_is_held():
    before = memory.resident_bytes()
    if before == 0:
        pytest.skip("this system does not say how much a process holds")
    # Mapped anew: an array could take pages that earlier tests left to the allocator.
    with mmap.mmap(-1, 40_000_000) as held:
        held.write(b"x" * 40_000_000)
        assert memory.resident_bytes() - before > 30_000_000
        assert memory.peak_bytes() >= memory.resident_bytes() - 10_000_000


def test_the_peak_stays_when_memory_is_given_back():
    if memory.peak_bytes() == 0:
        pytest.skip("this system does not say how much a process has held")
    assert memory.peak_bytes() >= memory.peak_bytes() - 1 > 10**6


def fake_system(monkeypatch: pytest.MonkeyPatch, contents: dict[str, str]) -> None:
    """Replace the system's files by these; all others are missing."""

    def read_text(self: Path, *_: object, **__: object) -> str:
        if str(self) not in contents:
            raise FileNotFoundError(str(self))
        return contents[str(self)]

    monkeypatch.setattr(Path, "read_text", read_text)


MEMINFO = "MemTotal:       16000000 kB\nMemFree: 1 kB\nMemAvailable:    8000000 kB\n"
V2, V1 = "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/memory"


@pytest.mark.parametrize(
    ("contents", "free"),
    [
        ({}, None),
        ({"/proc/meminfo": MEMINFO}, 8_192_000_000),
        ({"/proc/meminfo": "nonsense"}, None),
        ({"/proc/meminfo": MEMINFO, f"{V2}.max": "max\n", f"{V2}.current": "7"}, 8_192_000_000),
        ({"/proc/meminfo": MEMINFO, f"{V2}.max": "3000\n", f"{V2}.current": "1000\n"}, 2000),
        ({f"{V1}.limit_in_bytes": "3000", f"{V1}.usage_in_bytes": "500"}, 2500),
        ({"/proc/meminfo": MEMINFO, f"{V1}.limit_in_bytes": "9223372036854771712"}, 8_192_000_000),
    ],
)
def test_what_is_free_is_the_least_that_anybody_says(monkeypatch, contents, free):
    fake_system(monkeypatch, contents)
    assert memory.available_bytes() == free


def test_a_system_that_says_nothing(monkeypatch):
    fake_system(monkeypatch, {})
    assert memory.resident_bytes() == 0
    assert memory.available_bytes() is None
