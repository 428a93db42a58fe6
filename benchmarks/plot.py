"""The benchmark's picture: wall time a shape, beside the network's own, and memory."""

from __future__ import annotations

from pathlib import Path

from benchmarks.measure import Measurement


def draw(rows: list[tuple[str, Measurement]], path: Path) -> None:
    """Write the picture; the suffix says in which format (needs the extra [benchmark])."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "segmate"  # the same bytes for the same figures
    from matplotlib import pyplot

    names = [name for name, _ in rows]
    places = range(len(rows))
    figure, (time_axes, memory_axes) = pyplot.subplots(1, 2, figsize=(9, 0.6 * len(rows) + 1.4))
    time_axes.barh(places, [run.cost.wall_s for _, run in rows], color="#bcd0e5", label="all")
    own = [run.network_s for _, run in rows]
    time_axes.barh(places, own, height=0.4, color="#2f6aa8", label="the network alone")
    time_axes.set_xlabel("seconds")
    time_axes.legend(frameon=False, fontsize=8)
    memory_axes.barh(places, [run.cost.peak_mb for _, run in rows], color="#e0b58a")
    memory_axes.set_xlabel("peak memory, MB, libraries included")
    for axes, labels in ((time_axes, names), (memory_axes, [""] * len(rows))):
        axes.set_yticks(list(places), labels)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
