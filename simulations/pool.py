"""Runs many tasks in processes of one thread each, with a bar, and stops at the first error.

What the tasks are is the caller's; their results come in the tasks' order, so that they do not depend on who is quick.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager
from multiprocessing import get_context
from typing import Any

import torch

Progress = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]


def pool_of(workers: int) -> ProcessPoolExecutor:
    """Return a pool of fresh processes that compute on one thread each: sums come out the same on any machine."""
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,))


def run_all(pool: ProcessPoolExecutor, progress: Progress, label: str, tasks: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Run all tasks, each a function with its arguments, and return their results in order; the first error ends it."""
    waiting: set[Future[Any]] = set()
    futures = [pool.submit(*task) for task in tasks]
    with progress(label, len(futures)) as tell:
        waiting.update(futures)
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                if future.exception() is not None:
                    pool.shutdown(wait=False, cancel_futures=True)
                future.result()
            tell(len(futures) - len(waiting))
    return [future.result() for future in futures]
