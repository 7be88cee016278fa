"""Worker processes that leave Ctrl-C to their parent. Knows nothing of what they work on."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterable, Iterator
from typing import Any, Literal, cast

import joblib


def in_processes(
    tasks: Iterable[Any], workers: int, *, order: Literal["generator", "generator_unordered"] = "generator"
) -> Iterator[Any]:
    """Run joblib's delayed ``tasks`` in ``workers`` processes and yield their results, in order or as they finish.

    A terminal sends Ctrl-C to every process of its group. Here the parent alone answers, ends its workers and says one
    sentence; workers would each print a traceback.
    """
    parallel = joblib.Parallel(n_jobs=workers, return_as=order)
    with _interrupts_held():
        return cast(Iterator[Any], parallel(tasks))


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold interrupts back for a moment: processes started meanwhile never get one, this one gets it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
