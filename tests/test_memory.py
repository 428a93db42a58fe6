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


GIB = 2**30
MACHINE = {"/proc/meminfo": f"MemAvailable: {8 * GIB // 1024} kB\n"}
IN_V2 = {"/proc/self/cgroup": "0::/job/step\n"}
IN_V1 = {"/proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/docker/abc\n1:name=systemd:/\n"}
V2_JOB = "/sys/fs/cgroup/job"


@pytest.fixture
def system(monkeypatch):
    """Set what the system says; no Slurm unless it is named."""

    def call(contents: dict[str, str], **environment: str) -> None:
        for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        fake_system(monkeypatch, contents)

    return call


def test_by_default_the_cap_is_most_of_what_is_free(system):
    system(MACHINE)
    cap = memory.resolve_cap()
    assert cap.size_bytes == int(0.8 * 8 * GIB)
    assert cap.origin == "80% of what the machine leaves free"
    assert cap.warning is None


def test_the_cap_asked_for_counts_where_it_can_hold(system):
    system(MACHINE)
    assert memory.resolve_cap(2 * GIB) == memory.Cap(2 * GIB, "--memory-cap")


def test_a_cap_above_what_the_machine_leaves_says_what_counts(system):
    system(MACHINE)
    cap = memory.resolve_cap(100 * GIB)
    assert cap.size_bytes == 8 * GIB
    assert cap.warning.startswith("the machine leaves 8590 MB free; that counts instead")


@pytest.mark.parametrize(
    "contents",
    [
        IN_V2 | {f"{V2_JOB}/step/memory.max": f"{GIB}\n", f"{V2_JOB}/step/memory.current": "0\n"},
        # The job's own cgroup has no limit, the one above it has.
        IN_V2
        | {f"{V2_JOB}/step/memory.max": "max\n", f"{V2_JOB}/step/memory.current": "5\n"}
        | {f"{V2_JOB}/memory.max": f"{2 * GIB}", f"{V2_JOB}/memory.current": f"{GIB}"},
        IN_V1
        | {"/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": f"{GIB}"}
        | {"/sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes": "0"},
        # In a container the path is the host's, and what is mounted is the container's own.
        IN_V1 | {f"{V1}.limit_in_bytes": f"{GIB}", f"{V1}.usage_in_bytes": "0"},
    ],
)
def test_a_cgroup_smaller_than_the_cap_counts(system, contents):
    system(MACHINE | contents)
    cap = memory.resolve_cap(4 * GIB)
    assert cap.size_bytes == GIB
    assert cap.warning.startswith("the cgroup leaves 1074 MB free")
    assert memory.resolve_cap().size_bytes == int(0.8 * GIB)


def test_what_a_cgroup_remembers_of_files_is_free(system):
    limits = {f"{V2}.max": f"{GIB}", f"{V2}.current": f"{GIB - 10}"}
    system(MACHINE | limits | {f"{V2}.stat": "anon 7\ninactive_file 500\nactive_file 9\n"})
    assert memory.available_bytes() == 510


@pytest.mark.parametrize(
    ("environment", "size"),
    [
        ({"SLURM_MEM_PER_NODE": "1024"}, GIB),
        ({"SLURM_MEM_PER_CPU": "512", "SLURM_CPUS_ON_NODE": "4"}, 2 * GIB),
        ({"SLURM_MEM_PER_CPU": "512"}, GIB // 2),
        ({"SLURM_MEM_PER_NODE": "0"}, 8 * GIB),  # all of the node
        ({"SLURM_MEM_PER_NODE": "lots"}, 8 * GIB),
    ],
)
def test_slurm_is_asked(system, environment, size):
    system(MACHINE, **environment)
    assert memory.resolve_cap(100 * GIB).size_bytes == size


def test_where_nobody_says_what_is_free_the_cap_asked_for_counts(system):
    system({})
    assert memory.resolve_cap() == memory.Cap(None, "none")
    assert memory.resolve_cap(5) == memory.Cap(5, "--memory-cap")
