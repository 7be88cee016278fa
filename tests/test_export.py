"""Export: what is handed on dreams as the run does, and begins without drawing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import worldsim
from worldsim import checkpoint as checkpoints
from worldsim.envs.arena import ArenaEnv, arena_spec
from worldsim.envs.export import export
from worldsim.errors import UsageError
from worldsim.world_model import untrained


def test_an_exported_checkpoint_is_whole_and_holds_true_lead_ins(tmp_path: Path) -> None:
    """The weights are the run's, the lead-ins those of the Arena's first seeds, and a second export replaces the first."""
    env = ArenaEnv()
    model = untrained(arena_spec(env))
    checkpoints.save(model.checkpoint, tmp_path / "run" / "checkpoint", card="# card", dtype=torch.bfloat16)
    folder = export(tmp_path / "run", out=tmp_path / "out", contexts=2)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["README.md", "config.json", "contexts.safetensors", "model.safetensors"]
    )
    _, info = env.reset(seed=1)
    bundled = load_file(folder / "contexts.safetensors")
    assert np.array_equal(bundled["frames"][1], info["context"]["frames"])
    assert worldsim.load(folder).config == model.config
    assert worldsim.load(export(tmp_path / "run", out=folder, contexts=2, num_steps=1)).num_steps == 1
    assert not (export(tmp_path / "run", out=folder, contexts=0) / "contexts.safetensors").exists()
    env.close()
    with pytest.raises(UsageError, match="contexts"):
        export(tmp_path / "run", out=folder, contexts=-1)
    with pytest.raises(UsageError, match="num_steps"):
        export(tmp_path / "run", out=folder, num_steps=3)
