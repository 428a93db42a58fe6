"""Train a SegMate from prepared cases: ``python -m training.train configs/NAME.json CACHE RUN``.

A run lives in one folder: ``last.pt`` (weights, their moving average, optimiser, step; written
beside and renamed, so that a kill at any moment leaves a whole file), ``log.jsonl``, and the
configuration. Started again, it goes on from ``last.pt``. On a GPU (``--device cuda``) the crops
are made there (`training.batched`), and the cases may come in a parcel (`training.parcel`).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segmate_cli.network import (
    NetworkConfig,
    SegMate,
    build_network,
    fill_network,
    load_state,
    training_heads,
)
from training.augment import Augmentation
from training.batched import BatchMaker, Choices, choose
from training.cases import ORGANS, Case, load_cases
from training.losses import (
    boundary_loss,
    deep_loss,
    presence_loss,
    segmentation_loss,
    targets_and_weights,
)
from training.parcel import unpack
from training.sampling import Batch, Prefetcher, Sampler, Sampling
from training.volumes import gather_volumes


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One model's recipe.

    Attributes:
        encoder: timm name.
        slices: neighbouring slices that go in.
        start: checkpoint to start from, relative to the configuration's folder.
        validation: cases never trained on.
        pseudo: name of the round of pseudo labels in the cache, or empty.
        steps: optimiser steps in all.
        decay_steps: the last steps, over which the learning rate falls to a hundredth.
        batch: crops a step.
        rate: learning rate of the decoder; the encoder takes half.
        ema: decay of the moving average that is validated and shipped.
        teacher_weight: weight of the teacher's labels beside hands' (1).
        teacher_factors: by organ, what that weight is multiplied with, where it is not 1.
        pseudo_weight: weight of pseudo labels.
        deep_weight: weight of the losses at strides 32, 16 and 8; without it no such heads.
        boundary_weight: weight of the loss of the boundary head.
        bfloat16: autocast.
        channels_last: memory format.
        threads: of PyTorch.
        seed: of everything random.
        checkpoint_minutes: time between checkpoints.
        sampling: which crops.
        augmentation: how they are varied.
    """

    encoder: str = "tf_efficientnet_lite0"
    slices: int = 3
    start: str = ""
    validation: tuple[str, ...] = ()
    pseudo: str = ""
    steps: int = 6000
    decay_steps: int = 2000
    batch: int = 8
    rate: float = 6e-4
    ema: float = 0.998
    teacher_weight: float = 0.6
    teacher_factors: dict[str, float] = field(default_factory=dict)
    pseudo_weight: float = 0.5
    deep_weight: float = 0.0
    boundary_weight: float = 0.0
    bfloat16: bool = True
    channels_last: bool = True
    threads: int = 2
    seed: int = 1
    checkpoint_minutes: float = 3.0
    sampling: Sampling = field(default_factory=Sampling)
    augmentation: Augmentation = field(default_factory=Augmentation)


def read_config(path: Path) -> TrainConfig:
    """Read a configuration; a key that it does not have keeps its default."""
    data = json.loads(path.read_text())
    data["sampling"] = Sampling(**data.get("sampling", {}))
    augmentation: dict[str, Any] = data.get("augmentation", {})
    tuples: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in augmentation.items()
    }
    data["augmentation"] = Augmentation(**tuples)
    data["validation"] = tuple(data.get("validation", ()))
    return TrainConfig(**data)


def make_network(config: TrainConfig, start: Path | None) -> SegMate:
    """The network of a configuration, filled from a checkpoint if one is given.

    Heads for training alone that the checkpoint lacks stay as they were drawn.
    """
    deep = config.deep_weight > 0
    network = build_network(
        NetworkConfig(config.encoder, len(ORGANS), config.slices, deep_supervision=deep)
    )
    if start is not None:
        heads = training_heads(network)
        given = {
            key: value
            for key, value in load_state(start).items()
            if deep or not key.startswith("model.deep_head")
        }
        fill_network(network, {**heads, **given}, str(start))
    return network


class Clock:
    """A session's time, for machines that are lent: the learning rate falls over its last part."""

    def __init__(self, minutes: float, share: float):
        self.end = time.monotonic() + 60 * minutes
        self.decay_seconds = 60 * minutes * share

    def left(self) -> float:
        """Time left as a share of the time over which the rate falls; may exceed 1."""
        return (self.end - time.monotonic()) / self.decay_seconds


class Trainer:
    """A network, its moving average and its optimiser: what a checkpoint holds."""

    def __init__(
        self, config: TrainConfig, network: SegMate, run: Path, device: str = "cpu"
    ) -> None:
        self.config, self.run, self.step, self.seconds = config, run, 0, 0.0
        self.device = device
        self.clock: Clock | None = None
        memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
        self.network = network.to(device, memory_format=memory_format).train()
        self.average = copy.deepcopy(self.network).eval()
        encoder = list(network.model.encoder.parameters())
        inside = {id(parameter) for parameter in encoder}
        others = [p for p in network.parameters() if id(p) not in inside]
        groups = [{"params": others, "share": 1.0}, {"params": encoder, "share": 0.5}]
        self.optimiser = torch.optim.AdamW(groups, lr=config.rate, weight_decay=0.02)

    def rate(self) -> float:
        """Learning rate at this step: up over 200 steps, level, and down at the end."""
        config = self.config
        up = min(1.0, (self.step + 1) / 200)
        left = (config.steps - self.step) / max(1, config.decay_steps)
        if self.clock is not None:
            left = min(left, self.clock.left())
        return config.rate * up * min(1.0, max(0.01, left))

    def finished(self) -> bool:
        """Whether the last step is done or the time is up."""
        return self.step >= self.config.steps or (self.clock is not None and self.clock.left() <= 0)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the optimiser; returns the losses, still on the device."""
        config = self.config
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate() * group["share"]
        target, weights = targets_and_weights(
            batch, config.teacher_weight, config.pseudo_weight, config.teacher_factors
        )
        slices = batch.slices
        if config.channels_last:
            slices = slices.to(memory_format=torch.channels_last)
        with torch.autocast(
            torch.device(self.device).type, dtype=torch.bfloat16, enabled=config.bfloat16
        ):
            output = self.network(slices)
        entropy, dice = segmentation_loss(output.logits.float(), target, weights)
        loss = 4 * entropy + dice
        if config.deep_weight:
            loss = loss + config.deep_weight * deep_loss(output.deep, target, weights)
        if config.boundary_weight and output.boundary is not None:
            edges = boundary_loss(output.boundary.float(), target, weights)
            loss = loss + config.boundary_weight * edges
        if output.presence_logits is not None:
            loss = loss + 0.05 * presence_loss(output.presence_logits, target, batch)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        self._average()
        self.step += 1
        return {"loss": loss.detach(), "entropy": entropy.detach(), "dice": dice.detach()}

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _average(self) -> None:
        decay = min(self.config.ema, (self.step + 1) / (self.step + 10))
        means = list(self.average.state_dict().values())
        values = list(self.network.state_dict().values())
        moving = [mean.is_floating_point() for mean in means]
        torch._foreach_lerp_(
            [mean for mean, moves in zip(means, moving, strict=True) if moves],
            [value for value, moves in zip(values, moving, strict=True) if moves],
            1 - decay,
        )

    def save(self) -> None:
        """Write ``last.pt`` and the averaged weights alone, ``average.pt``."""
        state = {
            "model_state": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        save_whole(state, self.run / "last.pt")
        save_whole({"model_state": self.average.state_dict()}, self.run / "average.pt")

    def resume(self) -> bool:
        """Go on from ``last.pt`` if it is there."""
        path = self.run / "last.pt"
        if not path.exists():
            return False
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state["model_state"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        return True


def save_whole(state: Any, path: Path) -> None:
    """Write a file beside its place and rename it, so that it is never half there."""
    beside = path.with_suffix(".tmp")
    torch.save(state, beside)
    os.replace(beside, path)


def wait_while(path: Path | None) -> None:
    """Sleep as long as a file exists."""
    while path is not None and path.exists():
        time.sleep(2)


def mean_of(records: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    """Mean of each value over some steps."""
    return {key: float(sum(r[key] for r in records)) / len(records) for key in records[0]}


def batches_on(
    device: str, sampler: Sampler, config: TrainConfig, step: int
) -> Callable[[], Batch]:
    """What gives one batch after the other: drawn by the processor, or made on the device."""
    if device == "cpu":
        return Prefetcher(sampler, config.batch, config.seed, step).next
    bodies = sampler.augmentation.surroundings_chance > 0
    volumes = gather_volumes(sampler.cases, torch.device(device), bodies)
    maker = BatchMaker(volumes, sampler.augmentation, config.seed + step)
    waiting: queue.Queue[Choices] = queue.Queue(maxsize=8)

    def fill() -> None:
        rng = np.random.default_rng((config.seed, step))
        while True:
            waiting.put(choose(sampler, config.batch, rng))

    threading.Thread(target=fill, daemon=True).start()
    return lambda: maker.make(waiting.get())


def training_steps(trainer: Trainer, sampler: Sampler, pause: Path | None) -> Iterator[None]:
    """Take the remaining steps, logging and saving on the way; yields after each."""
    config = trainer.config
    next_batch = batches_on(trainer.device, sampler, config, trainer.step)
    records: list[dict[str, Tensor]] = []
    saved = time.monotonic()
    while not trainer.finished():
        wait_while(pause)
        started = time.monotonic()
        records.append(trainer.update(next_batch()))
        trainer.seconds += time.monotonic() - started
        if len(records) == 50 or trainer.finished():
            record = {"step": trainer.step, "hours": round(trainer.seconds / 3600, 3)}
            record |= {key: round(value, 4) for key, value in mean_of(records).items()}
            with (trainer.run / "log.jsonl").open("a") as log:
                log.write(json.dumps(record) + "\n")
            records = []
        if time.monotonic() - saved > 60 * config.checkpoint_minutes:
            trainer.save()
            saved = time.monotonic()
        yield
    trainer.save()


@dataclass(frozen=True, slots=True)
class Session:
    """How a configuration's model is trained this time.

    Attributes:
        pause: file that makes the training sleep while it exists.
        minutes: wall time of this session if not the last step is to end it.
        decay_share: share of those minutes, at their end, over which the learning rate falls.
        start: checkpoint to begin with, instead of the configuration's.
        device: of PyTorch.
        parcel: whether the cases come packed.
    """

    pause: Path | None = None
    minutes: float | None = None
    decay_share: float = 0.5
    start: Path | None = None
    device: str = "cpu"
    parcel: bool = False


def training_cases(config: TrainConfig, cache: Path, parcel: bool) -> list[Case]:
    """The cases of a cache or parcel that may be trained on."""
    cases = unpack(cache, os.cpu_count() or 1) if parcel else load_cases(cache, config.pseudo)
    held_out = config.validation
    return [case for case in cases if case.info.case_id not in held_out and case.usable.any()]


def train(config_path: Path, cache: Path, run: Path, session: Session | None = None) -> Trainer:
    """Train a configuration's model, from the run's checkpoint if it has one.

    Args:
        config_path: configuration.
        cache: folder of prepared cases, or a parcel of them.
        run: folder of the run.
        session: how, this time.
    """
    session = session or Session()
    config = read_config(config_path)
    start = session.start
    if start is None and config.start:
        start = config_path.parent / config.start
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    torch.backends.cudnn.benchmark = True  # every batch has the same shape
    torch.backends.cudnn.benchmark_limit = 4  # all of them cost half a minute
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.json").write_text(json.dumps(asdict(config), indent=1) + "\n")
    trainer = Trainer(config, make_network(config, start), run, session.device)
    resumed = trainer.resume()
    print(f"{'resumed' if resumed else 'started'} at step {trainer.step}", flush=True)
    cases = training_cases(config, cache, session.parcel)
    sampler = Sampler(cases, config.sampling, config.augmentation)
    if session.minutes is not None:
        trainer.clock = Clock(session.minutes, session.decay_share)
    for _ in training_steps(trainer, sampler, session.pause):
        pass
    return trainer


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="configuration of the model (JSON)")
    parser.add_argument("cache", type=Path, help="folder of prepared cases")
    parser.add_argument("run", type=Path, help="folder of the run; gone on with if it exists")
    parser.add_argument("--pause-file", type=Path, help="pause while this file exists")
    parser.add_argument("--minutes", type=float, help="end after this time; the rate falls then")
    parser.add_argument("--decay-share", type=float, default=0.5, help="of those minutes")
    parser.add_argument("--start", type=Path, help="checkpoint to begin with")
    parser.add_argument("--device", default="cpu", help="of PyTorch: cpu or cuda")
    parser.add_argument("--parcel", action="store_true", help="CACHE is a parcel")
    options = parser.parse_args(arguments)
    session = Session(
        options.pause_file,
        options.minutes,
        options.decay_share,
        options.start,
        options.device,
        options.parcel,
    )
    train(options.config, options.cache, options.run, session)


if __name__ == "__main__":
    main()
