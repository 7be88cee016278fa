"""How much of a body can be seen: rays from the camera to points of its surface. Knows no pixels and no renderer.

A body's share is the part of its projected area that is inside the frame and has nothing before it. Against counting
pixels of a mask this needs no second rendering and gives the same answer at every frame size.
"""

# MuJoCo's bindings carry no type stubs:
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float32, Float64

from worldsim.envs.camera import CameraPose, in_frame
from worldsim.envs.gl import mujoco

_LIFT = 1e-4  # m; sample points float this far over the surface they stand for


@functools.cache
def surface_samples(shape: str) -> tuple[Float64[np.ndarray, "n 3"], Float64[np.ndarray, "n 3"]]:
    """Return points on a unit body (half-width 1, centred) and their outward normals, equal area for each point."""
    if shape == "sphere":
        index = np.arange(120) + 0.5
        up, turn = 1 - 2 * index / 120, np.pi * (1 + 5**0.5) * index
        ring = np.sqrt(1 - up**2)
        points = np.stack([ring * np.cos(turn), ring * np.sin(turn), up], axis=1)
        return points, points
    cells = (np.arange(5) + 0.5) / 2.5 - 1
    first, second = (part.ravel() for part in np.meshgrid(cells, cells))
    if shape == "box":
        faces = [(axis, sign) for axis in range(3) for sign in (-1.0, 1.0) if (axis, sign) != (2, -1.0)]
        points, normals = [], []
        for axis, sign in faces:
            points.append(np.insert(np.stack([first, second], axis=1), axis, sign, axis=1))
            normals.append(np.tile(np.insert(np.zeros(2), axis, sign), (25, 1)))
        return np.concatenate(points), np.concatenate(normals)
    if shape == "cylinder":
        turns = 2 * np.pi * (np.arange(16) + 0.5) / 16
        side_turn, side_up = (part.ravel() for part in np.meshgrid(turns, cells))
        side = np.stack([np.cos(side_turn), np.sin(side_turn), side_up], axis=1)
        index = np.arange(20) + 0.5
        radius, turn = np.sqrt(index / 20), np.pi * (1 + 5**0.5) * index
        top = np.stack([radius * np.cos(turn), radius * np.sin(turn), np.ones(20)], axis=1)
        normals = np.concatenate([side * [1, 1, 0], np.tile([0.0, 0.0, 1.0], (20, 1))])
        return np.concatenate([side, top]), normals
    raise ValueError(f"shape: got {shape!r}, allowed are sphere, box, cylinder")


def visible_share(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    bodies: list[tuple[str, float, Float64[np.ndarray, "xy=2"]]],
    pose: CameraPose,
    fovy_rad: float,
    aspect: float,
) -> Float32[np.ndarray, " n"]:
    """Return the visible share in [0, 1] of each body given as (shape, radius, place (2,)); one ray call for all.

    Only geoms of group 0 (what is drawn) stand in the way. ``data`` must hold current positions.
    """
    targets, weights, owners = [], [], []
    for owner, (shape, radius, place) in enumerate(bodies):
        points, normals = surface_samples(shape)
        centre = np.array([place[0], place[1], radius])
        world = centre + (radius + _LIFT) * points
        sight = pose.position - world
        distance = np.linalg.norm(sight, axis=1)
        facing = (sight * normals).sum(axis=1) / distance**3  # projected area per unit of surface
        keep = facing > 0
        targets.append(world[keep])
        weights.append(facing[keep])
        owners.append(np.full(keep.sum(), owner))
    if not bodies:
        return np.zeros(0, np.float32)
    target, weight, owner = np.concatenate(targets), np.concatenate(weights), np.concatenate(owners)
    seen = _nothing_before(model, data, pose, target) & in_frame(pose, target, fovy_rad, aspect)
    nominal = np.bincount(owner, weight, minlength=len(bodies))
    return (np.bincount(owner, weight * seen, minlength=len(bodies)) / nominal).astype(np.float32)


def _nothing_before(
    model: mujoco.MjModel, data: mujoco.MjData, pose: CameraPose, targets: Float64[np.ndarray, "n 3"]
) -> np.ndarray:
    """Return which targets a straight line from the camera reaches, (n,) bool."""
    rays = targets - pose.position
    length = np.linalg.norm(rays, axis=1)
    count = len(rays)
    geom, hit = np.full(count, -1, np.int32), np.zeros(count)
    mujoco.mj_multiRay(
        m=model,
        d=data,
        pnt=pose.position,
        vec=(rays / length[:, None]).ravel(),
        geomgroup=np.array([1, 0, 0, 0, 0, 0], np.uint8),
        flg_static=1,
        bodyexclude=-1,
        geomid=geom,
        dist=hit,
        normal=None,
        nray=count,
        cutoff=10.0,
    )
    return (hit < 0) | (hit >= length - _LIFT)
