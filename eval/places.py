"""Where bodies stand on the floor, read off frames by their colour with the known camera (read-out RO1). No learning.

The centroid of a colour's patch (`worldsim.eval.colours`) is taken for the picture of the body's middle, which is as
high over the floor as the body's radius. Known are the true camera and the true radius; the place is the frame's own.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from worldsim.envs.camera import CameraPose, field_of_view, ring_pose, unproject
from worldsim.envs.scene import HALF_FLOOR
from worldsim.envs.state import body_slots, element
from worldsim.eval.colours import read_colours

SHADE_ROWS = 0.11
"""Rows by which read centroids lie too high: the lower rim of a body is dark, and the least of it is read. Measured on true frames."""
FAR_M = 50.0
"""Where what is seen above the horizon is said to stand: it is shown, and it is wrong by more than any cut-off."""
COMMON_RADIUS = 0.09
"""Radius in m of the bodies that colours which a scene does not have are read as."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Places:
    """What is read off frames, one entry of the last axes per palette colour, in `COLOURS` order."""

    found: Bool[np.ndarray, "*batch colours"]
    xy: Float64[np.ndarray, "*batch colours 2"]
    """Place on the floor in m; NaN where the colour is not found."""


def camera_of(state: Float32[np.ndarray, " s"]) -> CameraPose:
    """Return the camera of a named state."""
    azimuth = math.atan2(element(state, "camera/azimuth_sin"), element(state, "camera/azimuth_cos"))
    angles = (azimuth, float(element(state, "camera/elevation")), float(element(state, "camera/tilt")))
    return ring_pose(*(math.degrees(angle) for angle in angles))


def read_places(frames: UInt8[np.ndarray, "*batch h w 3"], states: Float32[np.ndarray, "*batch s"]) -> Places:
    """Read all palette colours off all frames; camera and radii come from the true ``states``, nothing else does."""
    reading = read_colours(frames)
    pixels = reading.centroid + np.array([0.0, SHADE_ROWS])
    return places_of(pixels, reading.found, body_heights(states), states, frames.shape[-3:-1])


def body_heights(states: Float32[np.ndarray, "*batch s"]) -> Float64[np.ndarray, "*batch colours"]:
    """Return how high over the floor the bodies' middles are (m), also of colours that a scene does not have."""
    radius = body_slots(states, "radius").astype(np.float64)
    return np.where(radius > 0, radius, COMMON_RADIUS)


def places_of(
    pixels: Float64[np.ndarray, "*batch n 2"],
    found: Bool[np.ndarray, "*batch n"],
    heights: Float64[np.ndarray, "*batch n"],
    states: Float32[np.ndarray, "*batch s"],
    size: tuple[int, ...],
) -> Places:
    """Return where on the floor the things stand whose middles, ``heights`` m high, are seen at ``pixels``.

    ``pixels`` are columns and rows in frames of ``size`` (height, width); what is not found may be NaN. The camera is
    that of ``states``. What is seen above its height's horizon, where no floor is, stands `FAR_M` away along both axes.
    """
    height, width = size
    aspect = width / height
    fovy = field_of_view(aspect, HALF_FLOOR)
    image = np.stack([(pixels[..., 0] + 0.5) * 2 / width - 1, 1 - (pixels[..., 1] + 0.5) * 2 / height], axis=-1)
    count = heights.shape[-1]
    rows = zip(
        states.reshape(-1, states.shape[-1]), image.reshape(-1, count, 2), heights.reshape(-1, count), strict=True
    )
    floor = [unproject(camera_of(state), points, over, fovy, aspect) for state, points, over in rows]
    xy = np.reshape(floor, (*found.shape, 2))
    xy = np.where(np.isfinite(xy).all(axis=-1, keepdims=True), xy, FAR_M)
    return Places(found=found, xy=np.where(found[..., None], xy, np.nan))
