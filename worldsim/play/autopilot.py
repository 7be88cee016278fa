"""A small planner at the controls, and the futures it imagines. Knows no network."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float64, UInt8

from worldsim.agents.imagination import Imagined
from worldsim.agents.objectives import Return
from worldsim.agents.planner import PlanSettings
from worldsim.agents.search import RandomShooting
from worldsim.envs.controls import ACTION_NAMES
from worldsim.errors import UsageError
from worldsim.play.controls import levels_of
from worldsim.play.pair import Pair

CANDIDATES, HORIZON = 8, 8
"""Few and short, so that two cores plan between two frames."""
_PUSHES = [0, 1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Futures:
    """What the planner imagined before it chose: n plans of t steps, at half size, their scores, and the chosen one."""

    frames: UInt8[np.ndarray, "n t h w 3"]
    scores: Float64[np.ndarray, " n"]
    best: int


class WatchedReturn:
    """The sum of rewards as an objective, which keeps what it was shown last."""

    needs_frames = True

    def __init__(self) -> None:
        self._reward = Return()
        self.futures: Futures | None = None

    def score(self, imagined: Imagined) -> np.ndarray:
        """Return the return of every plan, and keep its frames."""
        scores = np.asarray(self._reward.score(imagined), np.float64)
        frames = np.asarray(imagined.frames)[:, :, ::2, ::2].copy()
        self.futures = Futures(frames=frames, scores=scores, best=int(np.argmax(scores)))
        return scores


class Autopilot:
    """Steers a pair of worlds by random shooting in forks ``by`` the "dream" or the "truth".

    Raises UsageError where the truth is asked for and cannot be forked.
    """

    def __init__(self, pair: Pair, by: str, seed: int) -> None:
        if by == "truth" and pair.truth is None:
            raise UsageError("autopilot", got="truth", allowed="off, dream", fix="there is no true world here")
        self.by = by
        self._pair, self._seed = pair, seed
        self._planner = self._new_planner()

    def levels(self) -> tuple[int, ...]:
        """Return the levels of the next action, planned when the last plan is used up."""
        if self._planner.env is not self._env():
            self.forget()
        action = self._planner.act(self._pair.dreamt.frame)
        return levels_of(self._pair.spec, action)

    def take_futures(self) -> Futures | None:
        """Return what was imagined since this was last asked, if anything was."""
        futures, self._watched.futures = self._watched.futures, None
        return futures

    def forget(self) -> None:
        """Plan anew at the next step: the present is another one."""
        self._planner = self._new_planner()

    def _env(self):
        return self._pair.dream if self.by == "dream" or self._pair.truth is None else self._pair.truth.env

    def _new_planner(self) -> RandomShooting:
        self._watched = WatchedReturn()
        horizon = min(HORIZON, self._pair.dream.window)
        free = _PUSHES if self._pair.spec.action_names == ACTION_NAMES else None
        settings = PlanSettings(
            horizon=horizon,
            candidates=CANDIDATES,
            iterations=1,
            hold=min(4, horizon),
            replan=min(4, horizon),
            free=free,
        )
        planner = RandomShooting(self._env(), self._watched, settings, live=True)
        planner.reset(self._seed + self._pair.step)
        return planner
