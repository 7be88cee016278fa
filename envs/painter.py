"""Frames, segmentation and depth of a Simulation. Knows no actions, tasks or episodes.

A frame is drawn at `SUPERSAMPLE` times its size and averaged down: smoother than multisampling, also at shadow edges,
and cheaper under software OpenGL.
"""

# MuJoCo's bindings carry no type stubs:
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from worldsim.envs.gl import check_process, mujoco, open_renderer, render
from worldsim.envs.scene import SceneSpec
from worldsim.envs.simulation import Simulation

SUPERSAMPLE = 2


class Painter:
    """Draws simulations at one frame size. OpenGL is opened at the first drawing, and by `close` freed."""

    def __init__(self, *, height: int, width: int, shadows: bool) -> None:
        self._height = height
        self._width = width
        self._shadows = shadows
        self._renderer: mujoco.Renderer | None = None
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = 0
        self._option = mujoco.MjvOption()

    def simulate(self, scene: SceneSpec) -> Simulation:
        """Return a new simulation of the scene that this painter can draw."""
        return Simulation(scene, height=self._height, width=self._width, supersample=SUPERSAMPLE, shadows=self._shadows)

    def frame(self, simulation: Simulation) -> UInt8[np.ndarray, "h w 3"]:
        """Return the colours."""
        image = render(self._open(simulation))
        total = image[0::SUPERSAMPLE].astype(np.uint16)
        total += image[1::SUPERSAMPLE]
        total = total[:, 0::SUPERSAMPLE] + total[:, 1::SUPERSAMPLE]
        return ((total + SUPERSAMPLE) // SUPERSAMPLE**2).astype(np.uint8)

    def segmentation(self, simulation: Simulation) -> Int32[np.ndarray, "h w"]:
        """Return the entity of each pixel (upper left sample), numbered as in `ENTITY_NAMES`."""
        renderer = self._open(simulation)
        renderer.enable_segmentation_rendering()
        geoms = render(renderer)[::SUPERSAMPLE, ::SUPERSAMPLE, 0]
        renderer.disable_segmentation_rendering()
        return np.where(geoms >= 0, simulation.entity_of_geom[geoms], 0).astype(np.int32)

    def depth(self, simulation: Simulation) -> Float32[np.ndarray, "h w"]:
        """Return the distance along the line of sight's axis in m; the sky is as far as the camera sees."""
        renderer = self._open(simulation)
        renderer.enable_depth_rendering()
        depth = render(renderer)[::SUPERSAMPLE, ::SUPERSAMPLE].copy()
        renderer.disable_depth_rendering()
        return depth

    def close(self) -> None:
        """Free OpenGL; a later drawing opens it again."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _open(self, simulation: Simulation) -> mujoco.Renderer:
        """Return the renderer with the simulation's present in its scene.

        One renderer serves every scene: opening one costs a hundred frames, and all scenes share their textures.
        """
        check_process()
        if self._renderer is None:
            self._renderer = open_renderer(simulation.model, self._height * SUPERSAMPLE, self._width * SUPERSAMPLE)
        mujoco.mjv_updateScene(
            simulation.model,
            simulation.data,
            self._option,
            None,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL.value,
            self._renderer.scene,
        )
        return self._renderer
