"""OpenGL for MuJoCo without a display: choose the back end, open a renderer, say what to install when neither works.

Knows nothing about scenes.
"""

# MuJoCo's bindings carry no type stubs:
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import importlib
import os
import platform
import sys

import numpy as np

from worldsim.errors import UsageError

_INSTALL = (
    "apt-get install libegl1 libgl1 (Debian, Ubuntu: software OpenGL without a display), then run again; "
    "MUJOCO_GL may name another back end: egl, glfw or osmesa"
)


_POOLED: set[int] = set()
"""This process, and those it was forked from, where OpenGL was opened and may draw by threads of its own."""


def _no_opengl(error: Exception) -> UsageError:
    return UsageError(
        "OpenGL",
        got=f"{type(error).__name__} from back end {os.environ.get('MUJOCO_GL') or 'default'} ({error})",
        allowed="a back end that can draw off screen",
        fix=_INSTALL,
    )


try:
    import mujoco  # where MUJOCO_GL names a back end, MuJoCo loads it now; import MuJoCo from here
except (AttributeError, OSError, RuntimeError) as error:
    raise _no_opengl(error) from error


def choose_backend() -> None:
    """Choose EGL on a Linux machine without a display, unless MUJOCO_GL says otherwise; also after `import mujoco`.

    Small frames are drawn faster by software OpenGL in the calling thread than by a pool, which a forked process would
    not have, so LP_NUM_THREADS (read by Mesa's llvmpipe alone) defaults to none.
    """
    has_display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if platform.system() != "Linux":
        return
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if os.environ.get("MUJOCO_GL") or has_display:
        return
    os.environ["MUJOCO_GL"] = "egl"
    if "mujoco" in sys.modules:
        _replace_context()


def _replace_context() -> None:
    """Give an already imported mujoco the EGL context: it read MUJOCO_GL when it was first imported."""
    for name in ("mujoco.rendering.classic.gl_context", "mujoco.gl_context"):
        module = sys.modules.get(name)
        if module is not None:
            module.GLContext = importlib.import_module("mujoco.egl").GLContext


def check_process() -> None:
    """Raise UsageError in a process forked from one that draws by threads of its own, for which it would wait for ever."""
    if _POOLED and os.getpid() not in _POOLED:
        raise UsageError(
            "drawing",
            got="a process forked from one in which OpenGL draws by several threads",
            allowed="processes that are spawned, or OpenGL without threads",
            fix="multiprocessing.get_context('spawn'), or LP_NUM_THREADS=0 in the environment before anything is drawn",
        )


def open_renderer(model: mujoco.MjModel, height: int, width: int) -> mujoco.Renderer:
    """Return a renderer for frames of ``height`` x ``width`` pixels, on a back end chosen for this machine.

    Raises:
        UsageError: no OpenGL could be had; the text names the packages to install.
    """
    try:
        choose_backend()
        renderer = mujoco.Renderer(model, height, width, max_geom=64)
        if os.environ.get("LP_NUM_THREADS") != "0":
            _POOLED.add(os.getpid())
        return renderer
    except (ImportError, OSError, RuntimeError, AttributeError, mujoco.FatalError) as error:
        raise _no_opengl(error) from error


def render(renderer: mujoco.Renderer) -> np.ndarray:
    """Return what the renderer draws: OpenGL's buffer, which the next drawing overwrites.

    Raises:
        UsageError: another thread is still drawing with it: a context of OpenGL is of one thread.
    """
    try:
        return renderer.render()
    except Exception as error:  # EGL's and GLFW's errors share no class
        if "BAD_ACCESS" not in str(error):
            raise
        raise UsageError(
            "drawing",
            got="another thread than the one that has drawn with this environment",
            allowed="one thread for each environment: OpenGL is of the thread that uses it",
            fix="make an environment in each thread, or close() this one where it was used before it goes on elsewhere",
        ) from error
