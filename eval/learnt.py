"""Folders of `worldsim learn`: what is in them, and the policy that was learnt. Imports Stable-Baselines3 when asked to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from worldsim.agents import Policy
from worldsim.errors import UsageError

MODEL, RECORD = "model.zip", "results.json"
ALGORITHMS = ("ppo", "sac")


def is_learnt(folder: str) -> bool:
    """Tell whether a folder holds a policy that `worldsim learn` has learnt."""
    return (Path(folder) / MODEL).is_file() and (Path(folder) / RECORD).is_file()


def record_of(folder: str | Path) -> dict[str, Any]:
    """Return what `worldsim learn` wrote of a run."""
    return json.loads((Path(folder) / RECORD).read_text())


def algorithm_class(name: str) -> Any:
    """Return the class of an algorithm; UsageError where it is unknown or the extra is not installed."""
    if name not in ALGORITHMS:
        raise UsageError("algorithm", got=repr(name), allowed=", ".join(ALGORITHMS), fix="ppo")
    import stable_baselines3

    return getattr(stable_baselines3, name.upper())


def learnt_policy(folder: str) -> Policy:
    """Return the policy of a run. Its file holds pickled Python: load none that you did not make or do not trust."""
    from worldsim.agents.sb3 import LearnedPolicy

    record = record_of(folder)["settings"]
    model = algorithm_class(record["algorithm"]).load(Path(folder) / MODEL, device="cpu")
    return LearnedPolicy(model, record["observe"])
