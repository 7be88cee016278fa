"""Recording and probing on Ray and Dask: the same bytes as in one process, and mistakes that are explained."""

from __future__ import annotations

import itertools
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest

from worldsim import cli
from worldsim.envs import cluster as cluster_module
from worldsim.envs import record as recording
from worldsim.envs.cluster import REACH_SECONDS, on_cluster
from worldsim.envs.record import record_shards, recording_header
from worldsim.envs.workers import DECISIVE, _check_versions, _in_waves, _versions, in_processes, number_of_workers
from worldsim.errors import UsageError
from worldsim.eval.probe import probe

ARENA, STEPS, EPISODES = "worldsim/Arena-v0", 13, 4
FAMILIES = "P1d,P6-right"
MODEL = """
import numpy as np

class Freezes:
    def predict(self, context_frames, context_actions, actions, num_samples=1, seeds=None):
        return np.tile(context_frames[:, None, None, -1], (1, num_samples, actions.shape[1], 1, 1, 1))

class Stumbles:
    def predict(self, context_frames, context_actions, actions, num_samples=1, seeds=None):
        raise ArithmeticError("stumbled")
"""
ORIGIN = {"seconds", "time_utc", "commit", "dirty"}
"""What two probes may say otherwise: how long they took and when; in a checkout that is worked on, its commit."""


@pytest.fixture
def closed_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ("rya", "did you mean 'ray'"),
        ("Dask:tcp://here:8786", "did you mean 'dask'"),
        ("", "use one of: local, ray, dask"),
        ("local:4", "allowed is local, ray"),
        ("ray:", "ray:HOST:PORT"),
        ("dask:", "dask:tcp://HOST:PORT"),
        ("ray:head", "allowed is ray:HOST:6379"),
        ("ray:head:port", "allowed is ray:HOST:6379"),
        ("ray:ray://head:10001", "allowed is ray:HOST:6379.*on a machine of the cluster"),
        ("ray://head:10001", "allowed is ray:HOST:6379"),
        ("dask:tcp://head", "allowed is dask:tcp://HOST:8786"),
        ("dask:tcp://no-such-machine.invalid:8786", "no-such-machine.invalid.*that scheduler and workers are running"),
    ],
)
def test_backends_that_cannot_be_are_refused(backend: str, words: str) -> None:
    """A backend that is misspelt, unknown or has no whole address is refused in one paragraph, whatever is installed."""
    with pytest.raises(UsageError, match=words), on_cluster(backend):
        pytest.fail("nothing may run")


@pytest.mark.parametrize("backend", ["ray:127.0.0.1:{}", "dask:tcp://127.0.0.1:{}", "dask:127.0.0.1:{}"])
def test_address_without_listener_is_refused_at_once(backend: str, closed_port: int) -> None:
    """Where nobody listens, that is said within the time an answer may take, not after the minute that Ray would try for."""
    started = time.monotonic()
    with pytest.raises(UsageError, match=f"{closed_port}.*running cluster"), on_cluster(backend.format(closed_port)):
        pytest.fail("nothing may run")
    assert time.monotonic() - started < REACH_SECONDS + 1


@pytest.mark.parametrize("backend", ["ray:127.0.0.1:{}", "dask:tcp://127.0.0.1:{}"])
@pytest.mark.parametrize(
    ("answer", "words"),
    [(b"HTTP/1.1 400 Bad Request\r\n", "is not (Ray|Dask)"), (b"", "is not (Ray|Dask)"), (None, "timed out")],
    ids=["a page", "nothing", "silence"],
)
def test_address_of_something_else_is_refused(
    backend: str, answer: bytes | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where something listens else, or nothing answers any more, that is said at once: Ray would end this process and Dask wait."""
    monkeypatch.setattr(cluster_module, "REACH_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        lines = []

        def serve() -> None:
            lines.append(server.accept()[0])
            if answer is not None:
                lines[0].sendall(answer)
                lines[0].shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(UsageError, match=words), on_cluster(backend.format(server.getsockname()[1])):
            pytest.fail("nothing may run")
        thread.join()
        lines[0].close()


@pytest.mark.parametrize(("backend", "module"), [("ray", "ray"), ("dask", "dask"), ("dask", "dask.distributed")])
def test_missing_package_names_the_extra(backend: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the packages of the cluster extra, the error says how to install them."""
    if module == "dask.distributed":
        pytest.importorskip("dask")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=r"pip install 'worldsim\[cluster\]'"), on_cluster(backend):
        pytest.fail("nothing may run")


@pytest.mark.parametrize(
    "words",
    [["record", ARENA, "--episodes=1"], ["probe", "arena-small"], ["compare", "quick"]],
    ids=lambda words: words[0],
)
def test_every_command_takes_the_flag(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--backend` is explained by the commands' help, and refused before anything is written."""
    with pytest.raises(SystemExit):
        cli.main([words[0], "--help"])
    assert "--backend BACKEND" in (text := capsys.readouterr().out)
    assert "ray:HOST:6379" in text
    assert cli.main([*words, "--backend", "rya", "--out", str(tmp_path / "out")]) == 2
    assert "did you mean 'ray'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_local_is_what_it_was() -> None:
    """On this machine there is one worker per core by default, and any number if asked for."""
    with on_cluster("local"), on_cluster():
        assert number_of_workers(None) == joblib.cpu_count()
        assert number_of_workers(1000) == 1000


def test_workers_find_what_their_parent_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths mean the same in worker processes, also in those that were started in another folder."""
    assert set(in_processes([joblib.delayed(os.getcwd)()] * 2, 2)) == {str(Path.cwd())}
    monkeypatch.chdir(tmp_path)
    assert set(in_processes([joblib.delayed(os.getcwd)()] * 2, 2)) == {str(tmp_path)}


def test_other_versions_are_refused() -> None:
    """A worker refuses to work with other versions than its parent, and names the package."""
    _check_versions(_versions())
    assert {name for name, _ in _versions()} == {"worldsim", *DECISIVE}
    for name, version in _versions():
        with pytest.raises(UsageError, match=f"{name} .* instead of older"):
            _check_versions(((name, "older"),))
        assert version


def test_waves_come_in_order_and_as_they_are_done() -> None:
    """Where results come in lists, they come in order, and the first before the last task was begun."""
    drawn = itertools.count()
    tasks = (joblib.delayed(abs)(-next(drawn)) for _ in range(10))
    found = _in_waves(joblib.Parallel(n_jobs=2), tasks, 4)
    assert next(found) == 0
    assert next(drawn) == 4, "one wave has gone out"
    assert list(found) == [1, 2, 3, *range(5, 11)]


def test_folder_that_is_not_shared_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that a worker wrote and this machine never sees ends the recording with words about the folder."""
    monkeypatch.setattr(recording, "SHOWN_SECONDS", 0.0)
    with pytest.raises(UsageError, match=r"00003.hdf5 is not to be seen.*shared"):
        recording._wait_for(tmp_path / "shards" / "00003.hdf5")


def _ray_cluster() -> Iterator[str]:
    """Two nodes of one core each, as `ray start` would make them on two machines."""
    pytest.importorskip("ray")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    small = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=small)
    try:
        cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
        cluster.wait_for_nodes()
        yield f"ray:{cluster.address}"
    finally:
        cluster.shutdown()


def _dask_cluster() -> Iterator[str]:
    """A scheduler and two workers, a process each."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=logging.ERROR
    ) as cluster:
        yield f"dask:{cluster.scheduler_address}"


@pytest.fixture(scope="module", params=[_ray_cluster, _dask_cluster], ids=["ray", "dask"])
def cluster(request: pytest.FixtureRequest) -> Iterator[str]:
    """A cluster of two processes, as a command would be told of it."""
    yield from request.param()


def folder_bytes(folder: Path, besides: tuple[str, ...] = ("results.json",)) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in besides
    }


def record_short(folder: Path, workers: int | None = None) -> dict[str, Any]:
    """Record a few short Arena episodes, one a shard."""
    return record_shards(folder, recording_header(ARENA, {}, STEPS, 0), EPISODES, workers=workers, episodes_per_shard=1)


def probe_short(folder: Path, model: str = "Freezes", workers: int | None = None) -> dict[str, Any]:
    """Probe a model of `MODEL` with few scenes, and keep the true ones beside the report."""
    return probe(
        f"frozen_model:{model}", folder / "report", family=FAMILIES, truth=folder / "truth", workers=workers, scenes=2
    )


@pytest.fixture(scope="module")
def few_scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two scenes a family, and a model in a folder that only this process's own path holds."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "frozen_model.py").write_text(MODEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield


@pytest.fixture(scope="module")
def recorded_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording that this process made by itself."""
    folder = tmp_path_factory.mktemp("recorded")
    record_short(folder, workers=1)
    return folder


@pytest.fixture(scope="module")
def probed_alone(tmp_path_factory: pytest.TempPathFactory, few_scenes: None) -> tuple[Path, dict[str, Any]]:
    """A probe that this process made by itself: its folder, and what it says."""
    del few_scenes
    folder = tmp_path_factory.mktemp("probed")
    return folder / "report", probe_short(folder, workers=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_recording_on_a_cluster_is_the_same(
    cluster: str, recorded_alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers of a cluster record the shards and index that one process records, to the byte; only results.json differs.

    They work in the folder of whoever asks, and no more of them can be asked for than there are.
    """
    monkeypatch.chdir(tmp_path)
    with on_cluster(cluster):
        assert number_of_workers(None) == 2
        assert set(in_processes([joblib.delayed(os.getcwd)()] * 4, 2)) == {str(tmp_path)}
        pids = set(in_processes([joblib.delayed(os.getpid)()] * 4, 2))
        assert os.getpid() not in pids
        said = record_short(Path("many"))
        with pytest.raises(UsageError, match="workers: got 3"):
            record_short(Path("more"), workers=3)
    assert (said["workers"], said["backend"]) == (2, cluster)
    assert folder_bytes(recorded_alone) == folder_bytes(tmp_path / "many")
    assert len(list((tmp_path / "many" / "shards").iterdir())) == EPISODES


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_flag_leads_to_the_cluster(cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`worldsim record --backend` records on the cluster, and what it measured says so."""
    monkeypatch.chdir(tmp_path)
    command = ["record", ARENA, f"--episodes={EPISODES}", f"--steps={STEPS}", "--out", "again", "--backend", cluster]
    assert cli.main(command) == 0
    said = json.loads(Path("again/results.json").read_text())
    assert (said["backend"], said["episodes"]) == (cluster, EPISODES)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_probing_on_a_cluster_is_the_same(
    cluster: str, probed_alone: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Two workers of a cluster come to the scores, strips and numbers that one process comes to; times may differ.

    The reports in words say those times. A mistake that the model makes on a worker arrives as one paragraph.
    """
    report, alone = probed_alone
    with on_cluster(cluster):
        together = probe_short(tmp_path)
        with pytest.raises(UsageError, match=r"Stumbles.*ArithmeticError: stumbled"):
            probe_short(tmp_path / "stumbled", "Stumbles")
    assert {k: v for k, v in alone.items() if k not in ORIGIN} == {k: v for k, v in together.items() if k not in ORIGIN}
    timed = ("results.json", "report.md", "report.html")
    expected = folder_bytes(report, timed)
    assert "scenes.npz" in expected and any(name.startswith("strip_") for name in expected)
    assert expected == folder_bytes(tmp_path / "report", timed)


@pytest.mark.slow
def test_a_lost_worker_is_said(cluster: str) -> None:
    """A task that takes its worker with it ends in one paragraph, not in waiting."""
    with pytest.raises(UsageError, match="workers that stay until the end"), on_cluster(cluster):
        list(in_processes([joblib.delayed(os._exit)(1)] * 2, 2))


@pytest.mark.slow
def test_workers_with_threads_are_refused() -> None:
    """Dask workers of several threads are refused before anything is asked of them."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=":0") as made,
        pytest.raises(UsageError, match=r"2 threads.*--nworkers -1 --nthreads 1"),
        on_cluster(f"dask:{made.scheduler_address}"),
    ):
        pytest.fail("nothing may run")
