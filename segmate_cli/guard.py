"""The memory cap while a run goes on: a watcher, a limit of the system, and batches that halve.

A plan says beforehand what a run needs. Where that proves wrong, or another program takes the
memory meanwhile, the batch halves first, and then the run ends with one sentence. Two things see
to it: a thread that looks at the resident memory of the process and its children many times a
second, and the system's limit on data, for a single allocation that would go through the roof.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import TracebackType

import numpy as np
import numpy.typing as npt

from segmate_cli import memory
from segmate_cli.errors import MemoryCapError
from segmate_cli.memory import Cap
from segmate_cli.runners import FloatArray, Runner

_INTERVAL_S = 0.03
# The machine and the cgroup are asked at every so-manieth look.
_LOOKS_A_QUESTION = 10
# Over the first share of the cap memory is saved, over the second the run ends.
_PRESSING, _FULL = 0.97, 0.995
# What others must leave free; only they can take it, since the cap is not more than was free.
_PRESSING_FREE_BYTES = 128 * 10**6
_FULL_FREE_BYTES = 32 * 10**6
# Threads and allocators reserve address space that they never touch: 60 MB measured on 2 cores.
_RESERVED_BYTES = 96 * 10**6


class MemoryGuard:
    """Watches a process as a context manager; a cap of None is only measured.

    Attributes:
        cap: What the process may use.
    """

    def __init__(self, cap: Cap, interval_s: float = _INTERVAL_S) -> None:
        self.cap = cap
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._pressed = threading.Event()
        self._full: str | None = None
        self._thread = threading.Thread(target=self._watch, name="memory guard", daemon=True)
        self._limit_before: tuple[int, int] | None = None

    def __enter__(self) -> MemoryGuard:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._limit_before is not None:
            memory.limit_data(self._limit_before[0])
        if isinstance(error, MemoryError) and self._limit_before is not None:
            raise MemoryCapError(self._over()) from error

    def limit_allocations(self) -> None:
        """From here on, the system refuses what would go far over the cap; after loading."""
        held, data = memory.total_bytes(), memory.data_bytes()
        if self.cap.size_bytes is None or not data:
            return
        room = max(0, self.cap.size_bytes - held)
        self._limit_before = memory.limit_data(data + room + _RESERVED_BYTES)

    def checkpoint(self) -> None:
        """Raise MemoryCapError where the run has to end; to be called every few slices."""
        if self._full is not None:
            raise MemoryCapError(self._full)

    def must_save(self) -> bool:
        """Whether memory has been short since this was last asked."""
        pressed = self._pressed.is_set()
        self._pressed.clear()
        return pressed

    def _watch(self) -> None:
        look = 0
        while not self._stop.wait(self._interval_s):
            held = memory.total_bytes()
            if self.cap.size_bytes is not None:
                rarely = look % _LOOKS_A_QUESTION == 0
                self._weigh(held, self.cap.size_bytes, trim=rarely)
                if rarely:
                    self._ask(self.cap.size_bytes - held)
            look += 1

    def _weigh(self, held: int, cap_bytes: int, trim: bool) -> None:
        if held > _PRESSING * cap_bytes:
            self._pressed.set()
            if trim or held > _FULL * cap_bytes:
                memory.give_back_free_pages()
                held = memory.total_bytes()
        if held > _FULL * cap_bytes:
            self._full = self._over()

    def _ask(self, room: int) -> None:
        """Look whether others have taken what the cap still allows."""
        free = memory.available_bytes()
        if free is None or free >= min(room, _PRESSING_FREE_BYTES):
            return
        self._pressed.set()
        memory.give_back_free_pages()
        if free < _FULL_FREE_BYTES:
            self._full = (
                f"other programs have left only {memory.human(free)} of memory; close some, or "
                "run it again when there is more."
            )

    def _over(self) -> str:
        return (
            f"the run came up to its memory cap of {memory.human(self.cap.size_bytes or 0)} "
            f"({self.cap.origin}) and was stopped; give a larger --memory-cap."
        )


class Batches:
    """Runs slices through a network, for several threads, fewer at once when memory is short.

    Attributes:
        size: Slices in the network at once, over all threads.
    """

    def __init__(self, size: int, guard: MemoryGuard) -> None:
        self.size = size
        self._guard = guard
        self._inside = 0
        self._change = threading.Condition()

    def run(
        self, runner: Runner, slices: FloatArray, positions: npt.NDArray[np.float32] | None
    ) -> Iterator[FloatArray]:
        """Yield logits of the slices, in their order, as many at a time as may be.

        Args:
            runner: The network.
            slices: (N, S, H, W).
            positions: (N,), where the network takes them.

        Raises:
            MemoryCapError: Not even one slice at a time can be had.
        """
        start = 0
        while start < len(slices):
            self._guard.checkpoint()
            allowed = self.size
            part = slice(start, min(start + allowed, len(slices)))
            try:
                with self._enter(part.stop - start):
                    at = None if positions is None else positions[part]
                    logits = runner.run(slices[part], at)
            except MemoryCapError:
                if allowed == 1:
                    raise
                self._halve(allowed)
                continue
            if self._guard.must_save():
                self._halve(allowed)
            yield logits
            start = part.stop

    @contextlib.contextmanager
    def _enter(self, count: int) -> Iterator[None]:
        """Wait until so many slices more may be in the network."""
        with self._change:
            self._change.wait_for(lambda: not self._inside or self._inside + count <= self.size)
            self._inside += count
        try:
            yield
        finally:
            with self._change:
                self._inside -= count
                self._change.notify_all()

    def _halve(self, of: int) -> None:
        with self._change:
            if self.size == of:  # else another thread has already done so
                self.size = max(1, of // 2)
        memory.give_back_free_pages()


@contextlib.contextmanager
def ensure_guarded(guard: MemoryGuard | None, cap: Cap) -> Iterator[MemoryGuard]:
    """The guard that is already on watch, or one for this block."""
    if guard is not None:
        yield guard
        return
    with MemoryGuard(cap) as own:
        yield own
