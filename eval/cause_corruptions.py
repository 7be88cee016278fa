"""Corrupted oracles of cause-and-effect pairs: the truth drawn again, wrong about the effect in one named way. No model.

What a probe of causes must see is known beforehand for each. All but the last leave the reference as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float64, UInt8

from worldsim.envs.camera import ground_axes
from worldsim.envs.painter import Painter
from worldsim.envs.simulation import Simulation
from worldsim.eval.cause_scores import parties, true_places
from worldsim.eval.families import Scene
from worldsim.eval.tales import Edit

Change = Callable[[Float64[np.ndarray, "t xy=2"], float], Float64[np.ndarray, "t xy=2"]]
"""Takes an effect (m) and the camera's azimuth (degrees), and returns a wrong one."""
SHIFT = 4
NOTHING_M = 0.1
"""Size of the effect that "effect of nothing" adds."""


def _scaled(factor: float) -> Change:
    return lambda effect, azimuth: factor * effect


def _late(effect: np.ndarray, azimuth: float) -> np.ndarray:
    del azimuth
    return np.concatenate([np.zeros((SHIFT, 2)), effect[:-SHIFT]])


def _early(effect: np.ndarray, azimuth: float) -> np.ndarray:
    del azimuth
    return np.concatenate([effect[SHIFT:], np.repeat(effect[-1:], SHIFT, axis=0)])


def _mirrored(effect: np.ndarray, azimuth: float) -> np.ndarray:
    """Swap left and right as the camera sees them."""
    right = ground_axes(azimuth)[0]
    return effect - 2 * np.outer(effect @ right, right)


def _of_nothing(effect: np.ndarray, azimuth: float) -> np.ndarray:
    """Put the target, from the first frame on, farther to the right as the camera sees it, whatever the cause does."""
    return effect + NOTHING_M * ground_axes(azimuth)[0]


CHANGES: Mapping[str, Change] = {
    "effect x 0.5": _scaled(0.5),
    "effect x 1.5": _scaled(1.5),
    "effect 4 late": _late,
    "effect 4 early": _early,
    "mirrored effect": _mirrored,
    "effect of nothing": _of_nothing,
}


def corrupted(scenes: Sequence[Scene], painter: Painter) -> dict[str, UInt8[np.ndarray, "n m t h w 3"]]:
    """Return the frames of all corrupted oracles, by name: those of `CHANGES` and "contacts off"."""
    rows = {name: np.stack([_changed(scene, change, painter) for scene in scenes]) for name, change in CHANGES.items()}
    return rows | {"contacts off": np.stack([_untouched(scene, painter) for scene in scenes])}


def _changed(scene: Scene, change: Change, painter: Painter) -> UInt8[np.ndarray, "m t h w 3"]:
    """Draw the cause with its target where another effect would have it."""
    cause, reference = scene
    colour, _ = parties(scene)
    true = true_places(scene, colour)
    places = true.xy[1] + change(true.effect, cause.script.azimuth_deg)
    return np.stack([cause.redraw(painter, _put(colour, places)), reference.frames])


def _untouched(scene: Scene, painter: Painter) -> UInt8[np.ndarray, "m t h w 3"]:
    """Draw both members with a target that nothing moves."""
    colour, _ = parties(scene)
    true = true_places(scene, colour)
    return np.stack(
        [tale.redraw(painter, _put(colour, 0 * own + own[0])) for tale, own in zip(scene, true.xy, strict=True)]
    )


def _put(colour: str, places: Float64[np.ndarray, "t xy=2"]) -> Edit:
    def edit(t: int, simulation: Simulation) -> None:
        simulation.place(colour, *places[t - 1].tolist())

    return edit
