"""True frames of a recording and what is true of them, as the frozen state decoder is trained and tested on. No model.

Where things are seen comes from the true state and camera; how much of a body is in sight is recorded; how much of the
pusher is, is found by rays in the scene that a state describes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from worldsim.dataset import FrameCache
from worldsim.envs.camera import DISTANCE, field_of_view, project
from worldsim.envs.scene import COLOURS, HALF_FLOOR, PUSHER_HEIGHT, SHAPES, Body, Post, SceneSpec
from worldsim.envs.simulation import Simulation
from worldsim.envs.state import NUM_POSTS, body_slots, element
from worldsim.envs.visibility import visible_share
from worldsim.eval.decoder import FRAME_SIZE, THINGS
from worldsim.eval.places import body_heights, camera_of
from worldsim.eval.tracking import HIDDEN

_INTERESTING, _EMPTY = 3.0, 0.15
"""How often frames are drawn in which something is hidden in part, or close to another thing; and out of view."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples:
    """Frames and what is true of them; things as in `worldsim.eval.decoder.THINGS`."""

    frames: UInt8[np.ndarray, "n h w 3"]
    states: Float32[np.ndarray, "n s"]
    pixels: Float32[np.ndarray, "n things 2"]
    """Column and row of each thing's middle; NaN where there is no such thing or it is behind the camera."""
    radius: Float32[np.ndarray, "n things"]
    """About how large each thing is, in pixels."""
    share: Float32[np.ndarray, "n things"]
    """Share of it that is in sight, 0 where there is no such thing."""
    shape: Int64[np.ndarray, "n colours"]
    """Index in `SHAPES`; anything where there is no such body."""

    def rows(self, rows: Int64[np.ndarray, " m"]) -> Examples:
        """Return some of them."""
        return Examples(**{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)})


def take_examples(cache: FrameCache, episodes: int, frames_per_episode: int, rng: np.random.Generator) -> Examples:
    """Draw frames from a recording, those where something is hidden in part or near another more often."""
    states, rows, pusher = cache.readouts["state"], [], []
    for episode in np.sort(rng.permutation(cache.num_episodes)[:episodes]).tolist():
        all_rows = np.arange(*cache.offsets[episode : episode + 2].tolist())
        weight = _interest(states[all_rows])
        count = min(frames_per_episode, len(all_rows))
        rows.append(np.sort(rng.choice(all_rows, count, replace=False, p=weight / weight.sum())))
        pusher.append(pusher_share(states[rows[-1]]))
    taken = np.concatenate(rows)
    return label(np.asarray(cache.frames[taken]), states[taken], np.concatenate(pusher))


def label(
    frames: UInt8[np.ndarray, "n h w 3"], states: Float32[np.ndarray, "n s"], pusher: Float32[np.ndarray, " n"]
) -> Examples:
    """Return what is true of frames, from their states and the share of the pusher that is in sight."""
    pixels, radius = _image_places(states)
    shapes = np.stack([body_slots(states, name) for name in SHAPES], axis=-1)
    return Examples(
        frames=frames,
        states=states,
        pixels=pixels.astype(np.float32),
        radius=radius.astype(np.float32),
        share=np.concatenate([body_slots(states, "visible"), pusher[:, None]], axis=-1),
        shape=shapes.argmax(axis=-1),
    )


def _image_places(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return columns and rows (n, things, 2) and radii in pixels (n, things) of all things."""
    fovy = field_of_view(1.0, HALF_FLOOR)
    x, y = (np.stack([*body_slots(states, axis).T, element(states, f"pusher/{axis}")], axis=-1) for axis in "xy")
    height = np.concatenate([body_heights(states), np.full((len(states), 1), PUSHER_HEIGHT / 2)], axis=-1)
    points = np.stack([x, y, height], axis=-1)
    image = np.stack([project(camera_of(state), row, fovy, 1.0) for state, row in zip(states, points, strict=True)])
    pixels = (image * (1, -1) + 1) * FRAME_SIZE / 2 - 0.5
    present = np.concatenate([body_slots(states, "present") > 0.5, np.ones((len(states), 1), bool)], axis=-1)
    return np.where(present[..., None], pixels, np.nan), height / (DISTANCE * math.tan(fovy / 2)) * FRAME_SIZE / 2


def _interest(states: np.ndarray) -> np.ndarray:
    """Return how often each frame of an episode is to be drawn, relative to the others."""
    pixels, radius = _image_places(states)
    share = body_slots(states, "visible")
    in_part = ((share > HIDDEN) & (share < 0.95)).any(axis=-1)
    apart = np.linalg.norm(pixels[:, :, None] - pixels[:, None], axis=-1) / (radius[:, :, None] + radius[:, None])
    near = (np.nan_to_num(apart, nan=np.inf) < 1.3).sum(axis=(1, 2)) > len(THINGS)  # each is near itself
    in_view = (np.abs(pixels[:, -1] - FRAME_SIZE / 2) < FRAME_SIZE / 2).all(axis=-1)
    return np.where(in_part | near, _INTERESTING, 1.0) * np.where(in_view, 1.0, _EMPTY)


def pusher_share(states: Float32[np.ndarray, "n s"]) -> Float32[np.ndarray, " n"]:
    """Return the share of the pusher that is in sight in frames of one episode, by rays in the scene they show.

    The rays start from a cylinder a little wider than the pusher and its ring.
    """
    simulation = Simulation(_scene_of(states[0]), height=FRAME_SIZE, width=FRAME_SIZE)
    start = {body.colour: body for body in simulation.scene.bodies}
    start["pusher"] = Body(colour="pusher", shape="cylinder", x=simulation.scene.pusher_x, y=simulation.scene.pusher_y)
    shares = []
    for state in states:
        for name, body in start.items():
            for axis in "xy":
                moved = element(state, f"{name}/{axis}") - getattr(body, axis)
                simulation.data.joint(f"{name}/{axis}").qpos[0] = moved
        simulation.azimuth, simulation.tilt = (math.degrees(angle) for angle in _camera_angles(state))
        simulation.curtain = float(element(state, "curtain/height"))
        simulation.restore(simulation.snapshot())  # brings all that is drawn to these values
        pusher = ("cylinder", PUSHER_HEIGHT / 2, np.array([element(state, f"pusher/{axis}") for axis in "xy"], float))
        share = visible_share(simulation.model, simulation.data, [pusher], simulation.pose, simulation.fovy_rad, 1.0)
        shares.append(share[0])
    return np.array(shares, np.float32)


def _camera_angles(state: np.ndarray) -> tuple[float, float]:
    """Return azimuth and tilt in rad."""
    azimuth = math.atan2(element(state, "camera/azimuth_sin"), element(state, "camera/azimuth_cos"))
    return azimuth, float(element(state, "camera/tilt"))


def _scene_of(state: np.ndarray) -> SceneSpec:
    """Return the scene of a named state; what a state does not say, such as the light, is nothing that hides."""
    value = {name: float(element(state, name)) for name in ("pusher/x", "pusher/y", "camera/elevation")}
    value |= {
        f"curtain/{name}": float(element(state, f"curtain/{name}")) for name in ("x", "y", "half_width", "height")
    }

    def angle(name: str) -> float:
        return math.degrees(math.atan2(element(state, f"{name}_sin"), element(state, f"{name}_cos")))

    def numbers(name: str, keys: Sequence[str]) -> dict[str, float]:
        return {key: float(element(state, f"{name}/{key}")) for key in keys}

    bodies = tuple(
        Body(
            colour=colour,
            shape=max(SHAPES, key=lambda shape: element(state, f"{colour}/{shape}")),
            **numbers(colour, ("x", "y", "radius")),
        )
        for colour in COLOURS
        if element(state, f"{colour}/present") > 0.5
    )
    posts = tuple(
        Post(
            shape="cylinder" if element(state, f"{name}/round") > 0.5 else "barrier",
            angle=angle(f"{name}/angle"),
            **numbers(name, ("x", "y", "half_x", "half_y")),
        )
        for name in (f"post_{index}" for index in range(NUM_POSTS))
        if element(state, f"{name}/present") > 0.5
    )
    return SceneSpec(
        bodies=bodies,
        posts=posts,
        pusher_x=value["pusher/x"],
        pusher_y=value["pusher/y"],
        damping=0.0,
        friction=0.0,
        curtain_x=value["curtain/x"],
        curtain_y=value["curtain/y"],
        curtain_half_width=value["curtain/half_width"],
        curtain_angle=angle("curtain/angle"),
        curtain_height=value["curtain/height"],
        camera_azimuth=angle("camera/azimuth"),
        camera_elevation=math.degrees(value["camera/elevation"]),
        light_azimuth=0.0,
        light_elevation=60.0,
        light_strength=0.5,
    )
