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

from worldsim.errors import UsageError

_INSTALL = (
    "apt-get install libegl1 libgl1 (Debian, Ubuntu: software OpenGL without a display), then run again; "
    "MUJOCO_GL may name another back end: egl, glfw or osmesa"
)


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

    Small frames are drawn faster by software OpenGL in the calling thread than by a pool, so LP_NUM_THREADS (read by
    Mesa's llvmpipe alone) defaults to none.
    """
    has_display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if platform.system() != "Linux" or os.environ.get("MUJOCO_GL") or has_display:
        return
    os.environ["MUJOCO_GL"] = "egl"
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if "mujoco" in sys.modules:
        _replace_context()


def _replace_context() -> None:
    """Give an already imported mujoco the EGL context: it read MUJOCO_GL when it was first imported."""
    for name in ("mujoco.rendering.classic.gl_context", "mujoco.gl_context"):
        module = sys.modules.get(name)
        if module is not None:
            module.GLContext = importlib.import_module("mujoco.egl").GLContext


def open_renderer(model: mujoco.MjModel, height: int, width: int) -> mujoco.Renderer:
    """Return a renderer for frames of ``height`` x ``width`` pixels, on a back end chosen for this machine.

    Raises:
        UsageError: no OpenGL could be had; the text names the packages to install.
    """
    try:
        choose_backend()
        return mujoco.Renderer(model, height, width, max_geom=64)
    except (ImportError, OSError, RuntimeError, AttributeError, mujoco.FatalError) as error:
        raise _no_opengl(error) from error
