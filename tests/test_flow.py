"""Threads that read ahead and share work: order, bounds, errors, and nothing left running."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from segmate_cli.flow import Ahead, Stopwatch, begin, spread


def threads_of_segmate() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("segmate")]


def wait_until(condition) -> None:
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    assert condition()


class Source:
    """Counts up, and remembers how far it was taken and in which thread it was closed."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.made = 0
        self.closed_in = ""
        self._count, self._error = count, error

    def __call__(self):
        try:
            for n in range(self._count):
                self.made += 1
                yield n
            if self._error:
                raise self._error
        finally:
            self.closed_in = threading.current_thread().name


@pytest.mark.parametrize("most", [1, 3, 50])
def test_all_comes_in_order(most):
    with Ahead(Source(20)(), most) as items:
        assert list(items) == list(range(20))
        assert list(items) == []
    assert threads_of_segmate() == []


def test_the_source_runs_ahead_but_not_away():
    source = Source(50)
    with Ahead(source(), 3) as items:
        wait_until(lambda: source.made == 4)  # three wait, one is in hand
        time.sleep(0.02)
        assert source.made == 4
        assert [next(items), next(items)] == [0, 1]
        wait_until(lambda: source.made == 6)


def test_whoever_leaves_early_stops_the_source():
    source = Source(1000)
    with Ahead(source(), 2) as items:
        assert next(items) == 0
    assert source.made < 10
    assert source.closed_in.startswith("segmate-ahead")
    assert threads_of_segmate() == []


def test_an_error_comes_after_what_was_read_before_it():
    with Ahead(Source(3, ValueError("cut"))(), 8) as items:
        assert [next(items), next(items), next(items)] == [0, 1, 2]
        for _ in range(2):  # and again, rather than waiting for ever
            with pytest.raises(ValueError, match="cut"):
                next(items)
    assert threads_of_segmate() == []


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_keep_the_order_of_items(workers):
    at_once: set[int] = set()
    most = 0
    lock = threading.Lock()

    def work(n: int) -> int:
        nonlocal most
        with lock:
            at_once.add(n)
            most = max(most, len(at_once))
        time.sleep(0.002 * (n % 3))
        with lock:
            at_once.remove(n)
        return n * n

    assert list(spread(work, range(30), workers)) == [n * n for n in range(30)]
    assert 1 <= most <= workers
    assert threads_of_segmate() == []


def test_items_are_taken_no_faster_than_results():
    source = Source(100)
    results = spread(lambda n: n, source(), 2)
    assert next(results) == 0
    assert source.made == 3
    results.close()
    assert threads_of_segmate() == []


def test_a_failing_item_ends_it():
    with pytest.raises(ZeroDivisionError):
        list(spread(lambda n: 1 / (n - 5), range(100), 2))
    assert threads_of_segmate() == []


def test_threads_add_up_their_stages():
    watch = Stopwatch()

    def work(n: int) -> None:
        with watch.stage("outer"), watch.stage("inner"):
            time.sleep(0.02)

    list(spread(work, range(4), 4))
    assert watch.seconds["inner"] >= 0.08
    assert watch.seconds["outer"] < 0.04


def test_stages_inside_stages_add_up_to_the_whole():
    watch = Stopwatch()
    start = time.perf_counter()
    with watch.stage("outer"):
        time.sleep(0.02)
        for _ in range(2):
            with watch.stage("inner"):
                time.sleep(0.03)
    whole = time.perf_counter() - start
    assert watch.seconds["inner"] >= 0.06
    assert 0.02 <= watch.seconds["outer"] <= whole - watch.seconds["inner"]
    assert sum(watch.seconds.values()) <= whole


def test_what_was_begun_goes_on_beside_and_tells_its_result_or_error():
    may_end = threading.Event()

    def slow() -> str:
        assert may_end.wait(5)
        return threading.current_thread().name

    begun = begin(slow)
    assert not begun.done()
    may_end.set()
    assert begun.result(5).startswith("segmate")
    with pytest.raises(ZeroDivisionError):
        begin(lambda: 1 // 0).result(5)
    wait_until(lambda: not threads_of_segmate())


def test_a_source_that_nobody_takes_from_does_not_keep_python_from_ending():
    """As where a signal comes between its making and the block that would end it."""
    script = "from segmate_cli.flow import Ahead\nAhead((n for n in range(9)), 2)\n"
    done = subprocess.run([sys.executable, "-c", script], timeout=20, check=False)
    assert done.returncode == 0
