"""Draw a SceneSpec from the factors, some of them pinned by options. Knows no MuJoCo, no pixels and no rewards.

Every factor of every body is drawn from its own stream, keyed by the reset's seed, the factor and the body's number.
So pinning one factor leaves every other draw of the same seed as it was: scenes come in exact pairs.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from worldsim.envs.factors import FACTORS, is_held_out_pair, motion_of
from worldsim.envs.options import SCENE_KEYS, Pins
from worldsim.envs.placement import Room
from worldsim.envs.scene import COLOURS, PUSHER_RADIUS, SHAPES, Body, Post, SceneSpec


class Streams:
    """Independent random streams by name, all decided by one key."""

    def __init__(self, key: int) -> None:
        self._key = key

    def __call__(self, name: str, index: int = 0) -> np.random.Generator:
        """Return the stream called ``name`` of the ``index``-th thing, from its beginning."""
        return np.random.default_rng([self._key, zlib.crc32(name.encode()), index])


def draw_scene(key: int, pins: Pins, *, hide_target: bool = False) -> SceneSpec:
    """Return the scene that ``key`` decides under the pins.

    With ``hide_target`` the curtain stands across the line of sight with the target (the first colour in palette
    order) at rest behind it, as far as these are not pinned.

    Raises:
        UsageError: pinned things overlap or leave no room for the rest.
    """
    streams = Streams(key)
    scene = {name: _draw(name, 0, pins.scene, pins, streams) for name in SCENE_KEYS}
    bodies = list(_looks(scene["count"], pins, streams))
    if hide_target:
        _hide(scene, bodies, pins, streams)
    num_posts = scene.pop("posts")
    scene.pop("count")
    posts, placed = _place_all(num_posts, bodies, scene, pins, streams)
    return SceneSpec(bodies=placed, posts=posts, **scene)


def _draw(name: str, index: int, pinned: Mapping[str, Any], pins: Pins, streams: Streams) -> Any:
    if name in pinned:
        value = pinned[name]
        return value if isinstance(value, str) else int(value) if FACTORS[name].whole else float(value)
    return FACTORS[name].draw(streams(name, index), name in pins.held_out)


def _looks(count: int, pins: Pins, streams: Streams) -> Iterator[dict[str, Any]]:
    """Yield what each body is (all but its place), keeping to train pairs or, where asked, to held-out ones."""
    pinned = [pins.bodies[index] if index < len(pins.bodies) else {} for index in range(count)]
    taken = {body["colour"] for body in pinned if "colour" in body}
    free = [str(colour) for colour in streams("colour").permutation(COLOURS) if colour not in taken]
    for index, pin in enumerate(pinned):
        body = {name: _draw(name, index, pin, pins, streams) for name in ("radius", "mass", "direction")}
        if "velocity" in pin:
            body["speed"], body["velocity"] = math.hypot(*pin["velocity"]), pin["velocity"]
        else:
            body["speed"] = _draw("speed", index, pin, pins, streams)
        colours = [pin["colour"]] if "colour" in pin else free
        shapes = [pin["shape"]] if "shape" in pin else [str(s) for s in streams("shape", index).permutation(SHAPES)]
        wanted = "pairs" in pins.held_out
        motion = motion_of(body["speed"])
        pairs = [(colour, shape) for colour in colours for shape in shapes]
        fitting = [pair for pair in pairs if is_held_out_pair(*pair, motion) == wanted]
        body["colour"], body["shape"] = (fitting or pairs)[0]
        if body["colour"] in free:
            free.remove(body["colour"])
        body["may_rest"] = "speed" not in pin and "velocity" not in pin
        yield {**body, **{axis: float(pin[axis]) for axis in "xy" if axis in pin}}


def _hide(scene: dict[str, Any], bodies: list[dict[str, Any]], pins: Pins, streams: Streams) -> None:
    """Set the curtain across the view and the target at rest behind it, in place."""
    rng = streams("hide")
    azimuth = math.radians(scene["camera_azimuth"])
    fixed = {*pins.scene, *pins.held_out}
    if "curtain_half_width" not in fixed:
        scene["curtain_half_width"] = float(rng.choice([0.3, 0.42]))
    for axis in "xy":
        drawn = float(rng.uniform(-0.18, 0.18))
        if f"curtain_{axis}" not in fixed:
            scene[f"curtain_{axis}"] = drawn
    angles = [(scene["camera_azimuth"] + 90 + turn + 90) % 180 - 90 for turn in rng.uniform(-20, 20, 16).tolist()]
    seen = [angle for angle in angles if not FACTORS["curtain_angle"].held_out[0].holds(angle)]
    if "curtain_angle" not in fixed:
        scene["curtain_angle"] = (seen or angles)[0]
    target = min(bodies, key=lambda body: COLOURS.index(body["colour"]))
    inward, across = (-math.cos(azimuth), -math.sin(azimuth)), (-math.sin(azimuth), math.cos(azimuth))

    def spot() -> tuple[float, float]:
        behind, along = rng.uniform(0.15, 0.24), rng.uniform(-0.05, 0.05)
        x = scene["curtain_x"] + behind * inward[0] + along * across[0]
        return float(x), float(scene["curtain_y"] + behind * inward[1] + along * across[1])

    if "x" not in target and "y" not in target:
        target["spot"] = spot
    if target["may_rest"]:
        target["speed"] = 0.0


def _place_all(
    num_posts: int, bodies: Sequence[Mapping[str, Any]], scene: dict[str, Any], pins: Pins, streams: Streams
) -> tuple[tuple[Post, ...], tuple[Body, ...]]:
    """Place everything that is pinned, then everything that is drawn, and set the pusher's place in ``scene``."""
    room = Room()
    posts: dict[int, Post] = {}
    placed: dict[int, Body] = {}
    post_pins = pins.posts or ({},) * num_posts
    for turn in ("pinned", "drawn"):
        for index, pin in enumerate(post_pins):
            if ({"x", "y"} <= set(pin)) == (turn == "pinned"):
                posts[index] = _place_post(index, pin, pins, room, streams)
        for index, body in enumerate(bodies):
            if ({"x", "y"} <= set(body) or "spot" in body) == (turn == "pinned"):
                placed[index] = _place_body(body, room, streams("place", index))
        if ({"pusher_x", "pusher_y"} <= set(pins.scene)) == (turn == "pinned"):
            _place_pusher(scene, pins, room, streams)
    return tuple(posts[index] for index in sorted(posts)), tuple(placed[index] for index in sorted(placed))


def _place_post(index: int, pin: Mapping[str, Any], pins: Pins, room: Room, streams: Streams) -> Post:
    """Return a post where there is room for it; held-out places only where asked."""
    shape = pin.get("shape") or FACTORS["post_shape"].draw(streams("post_shape", index))
    held = "post_half_x" in pins.held_out
    span = FACTORS["post_half_x"].train[0 if shape == "cylinder" else 1]
    half_x = FACTORS["post_half_x"].draw(streams("post_half_x", index), True) if held else None
    half_x = float(pin.get("half_x") or half_x or streams("post_half_x", index).uniform(span.low, span.high))
    half_y = half_x if shape == "cylinder" else _draw_post("half_y", index, pin, pins, streams)
    angle = 0.0 if shape == "cylinder" else _draw_post("angle", index, pin, pins, streams)
    place = streams("post_place", index)

    def draw() -> tuple[float, float]:
        x = FACTORS["post_x"].draw(place, "post_x" in pins.held_out)
        y = FACTORS["post_y"].draw(place, "post_y" in pins.held_out)
        return float(pin.get("x", x)), float(pin.get("y", y))

    is_round, pinned = shape == "cylinder", "x" in pin and "y" in pin
    half = (half_x, half_y)
    x, y = room.place(f"post {index}", draw, half=half, angle=angle, is_round=is_round, pinned=pinned, moves=False)
    return Post(shape=shape, x=x, y=y, half_x=half_x, half_y=half_y, angle=angle)


def _draw_post(key: str, index: int, pin: Mapping[str, Any], pins: Pins, streams: Streams) -> float:
    drawn = FACTORS[f"post_{key}"].draw(streams(f"post_{key}", index), f"post_{key}" in pins.held_out)
    return float(pin.get(key, drawn))


def _place_body(look: Mapping[str, Any], room: Room, place: np.random.Generator) -> Body:
    """Return the body at its pinned place, or at a drawn one where it touches nothing."""
    radius = look["radius"]

    def draw() -> tuple[float, float]:
        x, y = (float(value) for value in place.uniform(-room.reach(radius), room.reach(radius), 2))
        return look.get("x", x), look.get("y", y)

    is_round, pinned = look["shape"] != "box", "x" in look and "y" in look
    spot = look.get("spot", draw)
    x, y = room.place(f"{look['colour']} body", spot, half=(radius, radius), is_round=is_round, pinned=pinned)
    turn = math.radians(look["direction"])
    vx, vy = look.get("velocity") or (look["speed"] * math.cos(turn), look["speed"] * math.sin(turn))
    return Body(colour=look["colour"], shape=look["shape"], x=x, y=y, vx=vx, vy=vy, radius=radius, mass=look["mass"])


def _place_pusher(scene: dict[str, Any], pins: Pins, room: Room, streams: Streams) -> None:
    """Set the pusher's start in place, at a pinned or at a free spot."""
    place = streams("pusher_place")

    def draw() -> tuple[float, float]:
        x, y = FACTORS["pusher_x"].draw(place), FACTORS["pusher_y"].draw(place)
        return float(pins.scene.get("pusher_x", x)), float(pins.scene.get("pusher_y", y))

    pinned = "pusher_x" in pins.scene and "pusher_y" in pins.scene
    half = (PUSHER_RADIUS, PUSHER_RADIUS)
    scene["pusher_x"], scene["pusher_y"] = room.place("pusher", draw, half=half, is_round=True, pinned=pinned)
