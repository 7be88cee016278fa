"""The perception-limited oracle: the true physics, begun from what can be read off the context. Knows no model.

Exact state is not a reachable ceiling: whoever sees only frames knows places and speeds to within the read-out's noise,
and physics makes much of little. So the true simulator is started again from the last context frame, with the places and
speeds of the bodies as a straight line through noisy readings of the context would give them, and plays the same
actions. A reference, not a bound: a model may read better than by colour.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from worldsim.envs.controls import CONTEXT_STEPS, CONTROL_DT_S
from worldsim.envs.painter import Painter
from worldsim.envs.scene import COLOURS
from worldsim.envs.state import body_slots
from worldsim.eval.tales import Tale

READ_NOISE_M = 0.0035
"""Standard deviation of a reading along each axis."""
RESTS_BELOW = 3.0
"""Speeds within so many standard errors of nothing are taken for rest."""

_TIMES = np.arange(CONTEXT_STEPS) - (CONTEXT_STEPS - 1) / 2  # frames of the context about their middle
_SPREAD = float((_TIMES**2).sum())
PLACE_NOISE_M = READ_NOISE_M * (1 / CONTEXT_STEPS + _TIMES[-1] ** 2 / _SPREAD) ** 0.5
"""Standard error of the place at the end of a straight line through a context's readings."""
SPEED_NOISE = READ_NOISE_M / CONTROL_DT_S / _SPREAD**0.5
"""Standard error of the line's slope, m/s along each axis."""


def perception_limited(tales: Sequence[Tale], painter: Painter, member: int) -> UInt8[np.ndarray, "n t h w 3"]:
    """Return one ``member`` of the ensemble: every tale played on from its start as read, with its own draw of noise."""
    rngs = [np.random.default_rng([tale.script.seed, 4, member]) for tale in tales]
    return np.stack([_play_on(tale, painter, rng) for tale, rng in zip(tales, rngs, strict=True)])


def _play_on(tale: Tale, painter: Painter, rng: np.random.Generator) -> UInt8[np.ndarray, "t h w 3"]:
    simulation = painter.simulate(tale.scene)
    simulation.restore(tale.start)
    true = {name: body_slots(tale.context_states[-1], name).astype(np.float64) for name in ("x", "y", "vx", "vy")}
    for body in tale.scene.bodies:
        slot = COLOURS.index(body.colour)
        place = np.array([true["x"][slot], true["y"][slot]]) + rng.normal(0, PLACE_NOISE_M, 2)
        speed = np.array([true["vx"][slot], true["vy"][slot]]) + rng.normal(0, SPEED_NOISE, 2)
        if np.linalg.norm(speed) < RESTS_BELOW * SPEED_NOISE:
            speed[:] = 0
        simulation.place(body.colour, *place)
        simulation.launch(body.colour, *speed)
    frames = []
    for action in tale.script.actions:
        simulation.advance(action)
        frames.append(painter.frame(simulation))
    return np.stack(frames)
