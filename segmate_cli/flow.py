"""Work side by side: a source read ahead by a thread, items spread over threads, time by stage.

What goes on in a thread here is native code that lets go of Python's lock (decompression, hashing,
NumPy, the network). Errors come out where the results are asked for, as themselves.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(slots=True)
class Stopwatch:
    """Seconds spent by stage, added up over however many visits and threads.

    A stage inside another counts for itself alone, so that the stages of one thread add up to its
    whole; those of several threads may add up to more than the clock on the wall.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _own: threading.local = field(default_factory=threading.local, repr=False)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to a stage."""
        inside: list[float] = self._own.__dict__.setdefault("inside", [])
        start = time.perf_counter()
        inside.append(0.0)
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            own = spent - inside.pop()
            if inside:
                inside[-1] += spent
            with self._lock:
                self.seconds[name] = self.seconds.get(name, 0.0) + own


class _End:
    """What waits behind the last item."""


class _Outcome:
    """Keeps the error that ends a block, for another thread; as a Future does of a function."""

    error: BaseException | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self.error = error
        return True


class Ahead(Generic[ItemT]):
    """What a source yields, taken from it by a thread of its own, from the start on.

    Used as a context: the thread has ended when the block is left. Iterating raises what the source
    raised.

    Args:
        source: Run and closed in that thread alone.
        most: Items that may wait; one more is being made.
    """

    def __init__(self, source: Generator[ItemT, None, None], most: int) -> None:
        self._source = source
        self._room = threading.Semaphore(most + 1)
        self._waiting: SimpleQueue[ItemT | _End] = SimpleQueue()
        self._stopped = False
        self._outcome = _Outcome()
        # A daemon: a signal between here and the block would leave it waiting for room, and
        # Python for it.
        self._thread = threading.Thread(target=self._fill, name="segmate-ahead", daemon=True)
        self._thread.start()

    def __enter__(self) -> Ahead[ItemT]:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._room.release()
        self._thread.join()

    def __iter__(self) -> Iterator[ItemT]:
        return self

    def __next__(self) -> ItemT:
        item = self._waiting.get()
        if isinstance(item, _End):
            self._waiting.put(item)  # whoever asks again hears the same
            if self._outcome.error is not None:
                raise self._outcome.error
            raise StopIteration
        self._room.release()
        return item

    def _fill(self) -> None:
        with self._outcome:
            try:
                self._room.acquire()
                for item in self._source:
                    self._waiting.put(item)
                    self._room.acquire()
                    if self._stopped:
                        break
            finally:
                self._source.close()
        self._waiting.put(_End())


def begin(function: Callable[[], ResultT], name: str = "segmate-beside") -> Future[ResultT]:
    """Start a function in a thread of its own; its error comes out with the result."""
    pool = ThreadPoolExecutor(1, name)
    try:
        return pool.submit(function)
    finally:
        pool.shutdown(wait=False)


def spread(
    function: Callable[[ItemT], ResultT], items: Iterable[ItemT], workers: int
) -> Iterator[ResultT]:
    """Results of a function on items, in the items' order, from so many threads at once.

    At most one item more than there are workers is taken before its result is.
    """
    pending: deque[Future[ResultT]] = deque()
    pool = ThreadPoolExecutor(workers, "segmate-worker")
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
