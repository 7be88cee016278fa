"""The camera on its ring: pose, field of view, projection. Knows no MuJoCo, no scene content and no time.

The camera stands at distance `DISTANCE` from the floor's centre, at ``azimuth`` (counter-clockwise from +x, as seen
from above) and ``elevation`` over the floor; it looks at the centre, raised by ``tilt``. Angles in degrees.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
from jaxtyping import Bool, Float64

DISTANCE = 3.0  # m
TILT_STOP = 45.0  # deg; here the whole arena, risen curtain included, is out of view
ELEVATION_RANGE = (26.0, 46.0)  # deg; the field of view is chosen for this range
_VIEW_MARGIN = 1.015


@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraPose:
    """Where the camera stands and looks: ``position`` (3,) in m, ``rotation`` (3, 3) with columns right, up, back."""

    position: Float64[np.ndarray, "xyz=3"]
    rotation: Float64[np.ndarray, "3 3"]


@functools.lru_cache(maxsize=64)
def ring_pose(azimuth: float, elevation: float, tilt: float) -> CameraPose:
    """Return the pose for three angles in degrees."""
    turn, height, pitch = (math.radians(angle) for angle in (azimuth, elevation, elevation - tilt))
    outward = np.array([math.cos(turn), math.sin(turn)])
    position = DISTANCE * np.array([*(math.cos(height) * outward), math.sin(height)])
    right = np.array([-outward[1], outward[0], 0.0])
    back = np.array([*(math.cos(pitch) * outward), math.sin(pitch)])
    rotation = np.stack([right, np.cross(back, right), back], axis=1)
    for shared in (position, rotation):
        shared.flags.writeable = False
    return CameraPose(position=position, rotation=rotation)


def ground_axes(azimuth: float) -> Float64[np.ndarray, "2 2"]:
    """Return the floor directions (rows: right, forward) of a viewer at ``azimuth`` degrees."""
    turn = math.radians(azimuth)
    return np.array([[-math.sin(turn), math.cos(turn)], [-math.cos(turn), -math.sin(turn)]])


def project(
    pose: CameraPose, points: Float64[np.ndarray, "n 3"], fovy_rad: float, aspect: float
) -> Float64[np.ndarray, "n 2"]:
    """Return image coordinates in [-1, 1] (right, up) inside the frame; points behind the camera give NaN.

    ``aspect`` is width over height.
    """
    local = (points - pose.position) @ pose.rotation
    depth = np.where(local[:, 2] < 0, -local[:, 2], np.nan)
    half = math.tan(fovy_rad / 2)
    return np.stack([local[:, 0] / (depth * half * aspect), local[:, 1] / (depth * half)], axis=1)


def unproject(
    pose: CameraPose,
    points: Float64[np.ndarray, "n 2"],
    heights: Float64[np.ndarray, " n"],
    fovy_rad: float,
    aspect: float,
) -> Float64[np.ndarray, "n 2"]:
    """Return where the lines of sight through image ``points`` (right, up in [-1, 1]) meet z = ``heights`` (m): x, y.

    The inverse of `project` for points of known height. Lines of sight that never come down there give NaN.
    """
    half = math.tan(fovy_rad / 2)
    local = np.stack([points[:, 0] * half * aspect, points[:, 1] * half, -np.ones(len(points))], axis=1)
    rays = local @ pose.rotation.T
    with np.errstate(divide="ignore", invalid="ignore"):
        way = (heights - pose.position[2]) / rays[:, 2]
    way = np.where(way > 0, way, np.nan)
    return pose.position[:2] + way[:, None] * rays[:, :2]


def in_frame(
    pose: CameraPose, points: Float64[np.ndarray, "n 3"], fovy_rad: float, aspect: float
) -> Bool[np.ndarray, " n"]:
    """Return which points fall inside the frame (occlusion is not looked at)."""
    return np.asarray((np.abs(project(pose, points, fovy_rad, aspect)) <= 1).all(axis=1))


@functools.lru_cache(maxsize=32)
def field_of_view(aspect: float, half_floor: float) -> float:
    """Return the vertical field of view (rad) that just holds a floor of half-width ``half_floor`` from everywhere.

    ``aspect`` is width over height: wide frames are bound by the floor's depth, others by its diagonal.
    """
    corners = half_floor * np.array([[sx, sy, 0.0] for sx in (-1, 1) for sy in (-1, 1)])
    reach = np.zeros(2)
    for azimuth in range(0, 91, 3):
        for elevation in ELEVATION_RANGE:
            seen = project(ring_pose(float(azimuth), elevation, 0.0), corners, math.pi / 2, 1.0)
            reach = np.maximum(reach, np.abs(seen).max(axis=0))
    return 2 * math.atan(_VIEW_MARGIN * max(reach[1], reach[0] / aspect))
