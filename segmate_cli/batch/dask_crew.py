"""``--dask``: a Dask cluster as the crew. It gets paths, not pixels; results come through OUT."""

from __future__ import annotations

import logging
import os
import queue
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from segmate_cli import __version__
from segmate_cli.batch import dask_task
from segmate_cli.batch.crew import Answer
from segmate_cli.batch.driver import Plan
from segmate_cli.batch.jobs import Job
from segmate_cli.errors import BatchStoppedError, EngineMissingError, UsageError

_QUEUES = {
    **{"slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster"},
    **{"lsf": "LSFCluster", "oar": "OARCluster", "htcondor": "HTCondorCluster"},
}
_CONNECT_SECONDS = 30
_COUNT_SECONDS = 1.0
# So many cases wait on the cluster for each thread, so that none is idle between two; so many at
# least, so that a cluster that grows with its work has a reason to.
_AHEAD, _LEAST_AHEAD = 2, 4


@contextmanager
def cluster(where: str) -> Iterator[tuple[Any, int]]:
    """A client of the cluster, and how many of its workers share this machine's memory (or 1).

    Args:
        where: A scheduler's address or ``scheduler.json``; ``local:N`` starts N workers here;
            ``slurm:FILE`` starts jobs with the options of dask-jobqueue that the YAML file holds,
            and as many as its ``jobs`` says, or as its ``minimum`` and ``maximum`` allow.

    Raises:
        EngineMissingError: Dask or dask-jobqueue is not installed.
        UsageError: It makes no sense, or no scheduler answers.
    """
    try:
        import distributed
    except ImportError as error:
        raise EngineMissingError("--dask needs pip install 'segmate-cli[dask]'.") from error
    kind, _, rest = where.partition(":")
    with ExitStack() as stack:
        try:
            if kind == "local":
                place = stack.enter_context(_local(distributed, rest))
            elif kind in _QUEUES:
                place = stack.enter_context(_queued(kind, Path(rest)))
            else:
                place = where
            by_file = {"scheduler_file": where} if where.endswith(".json") else {"address": place}
            client = distributed.Client(**by_file, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise UsageError(f"--dask {where}: no Dask scheduler answers ({error}).") from error
        stack.callback(_close, client)
        yield client, int(rest) if kind == "local" else 1


def _local(distributed: Any, number: str) -> Any:
    if not number.isdecimal() or int(number) < 1:
        raise UsageError(f"--dask local:{number}: write it like local:4.")
    return distributed.LocalCluster(
        n_workers=int(number),
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
        worker_dashboard_address=None,
        memory_limit=0,  # the memory cap of segmate's own workers counts
        silence_logs=logging.CRITICAL,
        preload=["segmate_cli.batch.dask_task"],
    )


def _queued(kind: str, path: Path) -> Any:
    """A cluster of batch jobs, as a YAML file describes it."""
    try:
        import dask_jobqueue
        import yaml
    except ImportError as error:
        raise EngineMissingError(f"--dask {kind}: needs dask-jobqueue.") from error
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(options, dict):
            raise UsageError(f"{path}: it must be options of dask-jobqueue, such as cores: 4.")
        jobs, least = options.pop("jobs", None), options.pop("minimum", 0)
        most = options.pop("maximum", None)
        made = getattr(dask_jobqueue, _QUEUES[kind])(**options)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: dask-jobqueue cannot use it ({error}).") from error
    if most is not None:
        made.adapt(minimum_jobs=int(least), maximum_jobs=int(most))
    else:
        made.scale(jobs=int(jobs or 1))
    return made


def _close(client: Any) -> None:
    with suppress(OSError, TimeoutError):
        client.close(timeout=2)


class DaskCrew:
    """Cases on their way through a cluster, which may grow and shrink meanwhile."""

    def __init__(
        self,
        client: Any,
        plan: Plan,
        jobs: int,
        command: Callable[[dict[str, Any]], list[str]] | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            client: From ``cluster``.
            plan: Of the batch.
            jobs: Workers that share one machine's memory cap.
            command: Starts segmate's worker on the cluster; by default its own.
        """
        self._client = client
        self._jobs = jobs
        self._errand = dask_task.Errand(
            run=uuid.uuid4().hex,
            version=__version__,
            folder=os.getcwd(),
            out=str(plan.out.absolute()),
            settings=plan.settings.as_json(),
            timeout_s=plan.timeout_s,
            share_threads=jobs == 1,
            command=command,
        )
        self._given: dict[Any, Job] = {}
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._room = _LEAST_AHEAD
        self._counted = float("-inf")
        self._asked_to_stop = False

    @property
    def jobs(self) -> int:
        """Workers that share one machine's memory cap."""
        return self._jobs

    def busy(self) -> int:
        """Cases on the cluster."""
        return len(self._given)

    def has_room(self) -> bool:
        """Whether the cluster should get another; asked again, since it may have grown."""
        now = time.monotonic()
        if now - self._counted > _COUNT_SECONDS:
            self._counted = now
            with suppress(OSError, TimeoutError):
                threads = sum(self._client.nthreads().values())
                self._room = max(_LEAST_AHEAD, _AHEAD * threads)
        return len(self._given) < self._room

    def give(self, job: Job) -> None:
        """Send a job."""
        raw = job.as_json()
        key = dask_task.key_of(self._errand.run, raw)
        future = self._client.submit(dask_task.do, self._errand, raw, key=key, pure=False)
        self._given[future] = job
        future.add_done_callback(self._ended.put)

    def hear(self, seconds: float) -> list[Answer]:
        """What has come back.

        Raises:
            BatchStoppedError: The scheduler has gone.
        """
        found = []
        with suppress(queue.Empty):
            found.append(self._ended.get(timeout=seconds))
            while True:
                found.append(self._ended.get_nowait())
        if self._given and self._client.status not in ("running", "connecting"):
            raise BatchStoppedError("the Dask scheduler has gone; the same command goes on.")
        return [answer for future in found for answer in self._answers(future)]

    def _answers(self, future: Any) -> Iterator[Answer]:
        job = self._given.pop(future, None)
        if job is None:
            return
        if future.status != "finished":
            yield Answer("died", job, _death(future))
            return
        ((kind, facts),) = future.result().items()
        if kind != "stopped":
            yield Answer(kind, job, facts)

    def stop_soon(self) -> None:
        """Cases that have not been begun come back undone."""
        if not self._asked_to_stop:
            self._asked_to_stop = True
            self._set(self._errand.no_more)

    def end(self, *, at_once: bool) -> None:
        """Let segmate's processes on the cluster go."""
        if self._given:
            self.stop_soon()
            self._set(self._errand.at_once)
            with suppress(OSError, TimeoutError):
                self._client.cancel(list(self._given))
            self._given.clear()
        elif not at_once:
            with suppress(OSError, TimeoutError):
                self._client.run(dask_task.let_go, self._errand.run, on_error="ignore")

    def _set(self, event: str) -> None:
        from distributed import Event

        with suppress(OSError, TimeoutError):
            Event(event, client=self._client).set()


def _death(future: Any) -> dict[str, Any]:
    """The facts of a task that came to no end of its own."""
    error = future.exception() if future.status == "error" else None
    text = "the Dask workers that had it were killed" if error else "the cluster dropped it"
    kind = f" ({type(error).__name__})" if error else ""
    return {"cause": "crash", "exit_code": 1, "message": f"{text}{kind}.", "ready": True}
