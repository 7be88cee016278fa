"""worldsim: learn a simulator from frames and actions, step it as a Gymnasium environment, measure what it knows.

Importing this package stays light (no torch, no MuJoCo) and registers ``worldsim/Arena-v0`` and ``worldsim/Dream-v0``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium

from worldsim.errors import UsageError

if TYPE_CHECKING:
    from worldsim.episode import Episode as Episode
    from worldsim.spec import WorldSpec as WorldSpec
    from worldsim.state import WorldState as WorldState
    from worldsim.world_model import WorldModel as WorldModel
    from worldsim.world_model import load as load

__version__ = "0.1.0"
__all__ = ["Episode", "UsageError", "WorldModel", "WorldSpec", "WorldState", "__version__", "load"]

_LAZY = {
    "Episode": "worldsim.episode",
    "WorldSpec": "worldsim.spec",
    "WorldState": "worldsim.state",
    "WorldModel": "worldsim.world_model",
    "load": "worldsim.world_model",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'worldsim' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)


def _register() -> None:
    """Register the environments by string entry points, so that nothing heavy is imported before `gym.make`."""
    gymnasium.register(id="worldsim/Arena-v0", entry_point="worldsim.envs.arena:ArenaEnv", max_episode_steps=200)
    gymnasium.register(
        id="worldsim/Dream-v0",
        entry_point="worldsim.envs.dream:DreamEnv",
        vector_entry_point="worldsim.envs.dream:DreamVectorEnv",
    )


_register()
