"""Work on a Ray or Dask cluster that is there already, through joblib. Knows nothing of what is worked on.

What works in processes does so through `worldsim.envs.workers`; here those processes become a cluster's.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import joblib

from worldsim.envs.workers import LOCAL, interrupts_held, working_at
from worldsim.errors import UsageError, suggestion

REACH_SECONDS = 5.0
"""How long a cluster may take to answer."""
_GREETINGS = {"ray": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)), "dask": b""}
"""How a client begins: Ray's as all of HTTP/2 do, with a fixed line and a frame of settings (RFC 9113, 3.4); Dask's waits."""
_ANSWERS: dict[str, Callable[[bytes], bool]] = {
    "ray": lambda said: said[3:4] == bytes((4,)),  # a frame of settings
    "dask": lambda said: b"pickle-protocol" in said,
}


@contextlib.contextmanager
def on_cluster(backend: str = LOCAL) -> Iterator[None]:
    """Let all that works in processes inside the ``with`` work on a cluster; leave what was connected at its end.

    Args:
        backend: where processes work: "local", the cores of this machine; "ray" or "ray:HOST:6379", a Ray cluster; "dask" or
            "dask:tcp://HOST:8786", a Dask cluster whose workers have one thread each. Without an address, the cluster that
            this machine belongs to or is set up for, else a new one on its cores. All machines need the same versions of
            everything, and the folders of the command on storage they share, under the same paths. Results are the same.

    Raises:
        UsageError: for an unknown backend, a package that is not installed, a cluster that does not answer or whose workers
            have several threads, and for one that loses workers.

    """
    kind, colon, address = backend.partition(":")
    if kind not in _BACKENDS or (colon and not address) or (kind == LOCAL and address):
        allowed = "local, ray, ray:HOST:PORT, dask or dask:tcp://HOST:PORT"
        raise UsageError("backend", got=repr(backend), allowed=allowed, fix=suggestion(kind, tuple(_BACKENDS)))
    if address:
        _reach(kind, address)
    with _BACKENDS[kind](address), working_at(backend):
        yield


@contextlib.contextmanager
def _local(address: str) -> Iterator[None]:
    del address
    yield


@contextlib.contextmanager
def _ray(address: str) -> Iterator[None]:
    """Work on a Ray cluster; a connection that was there already is used, and left as it was."""
    ray = _imported("ray")
    _imported("ray.util.joblib").register_ray()
    ours = not ray.is_initialized()
    if ours:
        _connect_ray(ray, address or os.environ.get("RAY_ADDRESS", ""))
    elif address and address != (there := ray.get_runtime_context().gcs_address):
        fix = "leave the address out, or call ray.shutdown() before"
        raise UsageError("backend", got=f"ray:{address}", allowed=f"{there}, which this process is in", fix=fix)
    try:
        if not ray.cluster_resources().get("CPU"):
            fix = "start Ray on another machine, or the first with --num-cpus"
            raise UsageError("backend", got="a Ray cluster without CPUs", allowed="1 CPU or more", fix=fix)
        with joblib.parallel_config(backend="ray", ray_remote_args={"num_cpus": 1}):
            yield
    except ray.exceptions.RayError as error:
        raise _lost("Ray", error) from error
    finally:
        if ours:
            ray.shutdown()


def _connect_ray(ray: Any, address: str) -> None:
    """Connect to the cluster at an address; without one to that of this machine, or start one on its cores."""
    if address and address != "auto":
        _reach("ray", address)
    else:  # a file says which cluster this machine belongs to, also when that one is gone
        known = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
        try:
            _reach("ray", known.read_text() if known.is_file() else "")
            address = "auto"
        except UsageError:
            address = "local"
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ray.exceptions.RayError) as error:  # no token, or another version of Ray or Python
        raise _unreachable("ray", address, error) from error


@contextlib.contextmanager
def _dask(address: str) -> Iterator[None]:
    """Work on a Dask cluster."""
    dask, distributed = _imported("dask"), _imported("dask.distributed")
    configured = "" if address else dask.config.get("scheduler-address", None) or ""
    if configured:
        _reach("dask", configured)
    address = address or configured
    with contextlib.ExitStack() as connected:
        if not address:
            with interrupts_held():
                address = connected.enter_context(
                    distributed.LocalCluster(
                        n_workers=joblib.cpu_count(),
                        threads_per_worker=1,
                        dashboard_address=":0",
                        silence_logs=logging.ERROR,
                    )
                )
        try:
            client = connected.enter_context(distributed.Client(address, timeout=REACH_SECONDS, set_as_default=False))
            client.wait_for_workers(1, timeout=REACH_SECONDS)
        except OSError as error:  # TimeoutError is one
            raise _unreachable("dask", str(address), error) from error
        _check_threads(client.nthreads())
        quiet = {"distributed.admin.large-graph-warning-threshold": "1GB"}  # scenes go out with tasks
        try:
            with dask.config.set(quiet), joblib.parallel_config(backend=_dask_backend(client)):
                yield
        except (distributed.KilledWorker, distributed.comm.CommClosedError, CancelledError) as error:
            raise _lost("Dask", error) from error


def _dask_backend(client: Any) -> Any:
    """Return joblib's backend for Dask, but one that says when a task ends without a result.

    Where a worker was killed with its task, joblib's waits for ever: nobody calls back.
    """

    class Backend(importlib.import_module("joblib._dask").DaskDistributedBackend):
        def submit(self, func: Any, callback: Any = None) -> Any:
            """Send a task out; ``callback`` hears what comes of it."""
            future = super().submit(func, callback)
            if callback is not None:
                future.add_done_callback(lambda done: done.exception() and callback(done.exception()))
            return future

    return Backend(client=client)


def _check_threads(threads: dict[str, int]) -> None:
    """Refuse workers of several threads: tasks keep a renderer and a model to themselves, as processes do."""
    several = [f"{worker} with {count} threads" for worker, count in threads.items() if count > 1]
    if several:
        fix = "start them with: dask worker SCHEDULER --nworkers -1 --nthreads 1"
        raise UsageError(
            "backend", got=f"{len(several)} Dask workers such as {several[0]}", allowed="one thread a worker", fix=fix
        )


_BACKENDS: dict[str, Callable[[str], contextlib.AbstractContextManager[None]]] = {
    LOCAL: _local, "ray": _ray, "dask": _dask,
}  # fmt: skip


def _imported(module: str) -> Any:
    """Import what the cluster extra installs, or say that it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        got = f"no {module.partition('.')[0]} ({error})"
        raise UsageError(
            "backend", got=got, allowed="the cluster extra", fix="pip install 'worldsim[cluster]'"
        ) from error


def _reach(kind: str, address: str) -> None:
    """Refuse an address that does not answer: Ray would try for more than a minute, and then end this process."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is no number
        host, port = None, None
    if not host or not port or (kind == "ray" and parts.scheme):
        example = {"ray": "ray:HOST:6379", "dask": "dask:tcp://HOST:8786"}[kind]
        fix = f"on a machine of the cluster, give {example} with the name of its head node and its port"
        raise UsageError("backend", got=f"{kind}:{address}", allowed=example, fix=fix)
    encrypted = parts.scheme == "tls" or (kind == "ray" and os.environ.get("RAY_USE_TLS", "0") not in ("", "0"))
    try:
        with socket.create_connection((host, port), timeout=REACH_SECONDS) as line:
            line.sendall(b"" if encrypted else _GREETINGS[kind])
            said = b""
            while not encrypted and not _ANSWERS[kind](said):
                more = line.recv(100)
                said += more
                if not more or len(said) > 1000:
                    raise OSError(f"what answers there is not {kind.capitalize()}")
    except OSError as error:
        raise _unreachable(kind, address, error) from error


def _unreachable(kind: str, address: str, error: Exception) -> UsageError:
    fix = {
        "ray": "check the address with `ray status --address HOST:6379` there; a cluster with tokens wants RAY_AUTH_MODE=token",
        "dask": "check that scheduler and workers are running, and that no firewall stands between",
    }[kind]
    got = f"{kind}:{address} ({' '.join(str(error).split()) or type(error).__name__})"
    return UsageError("backend", got=got, allowed="a running cluster that answers this machine", fix=fix)


def _lost(kind: str, error: Exception) -> UsageError:
    words = " ".join(str(error).split())
    if len(words) > 400:
        words = f"{words[:150]} ... {words[-250:]}"
    fix = (
        "run the same command again: what is finished is kept; if it happens again, see that all machines have the same "
        "worldsim, and memory enough"
    )
    got = f"an error of {kind} ({type(error).__name__}: {words})"
    return UsageError("backend", got=got, allowed="workers that stay until the end", fix=fix)
