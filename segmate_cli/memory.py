"""How much memory there is, how much is used, and how much a scan will need."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import re
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from segmate_cli.errors import UsageError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
# Of what is free, this much is taken where nobody says: other programs want to live, too.
_DEFAULT_SHARE = 0.8
# Python, NumPy, readers and the engine's own library, before a network is loaded.
ONNX_RUNTIME_BYTES = 88 * 10**6
# While a network loads its file and what was parsed of it lie beside its weights.
LOADING_BYTES_A_PARAMETER = 14
# Peaks of the same run differ by some MB; a cap must hold for the worst.
MARGIN = 1.03
_most_seen_bytes = 0
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Cap:
    """What this process may use in all, its libraries and children included.

    Attributes:
        size_bytes: None where nobody asked and the system does not say what is free.
        origin: Who set it, for people.
        warning: One sentence where the cap that was asked for is not the one that counts.
    """

    size_bytes: int | None
    origin: str
    warning: str | None = None


def parse_size(text: str) -> int:
    """Bytes of a size such as ``2GB``, ``500MB`` or ``1.5GiB``; UsageError for anything else."""
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([KMGT]I?)?B?\s*", text.upper())
    size = int(Decimal(match[1]) * _UNITS[match[2] or ""]) if match else 0
    if size < 1:
        raise UsageError(f"'{text}' is no size; write it like 500MB or 2GB.")
    return size


def human(size: float) -> str:
    """A size for people, rounded up so that it can be given back as a cap."""
    megabytes = -(-math.ceil(size) // 10**6)
    return f"{megabytes} MB" if megabytes < 10_000 else f"{-(-megabytes // 100) / 10:.1f} GB"


def resident_bytes() -> int:
    """Memory that this process holds now (0 where the system does not say)."""
    return _resident_bytes("self")


def total_bytes() -> int:
    """Memory that this process and its children hold now; ``peak_bytes`` remembers it.

    What children share with it counts twice: rather too much than too little.
    """
    global _most_seen_bytes
    total = resident_bytes() + sum(map(_resident_bytes, _children()))
    _most_seen_bytes = max(_most_seen_bytes, total)
    return total


def peak_bytes() -> int:
    """The most memory that this process has held (0 where the system does not say).

    Children count as far as ``total_bytes`` has seen them, since no system adds them up.
    """
    own = _status_bytes("VmHWM")
    if own:  # getrusage's figure survives exec: it may be that of the program that started this one
        return max(_most_seen_bytes, own)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return max(_most_seen_bytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def data_bytes() -> int:
    """Address space of this process's own data, touched or not (0 where nobody says)."""
    return _status_bytes("VmData")


def limit_data(size_bytes: int) -> tuple[int, int] | None:
    """Let the system refuse data over a size; what was the limit, or None where it cannot."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    before = resource.getrlimit(resource.RLIMIT_DATA)
    most = before[1]
    wanted = size_bytes if most == resource.RLIM_INFINITY else min(size_bytes, most)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))
    return before


def give_back_free_pages() -> None:
    """Return what the C allocator holds but nobody uses to the system, where it knows how.

    Loading a network parses and copies it; with glibc this gives back 48 of 158 MB (measured with
    the bundled model), which would else count against every cap.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def available_bytes() -> int | None:
    """Memory that the machine, or this process's cgroup if that is less, leaves free."""
    free = _free()
    return min(free.values()) if free else None


def resolve_cap(asked_bytes: int | None = None) -> Cap:
    """The cap that counts: the one asked for, or by default 80 % of what is free.

    A machine, cgroup or Slurm job that leaves less than was asked for counts instead.
    """
    held = resident_bytes()
    limits = {who: free + held for who, free in _free().items()} | _slurm_limit()
    least = min(limits, key=lambda who: limits[who], default=None)
    if least is None:
        return Cap(asked_bytes, "--memory-cap" if asked_bytes else "none")
    if asked_bytes is None:
        share = int(_DEFAULT_SHARE * limits[least])
        return Cap(share, f"{_DEFAULT_SHARE:.0%} of what {least} leaves free")
    if asked_bytes <= limits[least]:
        return Cap(asked_bytes, "--memory-cap")
    warning = (
        f"{least} leaves {human(limits[least])} free; that counts instead of the memory cap of "
        f"{human(asked_bytes)}."
    )
    return Cap(limits[least], f"what {least} leaves free", warning)


def fits_to_load(parameters: int, cap: Cap, runtime_bytes: int = ONNX_RUNTIME_BYTES) -> bool:
    """Whether a cap lets a network be loaded; to know before that is tried."""
    need = runtime_bytes + LOADING_BYTES_A_PARAMETER * parameters
    return cap.size_bytes is None or math.ceil(MARGIN * need) <= cap.size_bytes


def _status_bytes(name: str) -> int:
    """A size from Linux's account of this process; 0 where there is none."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    match = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def _resident_bytes(process: str) -> int:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):  # it has ended, or there is no /proc
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _children() -> list[str]:
    """Process numbers of the children, such as those that decode DICOM."""
    found: list[str] = []
    with contextlib.suppress(OSError):  # no /proc
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # the thread has ended
                found += (task / "children").read_text().split()
    return found


def _meminfo_available() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    match = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _free() -> dict[str, int]:
    """Bytes free by who says so."""
    said = {"the machine": _meminfo_available(), "the cgroup": _cgroup_free()}
    return {who: max(0, size) for who, size in said.items() if size is not None}


def _cgroup_free() -> int | None:
    """The least that this process's cgroup, or one above it, leaves free.

    What a cgroup holds of files that were read long ago is given back when memory is wanted.
    """
    second = [
        _unused(folder / "memory.max", folder / "memory.current", folder / "memory.stat")
        for folder in _own_cgroups(_CGROUP, "")
    ]
    first = [
        _unused(
            folder / "memory.limit_in_bytes",
            folder / "memory.usage_in_bytes",
            folder / "memory.stat",
        )
        for folder in _own_cgroups(_CGROUP / "memory", "memory")
    ]
    return min((free for free in (*second, *first) if free is not None), default=None)


def _own_cgroups(root: Path, controller: str) -> list[Path]:
    """The folder of this process's cgroup, and all above it up to the root of the hierarchy."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return [root]
    fields = [line.split(":", 2) for line in lines]
    own = next((f[2] for f in fields if len(f) == 3 and controller in f[1].split(",")), "/")
    inner = root / own.lstrip("/")
    # In a container, the path may be the host's, and not be there.
    return [folder for folder in (inner, *inner.parents) if folder.is_relative_to(root)]


def _unused(limit: Path, used: Path, stat: Path) -> int | None:
    try:
        free = int(limit.read_text()) - int(used.read_text())
    except (OSError, ValueError):  # no such cgroup version, or "max"
        return None
    try:
        match = re.search(r"^(?:total_)?inactive_file (\d+)$", stat.read_text(), re.MULTILINE)
    except OSError:
        match = None
    return free + (int(match[1]) if match else 0)


def _slurm_limit() -> dict[str, int]:
    """What Slurm gave to the job on this node (it counts in MiB; 0 is all of the node)."""
    node, cpu = os.environ.get("SLURM_MEM_PER_NODE"), os.environ.get("SLURM_MEM_PER_CPU")
    cpus = os.environ.get("SLURM_CPUS_ON_NODE", "1")
    sizes = [node] if node else [cpu, cpus] if cpu else []
    if not sizes or not all(size and size.isdecimal() for size in sizes):
        return {}
    size = math.prod(int(each or 0) for each in sizes) * 2**20
    return {"Slurm": size} if size else {}
