"""Batches whose processes are killed, and scans that are broken: nothing lost, nothing twice."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.batch_common import Row, cases, command, events, outputs, receipts, run

SCANS = 200


def kills(folder: Path, count: int, scans: int = SCANS, seed: int = 1) -> list[Row]:
    """``kill -9`` at random moments, by turns of the driver, a worker, and all of them."""
    from conftest import write_bundle
    from mixed_scans import make_good

    model = write_bundle(folder / "model")
    if not (folder / "in").exists():
        shutil.rmtree(folder / "made", ignore_errors=True)
        (folder / "made").mkdir()
        make_good(folder / "made", scans)
        (folder / "made").rename(folder / "in")
    reference = folder / "reference"
    progress = _Progress.of(folder / "kills.json", scans, seed)
    if not progress.length_s:
        start = time.monotonic()
        if run(command(folder / "in", reference, model)):
            return [Row("kills", "the undisturbed run failed", "", False)]
        progress.length_s = time.monotonic() - start
        progress.save()
    wanted = outputs(reference)
    while progress.killed < count:
        out = folder / f"out{progress.rounds}"
        shutil.rmtree(out, ignore_errors=True)  # of a round that was cut short
        dice = random.Random(f"{seed} {progress.rounds}")
        line = command(folder / "in", out, model, "--retries", 3)
        most = count - progress.killed
        killed, wrong = _go_on_until_done(line, out, progress.length_s, dice, most)
        got = outputs(out)
        wrong["outputs that differ"] += sum(got.get(name) != data for name, data in wanted.items())
        wrong["outputs too many"] += len(got.keys() - wanted.keys())
        progress.add(killed, wrong)
        shutil.rmtree(out)
    faults = {name: number for name, number in progress.wrong.items() if number}
    return [
        Row(
            f"{scans} mixed scans, kill -9 at {progress.killed} random moments "
            f"in {progress.rounds} runs",
            f"{faults or 'all bytes equal, no case done twice after its receipt, none lost'}",
            f"{count} of {count}",
            not faults,
        )
    ]


@dataclass
class _Progress:
    """How far a count of kills has come; with ``--folder`` it goes on after an interruption."""

    path: Path
    scans: int
    seed: int
    killed: int = 0
    rounds: int = 0
    length_s: float = 0.0
    wrong: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, scans: int, seed: int) -> _Progress:
        if path.exists():
            found = cls(path, **json.loads(path.read_text()))
            if (found.scans, found.seed) == (scans, seed):
                return found
        return cls(path, scans, seed)

    def add(self, killed: int, wrong: Counter[str]) -> None:
        """Count a whole round, and remember it."""
        self.killed, self.rounds = self.killed + killed, self.rounds + 1
        self.wrong = dict(Counter(self.wrong) + wrong)
        self.save()
        print(f"{self.killed} kills, {self.wrong or 'no fault'}", file=sys.stderr, flush=True)

    def save(self) -> None:
        """Write it down."""
        facts = {name: value for name, value in vars(self).items() if name != "path"}
        self.path.write_text(json.dumps(facts))


def _go_on_until_done(
    line: list[str], out: Path, length_s: float, dice: random.Random, most: int
) -> tuple[int, Counter[str]]:
    """Start a batch and kill it, again and again but no more than ``most``, until it is done."""
    killed, wrong = 0, Counter[str]()
    seen: dict[str, tuple[int, int]] = {}
    process, code = None, None
    # Several kills a run, but with time for more than a start between, or nothing would get done.
    longest_s = min(1.1 * length_s, max(30.0, length_s / 4))
    while code is None:
        if process is None:
            process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
        try:
            limit_s = dice.uniform(0.05, longest_s) if killed < most else None
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            victim = ("driver", "worker", "all")[killed % 3]
            _kill(process, victim)
            killed += 1
            process = process if victim == "worker" else None
        now = receipts(out)
        wrong["receipts written again"] += sum(now.get(name) != at for name, at in seen.items())
        seen |= now
    wrong[f"exit code {code}"] += code != 0
    return killed, wrong


def _kill(process: subprocess.Popen[bytes], victim: str) -> None:
    workers = _children(process.pid)
    if victim in ("worker", "all"):
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if victim in ("driver", "all"):
        process.kill()
        process.wait()


def _children(pid: int) -> list[int]:
    """Processes that any thread of a process has started."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(word) for word in task.read_text().split()]
        except OSError:  # the thread has ended
            continue
    return found


def mixed(folder: Path, count: int, good: int | None = None) -> list[Row]:
    """Good and broken scans, by default 3 to 2: the right state and exit code for each."""
    from conftest import write_bundle
    from mixed_scans import BROKEN, exit_code, make_broken, make_good

    (folder / "in").mkdir(exist_ok=True)
    good = count * 3 // 5 if good is None else good
    broken = count - good
    names = make_good(folder / "in", good) + make_broken(folder / "in", broken)
    code = run(command(folder / "in", folder / "out", write_bundle(folder / "model")))
    found = cases(folder / "out")
    wrong = [
        name
        for name in names
        if name not in found or int(found[name]["exit_code"]) != exit_code(name)
    ]
    measured = f"{len(names) - len(wrong)} of {count}, exit code {code}"
    what = f"{good} good and {broken} broken scans of {min(broken, len(BROKEN))} kinds"
    met = not wrong and code == 9 and len(found) == count
    return [Row(what, measured + "".join(f", {name}" for name in wrong), f"{count}, 9", met)]


def dask(folder: Path, seconds: int, every_s: float = 10.0) -> list[Row]:
    """A local cluster of 4, one worker killed every 10 s: nothing lost, the single run's result."""
    from conftest import write_bundle
    from mixed_scans import make_good

    model = write_bundle(folder / "model")
    (folder / "in").mkdir(exist_ok=True)
    make_good(folder / "in", SCANS)
    run(command(folder / "in", folder / "reference", model))
    wanted = outputs(folder / "reference")
    killed, rounds, faults = 0, 0, Counter[str]()
    end = time.monotonic() + seconds
    while time.monotonic() < end or not killed:
        out = folder / f"out{rounds}"
        rounds += 1
        process = subprocess.Popen(
            command(folder / "in", out, model, "--dask", "local:4"), stdout=subprocess.DEVNULL
        )
        done = threading.Event()
        counts: list[int] = []
        killer = threading.Thread(target=_kill_dask, args=(process.pid, every_s, done, counts))
        killer.start()
        code = process.wait()
        done.set()
        killer.join()
        killed += len(counts)
        got = outputs(out)
        faults["outputs that differ"] += sum(got.get(name) != data for name, data in wanted.items())
        faults[f"exit code {code}"] += code != 0
        twice = Counter(str(each["case"]) for each in events(out, "case_done"))
        faults["cases told done twice"] += sum(number > 1 for number in twice.values())
    wrong = {name: number for name, number in faults.items() if number}
    what = f"{SCANS} scans on Dask local:4, a worker killed every {every_s:g} s"
    measured = f"{killed} killed in {rounds} runs, {wrong or 'nothing lost, all bytes equal'}"
    return [Row(what, measured, "nothing lost, result equal", not wrong)]


def _kill_dask(driver: int, every_s: float, done: threading.Event, counts: list[int]) -> None:
    """Kill one Dask worker process of a local cluster each time; its nanny starts another."""
    while not done.wait(every_s):
        workers = [pid for pid in _children(driver) if _is_spawned(pid)]
        if workers:
            counts.append(random.Random(len(counts)).choice(workers))
            os.kill(counts[-1], signal.SIGKILL)


def _is_spawned(pid: int) -> bool:
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
