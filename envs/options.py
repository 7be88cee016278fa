"""Reset options: what a caller may pin or ask for, checked. Knows no MuJoCo and draws nothing.

A scene is described by any factor of scope "scene" by name; bodies by lists with one entry each (None leaves it to
chance) under a body factor's name, or by ``bodies``, a list of dictionaries with those names or ``vx`` and ``vy``
(m/s); posts by ``posts``, their number or a list of dictionaries. ``split="held_out"`` draws every factor from its
held-out values, ``held_out=[names]`` only those (``"pairs"`` stands for the held-out pairs). ``lead_in`` (10, 5) are
the actions of the lead-in.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worldsim.envs.controls import ACTION_NAMES, CONTEXT_STEPS
from worldsim.envs.factors import FACTORS, check_name, check_value
from worldsim.errors import UsageError

BODY_KEYS = ("colour", "shape", "radius", "mass", "speed", "direction", "x", "y")
POST_KEYS = ("shape", "x", "y", "half_x", "half_y", "angle")
SCENE_KEYS = tuple(name for name, factor in FACTORS.items() if factor.scope == "scene")
SPLITS = ("train", "held_out")
OPTION_KEYS = (*SCENE_KEYS, *BODY_KEYS, "bodies", "split", "held_out", "lead_in")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pins:
    """Checked options: what the caller fixed. Everything else is drawn, from held-out values where listed."""

    scene: Mapping[str, Any]
    bodies: tuple[Mapping[str, Any], ...]
    posts: tuple[Mapping[str, Any], ...] | None
    held_out: frozenset[str]
    lead_in: np.ndarray | None

    @property
    def places_bodies(self) -> bool:
        """Whether the caller placed bodies, so that drawing the scene again cannot move them."""
        return any("x" in body or "y" in body for body in self.bodies)


def parse_options(options: Mapping[str, Any]) -> Pins:
    """Check reset options and return them as pins; UsageError for unknown keys and values out of range."""
    for key in options:
        check_name(key, (*OPTION_KEYS, "state"), "reset option")
    scene = {key: options[key] for key in SCENE_KEYS if key in options and key != "posts"}
    for key, value in scene.items():
        check_value(key, value)
    posts = options.get("posts")
    if isinstance(posts, Sequence) and not isinstance(posts, str):
        scene["posts"], post_pins = len(posts), tuple(_checked_post(post) for post in posts)
        check_value("posts", len(posts))
    else:
        post_pins = None
        if posts is not None:
            check_value("posts", posts)
            scene["posts"] = posts
    bodies = _body_pins(options)
    if bodies and "count" not in scene:
        scene["count"] = len(bodies)
    if bodies and scene["count"] != len(bodies):
        raise UsageError(
            "option 'count'",
            got=f"{scene['count']} with {len(bodies)} bodies listed",
            allowed="one entry for each body",
            fix="leave 'count' out, or list as many entries",
        )
    bodies = bodies or _broadcast(options, FACTORS["count"].held_out[-1].high)
    return Pins(
        scene=scene, bodies=bodies, posts=post_pins, held_out=_held_out_names(options), lead_in=_lead_in(options)
    )


def _lead_in(options: Mapping[str, Any]) -> np.ndarray | None:
    """Return the lead-in's actions, None if they are left to the task."""
    if options.get("lead_in") is None:
        return None
    actions = np.asarray(options["lead_in"], np.float32)
    shape = (CONTEXT_STEPS, len(ACTION_NAMES))
    if actions.shape != shape or not (np.abs(actions) <= 1).all():
        raise UsageError(
            "option 'lead_in'",
            got=f"shape {actions.shape}, values within {actions.min():g}..{actions.max():g}",
            allowed=f"shape {shape}, values in -1..1",
            fix="one action (" + ", ".join(ACTION_NAMES) + ") for each step of the lead-in",
        )
    return actions


def _held_out_names(options: Mapping[str, Any]) -> frozenset[str]:
    split = options.get("split", "train")
    if not isinstance(split, str) or split not in SPLITS:
        raise UsageError("option 'split'", got=repr(split), allowed=" or ".join(SPLITS), fix="split='held_out'")
    known = (*(name for name, factor in FACTORS.items() if factor.held_out), "pairs")
    names = options.get("held_out", ())
    if isinstance(names, str):
        names = (names,)
    for name in names:
        check_name(name, known, "option 'held_out'")
    everything = set(known) - {"curtain_height"} if split == "held_out" else set()
    return frozenset(everything | set(names))


def _body_pins(options: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return one dictionary for each body that a list describes, () if no option is a list."""
    lists = {key: options[key] for key in BODY_KEYS if _is_list(options.get(key))}
    entries = options.get("bodies", ())
    if not _is_list(entries) or not all(isinstance(entry, Mapping) for entry in entries):
        raise UsageError(
            "option 'bodies'", got=repr(entries), allowed="a list of dictionaries", fix="bodies=[{'colour': 'red'}]"
        )
    lengths = {len(values) for values in lists.values()} | ({len(entries)} if entries else set())
    if not lengths:
        return ()
    if len(lengths) > 1:
        raise UsageError(
            "options for bodies", got=f"lists of {sorted(lengths)} entries", allowed="equal lengths", fix="one per body"
        )
    pins = []
    for index in range(lengths.pop()):
        scalars = {key: options[key] for key in BODY_KEYS if key in options and key not in lists}
        listed = {key: values[index] for key, values in lists.items() if values[index] is not None}
        pins.append(_checked_body({**scalars, **listed, **(entries[index] if entries else {})}))
    _check_colours(pins)
    return tuple(pins)


def _broadcast(options: Mapping[str, Any], most: float) -> tuple[dict[str, Any], ...]:
    """Return the same pins for every body, from options that are single values."""
    scalars = {key: options[key] for key in BODY_KEYS if key in options}
    if not scalars:
        return ()
    if {"colour", "x", "y"} & set(scalars) and options.get("count") != 1:
        _refuse_shared(next(key for key in ("colour", "x", "y") if key in scalars))
    return (_checked_body(scalars),) * int(most)


def _refuse_shared(key: str) -> None:
    raise UsageError(
        f"option {key!r}", got="one value", allowed="a list with one entry (or None) for each body", fix=f"{key}=[...]"
    )


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray))


def _checked_body(pins: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pins of one body, ``vx`` and ``vy`` joined to ``velocity``."""
    for key, value in pins.items():
        check_name(key, (*BODY_KEYS, "vx", "vy"), "key of option 'bodies'")
        if key in BODY_KEYS:
            check_value(key, value)
    body = {key: pins[key] for key in BODY_KEYS if key in pins}
    velocity = (pins.get("vx", 0.0), pins.get("vy", 0.0))
    if not {"vx", "vy"} & set(pins):
        return body
    top = FACTORS["speed"].held_out[-1].high
    numbers = all(isinstance(part, (int, float, np.integer, np.floating)) for part in velocity)
    if not numbers or not math.hypot(*velocity) <= top + 1e-9:
        raise UsageError(
            "option 'bodies'", got=f"velocity {velocity}", allowed=f"two numbers, up to {top} m/s", fix="a slower body"
        )
    return {**body, "velocity": (float(velocity[0]), float(velocity[1]))}


def _checked_post(pins: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in pins.items():
        check_name(key, POST_KEYS, "key of option 'posts'")
        check_value(f"post_{key}", value)
    return dict(pins)


def _check_colours(pins: Sequence[Mapping[str, Any]]) -> None:
    colours = [body["colour"] for body in pins if "colour" in body]
    if len(set(colours)) < len(colours):
        raise UsageError("option 'colour'", got=str(colours), allowed="each colour at most once", fix="other colours")
