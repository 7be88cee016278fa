"""Drift probes (P5): what is left of a long dream, when nothing is done and when much is. Knows no model.

Over hundreds of frames true and dreamt bodies part, so beside the tracking error it is counted how long the world stays
whole: until a body is missing, or a colour shown that is not there, for five frames on end. Copying the last frame is
perfect where nothing is done, so that probe is a floor, not a skill.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Float64, UInt8

from worldsim.envs.controls import ACTION_NAMES
from worldsim.envs.painter import Painter
from worldsim.envs.state import body_slots
from worldsim.eval.families import Family, Measure, Reader, Scene, Scores, first_that, in_view_rows
from worldsim.eval.permanence_scores import ERROR
from worldsim.eval.places import Places
from worldsim.eval.statistics import quotient
from worldsim.eval.tales import drawn, rehearse, truth_of
from worldsim.eval.tracking import VISIBLE, TruePlaces, tracking_error
from worldsim.eval.trials import Script, recorded_scripts
from worldsim.metrics import MOVED_GREY_LEVELS, laplacian_energy

STEPS = 200
COLLAPSED = 5
"""Frames on end in which a body is missing, or a colour too many, after which the world counts as collapsed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drift(Family):
    """A long dream: ``driven`` as in a recording, or left alone."""

    code: str
    title: str
    driven: bool
    steps: int = STEPS
    headline: str | None = None
    most_scenes: int | None = 32
    claim: ClassVar[str] = "long-range consistency"
    error = ERROR
    measures = (
        Measure(name="whole for", columns=("survival", "one"), statistic=quotient, unit="frames",
                meaning=f"frames until a body is missing or a colour too many for {COLLAPSED} frames on end (restricted mean)"),
        Measure(name="still whole", columns=("survives", "one"), statistic=quotient, perfect=1.0,
                meaning="share of the dreams that never collapse; it means nothing for a predictor that ignores actions"),
        Measure(name="sharpness", columns=("sharpness", "true_sharpness"), statistic=quotient, perfect=1.0,
                meaning="Laplacian energy over the truth's"),
        Measure(name="flicker", columns=("flicker", "still_pixels"), statistic=quotient, unit="grey levels", perfect=0.0,
                meaning="change from frame to frame of pixels that the truth leaves as they are, beyond the truth's"),
    )  # fmt: skip

    def scene(self, env: gym.Env[Any, Any], split: str, index: int) -> Scene:
        """Return one long tale with all bodies in view when it begins."""

        def attempt(rng: np.random.Generator, seed: int) -> Scene | None:
            del rng
            if self.driven:
                script = recorded_scripts(env, [seed], self.steps)[0]
            else:
                actions = np.zeros((self.steps, len(ACTION_NAMES)), np.float32)
                count = 1 + index % 3
                script = Script(seed=seed, options={"count": count, "speed": [0.0] * count}, actions=actions)
            tale = rehearse(env, script)
            seen, present = (body_slots(tale.context_states[-1], name) for name in ("visible", "present"))
            return (drawn(env, tale),) if (seen >= 0.95)[present > 0.5].all() else None

        return first_that(self.code, split, index, attempt)

    def score(self, scenes: Sequence[Scene], frames: UInt8[np.ndarray, "n m t h w 3"], reader: Reader) -> Scores:
        """Score long dreams."""
        tales, film = [scene[0] for scene in scenes], frames[:, 0]
        true = np.stack([tale.frames for tale in tales])
        read, truth = reader(film, np.stack([tale.states for tale in tales])), truth_of(tales)
        error = tracking_error(read, truth)
        by_scene = error.by_scene()
        lasts = np.array([collapse(row) for row in _broken(read, truth)], dtype=np.float64)
        flicker, still = _flicker(film, true)
        columns = {
            "cost": by_scene[:, 0], "scored": by_scene[:, 1], "survival": lasts, "one": np.ones(len(lasts)),
            "survives": (lasts == film.shape[1]).astype(np.float64),
            "sharpness": laplacian_energy(film).mean(axis=1), "true_sharpness": laplacian_energy(true).mean(axis=1),
            "flicker": flicker, "still_pixels": still,
        }  # fmt: skip
        return Scores(columns=columns, frame_cost=error.frame_cost_cm, floor=error.floor_cm)

    def describe(self, scene: Scene) -> str:
        """Say what is done."""
        return f"{self.title}: {scene[0].script.label}" if self.driven else self.title

    def trivial(self, scenes: Sequence[Scene], painter: Painter) -> Mapping[str, UInt8[np.ndarray, "n m t h w 3"]]:
        """Return what copies the last frame, and what lets every body go on as it moves."""
        return in_view_rows(scenes, painter)


def collapse(broken: Bool[np.ndarray, " t"]) -> int:
    """Return the first frame of `COLLAPSED` broken ones on end, or the number of frames."""
    runs = np.convolve(broken, np.ones(COLLAPSED), mode="valid")
    first = np.flatnonzero(runs == COLLAPSED)
    return int(first[0]) if len(first) else len(broken)


def _broken(read: Places, truth: TruePlaces) -> Bool[np.ndarray, "n t"]:
    """Return the frames in which a visible body is not read, or a colour is that the scene does not have."""
    lost = truth.present & (truth.visibility >= VISIBLE) & ~read.found
    return np.any(lost | (~truth.present & read.found), axis=-1)


def _flicker(film: np.ndarray, true: np.ndarray) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Return, by scene, the change beyond the truth's summed over the pixels that it leaves alone, and their number."""
    sums = []
    for dreamt, real in zip(film, true, strict=True):
        change, allowed = (np.abs(np.diff(x.astype(np.int16), axis=0)).max(axis=-1) for x in (dreamt, real))
        still = allowed <= MOVED_GREY_LEVELS
        sums.append((float(((change - allowed) * still).sum()), float(still.sum())))
    columns = np.array(sums)
    return columns[:, 0], columns[:, 1]


DRIFT: tuple[Drift, ...] = (
    Drift(code="P5a", title="nothing is done and nothing moves", driven=False, headline="still whole"),
    Drift(code="P5b", title="actions go on as in a recording", driven=True),
)
