"""Permanence scenes (P1): bodies go out of sight before the eyes of the predictor, and come back, or do not. No model.

Behind a curtain that has risen after the context, what happens has been seen to be coming: nothing (P1a), it slows down
(P1b), it meets a post (P1c), it comes to rest and the curtain falls (P1d) or does not (P1g), it passes another one
(P1e); or bodies at rest are covered and uncovered (P1f), or the camera looks away (P1h). Scenes come from seeds by a
registered rule, and every one is played and audited: what it is named for does happen in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from jaxtyping import Float64, UInt8

from worldsim.envs.scene import COLOURS, ENTITY_NAMES
from worldsim.envs.state import body_slots
from worldsim.eval import permanence_draws as draws
from worldsim.eval.families import Family, Reader, Scene, Scores, first_that
from worldsim.eval.permanence_scores import ERROR, MEASURES, Occlusion, score
from worldsim.eval.tales import Tale, drawn, rehearse, truth_of
from worldsim.eval.tracking import HIDDEN, VISIBLE, distance_apart
from worldsim.eval.trials import Script

_POST = "post_0"
LEAST_HIDDEN = 4
"""Least number of frames a target is hidden."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Permanence(Family):
    """One kind of permanence scene."""

    code: str
    title: str
    draw: Callable[[np.random.Generator, int], Script | None]
    """Draws the script of a scene, or None where it does not fit on the floor; its label names the targets' colours."""
    post: bool = False
    """Whether the target meets a post while it is hidden."""
    returns: bool = True
    """Whether the targets are seen again."""
    references: tuple[str, ...] = ()
    headline: str | None = None
    samples: int = 1
    claim: ClassVar[str] = "object permanence"
    error = ERROR
    measures = MEASURES

    def scene(self, env: gym.Env[Any, Any], split: str, index: int) -> Scene:
        """Return scene ``index`` of a split as it happened; the first draw whose event takes place counts."""

        def attempt(rng: np.random.Generator, seed: int) -> Scene | None:
            script = self.draw(rng, seed)
            tale = None if script is None else rehearse(env, script)
            return (drawn(env, tale),) if tale is not None and self.events(tale) else None

        return first_that(self.code, split, index, attempt)

    def events(self, tale: Tale) -> tuple[Occlusion, ...]:
        """Return when each target is hidden; nothing where the scene does not show what the family is named for.

        Every target must be seen when the actions begin, hidden at one stretch, and seen again for four frames (or
        never, where it does not return); a post behind the curtain must be met while hidden, and nothing else until
        the target is seen again.
        """
        found = [self._event(tale, colour) for colour in tale.script.label.split("+")]
        return tuple(event for event in found if event is not None) if None not in found else ()

    def _event(self, tale: Tale, colour: str) -> Occlusion | None:
        slot = COLOURS.index(colour)
        seen = body_slots(tale.states, "visible")[:, slot]
        hidden = np.flatnonzero(seen <= HIDDEN)
        if body_slots(tale.context_states[-1], "visible")[slot] < 0.95 or len(hidden) < LEAST_HIDDEN:
            return None
        first, last = int(hidden[0]), int(hidden[-1])
        again = np.flatnonzero(seen[last + 1 :] >= VISIBLE)
        ends_well = len(again) >= 4 if self.returns else last == len(seen) - 1
        if last - first + 1 != len(hidden) or not ends_well:
            return None
        until = last + 1 + int(again[0]) if self.returns else len(seen)
        expected = {colour, "floor", _POST} if self.post else {colour, "floor"}
        if self.post and not _met(tale, colour, {_POST}, first, last):
            return None
        if _met(tale, colour, set(ENTITY_NAMES) - expected, 0, until):
            return None
        return Occlusion(slot=slot, hidden_from=first, hidden_until=until)

    def score(self, scenes: Sequence[Scene], frames: UInt8[np.ndarray, "n m t h w 3"], reader: Reader) -> Scores:
        """Score a row: tracking error of all bodies, recall of the targets and how far they went on."""
        tales = [scene[0] for scene in scenes]
        return score(tales, [self.events(tale) for tale in tales], frames[:, 0], reader)

    def apart(
        self, scenes: Sequence[Scene], one: np.ndarray, other: np.ndarray, reader: Reader
    ) -> Float64[np.ndarray, " n"]:
        """Return how far the bodies of two futures are apart (m), summed over what is scored; a missing one costs the cut-off."""
        tales = [scene[0] for scene in scenes]
        states = np.stack([tale.states for tale in tales])
        read = [reader(frames[:, 0], states) for frames in (one, other)]
        return distance_apart(read[0], read[1], truth_of(tales))

    def describe(self, scene: Scene) -> str:
        """Name the targets and when they are hidden."""
        events = self.events(scene[0])
        parts = [f"{COLOURS[e.slot]} hidden in {e.hidden_from + 1}-{e.hidden_until}" for e in events]
        return f"{self.title}; {', '.join(parts)}"

    def hidden(self, scene: Scene) -> tuple[int, int]:
        """Return the frames in which the first target is hidden."""
        event = self.events(scene[0])[0]
        return event.hidden_from, event.hidden_until


def _met(tale: Tale, one: str, others: set[str], first: int, last: int) -> bool:
    """Return whether an entity touched one of the others within the frames ``first`` .. ``last``."""
    own, theirs = ENTITY_NAMES.index(one), {ENTITY_NAMES.index(other) for other in others}
    rows = tale.contacts[first : last + 1].reshape(-1, 3)
    return any(own in (int(a), int(b)) and theirs & {int(a), int(b)} for time, a, b in rows if time >= 0)


PERMANENCE: tuple[Permanence, ...] = (
    Permanence(
        code="P1a",
        title="passes behind the curtain",
        draw=draws.passing(36),
        references=("constant velocity",),
        samples=2,
    ),
    Permanence(
        code="P1b",
        title="slows down behind the curtain",
        draw=draws.passing(60, damping=0.35, speed=(0.5, 0.6)),
        samples=2,
    ),
    Permanence(
        code="P1c", title="meets a post behind the curtain", draw=draws.passing(36, post=True), post=True, samples=2
    ),
    Permanence(
        code="P1d",
        title="comes to rest behind the curtain, which falls",
        draw=draws.stopping(40, falls_at=21),
        samples=2,
    ),
    Permanence(code="P1e", title="passes another one behind the curtain", draw=draws.crossing(44)),
    Permanence(
        code="P1f",
        title="rests while a curtain rises and falls",
        draw=draws.covered(36),
        references=("constant velocity", "freeze"),
    ),
    Permanence(
        code="P1g",
        title="comes to rest behind the curtain, which stays",
        draw=draws.stopping(40),
        returns=False,
        headline="shown while hidden",  # who deletes what was hidden is right
    ),
    Permanence(
        code="P1h",
        title="moves or rests while the camera looks away",
        draw=draws.unwatched(30),
        references=("constant velocity",),
    ),
)
