"""Record: many episodes of an environment, in parallel processes, into a folder that a killed run can be resumed in.

Every shard is a pure function of the settings, so a resumed recording equals one that was never interrupted. Knows
nothing of how an episode is made (`worldsim.envs.collect`) or laid out on disk (`worldsim.storage`).
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
from tqdm import tqdm

from worldsim.envs.adapt import make_environment
from worldsim.envs.arena import ArenaEnv
from worldsim.envs.behaviours import BEHAVIOURS_VERSION
from worldsim.envs.collect import collect, frames_differ, recorded_spec
from worldsim.envs.drivers import load_actor
from worldsim.envs.workers import backend_in_use, in_processes, number_of_workers
from worldsim.errors import UsageError
from worldsim.storage import RecordingHeader, build_index, shard_is_whole, shard_path, write_atomically, write_shard

RESULTS_NAME = "results.json"
EPISODES_PER_SHARD = 50
"""What a kill can cost, per worker."""
SHOWN_SECONDS = 60.0
"""How long a network folder may take to show what another machine wrote: as long as NFS may keep what it knows of a folder."""


def record(
    env_id: str,
    *,
    out: str | Path,
    episodes: int,
    steps: int = 64,
    seed: int = 0,
    workers: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    policy: str = "random",
) -> dict[str, Any]:
    """Record ``episodes`` episodes of ``env_id`` into the folder ``out`` and return what was measured.

    Args:
        env_id: a Gymnasium id; "worldsim/Arena-v0" is driven by scripted behaviours, anything else by ``policy``.
        out: the folder; whole shards of the same recording in it are kept, so running again resumes or extends. On a cluster
            it must be one that all machines see under the same path.
        episodes: number of episodes in the finished recording.
        steps: actions of an episode, the Arena's lead-in included.
        seed: of the recording; episode i is a pure function of (seed, i).
        workers: processes, each with one renderer; default one per core, of the machine or the cluster. A kill costs each at
            most 50 episodes.
        env_kwargs: arguments of the environment.
        policy: "random"; MODULE:FUNCTION, which takes an observation and returns an action; or sb3:FILE.zip, a policy that
            Stable-Baselines3 saved (pickled Python: only your own), which random actions interrupt now and then.

    Inside ``with worldsim.envs.cluster.on_cluster(...)`` the processes are a cluster's, and the shards the same to the byte.

    Returns:
        What is also written to ``results.json``: frames per second, seconds, frames, machine.

    Raises:
        UsageError: for an environment without RGB frames or flat actions, numbers out of range, a policy that cannot be
            loaded, a folder that holds another recording or is not shared with the cluster, or a full disk.

    """
    _check_counts(episodes=episodes, steps=steps)
    header = recording_header(env_id, dict(env_kwargs or {}), steps, seed, policy)
    return record_shards(Path(out), header, episodes, workers=workers)


def recording_header(
    env_id: str, env_kwargs: dict[str, Any], steps: int, seed: int, policy: str = "random"
) -> RecordingHeader:
    """Look at the environment once and return what all shards of its recording share."""
    env = make_environment(env_id, env_kwargs)
    try:
        spec = recorded_spec(env, env_id, env_kwargs)
        driven = not isinstance(env.unwrapped, ArenaEnv)
    finally:
        env.close()
    if steps <= spec.context_steps:
        fix = "ask for longer episodes"
        raise UsageError("steps", got=steps, allowed=f"more than the lead-in's {spec.context_steps}", fix=fix)
    if policy != "random" and not driven:
        fix = "leave it out, or record an environment of your own around the Arena"
        raise UsageError("policy", got=policy, allowed="random: the Arena has behaviours of its own", fix=fix)
    load_actor(policy)
    details = {"env_kwargs": env_kwargs, "steps": steps, "behaviours": BEHAVIOURS_VERSION}
    return RecordingHeader(
        spec=spec, seed=seed, details=details if policy == "random" else {**details, "policy": policy}
    )


def record_shards(
    folder: Path,
    header: RecordingHeader,
    episodes: int,
    *,
    workers: int | None = None,
    episodes_per_shard: int = EPISODES_PER_SHARD,
) -> dict[str, Any]:
    """Record what is missing of ``episodes`` episodes and return what was measured; see `record`."""
    shards = [
        range(first, min(first + episodes_per_shard, episodes)) for first in range(0, episodes, episodes_per_shard)
    ]
    missing = {k: ids for k, ids in enumerate(shards) if not shard_is_whole(folder, k, header, ids)}
    workers = number_of_workers(workers)
    started = time.perf_counter()
    frames = _record_shards(folder, header, missing, workers)
    seconds = time.perf_counter() - started
    records = build_index(folder)
    results = {
        "command": "record",
        "environment": header.spec.env_id,
        "episodes": len(records),
        "frames": sum(r.num_steps + 1 for r in records),
        "frames_recorded_now": frames,
        "seconds": round(seconds, 3),
        "frames_per_second": round(frames / seconds, 1) if frames else None,
        "workers": workers,
        "backend": backend_in_use(),
        "machine": _machine(),
    }
    if frames or not (folder / RESULTS_NAME).exists():
        write_atomically(folder / RESULTS_NAME, (json.dumps(results, indent=2) + "\n").encode())
    return results


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise UsageError(name, got=count, allowed="a whole number, at least 1", fix=f"give {name} a larger value")


def _record_shards(folder: Path, header: RecordingHeader, missing: Mapping[int, Sequence[int]], workers: int) -> int:
    """Record the missing shards in ``workers`` processes and return the number of frames; shows frames per second."""
    tasks = [joblib.delayed(_record_shard)(folder.absolute(), header, shard, ids) for shard, ids in missing.items()]
    finished: Iterator[tuple[int, int, int]] = in_processes(tasks, workers, order="generator_unordered")
    episodes = sum(len(ids) for ids in missing.values())
    frames, started = 0, time.perf_counter()
    with tqdm(total=episodes, desc="recording", unit="episode", disable=not missing) as bar:
        for shard, shard_episodes, shard_frames in finished:
            _wait_for(shard_path(folder, shard))
            frames += shard_frames
            bar.update(shard_episodes)
            bar.set_postfix_str(f"{frames / (time.perf_counter() - started):.0f} frames/s")
    return frames


def _wait_for(path: Path) -> None:
    """Return when a shard can be seen that a process, maybe on another machine, has written."""
    deadline = time.monotonic() + SHOWN_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            got = f"{path.parent.parent}, where {path.name} is not to be seen, which another machine wrote"
            fix = "give a folder on storage that all machines have mounted at the same path"
            raise UsageError("out", got=got, allowed="a folder shared with the cluster", fix=fix)
        time.sleep(0.2)


def _record_shard(folder: Path, header: RecordingHeader, shard: int, ids: Sequence[int]) -> tuple[int, int, int]:
    """Record one shard in this process and return its number, and those of its episodes and frames."""
    spec = header.spec
    env = make_environment(spec.env_id, header.details["env_kwargs"])
    try:
        steps, actor = header.details["steps"], load_actor(header.details.get("policy", "random"))
        episodes = {i: collect(env, seed=header.seed, episode_id=i, steps=steps, actor=actor) for i in ids}
    finally:
        env.close()
    for i, episode in episodes.items():
        if episode.frames.shape[1:] != spec.frame_shape:
            raise frames_differ(episode.frames.shape[1:], spec.frame_shape, f"in episode {i}")
    write_shard(folder, shard, header, episodes)
    return shard, len(episodes), sum(len(episode.frames) for episode in episodes.values())


def _machine() -> dict[str, Any]:
    """Return what the measured speed depends on."""
    import mujoco

    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "opengl": os.environ.get("MUJOCO_GL", "default"),
        "python": platform.python_version(),
        "mujoco": mujoco.__version__,
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
