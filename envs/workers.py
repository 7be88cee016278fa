"""Worker processes, on this machine or a cluster (`worldsim.envs.cluster`). Knows nothing of what they work on.

A task goes out with where it was asked for, so that it finds there what it would find here: the folder that relative
paths begin in, the user's own modules, the same versions. Ctrl-C is left to the parent.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import hashlib
import importlib.metadata
import itertools
import multiprocessing
import platform
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Literal, cast

import joblib

import worldsim
from worldsim.errors import UsageError

LOCAL = "local"
WAVE = 4
"""Tasks a worker that go out together where results cannot be had one by one: more of them wait less for the last, and
show less often how far it is."""
DECISIVE = ("mujoco", "numpy", "torch", "gymnasium")
"""Packages that decide what a result is, beside worldsim's own code."""
_THIS_PROCESS = uuid.uuid4().hex


class Place:
    """Where processes work. Those that were started go on to the next tasks: starting one takes seconds, most of them imports."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self._started: joblib.Parallel | None = None

    def started(self, workers: int) -> joblib.Parallel:
        """Return ``workers`` processes or more, that work until `close`."""
        if self._started is None or self._started.n_jobs < workers:
            self.close()
            self._started = joblib.Parallel(n_jobs=workers)
            self._started.__enter__()
        return self._started

    def close(self) -> None:
        """End the processes that were started."""
        if self._started is not None:
            self._started.__exit__(None, None, None)
            self._started = None


_THIS_MACHINE = Place(LOCAL)
_PLACE = contextvars.ContextVar[Place | None]("place", default=None)


@contextlib.contextmanager
def working_at(backend: str) -> Iterator[None]:
    """Say, inside a ``with``, where the processes of joblib's backend are: `worldsim.envs.cluster.on_cluster` does."""
    place = Place(backend)
    token = _PLACE.set(place)
    try:
        yield
    finally:
        _PLACE.reset(token)
        place.close()


def _place() -> Place:
    return _PLACE.get() or _THIS_MACHINE


def backend_in_use() -> str:
    """Return where processes work now: "local", or as a cluster was called."""
    return _place().backend


def number_of_workers(asked: int | None) -> int:
    """Return how many processes work: those that were asked for, or all there are, one per core of this machine or the cluster.

    UsageError if a cluster has not so many, or for less than one.
    """
    there = joblib.effective_n_jobs(-1)
    if asked is not None and asked < 1:
        raise UsageError("workers", got=asked, allowed="1 or more", fix="leave it out to use all cores")
    if asked is not None and asked > there and backend_in_use() != LOCAL:
        allowed = f"at most {there}, the size of the cluster at {backend_in_use()}"
        raise UsageError("workers", got=asked, allowed=allowed, fix="leave it out to use all of the cluster")
    return there if asked is None else asked


def in_processes(
    tasks: Iterable[Any], workers: int, *, order: Literal["generator", "generator_unordered"] = "generator"
) -> Iterator[Any]:
    """Run joblib's delayed ``tasks`` in ``workers`` processes and yield their results, in order or as they finish.

    The processes are this machine's, or a cluster's inside `worldsim.envs.cluster.on_cluster`. A terminal sends Ctrl-C to
    every process of its group. Here the parent alone answers, ends its workers and says one sentence; workers would each
    print a traceback.
    """
    home = _Home.here()
    sent = ((_run, (_Task(home, function, args, kwargs),), {}) for function, args, kwargs in tasks)
    # Dask lets a job have all of its workers, however few were asked for: then no more tasks are let out than that
    few = backend_in_use() != LOCAL and workers < joblib.effective_n_jobs(-1)
    try:
        parallel = joblib.Parallel(n_jobs=workers, return_as=order, pre_dispatch=str(workers) if few else "2 * n_jobs")
    except ValueError:  # Ray's backend hands results over all at once, and refuses to do otherwise
        return _in_waves(_place().started(workers), sent, WAVE * workers)
    with interrupts_held():
        return cast(Iterator[Any], parallel(sent))


def spread(function: Callable[[Any], list[Any]], items: Sequence[Any], workers: int, rounds: int = 1) -> list[Any]:
    """Return what ``function`` (some of the items) returns for all of ``items``, in order, from ``workers`` processes.

    Each of them is given ``rounds`` parts of the items: one where opening a world is what takes long, more where items
    take differently long.
    """
    size = max(1, -(-len(items) // (rounds * workers)))
    parts = [items[first : first + size] for first in range(0, len(items), size)]
    tasks = [joblib.delayed(function)(part) for part in parts]
    return [one for done in in_processes(tasks, min(workers, len(parts))) for one in done]


def _in_waves(parallel: joblib.Parallel, tasks: Iterator[Any], size: int) -> Iterator[Any]:
    """Yield results in order, ``size`` tasks after ``size``: something can be shown, and kept, before all are done."""
    while wave := list(itertools.islice(tasks, size)):
        yield from cast(list[Any], parallel(wave))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Home:
    """Where a task was asked for."""

    process: str
    folder: str
    modules: tuple[str, ...]
    """Folders that modules are imported from."""
    versions: tuple[tuple[str, str], ...]
    """Of what decides results; none where tasks stay on this machine."""

    @classmethod
    def here(cls) -> _Home:
        """Return this process, as a task needs to know it."""
        versions = () if backend_in_use() == LOCAL else _versions()
        return cls(process=_THIS_PROCESS, folder=str(Path.cwd()), modules=tuple(sys.path), versions=versions)


@dataclasses.dataclass(frozen=True, eq=False)
class _Task:
    """A call, and where it was asked for. One object, because Ray keeps every large argument it sees while there are workers."""

    home: _Home
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def _run(task: _Task) -> Any:
    """Run a task as it would run where it was asked for."""
    home = task.home
    if home.process == _THIS_PROCESS:
        return task.function(*task.args, **task.kwargs)
    # A worker takes no interrupts from its first task on, should they have been let through to it. Main threads may say so.
    if multiprocessing.parent_process() is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if home.versions:
        _check_versions(home.versions)
    sys.path += [folder for folder in home.modules if folder not in sys.path]
    with contextlib.chdir(home.folder) if Path(home.folder).is_dir() else contextlib.nullcontext():
        return task.function(*task.args, **task.kwargs)


def _check_versions(wanted: tuple[tuple[str, str], ...]) -> None:
    """Refuse to work with other versions: results would differ, and nobody would know."""
    found = dict(_versions())
    differing = [f"{name} {found[name]} instead of {version}" for name, version in wanted if found[name] != version]
    if differing:
        raise UsageError(
            "backend", got=f"a machine ({platform.node()}) with {', '.join(differing)}",
            allowed="the same versions on all machines", fix="install the same on all of them, start their workers again, and change nothing while they work",
        )  # fmt: skip


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    """Return the versions of what decides results: of worldsim itself a hash over its sources."""
    root, digest = Path(worldsim.__file__).parent, hashlib.sha256()
    for source in sorted([*root.glob("*.py"), *root.glob("*/*.py")]):
        digest.update(source.relative_to(root).as_posix().encode() + b"\0" + source.read_bytes())
    code = f"{worldsim.__version__} (sources {digest.hexdigest()[:12]})"
    return (("worldsim", code), *((name, importlib.metadata.version(name)) for name in DECISIVE))


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
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
