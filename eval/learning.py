"""Policies learnt in imagination by Stable-Baselines3, and judged in the real world."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from tqdm import tqdm

from worldsim import checkpoint as checkpoints
from worldsim.agents.sb3 import GymVecEnv, LearnedPolicy, recorded_starts
from worldsim.dataset import EpisodeDataset
from worldsim.envs.tasks import TASKS
from worldsim.errors import UsageError
from worldsim.eval.acting import EPISODE_STEPS, START_SEED, STARTS, check_known, play, weights_digest
from worldsim.eval.learnt import MODEL, RECORD, algorithm_class, is_learnt, record_of
from worldsim.eval.planning_report import agent_row
from worldsim.eval.quality_report import number, table
from worldsim.provenance import describe, provenance, write_json
from worldsim.storage import write_atomically

WORLDS = ("dream", "truth")
_TRAIN_SEED = 7_000_000
"""Training scenes: far from those that policies are judged on."""
_CHUNKS = 20
"""So many times in a run the policy is saved and the curve gets a point."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnConfig:
    """What policies are trained with beside the algorithm's own defaults."""

    num_envs: int = 16
    horizon: int = EPISODE_STEPS
    """Steps of a training episode: dreams are short."""
    discount: float = 0.95
    recording: str | None = None
    """Folder of a recording from whose moments dreams branch off; None begins in scenes of the true world's own."""
    rollout_steps: int = 64
    """Steps of every environment between updates (PPO)."""
    batch_size: int = 256
    epochs: int = 4
    """Passes over each rollout (PPO)."""
    buffer_size: int = 20_000
    """Transitions that SAC remembers; when a run is resumed they are collected anew."""
    seed: int = 0


def learn(
    checkpoint: str | os.PathLike[str] = "arena-small",
    out: str | os.PathLike[str] = "runs/learn",
    task: str = "reach",
    algorithm: str = "ppo",
    *,
    world: str = "dream",
    observe: str = "frames",
    steps: int = 50_000,
    config: LearnConfig | None = None,
) -> dict[str, Any]:
    """Train a policy in the dream of a world model (or in the true world) and judge it in the true world.

    Args:
        checkpoint: the world model to train in: an embedded name, a checkpoint or run folder.
        out: folder of the run: ``model.zip``, ``results.json``, ``report.md``. If it holds an unfinished run of the
            same settings, that is continued.
        task: push, reach or uncover.
        algorithm: ppo or sac, of Stable-Baselines3.
        world: dream, or truth for comparison.
        observe: what the policy sees: frames, or the name of a readout such as state, which a dream predicts and the true
            world tells.
        steps: environment steps of training in all.
        config: everything else about the run.

    Returns what is written to ``results.json``; UsageError for unknown names and for a folder of other settings.

    """
    config = config or LearnConfig()
    check_known(task=(task, tuple(TASKS)), world=(world, WORLDS))
    if steps < 1:
        raise UsageError("steps", got=steps, allowed="1 or more", fix="--steps 50000")
    maker = algorithm_class(algorithm)
    folder = checkpoints.resolve(checkpoint)
    weights = weights_digest(folder)
    settings = {
        "task": task, "algorithm": algorithm, "world": world, "observe": observe, "steps": steps,
        "weights": weights if world == "dream" else None, **dataclasses.asdict(config),
    }  # fmt: skip
    run = _Run(Path(out), settings, config)
    run.begin(maker, str(folder))
    with tqdm(total=steps, initial=run.done, desc="learn", unit="step") as bar:
        while run.done < steps:
            before = run.done
            run.advance(max(1, steps // _CHUNKS))
            bar.update(run.done - before)
            bar.set_postfix(success=run.curve[-1]["success"], mean_return=run.curve[-1]["return"])
    if run.judged is None:
        run.judged = run.judge()
        run.save()
    return run.record()


@dataclasses.dataclass
class _Run:
    """A policy in training, its folder and its learning curve."""

    out: Path
    settings: dict[str, Any]
    config: LearnConfig
    done: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float | None]] = dataclasses.field(default_factory=list)
    judged: dict[str, Any] | None = None
    model: Any = None

    def begin(self, maker: Any, folder: str) -> None:
        """Make the environments and the algorithm, or take up what the folder holds."""
        from stable_baselines3.common.vec_env import VecMonitor

        found = record_of(self.out) if is_learnt(str(self.out)) else None
        if found is not None and found["settings"] != self.settings:
            changed = [name for name, value in self.settings.items() if found["settings"].get(name) != value]
            raise UsageError(
                f"out folder {self.out}",
                got=f"a run of other {', '.join(changed)}",
                allowed="a new folder, or the settings that the run was begun with",
                fix="give another --out",
            )
        envs = VecMonitor(self._environments(folder), info_keywords=("is_success",))
        if found is not None:
            self.model = maker.load(self.out / MODEL, env=envs, device="cpu")
            self.done, self.curve, self.judged = found["steps_done"], found["curve"], found["judged"]
            self.seconds = found["seconds"]
            return
        policy = "CnnPolicy" if self.settings["observe"] == "frames" else "MlpPolicy"
        own = self._algorithm_settings()
        self.model = maker(policy, envs, gamma=self.config.discount, seed=self.config.seed, device="cpu", **own)

    def advance(self, steps: int) -> None:
        """Train for some steps, note how it goes, and save."""
        from stable_baselines3.common.logger import Logger

        begun = time.perf_counter()
        self.model.set_logger(Logger(None, []))  # its own would leave an empty folder among the system's temporary ones
        self.model.learn(steps, reset_num_timesteps=False)
        self.seconds += time.perf_counter() - begun
        self.done = int(self.model.num_timesteps)
        recent = list(self.model.ep_info_buffer or [])
        mean = {
            "return": round(float(np.mean([one["r"] for one in recent])), 3) if recent else None,
            "success": round(float(np.mean([one["is_success"] for one in recent])), 3) if recent else None,
        }
        self.curve.append({"steps": self.done, **mean})
        self.save()

    def judge(self) -> dict[str, Any]:
        """Return how the policy does in the true world, on the starts that all agents are judged on."""
        env = gym.make("worldsim:worldsim/Arena-v0", task=self.settings["task"])
        policy = LearnedPolicy(self.model, self.settings["observe"])
        starts = tqdm(range(STARTS), desc="judge", unit="episode")
        return agent_row([play(env, policy, start, EPISODE_STEPS) for start in starts], 1)

    def record(self) -> dict[str, Any]:
        """Return what is written to ``results.json``."""
        return {
            "command": "learn", "settings": self.settings, "steps_done": self.done, "curve": self.curve,
            "judged": self.judged, "seconds": round(self.seconds, 1), **provenance(seed=START_SEED),
        }  # fmt: skip

    def save(self) -> None:
        """Write policy and record, each under a temporary name first."""
        self.out.mkdir(parents=True, exist_ok=True)
        temporary = self.out / f".{MODEL}.tmp.zip"
        self.model.save(temporary)
        temporary.replace(self.out / MODEL)
        record = self.record()
        write_json(self.out / RECORD, record)
        write_atomically(self.out / "report.md", markdown(record).encode())

    def _algorithm_settings(self) -> dict[str, Any]:
        c = self.config
        if self.settings["algorithm"] == "ppo":
            return {"n_steps": c.rollout_steps, "batch_size": c.batch_size, "n_epochs": c.epochs}
        return {"buffer_size": c.buffer_size, "batch_size": c.batch_size, "learning_starts": 1000}

    def _environments(self, folder: str) -> GymVecEnv:
        c, task = self.config, self.settings["task"]
        envs: VectorEnv[Any, Any, Any]
        starts = None
        if self.settings["world"] == "dream":
            envs = gym.make_vec(
                "worldsim:worldsim/Dream-v0", num_envs=c.num_envs, checkpoint=folder, task=task, num_steps=1,
                horizon=c.horizon, autoreset_mode=AutoresetMode.DISABLED,
            )  # fmt: skip
            starts = None if c.recording is None else _starts(c.recording)
        else:
            envs = gym.make_vec(
                "worldsim:worldsim/Arena-v0", num_envs=c.num_envs, vectorization_mode="sync", task=task,
                max_episode_steps=c.horizon, vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED},
            )  # fmt: skip
        seed = _TRAIN_SEED + 1000 * c.seed
        return GymVecEnv(envs, self.settings["observe"], starts, seed, (c.horizon, c.discount))


def _starts(recording: str) -> Any:
    """Return starts at moments of the training split of a recording."""
    dataset = EpisodeDataset.open(recording)
    try:
        episodes = dataset.episode_ids("train")
        shortest = min(dataset.episode(one).num_steps for one in episodes[:20])
        return recorded_starts(recording, episodes, shortest - dataset.spec.context_steps)
    finally:
        dataset.close()


def markdown(record: dict[str, Any]) -> str:
    """Return the report of a run as Markdown."""
    settings, judged = record["settings"], record["judged"]
    size = f"{record['steps_done']} of {settings['steps']} steps in {record['seconds']:.0f} s"
    lines = [
        f"# {settings['algorithm'].upper()} trained in the {settings['world']}: {settings['task']}",
        "",
        f"Sees {settings['observe']}; {size}. {describe(record)}",
        "",
        table(
            ["steps", "return of late episodes in training", "success there"],
            [[str(one[name]) for name in ("steps", "return", "success")] for one in record["curve"]],
        ),
    ]
    if judged is not None:
        success = judged["success"]
        lines += ["", f"In the true Arena, {success['n']} starts: success {number(success, 2)} (Wilson 95 %)."]
    return "\n".join([*lines, ""])
