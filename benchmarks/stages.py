"""Where the time of one run goes: stages by thread on the clock, and CPU seconds by stage.

    python -m benchmarks.stages --plot docs/stages.svg    # the phantom of 512 x 512 x 400
    python -m benchmarks.stages --scan ct.nii.gz

The run is ``segmate predict`` in this process, its stages taken down as they begin and end. What
no stage counts (imports, threads that hand on to each other) is the rest of the CPU seconds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.__main__ import machine, make_scan

_SHAPE = "512x512x400"
# From the bottom of the chart to the top; a pool's threads are numbered.
_ROWS = {
    "segmate-beside": "judging",
    "segmate-ahead": "reading, resampling; planes to write",
    "segmate-worker": "network",
    "segmate-load": "loading the network",
    "MainThread": "main",
}
_COLOURS = {
    "imports": "#b8b8b8",
    "load_model": "#8c6bb1",
    "network": "#2f6aa8",
    "read": "#e08b3a",
    "hash": "#c9a227",
    "check_hu": "#d9c48f",
    "resample": "#4f9d69",
    "window": "#a3cfa8",
    "labels": "#c2504f",
    "clean_up": "#7f3b3a",
    "gates": "#5bb3b5",
    "write": "#5a5a8c",
}


@dataclass(frozen=True)
class Span:
    """A stage in a thread, from and to in seconds since the start, and its own CPU seconds."""

    thread: str
    stage: str
    from_s: float
    to_s: float
    cpu_s: float


@dataclass
class Recorder:
    """Takes down stages as they go by; one inside another counts for itself alone."""

    spans: list[Span] = field(default_factory=list)
    start_s: float = field(default_factory=time.perf_counter)
    _own: threading.local = field(default_factory=threading.local)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Take down a block."""
        inside: list[float] = self._own.__dict__.setdefault("inside", [])
        from_s, cpu_s = time.perf_counter(), time.thread_time()
        inside.append(0.0)
        try:
            yield
        finally:
            spent_s = time.thread_time() - cpu_s
            own_s = spent_s - inside.pop()
            if inside:
                inside[-1] += spent_s
            thread = threading.current_thread().name
            at = (from_s - self.start_s, time.perf_counter() - self.start_s)
            self.spans.append(Span(thread, name, *at, own_s))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scan", type=Path, help=f"by default the phantom of {_SHAPE}")
    parser.add_argument("--folder", type=Path, help="keep the phantom here for the next time")
    parser.add_argument("--plot", type=Path, help="draw the chart (.svg, .png; needs matplotlib)")
    parser.add_argument("options", nargs="*", help="after --: options for segmate predict")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        scan = args.scan or make_scan(_SHAPE, args.folder or Path(temporary))
        out = ["-o", str(Path(temporary) / "labels.nii.gz"), "--quiet", "--no-gate-exit"]
        spans, cpu_s = record([str(scan), *out, *args.options])
    print(table(spans, cpu_s))
    if args.plot:
        draw(spans, args.plot)


def record(options: list[str]) -> tuple[list[Span], float]:
    """Run ``segmate predict``; its stages and all its CPU seconds."""
    recorder, cpu_s = Recorder(), time.process_time()
    # Nothing heavy before the clock runs: imports are a stage, too.
    from segmate_cli import cli, files, flow, starting

    def patch(module: Any, name: str, stage: str) -> None:
        function = getattr(module, name)

        def timed(*given: Any, **named: Any) -> Any:
            with recorder.stage(stage):
                return function(*given, **named)

        setattr(module, name, timed)

    begin: Callable[..., Any] = starting.start_loading_of
    write: Callable[..., Any] = files.write_atomically

    def begin_loading(*given: Any) -> Any:
        from segmate_cli import sessions

        patch(sessions, "open_session", "load_model")
        return begin(*given)

    @contextmanager
    def write_atomically(*given: Any, **named: Any) -> Iterator[Any]:
        with recorder.stage("write"), write(*given, **named) as stream:
            yield stream

    predicting = __import__("segmate_cli.predicting", fromlist=["predicting"])
    predicting.start_loading_of = begin_loading
    files.write_atomically = write_atomically  # type: ignore[assignment]
    flow.Stopwatch.stage = lambda _, name: recorder.stage(name)  # type: ignore[method-assign, assignment, misc]
    code = cli.main(["predict", *options])
    if code:
        sys.exit(f"predict ended with {code}")
    ready_s = min(span.from_s for span in recorder.spans if span.thread == "MainThread")
    imports = Span("MainThread", "imports", 0.0, ready_s, 0.0)
    return [imports, *recorder.spans], time.process_time() - cpu_s


def table(spans: list[Span], cpu_s: float) -> str:
    """Markdown: CPU seconds by stage, largest first, and what no stage counts."""
    seconds: dict[str, float] = {}
    for span in spans:
        seconds[span.stage] = seconds.get(span.stage, 0.0) + span.cpu_s
    rows = sorted(seconds.items(), key=lambda row: -row[1])
    rows = [(name, value) for name, value in rows if value >= 0.005]
    rows.append(("imports and the rest", cpu_s - sum(seconds.values())))
    rows.append(("all", cpu_s))
    lines = ["| stage | CPU s | share |", "| --- | --- | --- |"]
    lines += [f"| {name} | {value:.2f} | {value / cpu_s:.0%} |" for name, value in rows]
    wall_s = max(span.to_s for span in spans)
    return "\n".join([*lines, "", f"{wall_s:.2f} s on the clock. {machine()}"])


def draw(spans: list[Span], path: Path) -> None:
    """The chart: a row a thread, a colour a stage; the inner stage lies over the outer one."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "segmate"  # the same bytes for the same figures
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    threads = sorted({span.thread for span in spans}, key=_place)
    figure, axes = pyplot.subplots(figsize=(9, 0.42 * len(threads) + 1.5))
    for span in sorted(spans, key=lambda each: each.from_s - each.to_s):  # the longest first
        colour = _COLOURS.get(span.stage)
        if colour:
            bar = [(span.from_s, span.to_s - span.from_s)]
            axes.broken_barh(bar, (threads.index(span.thread) - 0.4, 0.8), color=colour, lw=0)
    axes.set_yticks(range(len(threads)), [_title(name) for name in threads])
    axes.set_xlabel("seconds")
    axes.spines[["top", "right"]].set_visible(False)
    seen = {span.stage for span in spans}
    patches = [Patch(color=colour, label=name) for name, colour in _COLOURS.items() if name in seen]
    figure.legend(handles=patches, ncols=6, loc="upper center", frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.6 / figure.get_figheight()))
    axes.set_rasterization_zorder(10)  # thousands of bars
    figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)


def _place(thread: str) -> tuple[int, str]:
    pool = thread.rpartition("_")[0] or thread
    return list(_ROWS).index(pool) if pool in _ROWS else -1, thread


def _title(thread: str) -> str:
    pool, _, number = thread.rpartition("_")
    if pool == "segmate-worker":
        return f"{_ROWS[pool]} {int(number) + 1}"
    return _ROWS.get(pool or thread, thread)


if __name__ == "__main__":
    main()
