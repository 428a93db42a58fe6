"""The network's loading, begun before what else a run needs is imported: it takes as long."""

from __future__ import annotations

import gc
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segmate_cli import memory

if TYPE_CHECKING:
    from segmate_cli.bundle import Bundle
    from segmate_cli.engines import LoadedModel, LoadingModel
    from segmate_cli.pipeline import PredictOptions
    from segmate_cli.volume import Scan


def engine_options(args: Namespace) -> dict[str, Any]:
    """``PredictOptions`` about engine and memory, by name."""
    return {
        "engine": args.engine,
        "device": args.device,
        "batch_size": args.batch_size,
        "threads": args.threads,
        "memory_cap_bytes": memory.parse_size(args.memory_cap) if args.memory_cap else None,
        "gpu_memory_cap_bytes": (
            memory.parse_size(args.gpu_memory_cap) if args.gpu_memory_cap else None
        ),
    }


@dataclass(frozen=True, slots=True)
class Loading:
    """A model that is being loaded.

    Attributes:
        began: The model, or only its bundle where the cap does not even hold that.
        cap: What the process may use.
    """

    began: LoadingModel | Bundle
    cap: memory.Cap

    def model(
        self, options: PredictOptions, find: Callable[[], Scan]
    ) -> LoadingModel | LoadedModel:
        """The model; MemoryCapError where it was not even begun, with the least cap for a scan."""
        from segmate_cli import pipeline
        from segmate_cli.bundle import Bundle

        if isinstance(self.began, Bundle):
            pipeline.plan_for(find(), self.began, options, self.cap)  # this raises
        return pipeline.ensure_loading(self.began, options)


@contextmanager
def nothing_collected() -> Iterator[None]:
    """Leave Python's garbage where it is: imports make little, and looking for it takes 20 ms.

    What there is in the end stays, and is not looked through again.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def start_loading_of(args: Namespace) -> Loading:
    """Open the model that a command names and start to load it, if the cap lets it."""
    from segmate_cli.sessions import begin_early

    options = engine_options(args)
    cap = memory.resolve_cap(options.pop("memory_cap_bytes"))
    begun = begin_early(args.model, cap, **options)
    from segmate_cli.bundle import open_bundle
    from segmate_cli.engines import start_loading
    from segmate_cli.plan import fits_to_load

    bundle = open_bundle(args.model)
    fits = fits_to_load(bundle, cap)
    return Loading(start_loading(bundle, begun=begun, **options) if fits else bundle, cap)
