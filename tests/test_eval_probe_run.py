"""A run of probes: it goes on where it was stopped, keeps what serves further models, and says how often it saw the test."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from worldsim import checkpoint as checkpoints
from worldsim.config import PRESETS
from worldsim.envs.arena import ArenaEnv, arena_spec
from worldsim.eval import registry
from worldsim.eval.permanence_memory import LONGEST, half_life
from worldsim.eval.probe import probe
from worldsim.eval.probe_tables import verdict

SCHEMA = Path(__file__).parent.parent / "eval" / "probe_schema.json"
STUMBLES = """
import os
import numpy as np

class Stumbles:
    def predict(self, context_frames, context_actions, actions, num_samples=1, seeds=None):
        if actions.shape[1] < 36 and os.environ.get("STUMBLE"):
            raise KeyboardInterrupt
        return np.tile(context_frames[:, None, None, -1], (1, num_samples, actions.shape[1], 1, 1, 1))
"""
CHANGES = {"seconds", "time_utc", "earlier_test_evaluations"}
"""What two runs of the same thing may differ in."""


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that probes a copying model on two short families, two scenes each."""
    (tmp_path / "stumbling_model.py").write_text(STUMBLES)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("stumbling_model", None)
    monkeypatch.setitem(registry.SCENES, "smoke", 2)

    def run(out: str) -> dict[str, Any]:
        where: Any = {"out": tmp_path / out, "truth": tmp_path / "truth"}
        return probe("stumbling_model:Stumbles", family="P1d,P6-right", split="test", workers=1, **where)

    return run


@pytest.mark.heavy
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Stopped in its second family, a run keeps the first; in the end nothing tells it from one that was never stopped.

    Both saw test scenes, and the ledger says so.
    """
    whole = ask("whole")
    jsonschema.validate(whole, json.loads(SCHEMA.read_text()))
    references = {path: path.stat().st_mtime_ns for path in (tmp_path / "truth").rglob("*.joblib")}
    assert len(references) == 6, "scenes, and scores of what knows no model and of an untrained one, of both families"
    monkeypatch.setenv("STUMBLE", "1")
    with pytest.raises(KeyboardInterrupt):
        ask("stopped")
    assert not (tmp_path / "stopped" / "results.json").exists()
    assert list((tmp_path / "stopped").glob(".parts*/P1d*.joblib"))
    monkeypatch.delenv("STUMBLE")
    ask("stopped")
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert names == {path.name for path in (tmp_path / "stopped").iterdir()}
    for name in names - {"report.md", "report.html", "results.json"}:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes(), name
    texts = [json.loads((tmp_path / out / "results.json").read_text()) for out in ("whole", "stopped")]
    assert {k: v for k, v in texts[0].items() if k not in CHANGES} == {
        k: v for k, v in texts[1].items() if k not in CHANGES
    }
    assert [text["earlier_test_evaluations"] for text in texts] == [0, 1]
    lines = [json.loads(line) for line in (tmp_path / "truth" / "ledger.jsonl").read_text().splitlines()]
    assert [line["weights"] for line in lines] == ["stumbling_model:Stumbles"] * 2
    assert references == {path: path.stat().st_mtime_ns for path in references}, "made once, for every further model"


@pytest.mark.slow
def test_a_model_is_probed_to_the_same_bytes_by_one_process_and_by_two(tmp_path: Path):
    """Truth, dreams and report of a world model do not hang on who computes them."""
    spec = arena_spec(ArenaEnv())
    config = dataclasses.replace(PRESETS["nano"], depth=1)
    weights = checkpoints.build(config, spec).state_dict()
    made = checkpoints.Checkpoint(model=config, world=spec, weights=weights, sampler_steps=1)
    checkpoints.save(made, tmp_path / "model", card="", dtype=torch.float32)
    found = []
    for workers in (1, 2):
        out = tmp_path / f"by-{workers}"
        results = probe(tmp_path / "model", out, family="P6-right", truth=out / "truth", workers=workers, scenes=2)
        found.append({name: value for name, value in results.items() if name not in CHANGES})
    assert found[0] == found[1]
    pictures = [path.name for path in (tmp_path / "by-1").glob("*.png")]
    assert pictures
    for name in pictures:
        assert (tmp_path / "by-1" / name).read_bytes() == (tmp_path / "by-2" / name).read_bytes(), name


def test_two_read_outs_must_agree():
    """Intervals apart or signs reversed, and it is the read-out that spoke; a wider interval alone is no objection."""

    def outcome(main: tuple[float, float, float], other: tuple[float, float, float] | None) -> str:
        skills = [one and dict(zip(("value", "low", "high"), one, strict=True)) for one in (main, other)]
        row = {"skill": skills[0], "best_trivial": "freeze", "gap_in_floors": 9.0}
        readers = {"colour": skills[0], "network": skills[1]}
        return verdict({"rows": {"model": row}, "headline": None, "objection": None, "readers": readers})["outcome"]

    assert outcome((0.5, 0.2, 0.8), (0.3, -0.1, 0.9)) == "better than trivial"
    assert outcome((0.5, 0.2, 0.8), (-0.1, -0.5, 0.3)) == "read-out dependent"
    assert outcome((0.5, 0.4, 0.6), (0.2, 0.1, 0.3)) == "read-out dependent"
    assert outcome((0.1, -0.4, 0.6), (-0.1, -0.5, 0.3)) == "not told from trivial"
    assert outcome((0.5, 0.4, 0.6), None) == "read-out dependent"


@pytest.mark.parametrize("true", [4.0, 12.0, 1e9])
def test_half_life_is_found(true: float):
    """Recall that halves in so many frames is told to do so; recall that never fades has none."""
    rng = np.random.default_rng(0)
    hidden = rng.integers(4, 32, 400).astype(float)
    recalled = (rng.random(400) < 0.9 * 2 ** (-hidden / true)).astype(float)
    found = half_life(recalled, np.ones(400), hidden)
    assert found is not None
    if true > LONGEST:
        assert found["high"] is None and (found["low"] is None or found["low"] > 100)
    else:
        assert found["low"] < true < found["high"] and found["high"] < 2 * found["low"]
    assert half_life(np.zeros(400), np.ones(400), hidden) is None
