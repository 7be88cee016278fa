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
from worldsim.envs.scene import COLOURS, HALF_FLOOR
from worldsim.envs.state import body_slots, element
from worldsim.eval.colours import read_colours

SHADE_ROWS = 0.1
"""Rows by which read centroids lie too high: the lower rim of a body is dark, and the least of it is read. Measured on true frames."""
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
    batch, (height, width) = frames.shape[:-3], frames.shape[-3:-1]
    reading = read_colours(frames)
    radius = body_slots(states, "radius").reshape(-1, len(COLOURS)).astype(np.float64)
    heights = np.where(radius > 0, radius, COMMON_RADIUS)
    pixels = reading.centroid.reshape(-1, len(COLOURS), 2)
    image = np.stack(
        [(pixels[..., 0] + 0.5) * 2 / width - 1, 1 - (pixels[..., 1] + 0.5 + SHADE_ROWS) * 2 / height], axis=-1
    )
    aspect = width / height
    fovy = field_of_view(aspect, HALF_FLOOR)
    cameras = [camera_of(state) for state in states.reshape(-1, states.shape[-1])]
    rows = [unproject(*row, fovy, aspect) for row in zip(cameras, image, heights, strict=True)]
    xy = np.stack(rows).reshape(*batch, len(COLOURS), 2)
    found = reading.found & np.isfinite(xy).all(axis=-1)
    return Places(found=found, xy=np.where(found[..., None], xy, np.nan))
