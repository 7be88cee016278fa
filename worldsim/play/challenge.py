"""Where is the covered body? The player points, the dream's readout answers, and MuJoCo knows. Knows no network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8

from worldsim.envs.camera import field_of_view, project, unproject
from worldsim.envs.scene import COLOURS, HALF_FLOOR
from worldsim.envs.tasks import HIDDEN_SHARE, target_element, target_slot
from worldsim.errors import UsageError
from worldsim.eval.places import camera_of
from worldsim.play.pair import Pair
from worldsim.play.tape import Beginning

TASK = "uncover"
WAIT_STEPS = 6
"""Steps that go by while the body is covered, before the question is asked."""
_SCENES = 20
_READOUTS = ("places", "bodies", "state")
"""Readouts that may tell a body's place, the best first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """A scene whose ``colour`` body is covered, and the lead-in in which it was seen."""

    beginning: Beginning
    colour: str
    lead_in: UInt8[np.ndarray, "t h w 3"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """Where the body is and where it was thought to be: places (m) and pictures of them (shares from left and top)."""

    colour: str
    places: Mapping[str, tuple[float, float]]
    pictures: Mapping[str, tuple[float, float]]
    errors_cm: Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """Answers so far. The dream has none where its model tells no places."""

    rounds: int = 0
    won: int = 0
    """Rounds in which the player was nearer than the dream."""
    you_cm: float = 0.0
    dream_cm: float = 0.0
    """Mean distances from the true place."""

    def after(self, verdict: Verdict) -> Score:
        """Return the score with one more answer."""
        you, dream = verdict.errors_cm["you"], verdict.errors_cm.get("dream", 0.0)
        n = self.rounds + 1
        return Score(
            rounds=n,
            won=self.won + ("dream" in verdict.errors_cm and you < dream),
            you_cm=self.you_cm + (you - self.you_cm) / n,
            dream_cm=self.dream_cm + (dream - self.dream_cm) / n,
        )


def find_question(pair: Pair, checkpoint: str, seed: int) -> Question:
    """Return the first scene from ``seed`` on whose target is still covered after `WAIT_STEPS`.

    Plays the truth of ``pair``; begin both worlds with the question's beginning afterwards. UsageError in other worlds.
    """
    if pair.truth is None or pair.truth.now.state is None:
        raise UsageError("challenge", got=pair.spec.env_id, allowed="the Arena", fix="play a checkpoint of the Arena")
    still = np.zeros(pair.spec.action_dim, np.float32)
    for offset in range(_SCENES):
        beginning = Beginning(seed=(seed + offset) % 2**31, checkpoint=checkpoint, task=TASK)
        context = pair.truth.reset(beginning.seed, TASK, {})
        for _ in range(WAIT_STEPS):
            pair.truth.step(still)
        state = pair.truth.now.state
        if target_element(state, "visible") <= HIDDEN_SHARE:
            return Question(beginning=beginning, colour=COLOURS[int(target_slot(state))], lead_in=context.frames)
    raise UsageError("challenge", got=f"seed {seed}", allowed="scenes with a covered body", fix="try another seed")


def judge(pair: Pair, question: Question, x: float, y: float) -> Verdict:
    """Compare the place pointed at (shares of the picture from left and top) and the dream's with the true one."""
    assert pair.truth is not None and pair.truth.now.state is not None  # `find_question` has seen to it
    state = pair.truth.now.state
    height, width = pair.truth.now.frame.shape[:2]
    aspect = width / height
    fovy, pose = field_of_view(aspect, HALF_FLOOR), camera_of(state)
    radius = np.array([float(target_element(state, "radius"))])
    pointed = unproject(pose, np.array([[2 * x - 1, 1 - 2 * y]]), radius, fovy, aspect)[0]
    places = {"truth": (float(target_element(state, "x")), float(target_element(state, "y")))}
    places["you"] = _on_floor(*np.nan_to_num(pointed, nan=HALF_FLOOR))
    read = dreamt_place(pair, question.colour)
    if read is not None:
        places["dream"] = _on_floor(*read)
    errors = {
        name: 100 * float(np.hypot(*np.subtract(place, places["truth"])))
        for name, place in places.items()
        if name != "truth"
    }
    points = np.array([[*place, radius[0]] for place in places.values()])
    image = project(pose, points, fovy, aspect)
    shares = [((float(u) + 1) / 2, (1 - float(v)) / 2) for u, v in np.nan_to_num(image, nan=2.0)]
    return Verdict(
        colour=question.colour, places=places, pictures=dict(zip(places, shares, strict=True)), errors_cm=errors
    )


def dreamt_place(pair: Pair, colour: str) -> tuple[float, float] | None:
    """Return where the model reads the body in the frame it shows (m), None if it has no such readout."""
    declared = {readout.name: readout.names for readout in pair.spec.readouts}
    for name in _READOUTS:
        names = declared.get(name, ())
        if f"{colour}/x" in names and f"{colour}/y" in names:
            values = pair.dreamt.readouts[name]
            return float(values[names.index(f"{colour}/x")]), float(values[names.index(f"{colour}/y")])
    return None


def _on_floor(x: float, y: float) -> tuple[float, float]:
    return float(np.clip(x, -HALF_FLOOR, HALF_FLOOR)), float(np.clip(y, -HALF_FLOOR, HALF_FLOOR))
