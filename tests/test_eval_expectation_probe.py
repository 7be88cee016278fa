"""Violation of expectation as a part of the command: it goes on where it stopped, and refuses what other code made."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import joblib
import numpy as np
import pytest
import torch
from tqdm import tqdm

from worldsim import checkpoint as checkpoints
from worldsim.config import ModelConfig
from worldsim.envs.arena import arena_spec
from worldsim.errors import UsageError
from worldsim.eval.expectation_probe import Study, chosen_concepts, expectation, kept_quadruplets, parts_of_all
from worldsim.eval.parts import Parts
from worldsim.spec import WorldSpec

TINY = ModelConfig(width=32, depth=1, heads=2, patch=16, stem_channels=8, head_blocks=1, cond_width=16)

STRANGERS = """
import os
import numpy as np

class Blind:
    def predict(self, context_frames, context_actions, actions, num_samples=1, seeds=None):
        return np.tile(context_frames[:, None, None, -1], (1, num_samples, actions.shape[1], 1, 1, 1))

class StillLife(Blind):
    asked = 0

    def surprise(self, frames, actions, seeds):
        StillLife.asked += 1
        if StillLife.asked > int(os.environ.get("STUMBLE", "99")):
            raise KeyboardInterrupt
        return np.abs(np.diff(frames.astype(np.float32), axis=1)).mean(axis=(2, 3, 4))
"""


@pytest.fixture(scope="module")
def spec() -> Iterator[WorldSpec]:
    """Return a small Arena: a quarter of the pixels, and of the time."""
    made = gym.make("worldsim:worldsim/Arena-v0", disable_env_checker=True, height=32, width=32)
    yield arena_spec(made)
    made.close()


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that keeps quadruplets for all tests, and modules of strangers."""
    return tmp_path_factory.mktemp("truth")


@pytest.fixture(autouse=True)
def strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the strangers be found by name."""
    (tmp_path / "strange_models.py").write_text(STRANGERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("strange_models", None)


def study(truth: Path, parts: Path) -> Study:
    return Study(
        concepts=("wrong push",), quadruplets=2, networks=1, split="dev", truth=truth,
        parts=Parts(parts, {"predictor": "a test"}), workers=1,
    )  # fmt: skip


@pytest.mark.heavy
def test_a_stranger_goes_on_where_it_stopped(
    spec: WorldSpec, truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has surprise() is asked by name; stopped, it goes on to the same bytes, and asks for nothing twice.

    It remembers nothing, and so is at chance.
    """
    name, one = "strange_models:StillLife", study(truth, tmp_path)
    monkeypatch.setenv("STUMBLE", "3")
    with pytest.raises(KeyboardInterrupt):
        expectation(name, spec, one)
    assert len(one.parts) == 1, "both quadruplets of the first row"
    asked = sys.modules["strange_models"].StillLife
    monkeypatch.setenv("STUMBLE", "99")
    asked.asked = 0
    tables = expectation(name, spec, one)
    assert asked.asked == 2, "both quadruplets of the row that was stopped"
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*.joblib")}
    assert len(kept) == 2
    one.parts.clear()
    assert json.dumps(expectation(name, spec, one)) == json.dumps(tables)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.joblib")} == kept
    assert len(parts_of_all(spec, one)) == 1, "an untrained network, asked once for all predictors"
    assert tables is not None and tables["wrong push"]["rows"]["model"]["accuracy"]["value"] == 0.5
    assert not tables["wrong push"]["claimed"]


@pytest.mark.heavy
def test_a_world_model_has_every_row(spec: WorldSpec, truth: Path, tmp_path: Path) -> None:
    """A checkpoint is asked by name, also without actions: then it cannot tell actions apart, to the bit."""
    fresh = checkpoints.build(TINY, spec).state_dict()
    made = checkpoints.Checkpoint(model=TINY, world=spec, weights=fresh, sampler_steps=1)
    folder = str(checkpoints.save(made, tmp_path / "model", card="", dtype=torch.float32))
    with tqdm(total=1, disable=True) as bar:
        tables = expectation(folder, spec, study(truth, tmp_path / "out"), bar)
        assert bar.total == 1 + 4
    assert tables is not None
    assert set(tables["wrong push"]["rows"]) == {
        "model", "others' contexts", "model, no actions", "untrained", "temporal energy", "model less energy"
    }  # fmt: skip
    blind = tables["wrong push"]["rows"]["model, no actions"]
    assert blind["accuracy"]["value"] == 0.5 and blind["relative_surprise"]["value"] == 0.0
    assert tables["wrong push"]["rows"]["model"]["relative_surprise"]["value"] != 0.0
    json.dumps(tables, allow_nan=False)
    assert len(list((tmp_path / "out").rglob("*.joblib"))) == 3, "the untrained network's row is another predictor's"


def test_without_surprise_nothing_is_tested(spec: WorldSpec, truth: Path, tmp_path: Path) -> None:
    """A predictor that cannot say how surprised it is has no table, and neither has a tier without concepts."""
    assert expectation("strange_models:Blind", spec, study(truth, tmp_path)) is None
    nothing = dataclasses.replace(study(truth, tmp_path), concepts=())
    assert expectation("strange_models:StillLife", spec, nothing) is None


def test_quadruplets_are_kept_with_what_made_them(spec: WorldSpec, truth: Path, tmp_path: Path) -> None:
    """Kept quadruplets are the ones that were played; another code's, another world's and damaged ones are refused."""
    one = study(truth, tmp_path)
    played = kept_quadruplets("wrong push", spec, one)
    (file,) = truth.glob("P8-wrong-push-dev.joblib")
    before = file.stat().st_mtime_ns
    assert np.array_equal(kept_quadruplets("wrong push", spec, one)[1].frames, played[1].frames)
    assert file.stat().st_mtime_ns == before
    stale = tmp_path / "stale"
    stale.mkdir()
    data = joblib.load(file)
    joblib.dump(data | {"made_by": data["made_by"] | {"code": "0" * 16}}, stale / file.name)
    with pytest.raises(UsageError, match=file.name):
        kept_quadruplets("wrong push", spec, dataclasses.replace(one, truth=stale))
    with pytest.raises(UsageError, match=file.name):
        kept_quadruplets("wrong push", dataclasses.replace(spec, frame_shape=(16, 16, 3)), one)
    (stale / file.name).write_bytes(b"no such thing")
    with pytest.raises(UsageError, match="damaged"):
        kept_quadruplets("wrong push", spec, dataclasses.replace(one, truth=stale))


def test_concepts_are_chosen_by_code_or_tier() -> None:
    """Codes of other probes are passed over, mistakes are named with what was meant."""
    assert chosen_concepts("P1c,P8-view-jump,P8-inertia", "smoke") == ("view jump", "inertia")
    assert chosen_concepts(["P1c"], "full") == () == chosen_concepts(None, "smoke")
    assert chosen_concepts(None, "standard") == (
        "persistence", "continuity", "unchangeableness", "solidity", "inertia", "recoloured"
    )  # fmt: skip
    assert len(chosen_concepts(None, "full")) == 10
    with pytest.raises(UsageError, match="P8-inertia"):
        chosen_concepts("P8-inertai", "standard")
    with pytest.raises(UsageError, match="standard"):
        chosen_concepts(None, "standart")
