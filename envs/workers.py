"""Worker processes that leave Ctrl-C to their parent. Knows nothing of what they work on."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker
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
    deaf = ((_deafly, (function, *args), kwargs) for function, args, kwargs in tasks)
    with _interrupts_held():
        return cast(Iterator[Any], parallel(deaf))


def _deafly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a task; a worker takes no interrupts from its first one on, should they have been let through to it."""
    if multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return function(*args, **kwargs)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold interrupts back for a moment: processes started meanwhile never get one, this one gets it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # started later, it would let interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
