"""What makes a plan good: reward, a named state, or a picture. Higher is better.

Objectives use arithmetic only, so that they score arrays as well as tensors that gradients flow through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from worldsim.agents.imagination import Imagined
from worldsim.errors import UsageError


@runtime_checkable
class Objective(Protocol):
    """Scores what plans led to, (n,), higher is better."""

    @property
    def needs_frames(self) -> bool:
        """Whether the frames are looked at: an environment may leave them out otherwise."""
        ...

    def score(self, imagined: Imagined) -> Any:
        """Return one number per plan."""
        ...


@dataclasses.dataclass(frozen=True)
class Return:
    """The sum of rewards, discounted by ``discount`` a step.

    ``ends_pay`` counts a terminal step's reward for all steps that are left, as if the episode stayed there; without it
    an end pays nothing more, and where rewards are positive plans put off reaching the goal.
    """

    discount: float = 1.0
    ends_pay: bool = True
    needs_frames: bool = dataclasses.field(default=False, init=False)

    def score(self, imagined: Imagined) -> Any:
        """Return the return of every plan, (n,). Terminations of tensors are ignored: they have no gradient."""
        rewards = imagined.rewards
        if isinstance(rewards, np.ndarray):
            rewards = settle(rewards, np.asarray(imagined.terminated), self.ends_pay)
        steps = rewards.shape[1]
        return sum(self.discount**t * rewards[:, t] for t in range(steps))


def settle(rewards: np.ndarray, terminated: np.ndarray, ends_pay: bool) -> np.ndarray:
    """Replace the rewards after each row's first end by the reward at that end, or by nothing."""
    ended = np.cumsum(terminated, axis=1) - terminated > 0  # (n, t) whether an earlier step was the end
    first = terminated.argmax(axis=1)
    at_end = np.take_along_axis(rewards, first[:, None], axis=1)
    return np.where(ended, at_end if ends_pay else 0.0, rewards)


@dataclasses.dataclass(frozen=True)
class StateGoal:
    """Minus the squared distance of elements of a named state to wanted values, averaged over the plan's steps.

    ``elements`` are columns of the readout, ``values`` what they shall be and ``scales`` the differences that count 1.
    """

    elements: Sequence[int]
    values: Sequence[float]
    scales: Sequence[float] | None = None
    readout: str = "state"
    needs_frames: bool = dataclasses.field(default=False, init=False)

    def __post_init__(self) -> None:
        scales = self.scales if self.scales is not None else [1.0] * len(self.elements)
        if not len(self.elements) == len(self.values) == len(scales) > 0 or min(scales) <= 0:
            raise UsageError(
                "StateGoal",
                got=f"{len(self.elements)} elements, {len(self.values)} values, scales {self.scales}",
                allowed="as many elements as values, and positive scales",
                fix="StateGoal(elements=[60, 61], values=[0.0, 0.3])",
            )

    def score(self, imagined: Imagined) -> Any:
        """Return minus the mean squared distance of every plan, (n,)."""
        if self.readout not in imagined.readouts:
            raise UsageError(
                "readout", got=repr(self.readout), allowed=", ".join(imagined.readouts) or "none here",
                fix="plan for reward or a picture, or train on a recording that has this readout",
            )  # fmt: skip
        rows = imagined.readouts[self.readout]
        scales = self.scales or [1.0] * len(self.elements)
        terms = [
            ((rows[..., element] - value) / scale) ** 2
            for element, value, scale in zip(self.elements, self.values, scales, strict=True)
        ]
        return -sum(terms).mean(-1)  # type: ignore[union-attr]


@dataclasses.dataclass(frozen=True)
class GoalImage:
    """Minus the squared difference (black 0, white 1) of the last ``last`` frames of a plan to a wanted ``picture``."""

    picture: UInt8[np.ndarray, "h w 3"]
    last: int = 1
    needs_frames: bool = dataclasses.field(default=True, init=False)

    def score(self, imagined: Imagined) -> Any:
        """Return minus the mean squared difference of every plan, (n,)."""
        frames = imagined.frames[:, -self.last :]
        if tuple(frames.shape[2:]) != self.picture.shape:
            raise UsageError(
                "picture", got=f"shape {self.picture.shape}", allowed=f"that of a frame, {tuple(frames.shape[2:])}",
                fix="resize the picture",
            )  # fmt: skip
        wanted = self.picture / np.float32(255)
        if isinstance(frames, np.ndarray):
            return -((frames / np.float32(255) - wanted) ** 2).mean((1, 2, 3, 4))
        return -((frames - frames.new_tensor(wanted)) ** 2).mean((1, 2, 3, 4))
