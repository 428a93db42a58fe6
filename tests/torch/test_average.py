"""Weights of runs, averaged."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("timm", reason="training needs the [train] extra")

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from segmate_cli.network import load_state  # noqa: E402
from training import average  # noqa: E402


def test_a_checkpoint_holds_the_mean_of_weights_and_the_first_counters(tmp_path: Path) -> None:
    paths = []
    for number, weight in enumerate((1.0, 2.0, 6.0)):
        state = {"w": torch.full((2, 2), weight), "batches": torch.tensor(number + 7)}
        paths.append(tmp_path / f"{number}.pt")
        torch.save({"model_state": state}, paths[-1])
    average.main([str(tmp_path / "mean.pt"), *map(str, paths)])
    mean = load_state(tmp_path / "mean.pt")
    assert torch.equal(mean["w"], torch.full((2, 2), 3.0))
    assert mean["w"].dtype == torch.float32
    assert int(mean["batches"]) == 7


def test_states_of_two_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in name"):
        average.mean_state([{"a": torch.zeros(1)}, {"b": torch.zeros(1)}])
