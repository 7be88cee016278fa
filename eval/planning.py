"""Agents judged in the real world: the same starts for all, success counted in MuJoCo, and what planners had imagined."""

from __future__ import annotations

import dataclasses
import importlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import joblib
import numpy as np
from tqdm import tqdm

from worldsim import checkpoint as checkpoints
from worldsim.agents import Policy, RandomPolicy, ScriptedPolicy
from worldsim.agents.objectives import Return
from worldsim.agents.planner import Planner, PlanSettings
from worldsim.agents.search import CEMPlanner, ICEMPlanner, MPPIPlanner, RandomShooting
from worldsim.envs.adapt import FrameWrapper, make_environment
from worldsim.envs.controls import ACTION_NAMES
from worldsim.envs.tasks import TASKS
from worldsim.envs.workers import in_processes, number_of_workers
from worldsim.errors import UsageError, suggestion
from worldsim.eval.acting import EPISODE_STEPS, START_SEED, STARTS, Outcome, check_known, play, weights_digest
from worldsim.eval.clips import enlarged, side_by_side, webp
from worldsim.eval.controllers import blind_sweep
from worldsim.eval.learnt import is_learnt, learnt_policy
from worldsim.eval.parts import Parts
from worldsim.eval.planning_report import STILL, agent_rows, markdown
from worldsim.provenance import provenance, write_json
from worldsim.spec import WorldSpec
from worldsim.storage import write_atomically

PLANNERS: Mapping[str, Callable[..., Planner]] = {
    "shooting": RandomShooting, "cem": CEMPlanner, "icem": ICEMPlanner, "mppi": MPPIPlanner,
}  # fmt: skip
ARENA = "worldsim/Arena-v0"
AGENTS = ("random", "blind", "truth", "dream")
ANYWHERE = ("random", STILL, "dream")
"""Agents that ask nothing of a world but its frames and rewards."""
OWN_TASK = "reward"
"""The task of a world that is not the Arena: what its environment rewards, until it ends."""
OWN_STEPS = 200
"""Steps after which an episode of such a world is ended, if it does not end itself."""
DREAM_STEPS = 1
"""Sampler steps of the dreams that plans are tried in: many rough futures serve a search better than few fine ones."""
FILMED = 3
"""Starts of which clips are kept."""
FREE = {"push": (0, 1), "reach": (0, 1), "uncover": tuple(range(len(ACTION_NAMES)))}
"""Elements of the action that are planned in each task, unless the settings name others: a smaller search, by the task's own
nature (where the pusher goes), and the same for every planner."""


def plan(
    checkpoint: str | os.PathLike[str] = "arena-small",
    out: str | os.PathLike[str] = "runs/plan",
    task: str | None = None,
    planner: str = "icem",
    agents: str | None = None,
    *,
    starts: int = STARTS,
    settings: PlanSettings | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Let agents act in the true world from the same starts, and count there who succeeds, or who earns how much.

    Args:
        checkpoint: the world model that the dreaming agent plans in: an embedded name, a checkpoint or run folder.
        out: folder for ``results.json``, ``report.md`` and clips; files of these names are replaced.
        task: push, reach or uncover; by default reach. Of a world that is not the Arena, what its environment rewards.
        planner: how plans are searched: shooting, cem, icem, mppi, or MODULE:CLASS, a `Planner` of your own.
        agents: which agents, separated by commas: random actions, a blind script, the planner on the truth
            (a ceiling), the planner on the dream; and folders of `worldsim learn`. By default the four, or where the
            world is not the Arena random actions, "still" (zero throughout, where actions are amounts) and the dream.
        starts: number of starts, the same ones for every agent.
        settings: horizon, candidates, iterations and so on of both planners.
        workers: processes that play starts beside each other; None for one per core. A dream has one core then, and all with 1.

    Finished episodes are kept in a hidden folder inside ``out`` until the report is written: run the same command again
    after an interruption and it goes on where it stopped.

    Returns what is written to ``results.json``; UsageError for unknown names, no workers and unfit settings.

    """
    begun = time.perf_counter()
    settings, workers = settings or PlanSettings(), number_of_workers(workers)
    folder = checkpoints.resolve(checkpoint)
    loaded = checkpoints.load(folder)
    arena = loaded.world.env_id == ARENA
    task = task or ("reach" if arena else OWN_TASK)
    names = _checked(task, planner, _usual_agents(loaded.world) if agents is None else agents, starts, arena=arena)
    if "dream" in names:
        _check_horizon(settings, loaded.model.window)
    origin = provenance(seed=START_SEED)
    weights = weights_digest(folder)
    chosen = {"task": task, "planner": planner, **dataclasses.asdict(settings), "free": settings.free or FREE.get(task)}
    parts = Parts(Path(out), {**chosen, "weights": weights, "code": [origin["commit"], origin["dirty"]]})
    table: dict[str, list[Outcome]] = {}
    with tqdm(total=len(names) * starts, desc="plan", unit="episode") as bar:
        for name in names:
            bar.set_postfix_str(name)
            maker = _Maker(name, str(folder), task, planner, settings)
            table[name] = _episodes(maker, starts, parts, workers, bar)
    rows = agent_rows(table, settings.replan)
    results = {
        "command": "plan", "checkpoint": str(checkpoint), "weights": weights, "starts": starts,
        "world": loaded.world.env_id, "episode_steps": EPISODE_STEPS if arena else OWN_STEPS, "settings": chosen, **origin, "agents": rows,
        "clips": _save_clips(Path(out), table), "seconds": round(time.perf_counter() - begun, 1),
    }  # fmt: skip
    write_json(Path(out) / "results.json", results)
    write_atomically(Path(out) / "report.md", markdown(results).encode())
    parts.clear()
    return results


def _check_horizon(settings: PlanSettings, window: int) -> None:
    if settings.horizon > window:
        allowed = f"at most {window}, the frames that the dream remembers"
        raise UsageError("horizon", got=settings.horizon, allowed=allowed, fix="a shorter --settings.horizon")


def _usual_agents(world: WorldSpec) -> str:
    """Return the agents that stand beside each other unless others are asked for; where actions are choices, none is no choice."""
    if world.env_id == ARENA:
        return ",".join(AGENTS)
    return ",".join(name for name in ANYWHERE if name != STILL or not world.action_choices)


def _checked(task: str, planner: str, agents: str, starts: int, *, arena: bool) -> list[str]:
    """Return the agents' names; UsageError for what is not known in this world."""
    check_known(task=(task, tuple(TASKS) if arena else (OWN_TASK,)))
    planner_called(planner)
    known, more = (AGENTS, ", or a folder of worldsim learn") if arena else (ANYWHERE, "")
    names = [name.strip() for name in agents.split(",") if name.strip()]
    for name in names:
        if name not in known and not (arena and is_learnt(name)):
            fix = suggestion(name, known)
            raise UsageError("agents", got=repr(name), allowed=f"{', '.join(known)}{more}", fix=fix)
    if starts < 1 or not names:
        raise UsageError(
            "starts, agents", got=f"{starts}, {agents!r}", allowed="one or more of each", fix="--starts 50"
        )
    return names


def planner_called(name: str) -> Callable[..., Planner]:
    """Return the planner of a name, one of worldsim's or MODULE:CLASS; UsageError if there is none."""
    module, colon, attribute = name.partition(":")
    if not colon:
        check_known(planner=(name, tuple(PLANNERS)))
        return PLANNERS[name]
    allowed = f"{', '.join(PLANNERS)}, or MODULE:CLASS of a worldsim.agents.planner.Planner"
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        fix = f"{error}; run from the folder that holds the module, or install it"
        raise UsageError("planner", got=repr(name), allowed=allowed, fix=fix) from error
    if not (isinstance(kind, type) and issubclass(kind, Planner)):
        raise UsageError("planner", got=f"{name}, a {type(kind).__name__}", allowed=allowed, fix="docs/your-planner.md")
    return kind


class _Maker:
    """Makes an agent and the world it acts in: picklable, so that processes can make their own."""

    def __init__(self, name: str, folder: str, task: str, planner: str, settings: PlanSettings) -> None:
        self.name, self.folder, self.task, self.planner, self.settings = name, folder, task, planner, settings
        self._made: tuple[gym.Env[Any, Any], Policy] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}

    def play(self, start: int, *, film: bool) -> Outcome:
        """Play the episode of a start."""
        own = self.task == OWN_TASK
        if self._made is None:
            env = self._own_world() if own else gym.make(f"worldsim:{ARENA}", task=self.task)
            self._made = env, self._policy(env)
        return play(*self._made, start, OWN_STEPS if own else EPISODE_STEPS, film=film)

    def _own_world(self) -> gym.Env[Any, Any]:
        world = checkpoints.load(self.folder).world
        return FrameWrapper(make_environment(world.env_id, world.env_kwargs))

    def _policy(self, env: gym.Env[Any, Any]) -> Policy:
        if self.name == "random":
            assert isinstance(env.action_space, gym.spaces.Box)
            return RandomPolicy(env.action_space, hold_steps=self.settings.hold)
        if self.name == STILL:
            assert isinstance(env.action_space, gym.spaces.Box)
            none = np.zeros(env.action_space.shape, np.float32).clip(env.action_space.low, env.action_space.high)
            return ScriptedPolicy(np.tile(none, (OWN_STEPS, 1)))
        if self.name == "blind":
            return ScriptedPolicy(blind_sweep())
        if self.name not in (*AGENTS, *ANYWHERE):
            return learnt_policy(self.name)
        free = self.settings.free or FREE.get(self.task)
        settings = dataclasses.replace(self.settings, free=free)
        if self.name == "truth":
            return planner_called(self.planner)(env, None, settings, live=True)
        own = self.task == OWN_TASK
        task = None if own else self.task
        dream = gym.make("worldsim:worldsim/Dream-v0", checkpoint=self.folder, task=task, num_steps=DREAM_STEPS)
        return planner_called(self.planner)(dream, Return(ends_pay=not own), settings)


def _episodes(maker: _Maker, starts: int, parts: Parts, workers: int, bar: tqdm[Any]) -> list[Outcome]:
    """Play all starts of one agent, each kept as soon as it ends."""
    done: list[Outcome] = []
    for outcome in in_processes((joblib.delayed(_kept)(parts, maker, start) for start in range(starts)), workers):
        done.append(outcome)
        bar.update()
    return done


def _kept(parts: Parts, maker: _Maker, start: int) -> Outcome:
    """Play one start, unless it was kept; the dreaming agent's first ones are filmed."""
    name = f"{maker.name.replace('/', '_')}_{start}"
    return parts.get(name, lambda: maker.play(start, film=maker.name == "dream" and start < FILMED))


def _save_clips(out: Path, table: Mapping[str, Sequence[Outcome]]) -> list[str]:
    """Write clips of what was imagined (left) and what came true (right) of the first starts, and return their names."""
    names = []
    for agent, outcomes in table.items():
        for start, outcome in enumerate(outcomes):
            if outcome.real is not None and outcome.imagined is not None:
                frames = side_by_side([enlarged(outcome.imagined, 3), enlarged(outcome.real, 3)])
                names.append(f"{agent}_{start}.webp")
                write_atomically(out / names[-1], webp(frames, 150))
    return names
