"""Permanence scenes (P1): a body goes behind a curtain that has risen before the eyes of the predictor. No model.

Seen by the camera, the target comes from one side of the curtain, behind it, and what then happens there has been seen to
be coming: nothing (P1a), it slows down (P1b), it meets a post (P1c), it comes to rest and the curtain falls (P1d) or
does not (P1g). Another body rests in front. Scenes come from seeds by a registered rule, and every one is played and
audited: what it is named for does happen in it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import Any

import gymnasium as gym
import numpy as np

from worldsim.envs.camera import ground_axes
from worldsim.envs.controls import ACTION_NAMES, CONTEXT_STEPS, CONTROL_DT_S, CURTAIN_STEP
from worldsim.envs.factors import FACTORS
from worldsim.envs.pushes import folded, travelled
from worldsim.envs.scene import COLOURS, ENTITY_NAMES, HALF_FLOOR, WALLS
from worldsim.envs.state import body_slots
from worldsim.eval.tales import Tale, play
from worldsim.eval.tracking import HIDDEN, VISIBLE
from worldsim.eval.trials import Script

PROTOCOL = "worldsim-probe-v1"
SPLITS = ("dev", "test")
LEAD_IN_S = CONTEXT_STEPS * CONTROL_DT_S
GRAVITY = 9.81
_ATTEMPTS = 200
_RADIUS = 0.09
_RISE = round(1 / CURTAIN_STEP)  # steps
_FALL_AT = 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of scene."""

    code: str
    title: str
    steps: int
    damping: float = 0.0
    friction: tuple[float, float] = (0.0, 0.0)
    speed: tuple[float, float] = (0.2, 0.3)
    post: bool = False
    falls: bool = False
    returns: bool = True
    """Whether the target is seen again."""


FAMILIES = {
    family.code: family
    for family in (
        Family(code="P1a", title="passes behind the curtain", steps=36),
        Family(code="P1b", title="slows down behind the curtain", steps=44, damping=0.35, speed=(0.5, 0.6)),
        Family(code="P1c", title="meets a post behind the curtain", steps=36, post=True),
        Family(code="P1d", title="comes to rest behind the curtain, which falls", steps=40, friction=(0.012, 0.02),
               speed=(0.5, 0.6), falls=True),
        Family(code="P1g", title="comes to rest behind the curtain, which stays", steps=40, friction=(0.012, 0.02),
               speed=(0.5, 0.6), returns=False),
    )
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Occlusion:
    """What happens to the target: its palette slot, the first hidden frame and the first one after (T if none)."""

    slot: int
    hidden_from: int
    hidden_until: int

    @property
    def hidden_frames(self) -> int:
        """Number of frames between being seen and being seen again."""
        return self.hidden_until - self.hidden_from


def scene_seed(family: str, split: str, index: int, attempt: int) -> int:
    """Return the seed of a scene by the registered rule; ``attempt`` counts those whose event did not happen."""
    digest = hashlib.sha256(f"{PROTOCOL}|{family}|{split}|{index}|{attempt}".encode()).digest()
    return int.from_bytes(digest[:4], "big") | 1 << 33  # far from every other seed


def permanence_tale(env: gym.Env[Any, Any], family: Family, split: str, index: int) -> Tale:
    """Return scene ``index`` of a split as it happened; the first attempt whose event takes place counts."""
    for attempt in range(_ATTEMPTS):
        script = _draw(family, scene_seed(family.code, split, index, attempt))
        if script is None:
            continue
        tale = play(env, script)
        if occlusion(tale, family) is not None:
            return tale
    raise RuntimeError(f"{family.code}, scene {index} of {split}: no event in {_ATTEMPTS} attempts")


def occlusion(tale: Tale, family: Family) -> Occlusion | None:
    """Return when the target is hidden, or None where the scene does not show what its family is named for.

    It must be seen when the actions begin, hidden at one stretch, and seen again for four frames (or never, where the
    curtain stays); and where a post is behind the curtain it must be met while hidden, and no wall ever.
    """
    slot = COLOURS.index(tale.script.label)
    seen = body_slots(tale.states, "visible")[:, slot]
    hidden = np.flatnonzero(seen <= HIDDEN)
    if body_slots(tale.context_states[-1], "visible")[slot] < 0.95 or len(hidden) < 4:
        return None
    first, last = int(hidden[0]), int(hidden[-1])
    later = seen[last + 1 :]
    again = np.flatnonzero(later >= VISIBLE)
    ends_well = len(again) >= 4 if family.returns else last == len(seen) - 1
    if last - first + 1 != len(hidden) or not ends_well:
        return None
    if family.post and not _met(tale, tale.script.label, "post_0", first, last):
        return None
    if any(_met(tale, tale.script.label, wall, 0, len(seen) - 1) for wall in WALLS):
        return None
    until = last + 1 + int(again[0]) if family.returns else len(seen)
    return Occlusion(slot=slot, hidden_from=first, hidden_until=until)


def _met(tale: Tale, one: str, other: str, first: int, last: int) -> bool:
    """Return whether two entities touched within the frames ``first`` .. ``last``."""
    pair = {ENTITY_NAMES.index(one), ENTITY_NAMES.index(other)}
    rows = tale.contacts[first : last + 1].reshape(-1, 3)
    return any({int(a), int(b)} == pair for time, a, b in rows if time >= 0)


def _draw(family: Family, seed: int) -> Script | None:
    """Draw a scene of the family, or None where it does not fit on the floor."""
    rng = np.random.default_rng(seed)
    azimuth = float(FACTORS["camera_azimuth"].draw(rng))
    angle = azimuth % 180.0 - 90.0
    if any(span.holds(angle) for span in FACTORS["curtain_angle"].held_out if not isinstance(span, str)):
        return None
    right, forward = ground_axes(azimuth)
    side = 1.0 if rng.random() < 0.5 else -1.0
    half_width = float(rng.choice([0.2, 0.3, 0.42], p=[0.4, 0.4, 0.2]))
    middle, depth = float(rng.uniform(-0.12, 0.12)), float(rng.uniform(0.08, 0.22))
    speed = float(rng.uniform(*family.speed))
    friction = float(rng.uniform(*family.friction))
    way = travelled(LEAD_IN_S, family.damping) * speed - friction * GRAVITY * LEAD_IN_S**2 / 2
    lateral = middle + side * (half_width + _RADIUS + float(rng.uniform(0.02, 0.06)))
    start, turned = folded(np.array([lateral + side * way, 0.0]), HALF_FLOOR - _RADIUS)
    place = float(start[0]) * right + (depth - 0.09) * forward
    heading = -side * float(turned[0]) * right
    if np.abs(place).max() > HALF_FLOOR - 0.115 or np.abs(lateral * right).max() > HALF_FLOOR - 0.1:
        return None
    colours = rng.permutation(len(COLOURS))[:2]
    near = -side * float(rng.uniform(0.0, 0.3)) * right - float(rng.uniform(0.35, 0.45)) * forward
    target = {
        "colour": COLOURS[colours[0]], "speed": speed, "direction": math.degrees(math.atan2(heading[1], heading[0])) % 360,
        "x": float(place[0]), "y": float(place[1]), "radius": _RADIUS,
    }  # fmt: skip
    bystander = {"colour": COLOURS[colours[1]], "speed": 0.0, "x": float(near[0]), "y": float(near[1])}
    corner = side * 0.5 * right - 0.5 * forward
    behind = middle * right + (depth - 0.09) * forward
    post = {"shape": "cylinder", "x": float(behind[0]), "y": float(behind[1]), "half_x": 0.06}
    curtain = middle * right - 0.09 * forward
    options = {
        "camera_azimuth": azimuth, "curtain_angle": angle, "curtain_half_width": half_width,
        "curtain_x": float(curtain[0]), "curtain_y": float(curtain[1]), "damping": family.damping, "friction": friction,
        "bodies": [target, bystander], "posts": [post] if family.post else [],
        "pusher_x": float(np.clip(corner[0], -0.6, 0.6)), "pusher_y": float(np.clip(corner[1], -0.6, 0.6)),
    }  # fmt: skip
    actions = np.zeros((family.steps, len(ACTION_NAMES)), np.float32)
    actions[:_RISE, ACTION_NAMES.index("curtain")] = 1.0
    if family.falls:
        actions[_FALL_AT : _FALL_AT + _RISE, ACTION_NAMES.index("curtain")] = -1.0
    return Script(seed=seed, options=options, actions=actions, azimuth_deg=azimuth, label=target["colour"])
