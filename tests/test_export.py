"""Export: what is handed on dreams as the run does, and begins without drawing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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


LOADS = """
import sys
import worldsim
from worldsim.errors import UsageError

for name in sys.argv[1:]:
    try:
        print(worldsim.load(name).spec.env_id)
    except UsageError as error:
        print("UsageError", *str(error).split())
"""
"""Loads checkpoints by name, a line for each: a process of its own, since the hub's library reads its settings once."""


def test_a_checkpoint_on_the_hub_is_found_again_without_a_network(tmp_path: Path) -> None:
    """What the hub's cache holds loads by name and revision, offline; what it does not hold is refused in words."""
    revision = "0" * 39 + "1"
    repository = tmp_path / "models--someone--small-world"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    export("arena-small", out=repository / "snapshots" / revision, contexts=0)
    names = (
        "hf:someone/small-world",
        f"hf:someone/small-world@{revision}",
        "hf:someone/else",
        "hf:no/such/name",
        "hf:",
    )
    done = subprocess.run(
        [sys.executable, "-c", LOADS, *names],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    said = done.stdout.splitlines()
    assert len(said) == len(names)
    assert said[:2] == ["worldsim/Arena-v0"] * 2
    assert all("UsageError" in words and "hf:OWNER/NAME" in words for words in said[2:]), said


def test_an_export_can_be_sent_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder's known files are sent, and nothing else; if that fails, the folder stays and the error says so."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    sent: list[dict[str, Any]] = []

    class Api:
        def create_repo(self, repository: str, *, exist_ok: bool) -> None:
            if repository == "nobody/x":
                raise OSError("no network")
            assert exist_ok

        def upload_folder(self, **what: Any) -> str:
            sent.append(what)
            return "https://example.org/someone/world"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    folder = export("arena-small", out=tmp_path / "out", contexts=0, hub="someone/world")
    assert sent[0]["repo_id"] == "someone/world" and sent[0]["folder_path"] == folder
    assert set(sent[0]["allow_patterns"]) >= {"config.json", "model.safetensors", "README.md"}
    with pytest.raises(UsageError, match=r"no network.*folder itself has been written"):
        export("arena-small", out=tmp_path / "again", contexts=0, hub="nobody/x")
    assert worldsim.load(tmp_path / "again").spec.env_id == "worldsim/Arena-v0"
