"""A true world and a dream that begin alike and get the same actions. Knows no player and no network."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from worldsim.envs.dream import DreamEnv
from worldsim.envs.dream_context import CONTEXTS, Context, bundled_context, read_bundled
from worldsim.errors import UsageError
from worldsim.play.tape import Beginning
from worldsim.play.truth import Truth, open_truth
from worldsim.state import WorldState
from worldsim.world_model import WorldModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dreamt:
    """What the dream shows and what the model reads off it."""

    frame: UInt8[np.ndarray, "h w 3"]
    reward: float
    success: bool
    readouts: dict[str, Float32[np.ndarray, " n"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saved:
    """Both worlds at one time, whole."""

    step: int
    truth: Any
    dream: WorldState
    dreamt: Dreamt


class Pair:
    """The worlds of one player. ``truth`` is None where the true world cannot be had; ``missing`` says why."""

    def __init__(self, model: WorldModel, folder: Path) -> None:
        self.spec = model.spec
        self._model, self._folder = model, folder
        opened = open_truth(self.spec)
        self.truth: Truth | None = None if isinstance(opened, UsageError) else opened
        self.missing = str(opened) if isinstance(opened, UsageError) else ""
        self.dream = DreamEnv(model)
        self.num_steps = model.num_steps
        self.step = 0
        self.truth_ms = self.dream_ms = 0.0

    def begin(self, beginning: Beginning) -> Context:
        """Begin both worlds in the same scene and return the lead-in that both have seen.

        UsageError, and nothing has changed, for a task or factors that the world does not know.
        """
        dream = DreamEnv(self._model, beginning.task, self.num_steps)
        context = self._context(beginning)
        self.dream = dream
        options = {"frames": context.frames, "actions": context.actions}
        frame, info = self.dream.reset(seed=beginning.seed, options=options)
        self.step = 0
        self.dreamt = self._read(frame, 0.0, info)
        return context

    def use_steps(self, num_steps: int) -> None:
        """Dream on with another number of sampler steps; UsageError unless the model takes it."""
        if num_steps != self.num_steps:
            other = DreamEnv(self._model, self.dream.task, num_steps)
            other.reset(options={"state": self.dream.save_state()})
            self.dream, self.num_steps = other, num_steps

    def advance(self, action: Float32[np.ndarray, " a"]) -> None:
        """Play one step in both worlds, and take the time of each."""
        begun = time.perf_counter()
        if self.truth is not None:
            self.truth.step(action)
        between = time.perf_counter()
        frame, reward, _, _, info = self.dream.step(action)
        self.dreamt = self._read(frame, reward, info)
        self.step += 1
        self.truth_ms, self.dream_ms = 1000 * (between - begun), 1000 * (time.perf_counter() - between)

    @property
    def reward(self) -> float:
        """Reward of the last step, in the true world where there is one."""
        return self.dreamt.reward if self.truth is None else self.truth.now.reward

    def save(self) -> Saved:
        """Return both worlds as they are."""
        truth = None if self.truth is None else self.truth.save()
        return Saved(step=self.step, truth=truth, dream=self.dream.save_state(), dreamt=self.dreamt)

    def restore(self, saved: Saved) -> None:
        """Go back to a saved time of the present scene."""
        if self.truth is not None:
            self.truth.restore(saved.truth)
        self.dream.reset(options={"state": saved.dream})
        self.dreamt, self.step = saved.dreamt, saved.step

    def close(self) -> None:
        """Free the true world."""
        if self.truth is not None:
            self.truth.close()
        self.dream.close()

    def _context(self, beginning: Beginning) -> Context:
        if self.truth is not None:
            try:
                return self.truth.reset(beginning.seed, beginning.task, beginning.factors)
            except UsageError as error:
                if error.argument != "OpenGL":
                    raise
                self.missing, self.truth = str(error), None
        return self._bundled(beginning.seed)

    def _bundled(self, seed: int) -> Context:
        """Return the lead-in of a seed that lies beside the checkpoint's weights; UsageError if none does."""
        try:
            return bundled_context(read_bundled(self._folder / CONTEXTS, self.spec), seed)
        except UsageError as error:
            raise UsageError(
                "scene",
                got=f"no true world ({self.missing})",
                allowed=f"a world to begin in, or lead-ins beside the checkpoint ({CONTEXTS})",
                fix="install the environment, or make the folder with `worldsim export` where it is installed",
            ) from error

    def _read(self, frame: np.ndarray, reward: float, info: dict[str, Any]) -> Dreamt:
        readouts = {readout.name: np.asarray(info[readout.name]) for readout in self.spec.readouts}
        return Dreamt(frame=frame, reward=reward, success=bool(info["is_success"]), readouts=readouts)
