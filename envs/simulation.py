"""The Arena's physics: one scene in MuJoCo, stepped by actions, saved and restored bit for bit. Knows no pixels.

One control step is `SUBSTEPS` physics steps of one action (`worldsim.envs.controls`), whose push is held throughout;
camera and curtain are drawn where they are at its end.
"""

# MuJoCo's bindings carry no type stubs:
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64

from worldsim.envs import camera
from worldsim.envs.controls import CONTROL_DT_S, CURTAIN_STEP, ORBIT_STEP, PUSH_SPEED, TILT_STEP
from worldsim.envs.gl import mujoco
from worldsim.envs.scene import (
    CURTAIN_HEIGHT,
    ENTITY_NAMES,
    HALF_FLOOR,
    PHYSICS_DT_S,
    SceneSpec,
    build_model,
)
from worldsim.envs.state import pack_state
from worldsim.envs.visibility import visible_share

SUBSTEPS = round(CONTROL_DT_S / PHYSICS_DT_S)
MAX_CONTACTS = 16
CAMERA_NAMES = ("x", "y", "z", "azimuth", "elevation", "tilt", "fovy")
CAMERA_UNITS = ("m", "m", "m", "rad", "rad", "rad", "rad")

_GRAVITY = 9.81  # m/s^2, for the friction between bodies and floor
_STICK_SPEED = 0.01  # m/s under which friction fades, so that it never turns a body round
_FLAT = 0.001  # share of its height that a lowered curtain keeps: a slit in the floor shows where it will rise
_PHYSICS = int(mujoco.mjtState.mjSTATE_INTEGRATION)


class Simulation:
    """One scene in motion. ``height`` x ``width`` are the frame's pixels (for the field of view and the buffer)."""

    def __init__(
        self, scene: SceneSpec, *, height: int, width: int, supersample: int = 1, shadows: bool = True
    ) -> None:
        self.scene = scene
        self.model = build_model(scene, height=height * supersample, width=width * supersample, shadows=shadows)
        self.data = mujoco.MjData(self.model)
        self.aspect = width / height
        self.fovy_rad = camera.field_of_view(self.aspect, HALF_FLOOR)
        self.model.cam_fovy[0] = math.degrees(self.fovy_rad)
        self.azimuth = scene.camera_azimuth
        self.tilt = 0.0
        self.curtain = scene.curtain_height
        self._body_ids = [self.model.body(body.colour).id for body in scene.bodies]
        self._pusher_id = self.model.body("pusher").id
        self._curtain_id = self.model.geom("curtain").id
        self._dofs = np.array(
            [self.model.joint(f"{body.colour}/{axis}").dofadr[0] for body in scene.bodies for axis in "xy"], int
        ).reshape(-1, 2)
        self._pusher_dofs = np.array([self.model.joint(f"pusher/{axis}").dofadr[0] for axis in "xy"])
        self._grip = scene.friction * _GRAVITY * np.array([[body.mass] for body in scene.bodies])
        self.entity_of_geom = np.array([_entity(self.model.geom(index).name) for index in range(self.model.ngeom)])
        for body, dofs in zip(scene.bodies, self._dofs, strict=True):
            self.data.qvel[dofs] = (body.vx, body.vy)
        mujoco.mj_forward(self.model, self.data)
        self._refresh()

    def advance(self, action: Float[np.ndarray, "a=5"]) -> Float32[np.ndarray, "16 3"]:
        """Play one control step and return its contacts.

        Rows are (time within the step in s, entity, entity), entities as in `ENTITY_NAMES`: one row for each time two
        things begin to touch, time 0 for those that touch already when the step begins. Unused rows hold -1; rows
        beyond the sixteenth are left out.
        """
        right, forward, orbit, tilt, curtain = np.clip(np.asarray(action, float), -1.0, 1.0)
        push = np.array([right, forward]) / max(1.0, math.hypot(right, forward))
        self.data.ctrl[:] = PUSH_SPEED * push @ camera.ground_axes(self.azimuth)
        contacts = np.full((MAX_CONTACTS, 3), -1.0, np.float32)
        count, touching = 0, set()
        for substep in range(SUBSTEPS):
            if self.scene.friction > 0:
                self._apply_friction()
            mujoco.mj_step(self.model, self.data)
            pairs = self._touching_pairs() if self.data.ncon else set()
            for pair in sorted(pairs - touching):
                if count < MAX_CONTACTS:
                    contacts[count] = (substep * PHYSICS_DT_S, *pair)
                    count += 1
            touching = pairs
        self.azimuth = (self.azimuth + ORBIT_STEP * orbit) % 360.0
        self.tilt = float(np.clip(self.tilt + TILT_STEP * tilt, 0.0, camera.TILT_STOP))
        self.curtain = float(np.clip(self.curtain + CURTAIN_STEP * curtain, 0.0, 1.0))
        self._refresh()
        return contacts

    def snapshot(self) -> Float64[np.ndarray, " p"]:
        """Return everything that decides the future of this scene, as one vector."""
        physics = np.empty(mujoco.mj_stateSize(self.model, _PHYSICS))
        mujoco.mj_getState(self.model, self.data, physics, _PHYSICS)
        return np.concatenate([physics, [self.azimuth, self.tilt, self.curtain]])

    def restore(self, snapshot: Float64[np.ndarray, " p"]) -> None:
        """Return to a snapshot of the same scene, bit for bit."""
        mujoco.mj_setState(self.model, self.data, np.ascontiguousarray(snapshot[:-3]), _PHYSICS)
        self.azimuth, self.tilt, self.curtain = (float(value) for value in snapshot[-3:])
        self._refresh()

    def place(self, colour: str, x: float, y: float) -> None:
        """Put a body elsewhere (m), its speed unchanged; `restore` brings it back. Bodies far outside are out of view."""
        slot = [body.colour for body in self.scene.bodies].index(colour)
        body = self.scene.bodies[slot]
        self.data.qpos[self._dofs[slot]] = (x - body.x, y - body.y)  # slides: one position per degree of freedom
        self._refresh()

    def launch(self, colour: str, vx: float, vy: float) -> None:
        """Give a body another velocity (m/s); `restore` brings the old one back."""
        self.data.qvel[self._dofs[[body.colour for body in self.scene.bodies].index(colour)]] = (vx, vy)

    @property
    def pose(self) -> camera.CameraPose:
        """Where the camera stands now."""
        return camera.ring_pose(self.azimuth, self.scene.camera_elevation, self.tilt)

    def camera_vector(self) -> Float32[np.ndarray, "c=7"]:
        """Return the camera as `CAMERA_NAMES` in `CAMERA_UNITS`."""
        angles = np.radians([self.azimuth, self.scene.camera_elevation, self.tilt])
        return np.array([*self.pose.position, *angles, self.fovy_rad], np.float32)

    def state(self) -> Float32[np.ndarray, " s"]:
        """Return the named state (`STATE_NAMES`, `STATE_UNITS`)."""
        data, scene = self.data, self.scene
        looks = [
            (body.shape, body.radius, data.xpos[index, :2])
            for body, index in zip(scene.bodies, self._body_ids, strict=True)
        ]
        shares = visible_share(self.model, data, looks, self.pose, self.fovy_rad, self.aspect)
        values: dict[str, Any] = {}
        for slot, body in enumerate(scene.bodies):
            (x, y), (vx, vy) = looks[slot][2], data.qvel[self._dofs[slot]]
            row = {"present": 1, "x": x, "y": y, "vx": vx, "vy": vy, "radius": body.radius, body.shape: 1}
            values |= {f"{body.colour}/{name}": value for name, value in row.items()}
            values[f"{body.colour}/visible"] = shares[slot]
        for axis, place, speed in zip("xy", data.xpos[self._pusher_id], data.qvel[self._pusher_dofs], strict=False):
            values |= {f"pusher/{axis}": place, f"pusher/v{axis}": speed}
        return pack_state(values | self._grey_values())

    def _grey_values(self) -> dict[str, Any]:
        """Return the state elements of curtain, camera and posts."""
        scene = self.scene
        turn, azimuth = math.radians(scene.curtain_angle), math.radians(self.azimuth)
        values = {
            "curtain/height": self.curtain,
            "curtain/x": scene.curtain_x,
            "curtain/y": scene.curtain_y,
            "curtain/half_width": scene.curtain_half_width,
            "curtain/angle_sin": math.sin(turn),
            "curtain/angle_cos": math.cos(turn),
            "camera/azimuth_sin": math.sin(azimuth),
            "camera/azimuth_cos": math.cos(azimuth),
            "camera/elevation": math.radians(scene.camera_elevation),
            "camera/tilt": math.radians(self.tilt),
        }
        for index, post in enumerate(scene.posts):
            angle = math.radians(post.angle)
            row = {"present": 1, "x": post.x, "y": post.y, "half_x": post.half_x, "half_y": post.half_y}
            row |= {"round": post.shape == "cylinder", "angle_sin": math.sin(angle), "angle_cos": math.cos(angle)}
            values |= {f"post_{index}/{name}": value for name, value in row.items()}
        return values

    def _apply_friction(self) -> None:
        """Set the forces of Coulomb friction against the bodies' sliding."""
        velocity = self.data.qvel[self._dofs]
        speed = np.maximum(np.hypot(velocity[:, :1], velocity[:, 1:]), _STICK_SPEED)
        self.data.qfrc_applied[self._dofs] = -self._grip * velocity / speed

    def _touching_pairs(self) -> set[tuple[int, int]]:
        pairs = np.sort(self.entity_of_geom[self.data.contact.geom], axis=1)
        return {(int(first), int(second)) for first, second in pairs}

    def _refresh(self) -> None:
        """Bring what is drawn up to the present: positions, curtain, camera, light. Leaves the physics state alone."""
        half = CURTAIN_HEIGHT / 2 * max(self.curtain, _FLAT)
        self.model.geom_size[self._curtain_id, 2] = half
        self.model.geom_pos[self._curtain_id, 2] = half + 0.001
        pose = self.pose
        self.model.cam_pos[0] = pose.position
        mujoco.mju_mat2Quat(self.model.cam_quat[0], pose.rotation.ravel())
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)


def _entity(geom_name: str) -> int:
    """Return the entity id of a geom named ``<entity>`` or ``<entity>/<part>``."""
    return ENTITY_NAMES.index(geom_name.split("/")[0])
