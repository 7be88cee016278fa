"""Physics probes: scenes that hold their event, rows that show what they are named for, skill, and the whole report."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from worldsim.envs.painter import Painter
from worldsim.envs.scene import COLOURS
from worldsim.errors import UsageError
from worldsim.eval import probe as probes
from worldsim.eval.permanence import FAMILIES, occlusion, permanence_tale, scene_seed
from worldsim.eval.permanence_scores import errors, read_row, recall
from worldsim.eval.probe import probe
from worldsim.eval.rows import climatology, constant_velocity, copy_last, deleted, freeze, oracle, read_motion
from worldsim.eval.skill import SceneCosts, skill
from worldsim.eval.tales import Tale
from worldsim.eval.tracking import CUT_OFF_M

SCENES = 3


@pytest.fixture(scope="module")
def env() -> Iterator[gym.Env]:
    """Return the Arena without wrappers."""
    made = gym.make("worldsim:worldsim/Arena-v0", disable_env_checker=True)
    yield made.unwrapped
    made.close()


@pytest.fixture(scope="module")
def tales(env: gym.Env) -> dict[str, list[Tale]]:
    """Return some tales of every family."""
    return {
        code: [permanence_tale(env, family, "dev", index) for index in range(SCENES)]
        for code, family in FAMILIES.items()
    }


@pytest.fixture
def painter() -> Iterator[Painter]:
    """Return what draws tales again."""
    made = Painter(height=64, width=64, shadows=True)
    yield made
    made.close()


def test_a_scene_is_its_seed(env: gym.Env, tales: dict[str, list[Tale]]):
    """The same split and index give the same pixels; another split or index another scene."""
    again = permanence_tale(env, FAMILIES["P1d"], "dev", 1)
    assert np.array_equal(again.frames, tales["P1d"][1].frames)
    assert np.array_equal(again.snapshots, tales["P1d"][1].snapshots)
    assert len({scene_seed("P1d", split, index, 0) for split in ("dev", "test") for index in range(50)}) == 100


@pytest.mark.parametrize("code", list(FAMILIES))
def test_every_scene_holds_its_event(tales: dict[str, list[Tale]], code: str):
    """The target is seen before, hidden for a while behind the curtain, and comes back exactly where it should."""
    for tale in tales[code]:
        event = occlusion(tale, FAMILIES[code])
        assert event is not None and event.hidden_frames >= 4
        assert COLOURS[event.slot] == tale.script.label
        assert (event.hidden_until < len(tale.frames)) == FAMILIES[code].returns


def test_a_tale_drawn_again_is_the_truth(tales: dict[str, list[Tale]], painter: Painter):
    """Nothing moved, nothing changed: the frames are the true ones to the bit."""
    tale = tales["P1c"][0]
    assert np.array_equal(tale.redraw(painter, lambda t, simulation: None), tale.frames)


def test_rows_show_what_they_are_named_for(tales: dict[str, list[Tale]], painter: Painter):
    """All agree with the truth until something is hidden; then one body stays, one is gone, one goes on."""
    told = tales["P1d"]
    event = occlusion(told[0], FAMILIES["P1d"])
    assert event is not None
    before = slice(0, event.hidden_from)
    rows = {"freeze": freeze(told, painter), "deleted": deleted(told, painter)}
    for frames in rows.values():
        assert np.array_equal(frames[0, before], told[0].frames[before])
    after = slice(event.hidden_until + 4, None)
    found = {name: read_row(told, frames).found[0, after, event.slot] for name, frames in rows.items()}
    assert found["freeze"].all() and not found["deleted"].any()
    start, velocity = read_motion(told[0])
    read = read_row(told, constant_velocity(told, painter))
    assert read.xy[0, 0, event.slot] == pytest.approx(start[event.slot] + velocity[event.slot], abs=0.02)
    others = climatology(told, np.random.default_rng(0))
    assert len(others) == SCENES - 1
    assert not any(np.array_equal(row[i], told[i].frames) for row in others for i in range(SCENES))


def test_the_truth_is_recalled_and_straw_men_are_not(tales: dict[str, list[Tale]], painter: Painter):
    """A perfect predictor recalls every target and its world goes on; whoever copies, freezes or deletes fails."""
    told, family = tales["P1d"], FAMILIES["P1d"]
    truth = read_row(told, oracle(told))
    perfect = recall(told, family, truth)
    assert perfect.recalled.all() and perfect.shown_hidden.max() <= 0.1
    assert perfect.moved[:, 0] == pytest.approx(perfect.moved[:, 1], abs=0.05)
    assert errors(told, truth).floor < 0.008
    copied = recall(told, family, read_row(told, copy_last(told)))
    assert not copied.recalled.any() and copied.shown_hidden.min() > 0.9
    gone = recall(told, family, read_row(told, deleted(told, painter)))
    assert not gone.recalled.any() and (gone.moved[:, 0] == 0).all()
    left = recall(told, family, read_row(told, freeze(told, painter)))
    assert np.abs(left.moved[:, 0]).max() < 0.06 < left.moved[:, 1].min()


def test_skill_is_relative_to_the_best_straw_man_and_can_be_void():
    """The oracle has 1, the best trivial row 0, worse ones less; a probe that trivial rows nearly solve says nothing."""
    costs = {"oracle": [0.1, 0.1], "weak": [2.0, 2.2], "strong": [1.0, 1.2], "model": [0.5, 0.7]}
    table = SceneCosts(
        costs={name: np.array(row) for name, row in costs.items()}, scored=np.array([10.0, 10.0]), floor=0.004
    )
    trivial = ("weak", "strong")
    assert skill(table, "model", trivial).best_trivial == "strong"
    values = {name: skill(table, name, trivial).value for name in costs}
    assert {name: value and value.value for name, value in values.items()} == pytest.approx(
        {"oracle": 1.0, "strong": 0.0, "model": 0.5, "weak": -1.0}
    )
    assert skill(SceneCosts(costs=table.costs, scored=table.scored, floor=0.05), "model", trivial).void


STRANGER = """
import numpy as np

class Repeats:
    def predict(self, context_frames, context_actions, actions, num_samples=1, seeds=None):
        return np.tile(context_frames[:, None, None, -1], (1, num_samples, actions.shape[1], 1, 1, 1))
"""


def test_anybodys_model_is_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A model of ten lines gets the whole report: every row, intervals, strips; copying scores as copying does."""
    (tmp_path / "copying_model.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("copying_model", None)
    monkeypatch.setitem(probes.SCENES, "smoke", SCENES)
    out = tmp_path / "report"
    results = probe("copying_model:Repeats", out, family=["P1d"], workers=1)
    rows = results["families"]["P1d"]["rows"]
    assert rows["model"] == rows["copy last"]
    assert set(rows) == {
        "model", "oracle", "copy last", "constant velocity", "freeze", "deleted", "mean frame", "climatology",
        "model, others' actions", "untrained",
    }  # fmt: skip
    assert rows["oracle"]["recall"]["value"] == 1.0
    assert 0 < rows["model"]["tracking_error_cm"]["value"] <= 100 * CUT_OFF_M
    assert json.loads((out / "results.json").read_text())["families"].keys() == {"P1d"}
    text = (out / "report.md").read_text()
    assert "P1d" in text and all((out / name).is_file() for name in results["families"]["P1d"]["strips"].values())
    assert not list(out.glob(".parts*"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"family": ["P1x"]}, "P1x"),
        ({"tier": "huge"}, "tier"),
        ({"split": "train"}, "split"),
        ({"predictor": "nothing"}, "nothing"),
    ],
)
def test_wrong_arguments_leave_nothing(tmp_path: Path, arguments: dict, named: str):
    """Unknown families, tiers, splits and predictors are named, and no folder is made."""
    with pytest.raises(UsageError, match=named):
        probe(**{"predictor": "arena-small", "out": tmp_path / "out", **arguments})
    assert not (tmp_path / "out").exists()
