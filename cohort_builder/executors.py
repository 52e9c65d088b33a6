"""Where shards run. The unit is one idempotent shard, so an executor only has to run the tasks it is given.

Later executors (a Slurm slice, Ray) are one class with this ``run`` and one line in ``load_executor``.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol, TypeVar

from cohort_builder.errors import SetupError

Task = TypeVar("Task")
Result = TypeVar("Result")


class Executor(Protocol):
    """Runs ``work`` over ``tasks`` and yields results as they come, in any order."""

    def run(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Yield one result per task."""
        ...


class LocalExecutor:
    """One after the other, in this process."""

    def run(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Yield ``work(task)`` for each task."""
        for task in tasks:
            yield work(task)


class ProcessExecutor:
    """``workers`` spawned processes, each building whole shards; paths travel, arrays do not."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Yield results as the workers finish.

        Raises
        ------
        SetupError
            If a worker process died (killed for memory, most often).

        """
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            min(self.workers, max(1, len(tasks))),
            mp_context=context,
            initializer=die_with_parent,
            initargs=(os.getpid(),),
        ) as pool:
            futures = [pool.submit(work, task) for task in tasks]
            try:
                for future in as_completed(futures):
                    yield future.result()
            except BrokenProcessPool as error:
                raise SetupError(
                    "a worker process died, most often for lack of memory: run again with fewer workers; finished "
                    "shards are kept. A script must call build_cohort under `if __name__ == '__main__':`"
                ) from error
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


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
