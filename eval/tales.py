"""Tales: what really happened in a scripted scene, kept so that it can be drawn again otherwise. Knows no model.

A tale holds the physics snapshot of every frame. Drawn as it is, it gives the true frames again, bit for bit; with
bodies moved or taken away before each drawing, it shows what a predictor would that freezes, forgets or extrapolates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from worldsim.envs.painter import Painter
from worldsim.envs.scene import SceneSpec
from worldsim.envs.simulation import Simulation
from worldsim.envs.state import body_slots
from worldsim.eval.predictors import Question
from worldsim.eval.tracking import TruePlaces
from worldsim.eval.trials import Script

Edit = Callable[[int, Simulation], None]
"""Changes what will be drawn of frame t (1 is the frame after the first action) of a restored simulation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tale:
    """One scene as it happened: K context frames and T frames after them."""

    script: Script
    scene: SceneSpec
    context_frames: UInt8[np.ndarray, "k1 h w 3"]
    context_actions: Float32[np.ndarray, "k a"]
    context_states: Float32[np.ndarray, "k1 s"]
    frames: UInt8[np.ndarray, "t h w 3"]
    states: Float32[np.ndarray, "t s"]
    contacts: Float32[np.ndarray, "t c 3"]
    context_snapshots: Float64[np.ndarray, "k1 p"]
    snapshots: Float64[np.ndarray, "t p"]

    @property
    def start(self) -> Float64[np.ndarray, " p"]:
        """Snapshot of the last context frame."""
        return self.context_snapshots[-1]

    def redraw(self, painter: Painter, edit: Edit, scene: SceneSpec | None = None) -> UInt8[np.ndarray, "t h w 3"]:
        """Draw all frames again, each after ``edit``; ``scene`` may give the bodies other looks."""
        simulation, frames = painter.simulate(scene or self.scene), []
        for t, snapshot in enumerate(self.snapshots, start=1):
            simulation.restore(snapshot)
            edit(t, simulation)
            frames.append(painter.frame(simulation))
        return np.stack(frames)


def play(env: gym.Env[Any, Any], script: Script) -> Tale:
    """Play a script in the true world (an Arena without wrappers)."""
    return drawn(env, rehearse(env, script))


def rehearse(env: gym.Env[Any, Any], script: Script) -> Tale:
    """Play a script without drawing it: frames are black until `drawn`. For audits that most scripts do not pass."""
    arena: Any = env.unwrapped
    states, contacts, snapshots = [], [], []
    with arena.undrawn():
        frame, info = env.reset(seed=script.seed, options=dict(script.options))
        context, saved = info["context"], arena.save_state()
        for action in script.actions:
            info = env.step(action)[4]
            states.append(info["state"])
            contacts.append(info["contacts"])
            snapshots.append(arena.moment)
    return Tale(
        script=script,
        scene=SceneSpec.from_json(saved["scene"]),
        context_frames=context["frames"],
        context_actions=context["actions"],
        context_states=context["states"],
        frames=np.broadcast_to(frame, (len(states), *frame.shape)),
        states=np.stack(states),
        contacts=np.stack(contacts),
        context_snapshots=saved["history"],
        snapshots=np.stack(snapshots),
    )


def drawn(env: gym.Env[Any, Any], tale: Tale) -> Tale:
    """Return a rehearsed tale with its frames."""
    arena: Any = env.unwrapped
    frames = arena.frames_of(tale.scene, np.concatenate([tale.context_snapshots, tale.snapshots]))
    before = len(tale.context_snapshots)
    return dataclasses.replace(tale, context_frames=frames[:before], frames=frames[before:])


def question_of(tales: Sequence[Tale]) -> Question:
    """Return what a predictor is asked about tales of equal length."""
    return Question(
        frames=np.stack([tale.context_frames for tale in tales]),
        context_actions=np.stack([tale.context_actions for tale in tales]),
        actions=np.stack([tale.script.actions for tale in tales]),
    )


def truth_of(tales: Sequence[Tale]) -> TruePlaces:
    """Return where the bodies of tales of equal length are, frame by frame."""
    states = np.stack([tale.states for tale in tales])
    return TruePlaces(
        present=body_slots(states, "present") > 0.5,
        xy=np.stack([body_slots(states, "x"), body_slots(states, "y")], axis=-1),
        visibility=body_slots(states, "visible"),
    )
