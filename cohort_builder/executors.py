"""Where shards run. The unit is one idempotent shard, so an executor only has to run the tasks it is given.

Later executors (a Slurm slice, Ray) are one class with this ``run`` and one line in ``load_executor``.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.queues import SimpleQueue
from typing import Any, Protocol, TypeVar

from cohort_builder.errors import SetupError

Task = TypeVar("Task")
Result = TypeVar("Result")
Message = TypeVar("Message")

_LISTEN_SECONDS = 0.2


class Executor(Protocol):
    """Runs ``work`` over ``tasks`` and yields results as they come, in any order.

    ``work`` gets a task and a function to tell the caller how it goes; ``hear`` gets what is told, in the caller's
    thread, and all that a task tells before its result.
    """

    def run(
        self,
        work: Callable[[Task, Callable[[Message], None]], Result],
        tasks: Sequence[Task],
        hear: Callable[[Message], None],
    ) -> Iterator[Result]:
        """Yield one result per task."""
        ...


class LocalExecutor:
    """One after the other, in this process."""

    def run(
        self,
        work: Callable[[Task, Callable[[Message], None]], Result],
        tasks: Sequence[Task],
        hear: Callable[[Message], None],
    ) -> Iterator[Result]:
        """Yield the result of each task."""
        for task in tasks:
            yield work(task, hear)


class ProcessExecutor:
    """``workers`` spawned processes, each building whole shards; paths travel, arrays do not."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(
        self,
        work: Callable[[Task, Callable[[Message], None]], Result],
        tasks: Sequence[Task],
        hear: Callable[[Message], None],
    ) -> Iterator[Result]:
        """Yield results as the workers finish.

        Raises
        ------
        SetupError
            If a worker process died (killed for memory, most often).

        """
        context = multiprocessing.get_context("spawn")
        told = context.SimpleQueue()
        with ProcessPoolExecutor(
            min(self.workers, max(1, len(tasks))),
            mp_context=context,
            initializer=_start_worker,
            initargs=(os.getpid(), told),
        ) as pool:
            pending: set[Future[Result]] = {pool.submit(partial(_tell_and_work, work), task) for task in tasks}
            try:
                while pending:
                    done, pending = wait(pending, _LISTEN_SECONDS, FIRST_COMPLETED)
                    while not told.empty():
                        hear(told.get())
                    for future in done:
                        yield future.result()
            except BrokenProcessPool as error:
                raise SetupError(
                    "a worker process died, most often for lack of memory: run again with fewer workers; finished "
                    "shards are kept. A script must call build_cohort under `if __name__ == '__main__':`"
                ) from error
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                while not all(future.done() for future in pending):  # a worker that nobody hears would wait for ever
                    while not told.empty():
                        told.get()
                    time.sleep(_LISTEN_SECONDS)


_told: list[SimpleQueue[Any]] = []
"""In a worker process: the way to its parent."""


def _start_worker(parent: int, told: SimpleQueue[Any]) -> None:
    die_with_parent(parent)
    _told[:] = [told]


def _tell_and_work(work: Callable[[Task, Callable[[Message], None]], Result], task: Task) -> Result:
    return work(task, _told[0].put)


def load_executor(workers: int) -> Executor:
    """Pick the executor for ``workers`` processes."""
    return LocalExecutor() if workers == 1 else ProcessExecutor(workers)


def die_with_parent(parent: int) -> None:
    """End this worker process when its parent is gone: a killed run must not leave writers behind.

    The initializer of every process pool; ``parent`` is the process id of the pool's owner.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
