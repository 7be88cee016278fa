"""worldsim/Arena-v0: the MuJoCo world that everything is proved on. Knows no model, no dataset and no dream."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float64, UInt8

from worldsim.envs.arena_forks import ArenaForks
from worldsim.envs.controls import ACTION_NAMES, CONTEXT_STEPS, CONTROL_DT_S, CURTAIN_STEP
from worldsim.envs.options import parse_options
from worldsim.envs.painter import Painter
from worldsim.envs.sampling import draw_scene
from worldsim.envs.scene import SceneSpec
from worldsim.envs.simulation import MAX_CONTACTS, Simulation
from worldsim.envs.state import STATE_NAMES, STATE_UNITS, body_slots
from worldsim.envs.tasks import TASKS
from worldsim.episode import Readout
from worldsim.errors import UsageError, suggestion
from worldsim.spec import WorldSpec

_DRAWS = 30  # scenes drawn, at most, until one is found that the lead-in has not already solved
_RISE_STEPS = round(1 / CURTAIN_STEP)


class ArenaEnv(gym.Env):
    """A walled floor with coloured bodies, a pusher, a curtain and a camera, all steered by five rates.

    ## Description

    One to three coloured bodies slide on a square floor and bounce off each other, four low walls and up to two grey
    posts. The agent drives a black pusher with a white ring, carries the camera round the floor, tilts it up until the
    arena is out of sight, and raises a curtain that hides but never touches. Bodies are the only coloured things.

    ## Action Space

    `Box(-1, 1, (5,), float32)`, all rates (`worldsim.envs.controls`): zero changes nothing, physics goes on.

    | num | action       | at 1                                              |
    |-----|--------------|---------------------------------------------------|
    | 0   | push_right   | the pusher moves to the camera's right at .6 m/s  |
    | 1   | push_forward | the pusher moves away from the camera at .6 m/s   |
    | 2   | orbit        | the camera goes 15 degrees counter-clockwise      |
    | 3   | tilt         | the camera looks 15 degrees higher (0 to 45)      |
    | 4   | curtain      | the curtain rises by a quarter of its height      |

    The two pushes together are held to .6 m/s.

    ## Observation Space

    `Box(0, 255, (height, width, 3), uint8)`, the camera's view. `info` has the same keys at every reset and step:

    | key            | shape           | meaning                                                                   |
    |----------------|-----------------|---------------------------------------------------------------------------|
    | `state`        | (90,) float32   | the true state: `worldsim.envs.state.STATE_NAMES` in `STATE_UNITS`        |
    | `contacts`     | (16, 3) float32 | (s within the step, entity, entity) of each touch that begins; -1 unused  |
    | `camera`       | (7,) float32    | x, y, z (m), azimuth, elevation, tilt, vertical field of view (rad)       |
    | `visibility`   | (6,) float32    | share of each colour's body in view and unhidden, palette order, 0 absent |
    | `is_success`   | bool            | whether the task's goal is met                                            |
    | `segmentation` | (h, w) int32    | entity of each pixel (`worldsim.envs.scene.ENTITY_NAMES`), if asked for   |
    | `depth`        | (h, w) float32  | m along the view's axis, if asked for                                     |

    Reset adds `context` (`frames` (11, h, w, 3), `actions` (10, 5) and `states` (11, 90) of the lead-in) and `factors`
    (the scene as plain numbers).

    ## Rewards

    In [0, 1], a pure function of the state after the step (`worldsim.envs.tasks`), about the target: the present body
    whose colour comes first in the palette. `push`: 1 within .15 m of the floor's middle, less farther out. `reach`: 1
    where the pusher touches the target. `uncover`: twice the visible share of the target, at most 1.

    ## Starting State

    A scene drawn from the train ranges of `worldsim.envs.factors.FACTORS`, after a lead-in of 10 steps without action,
    curtain down (for `uncover` the last four raise it, so that the target ends up hidden). Scenes that their lead-in
    solves are drawn again.

    ## Episode End

    Terminated where the task's goal is met; never truncated. Stepping on after termination is allowed.

    ## Arguments

    `task` "push", "reach" or "uncover"; `render_mode` None or "rgb_array"; `height` and `width` of the frames, 16 to
    1024 pixels; `shadows`; `segmentation` and `depth` ask for these in `info`.

    `reset(options=...)` takes any factor by name, held-out values included (`worldsim.envs.options` has the forms):
    `{"count": 2, "damping": 0.35}`, `{"bodies": [{"colour": "red", "shape": "box", "x": 0.3, "y": 0, "vx": 0.2}]}`,
    `{"split": "held_out"}`, `{"held_out": ["speed", "pairs"]}`, `{"lead_in": actions}`. With one seed, pinning a factor
    leaves all other draws as they were. `{"state": env.save_state()}` goes back to a moment, bit for bit.

    ## Version History

    * v0: first version.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - typed as Gymnasium types it
        "render_modes": ["rgb_array"],
        "render_fps": round(1 / CONTROL_DT_S),
    }

    def __init__(
        self,
        task: str = "push",
        render_mode: str | None = None,
        *,
        height: int = 64,
        width: int = 64,
        shadows: bool = True,
        segmentation: bool = False,
        depth: bool = False,
    ) -> None:
        if task not in TASKS:
            raise UsageError("task", got=repr(task), allowed=f"{len(TASKS)} tasks", fix=suggestion(task, tuple(TASKS)))
        if render_mode not in (None, "rgb_array"):
            raise UsageError("render_mode", got=repr(render_mode), allowed="None or 'rgb_array'", fix="'rgb_array'")
        for name, size in (("height", height), ("width", width)):
            if not 16 <= size <= 1024:
                raise UsageError(name, got=repr(size), allowed="16 to 1024 pixels", fix="64")
        self.task = TASKS[task]
        self.render_mode = render_mode
        self.shadows = shadows
        self.action_space = gym.spaces.Box(-1.0, 1.0, (len(ACTION_NAMES),), np.float32)
        self.observation_space = gym.spaces.Box(0, 255, (height, width, 3), np.uint8)
        self._painter = Painter(height=height, width=width, shadows=shadows)
        self._wants = {"segmentation": segmentation, "depth": depth}
        self._draws = True
        self._simulation: Simulation | None = None
        self._frame = np.zeros((height, width, 3), np.uint8)
        self._history: deque[np.ndarray] = deque(maxlen=CONTEXT_STEPS + 1)
        self._actions: deque[np.ndarray] = deque(maxlen=CONTEXT_STEPS)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[UInt8[np.ndarray, "h w 3"], dict[str, Any]]:
        """Start an episode: build the scene, play the lead-in and return its last frame.

        ``options`` are described in the class docstring. UsageError if one is unknown or out of range.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        if "state" in options:
            snapshots, actions = self._restore(options)
        else:
            snapshots, actions = self._draw(options)
        simulation = self._running()
        frames, states = [], []
        for snapshot in snapshots:
            simulation.restore(snapshot)
            frames.append(self._look(simulation))
            states.append(simulation.state())
        self._history.clear()
        self._history.extend(snapshots)
        self._actions.clear()
        self._actions.extend(actions)
        self._frame = frames[-1]
        info = self._info(states[-1], np.full((MAX_CONTACTS, 3), -1.0, np.float32))
        info["context"] = {"frames": np.stack(frames), "actions": np.stack(actions), "states": np.stack(states)}
        info["factors"] = simulation.scene.to_json()
        return self._frame.copy(), info

    def step(self, action: np.ndarray) -> tuple[UInt8[np.ndarray, "h w 3"], float, bool, bool, dict[str, Any]]:
        """Play one control step of an action (5,), clipped to [-1, 1]; UsageError for a wrong shape or NaN."""
        simulation = self._running()
        action = _checked_action(action)
        contacts = simulation.advance(action)
        self._history.append(simulation.snapshot())
        self._actions.append(action)
        self._frame = self._look(simulation)
        state = simulation.state()
        info = self._info(state, contacts)
        return self._frame.copy(), float(self.task.reward(state)), info["is_success"], False, info

    def render(self) -> UInt8[np.ndarray, "h w 3"] | None:
        """Return the present frame if ``render_mode`` is "rgb_array"."""
        return self._frame.copy() if self.render_mode == "rgb_array" else None

    def save_state(self) -> dict[str, Any]:
        """Return everything that decides the future, for ``reset(options={"state": ...})``.

        Keys: ``scene`` (JSON-able), ``history`` (11, p) float64 and ``actions`` (10, 5) float32: the present and the ten
        steps that led to it, so that a restored episode has its context too.
        """
        scene = self._running().scene
        return {"scene": scene.to_json(), "history": np.stack(self._history), "actions": np.stack(self._actions)}

    @contextlib.contextmanager
    def undrawn(self) -> Iterator[None]:
        """Draw nothing meanwhile: frames are black. For whoever asks for states only, since drawing takes most of the time."""
        self._draws = False
        try:
            yield
        finally:
            self._draws = True

    @property
    def moment(self) -> Float64[np.ndarray, " p"]:
        """The present as one vector, of which `frames_of` draws: the last row of a saved state's history."""
        return self._running().snapshot()

    def frames_of(self, scene: SceneSpec, moments: Float64[np.ndarray, "n p"]) -> UInt8[np.ndarray, "n h w 3"]:
        """Draw moments of a scene, to the bit as `reset` and `step` did or would have. The episode is left as it is."""
        simulation, frames = self._painter.simulate(scene), []
        for moment in moments:
            simulation.restore(moment)
            frames.append(self._painter.frame(simulation))
        return np.stack(frames)

    def fork_batch(self, num_envs: int, frames: bool = True) -> ArenaForks:
        """Return ``num_envs`` futures of the present, to be stepped with as many plans; the present stays as it is.

        Without ``frames`` nothing is drawn and observations are black.
        """
        simulation = self._painter.simulate(self._running().scene)
        spaces = (self.observation_space, self.action_space)
        painter = self._painter if frames else None
        return ArenaForks(simulation, self._running().snapshot(), self.task, spaces, num_envs, painter)

    def close(self) -> None:
        """Free the renderer. May be called more than once."""
        self._painter.close()

    def _running(self) -> Simulation:
        if self._simulation is None:
            raise gym.error.ResetNeeded("call reset() before step(), and before save_state()")
        return self._simulation

    def _look(self, simulation: Simulation) -> UInt8[np.ndarray, "h w 3"]:
        return self._painter.frame(simulation) if self._draws else np.zeros_like(self._frame)

    def _draw(self, options: Mapping[str, Any]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Draw a scene that its lead-in does not already solve, and return the lead-in's snapshots and actions."""
        pins = parse_options(options)
        actions = self._lead_in_actions() if pins.lead_in is None else pins.lead_in
        snapshots: list[np.ndarray] = []
        for _ in range(1 if pins.places_bodies else _DRAWS):
            key = int(self.np_random.integers(2**63))
            scene = draw_scene(key, pins, hide_target=self.task.hides_target)
            simulation = self._simulation = self._painter.simulate(scene)
            snapshots = [simulation.snapshot()]
            for action in actions:
                simulation.advance(action)
                snapshots.append(simulation.snapshot())
            if self.task.can_start(simulation.state()):
                break
        return snapshots, list(actions)

    def _lead_in_actions(self) -> np.ndarray:
        actions = np.zeros((CONTEXT_STEPS, len(ACTION_NAMES)), np.float32)
        if self.task.hides_target:
            actions[-_RISE_STEPS:, ACTION_NAMES.index("curtain")] = 1.0
        return actions

    def _restore(self, options: Mapping[str, Any]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Build the scene of a saved state and return the saved snapshots and actions."""
        state = options["state"]
        wanted = {"scene", "history", "actions"}
        if len(options) > 1 or not isinstance(state, Mapping) or set(state) != wanted:
            got = sorted(state) if isinstance(state, Mapping) and len(options) == 1 else sorted(options)
            raise UsageError(
                "option 'state'",
                got=str(got),
                allowed=f"keys {sorted(wanted)}, and no other option",
                fix="save_state()",
            )
        scene = SceneSpec.from_json(state["scene"])
        self._simulation = self._painter.simulate(scene)
        history = np.asarray(state["history"], np.float64)
        actions = np.asarray(state["actions"], np.float32)
        shape = (CONTEXT_STEPS + 1, len(self._simulation.snapshot()))
        if history.shape != shape or actions.shape != (CONTEXT_STEPS, len(ACTION_NAMES)):
            raise UsageError(
                "option 'state'", got=f"history {history.shape}, actions {actions.shape}",
                allowed=f"history {shape}, actions {(CONTEXT_STEPS, len(ACTION_NAMES))}", fix="save_state()",
            )  # fmt: skip
        return list(history), list(actions)

    def _info(self, state: np.ndarray, contacts: np.ndarray) -> dict[str, Any]:
        simulation = self._running()
        info: dict[str, Any] = {
            "state": state,
            "contacts": contacts,
            "camera": simulation.camera_vector(),
            "visibility": body_slots(state, "visible").copy(),
            "is_success": bool(self.task.terminated(state)),
        }
        if self._wants["segmentation"]:
            info["segmentation"] = self._painter.segmentation(simulation)
        if self._wants["depth"]:
            info["depth"] = self._painter.depth(simulation)
        return info


def _checked_action(action: Any) -> np.ndarray:
    """Return the action as float32 (5,), clipped to [-1, 1]; UsageError for a wrong shape or NaN."""
    values = np.asarray(action, np.float32)
    if values.shape != (len(ACTION_NAMES),) or not np.isfinite(values).all():
        raise UsageError(
            "action",
            got=f"shape {values.shape}, values {values.tolist()}",
            allowed=f"{len(ACTION_NAMES)} finite numbers in [-1, 1]: {', '.join(ACTION_NAMES)}",
            fix="env.action_space.sample() has the right form",
        )
    return np.clip(values, -1.0, 1.0)


def arena_spec(env: gym.Env) -> WorldSpec:
    """Return what a recording of this Arena says about its world."""
    arena = env.unwrapped
    if not isinstance(arena, ArenaEnv):
        raise UsageError(
            "env", got=type(arena).__name__, allowed="worldsim/Arena-v0", fix="gym.make('worldsim/Arena-v0')"
        )
    height, width, _ = arena.observation_space.shape or (0, 0, 0)
    return WorldSpec(
        env_id="worldsim/Arena-v0",
        env_kwargs={"task": arena.task.name, "height": height, "width": width, "shadows": arena.shadows},
        frame_shape=(height, width, 3),
        action_names=ACTION_NAMES,
        action_low=(-1.0,) * len(ACTION_NAMES),
        action_high=(1.0,) * len(ACTION_NAMES),
        frame_rate_hz=1 / CONTROL_DT_S,
        context_steps=CONTEXT_STEPS,
        readouts=(Readout(name="state", names=STATE_NAMES, units=STATE_UNITS),),
    )
