"""The scenes of the demo: one thing happening in each, staged by reset options and scripted actions. Knows no model.

The camera stands at azimuth 270 degrees when a scene begins, so "right" is +x and "forward" is +y of the floor. Bodies
already move during the lead-in of one second; everything stays within what recordings show.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from worldsim.envs.controls import ACTION_NAMES
from worldsim.errors import UsageError, suggestion
from worldsim.eval.trials import Script

SHOWCASE_SEED = 2_000_000
"""Scene i of the showcase is the Arena's seed SHOWCASE_SEED + i for all that is not staged."""
_AZIMUTH_DEG = 270.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """One staged scene: what a viewer should look for, the options of its reset, its actions piece by piece."""

    title: str
    watch: str
    options: Mapping[str, Any]
    pieces: tuple[tuple[int, Mapping[str, float]], ...]
    """(number of steps, rates by action name), one after the other; then rest."""

    def actions(self, steps: int) -> Float32[np.ndarray, "t a"]:
        """Return the actions of ``steps`` steps, cut off or padded with rest."""
        rows = [[rates.get(name, 0.0) for name in ACTION_NAMES] for count, rates in self.pieces for _ in range(count)]
        actions = np.zeros((max(steps, len(rows)), len(ACTION_NAMES)), dtype=np.float32)
        actions[: len(rows)] = np.reshape(rows, (-1, len(ACTION_NAMES)))
        return actions[:steps]


def _body(colour: str, shape: str, x: float, y: float, vx: float = 0.0, vy: float = 0.0) -> dict[str, Any]:
    return {"colour": colour, "shape": shape, "x": x, "y": y, "vx": vx, "vy": vy}


_STILL = {"camera_azimuth": _AZIMUTH_DEG, "camera_elevation": 40.0, "posts": 0, "damping": 1.5, "friction": 0.0}
_ASIDE = {"pusher_x": 0.5, "pusher_y": 0.5, "curtain_x": 0.0, "curtain_y": 0.3, "curtain_angle": 0.0}

SHOWCASE: Mapping[str, Scene] = {
    "push": Scene(
        title="Push",
        watch="The black pusher with the white ring is driven into the red box, pushes it along, then goes round.",
        options={
            **_STILL,
            "bodies": [_body("red", "box", -0.1, 0.0), _body("cyan", "cylinder", 0.4, 0.35)],
            "pusher_x": -0.5,
            "pusher_y": 0.0,
        },
        pieces=(
            (4, {}),
            (12, {"push_right": 0.8}),
            (6, {"push_forward": -0.8}),
            (10, {"push_right": 0.7}),
            (10, {"push_forward": 0.9}),
        ),
    ),
    "collision": Scene(
        title="Collision",
        watch="Nobody acts. The blue ball rolls into the yellow cylinder: one must stop, the other must go.",
        options={
            **_STILL,
            **_ASIDE,
            "damping": 0.35,
            "bodies": [_body("blue", "sphere", -0.6, -0.1, vx=0.56), _body("yellow", "cylinder", 0.34, -0.1)],
        },
        pieces=(),
    ),
    "orbit": Scene(
        title="Orbit",
        watch="The camera walks half way round and back. Three bodies must keep their places, shapes and colours.",
        options={
            **_STILL,
            **_ASIDE,
            "bodies": [
                _body("red", "cylinder", -0.35, -0.25),
                _body("green", "box", 0.3, -0.3),
                _body("magenta", "cylinder", 0.05, 0.35),
            ],
        },
        pieces=((3, {}), (16, {"orbit": -0.75}), (4, {}), (16, {"orbit": 0.75})),
    ),
    "curtain": Scene(
        title="Behind the curtain",
        watch="A magenta cylinder slides behind a rising curtain. When it falls, the cylinder must be where it would be.",
        options={
            **_STILL,
            "damping": 0.0,
            "bodies": [_body("magenta", "cylinder", -0.55, 0.3, vx=0.22), _body("green", "sphere", 0.45, -0.35)],
            "curtain_x": 0.0,
            "curtain_y": 0.1,
            "curtain_angle": 0.0,
            "curtain_half_width": 0.42,
            "pusher_x": -0.5,
            "pusher_y": -0.45,
        },
        pieces=((2, {}), (4, {"curtain": 1.0}), (9, {}), (4, {"curtain": -1.0})),
    ),
    "look_away": Scene(
        title="Look away",
        watch="The camera looks up to the sky and back down. What was out of sight must still be there, and gone on.",
        options={
            **_STILL,
            **_ASIDE,
            "damping": 0.0,
            "bodies": [_body("blue", "box", -0.45, -0.3), _body("red", "cylinder", 0.5, 0.1, vx=-0.25)],
        },
        pieces=((4, {}), (4, {"tilt": 0.8}), (6, {}), (4, {"tilt": -0.8})),
    ),
    "all": Scene(
        title="All at once",
        watch="Pushing, orbiting and raising the curtain together, in a scene with posts.",
        options={"camera_azimuth": _AZIMUTH_DEG, "count": 3, "posts": 1},
        pieces=(
            (2, {}),
            (8, {"push_right": 0.7, "orbit": -0.3}),
            (5, {"push_forward": 0.8, "orbit": -0.3, "curtain": 0.8}),
            (6, {"push_right": -0.8, "orbit": 0.5}),
            (5, {"push_forward": -0.6, "curtain": -0.8}),
            (8, {"push_right": 0.5, "tilt": 0.15, "orbit": 0.4}),
            (8, {"push_right": -0.5, "tilt": -0.15}),
        ),
    ),
}


def showcase_scripts(steps: int, names: tuple[str, ...] = tuple(SHOWCASE)) -> list[Script]:
    """Return the scripts of the named scenes; UsageError with the closest name for an unknown one."""
    known = tuple(SHOWCASE)
    scripts = []
    for name in names:
        if name not in SHOWCASE:
            raise UsageError("scene", got=repr(name), allowed=", ".join(known), fix=suggestion(name, known))
        scene = SHOWCASE[name]
        scripts.append(
            Script(
                seed=SHOWCASE_SEED + known.index(name),
                options=scene.options,
                actions=scene.actions(steps),
                azimuth_deg=_AZIMUTH_DEG,
                label=name,
            )
        )
    return scripts
