"""The rows beside a model in every table of a probe: the truth, and what trivial predictors would show. Knows no model.

Each row is frames for every tale, so that it is read and scored as a model is. Trivial predictors of the state are the
truth drawn again: they know everything but the one thing they are named for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from worldsim.envs.camera import ground_axes
from worldsim.envs.painter import Painter
from worldsim.envs.scene import COLOURS
from worldsim.envs.simulation import Simulation
from worldsim.envs.state import body_slots
from worldsim.eval import pixels
from worldsim.eval.places import read_places
from worldsim.eval.tales import Edit, Tale
from worldsim.eval.tracking import HIDDEN

ORACLE, LIMITED, RELIT = "oracle", "perception-limited oracle", "oracle without shadows"
MODEL, OTHERS, UNCONDITIONED, UNTRAINED = "model", "model, others' actions", "model, no actions", "untrained"
MEAN, CLIMATOLOGY = "mean frame", "climatology"
NOT_TRIVIAL = (ORACLE, LIMITED, RELIT, MODEL, OTHERS, UNCONDITIONED, UNTRAINED)

OUT_OF_VIEW_M = 50.0
VELOCITY_FRAMES = 4
"""Last context frames from which a constant velocity is read."""
CLIMATOLOGY_DRAWS = 4

Frames = UInt8[np.ndarray, "n t h w 3"]


def copy_last(tales: Sequence[Tale]) -> Frames:
    """Return the last context frame again and again."""
    return pixels.copy_last(np.stack([tale.context_frames[-1] for tale in tales]), len(tales[0].frames))


def constant_velocity(tales: Sequence[Tale], painter: Painter) -> Frames:
    """Let every body go on as it was read to move before the actions began; nothing ever stops or turns it."""
    return _redrawn(tales, painter, _goes_on)


def freeze(tales: Sequence[Tale], painter: Painter) -> Frames:
    """Leave every body where it was seen last once it has been hidden."""
    return _redrawn(tales, painter, _stands_still)


def deleted(tales: Sequence[Tale], painter: Painter) -> Frames:
    """Let every body be gone for good once it has been hidden."""
    return _redrawn(tales, painter, _is_gone)


def other_scenes(count: int, rng: np.random.Generator) -> list[Int64[np.ndarray, " n"]]:
    """Return `CLIMATOLOGY_DRAWS` orders (fewer where there are fewer scenes) that give every scene another one."""
    shifts = rng.permutation(np.arange(1, count))[:CLIMATOLOGY_DRAWS]
    order = rng.permutation(count)
    place = np.argsort(order)
    return [order[(place + shift) % count] for shift in shifts]


def courses(tale: Tale) -> Float64[np.ndarray, "t bodies 2"]:
    """Return where the bodies are in m right and forward of the floor's middle as the camera first sees it, target first."""
    xy = np.stack([body_slots(tale.states, "x"), body_slots(tale.states, "y")], axis=-1)[:, _slots(tale)]
    return xy @ ground_axes(tale.script.azimuth_deg).T


def climatology(tales: Sequence[Tale], others: Sequence[Float64[np.ndarray, "t _ 2"]], painter: Painter) -> Frames:
    """Let the bodies of every tale move as those of another scene of the family, as its camera saw them (`courses`).

    The answer from habit: cameras and curtains are the tale's own, only what its bodies do is not.
    """
    return np.stack([tale.redraw(painter, _moves_as(tale, other)) for tale, other in zip(tales, others, strict=True)])


def _moves_as(tale: Tale, other: np.ndarray) -> Edit:
    slots, xy = _slots(tale), other @ ground_axes(tale.script.azimuth_deg)

    def edit(t: int, simulation: Simulation) -> None:
        for slot, (x, y) in zip(slots, xy[t - 1], strict=False):
            simulation.place(COLOURS[slot], float(x), float(y))

    return edit


def _slots(tale: Tale) -> list[int]:
    """Return the palette slots of a tale's bodies, those that its label names first."""
    named = [COLOURS.index(colour) for colour in tale.script.label.split("+") if colour in COLOURS]
    return named + [slot for body in tale.scene.bodies if (slot := COLOURS.index(body.colour)) not in named]


def trivial_rows(tales: Sequence[Tale], painter: Painter) -> Mapping[str, Frames]:
    """Return the rows of which the best is a probe's zero."""
    return {
        "copy last": copy_last(tales),
        "constant velocity": constant_velocity(tales, painter),
        "freeze": freeze(tales, painter),
        "deleted": deleted(tales, painter),
    }


def _redrawn(tales: Sequence[Tale], painter: Painter, rule: Callable[[Tale], Edit]) -> Frames:
    return np.stack([tale.redraw(painter, rule(tale)) for tale in tales])


def _goes_on(tale: Tale) -> Edit:
    start, velocity = read_motion(tale)

    def edit(t: int, simulation: Simulation) -> None:
        for body in tale.scene.bodies:
            slot = COLOURS.index(body.colour)
            if np.isfinite(start[slot]).all():
                simulation.place(body.colour, *(start[slot] + t * velocity[slot]))

    return edit


def read_motion(tale: Tale) -> tuple[Float64[np.ndarray, "6 2"], Float64[np.ndarray, "6 2"]]:
    """Return place (m) and velocity (m a step) of every colour at the last context frame, read off the last ones.

    A straight line through `VELOCITY_FRAMES` readings; NaN where a colour is not read in all of them.
    """
    recent = slice(-VELOCITY_FRAMES, None)
    xy = read_places(tale.context_frames[recent], tale.context_states[recent]).xy  # (frames, colours, 2)
    times = np.arange(1 - VELOCITY_FRAMES, 1)
    centred = times - times.mean()
    velocity = np.einsum("t,tcx->cx", centred, xy) / (centred**2).sum()
    return xy.mean(axis=0) - times.mean() * velocity, velocity


def _stands_still(tale: Tale) -> Edit:
    last_seen = _last_seen(tale)
    x, y = body_slots(tale.states, "x"), body_slots(tale.states, "y")

    def edit(t: int, simulation: Simulation) -> None:
        for colour, frame in last_seen.items():
            if t - 1 > frame:
                slot = COLOURS.index(colour)
                simulation.place(colour, float(x[frame, slot]), float(y[frame, slot]))

    return edit


def _is_gone(tale: Tale) -> Edit:
    last_seen = _last_seen(tale)

    def edit(t: int, simulation: Simulation) -> None:
        for colour, frame in last_seen.items():
            if t - 1 > frame:
                simulation.place(colour, OUT_OF_VIEW_M, OUT_OF_VIEW_M)

    return edit


def _last_seen(tale: Tale) -> dict[str, int]:
    """Return, for each body that is ever hidden, the frame before it first is."""
    result = {}
    visible = body_slots(tale.states, "visible")
    for body in tale.scene.bodies:
        hidden = np.flatnonzero(visible[:, COLOURS.index(body.colour)] <= HIDDEN)
        if len(hidden):
            result[body.colour] = max(int(hidden[0]) - 1, 0)
    return result
