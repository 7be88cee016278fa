"""Physics probes: scenes that hold their event, rows that show what they are named for, and skill."""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from worldsim.envs.options import parse_options
from worldsim.envs.painter import Painter
from worldsim.envs.sampling import draw_scene
from worldsim.envs.scene import COLOURS
from worldsim.errors import UsageError
from worldsim.eval.expectation_probe import CODES
from worldsim.eval.families import Family, Scene, Scores, films, scene_seed
from worldsim.eval.fidelity import CODES as FIDELITY_CODES
from worldsim.eval.lab import LEAST_CONTROLS, Lab, arena_world
from worldsim.eval.perception import perception_limited
from worldsim.eval.permanence import PERMANENCE
from worldsim.eval.permanence_scores import ERROR
from worldsim.eval.places import read_places
from worldsim.eval.probe import called, probe
from worldsim.eval.probe_tables import Measured, family_table
from worldsim.eval.reading import MAIN, score_rows
from worldsim.eval.references import References
from worldsim.eval.registry import FAMILIES
from worldsim.eval.rows import (
    LIMITED,
    MODEL,
    ORACLE,
    OTHERS,
    UNTRAINED,
    climatology,
    constant_velocity,
    copy_last,
    courses,
    deleted,
    freeze,
    other_scenes,
    read_motion,
)
from worldsim.eval.skill import measured, skill

SCENES = 2
BY_CODE = {family.code: family for family in PERMANENCE}


@pytest.fixture(scope="module")
def scenes(env: gym.Env) -> dict[str, list[Scene]]:
    """Return some scenes of every permanence family."""
    return {code: [family.scene(env, "dev", index) for index in range(SCENES)] for code, family in BY_CODE.items()}


def value(family: Family, scenes: list[Scene], frames: np.ndarray, name: str) -> float:
    """Return a measure of a row of frames (n, t, h, w, 3), or its error."""
    scores = family.score(scenes, frames[:, None], read_places)
    measure = next(measure for measure in (family.error, *family.measures) if measure.name == name)
    got = measured(scores, measure)
    assert got is not None
    return got.value


def test_a_scene_is_its_seed(env: gym.Env, scenes: dict[str, list[Scene]]):
    """The same split and index give the same pixels; another split or index another scene."""
    again = BY_CODE["P1d"].scene(env, "dev", 1)[0]
    assert np.array_equal(again.frames, scenes["P1d"][1][0].frames)
    assert np.array_equal(again.snapshots, scenes["P1d"][1][0].snapshots)
    assert len({scene_seed("P1d", split, index, 0) for split in ("dev", "test") for index in range(50)}) == 100


@pytest.mark.parametrize("code", list(BY_CODE))
def test_whatever_is_drawn_stands_free(code: str):
    """No script places two things in one spot, at any seed: a scene in hundreds would end a long report."""
    drawn = 0
    for index in range(150):
        seed = scene_seed(code, "dev", index, 0)
        script = BY_CODE[code].draw(np.random.default_rng(seed), seed)
        if script is not None:
            draw_scene(seed, parse_options(script.options), hide_target=False)  # UsageError where things overlap
            drawn += 1
    assert drawn > 50


@pytest.mark.parametrize("code", list(BY_CODE))
def test_every_scene_holds_its_event(scenes: dict[str, list[Scene]], code: str):
    """Targets are seen before, hidden for a while, and come back exactly where they should."""
    for (tale,) in scenes[code]:
        events = BY_CODE[code].events(tale)
        assert [COLOURS[event.slot] for event in events] == tale.script.label.split("+")
        assert all(event.hidden_frames >= 4 for event in events)
        assert all((event.hidden_until < len(tale.frames)) == BY_CODE[code].returns for event in events)


def test_a_tale_drawn_again_is_the_truth(scenes: dict[str, list[Scene]], painter: Painter):
    """Nothing moved, nothing changed: the frames are the true ones to the bit."""
    tale = scenes["P1c"][0][0]
    assert np.array_equal(tale.redraw(painter, lambda t, simulation: None), tale.frames)


def test_rows_show_what_they_are_named_for(scenes: dict[str, list[Scene]], painter: Painter):
    """All agree with the truth until something is hidden; then one body stays, one is gone, one goes on."""
    told = [scene[0] for scene in scenes["P1d"]]
    event = BY_CODE["P1d"].events(told[0])[0]
    before = slice(0, event.hidden_from)
    shown = {"freeze": freeze(told, painter), "deleted": deleted(told, painter)}
    for frames in shown.values():
        assert np.array_equal(frames[0, before], told[0].frames[before])
    after = slice(event.hidden_until + 4, None)
    states = np.stack([tale.states for tale in told])
    found = {name: read_places(frames, states).found[0, after, event.slot] for name, frames in shown.items()}
    assert found["freeze"].all() and not found["deleted"].any()
    start, velocity = read_motion(told[0])
    read = read_places(constant_velocity(told, painter), states)
    assert read.xy[0, 0, event.slot] == pytest.approx(start[event.slot] + velocity[event.slot], abs=0.02)


def test_habit_moves_bodies_as_in_other_scenes(scenes: dict[str, list[Scene]], painter: Painter):
    """Climatology with a scene's own courses is the truth; with another's the target is elsewhere. Nobody keeps theirs."""
    told = [scene[0] for scene in scenes["P1d"]]
    own = climatology(told, [courses(tale) for tale in told], painter)
    assert np.abs(own.astype(int) - films(scenes["P1d"])[:, 0]).mean() < 0.1
    orders = other_scenes(4, np.random.default_rng(0))
    assert len(orders) == 4 - 1 and all((order != np.arange(4)).all() for order in orders)
    (order,) = other_scenes(SCENES, np.random.default_rng(0))
    other = climatology(told, [courses(told[k]) for k in order], painter)
    family = BY_CODE["P1d"]
    assert value(family, scenes["P1d"], other, "tracking error") > 5 * value(
        family, scenes["P1d"], own, "tracking error"
    )


def test_physics_from_what_can_be_read_is_near_the_truth(scenes: dict[str, list[Scene]], painter: Painter):
    """The perception-limited oracle is off by little, its members differ, and the same member is the same film."""
    told = [scene[0] for scene in scenes["P1a"]]
    one, again, other = (perception_limited(told, painter, member) for member in (0, 0, 1))
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    family = BY_CODE["P1a"]
    exact = value(family, scenes["P1a"], films(scenes["P1a"])[:, 0], "tracking error")
    assert exact < value(family, scenes["P1a"], one, "tracking error") < exact + 2.0
    at_rest = perception_limited([scene[0] for scene in scenes["P1f"]], painter, 0)
    assert not np.array_equal(at_rest, films(scenes["P1f"])[:, 0]), "places are known only to within a reading"


def test_the_truth_is_recalled_and_straw_men_are_not(scenes: dict[str, list[Scene]], painter: Painter):
    """A perfect predictor recalls every target and its world goes on; whoever copies, freezes or deletes fails."""
    told, family = [scene[0] for scene in scenes["P1d"]], BY_CODE["P1d"]
    shown = {
        "truth": films(scenes["P1d"])[:, 0],
        "copy": copy_last(told),
        "deleted": deleted(told, painter),
        "freeze": freeze(told, painter),
    }
    table = {
        film: {name: value(family, scenes["P1d"], frames, name) for name in ("recall", "identity", "went on")}
        for film, frames in shown.items()
    }
    assert table["truth"] == pytest.approx({"recall": 1.0, "identity": 1.0, "went on": 1.0}, abs=0.1)
    assert table["copy"]["recall"] == table["deleted"]["recall"] == 0.0
    assert table["deleted"] == {"recall": 0.0, "identity": 0.0, "went on": 0.0}
    assert abs(table["freeze"]["went on"]) < 0.35
    assert value(family, scenes["P1d"], shown["copy"], "shown while hidden") > 0.9


def test_skill_is_relative_to_the_best_straw_man_and_can_be_void():
    """The oracle has 1, the best trivial row 0, worse ones less; a probe that trivial rows nearly solve says nothing."""
    costs = {"oracle": [0.1, 0.1], "weak": [2.0, 2.2], "strong": [1.0, 1.2], "model": [0.5, 0.7]}

    def table(floor: float) -> dict[str, Scores]:
        return {
            name: Scores(
                columns={"cost": np.array(row), "scored": np.array([10.0, 10.0])},
                frame_cost=np.zeros((2, 1)),
                floor=floor,
            )
            for name, row in costs.items()
        }

    trivial = ("weak", "strong")
    assert skill(table(0.4), "model", ERROR, trivial).best_trivial == "strong"
    values = {name: skill(table(0.4), name, ERROR, trivial).value for name in costs}
    assert {name: one and one.value for name, one in values.items()} == pytest.approx(
        {"oracle": 1.0, "strong": 0.0, "model": 0.5, "weak": -1.0}
    )
    assert skill(table(5.0), "model", ERROR, trivial).void


def test_futures_that_differ_are_told_from_one_that_is_shown_twice(scenes: dict[str, list[Scene]], painter: Painter):
    """An ensemble like that of the reference has its spread; the same future twice has none, and the plain error for a score."""
    family, tales = BY_CODE["P1a"], [scene[0] for scene in scenes["P1a"]]
    members = [perception_limited(tales, painter, member)[:, None] for member in range(2)]
    truth, copied = films(scenes["P1a"]), copy_last(tales)[:, None]
    trivial = {name: [copied] for name in (OTHERS, UNTRAINED, "copy last", "mean frame")}

    def futures(shown: list[np.ndarray]) -> tuple[dict, float]:
        made = {ORACLE: [truth], LIMITED: members, MODEL: shown, **trivial}
        table = family_table(
            family, Measured(family="P1a", by_reader={MAIN: score_rows(family, scenes["P1a"], made, MAIN, 1)})
        )
        return table["futures"], table["rows"][MODEL]["error"]["value"]

    like, error = futures(members)
    assert like["spread_ratio"]["value"] == pytest.approx(1.0) and 0 < like["energy_score"]["value"] < error
    twice, error = futures([members[0], members[0]])
    assert twice["spread_ratio"]["value"] == 0 and twice["energy_score"]["value"] == pytest.approx(error)
    assert futures([members[0]])[0] is None


SHOWS_ACTIONS = """
import numpy as np

class Shows:
    def predict(self, context_frames, context_actions, actions, num_samples=1, seeds=None):
        shades = (127 + 100 * actions[..., :3]).astype(np.uint8)
        return np.tile(shades[:, None, :, None, None], (1, num_samples, 1, *context_frames.shape[2:4], 1))
"""


def test_rows_are_asked_what_they_are_named_for(
    scenes: dict[str, list[Scene]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The model is told its own actions, its control those of other episodes; controls see some scenes, others all."""
    (tmp_path / "showing_model.py").write_text(SHOWS_ACTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("showing_model", None)
    lab = Lab(predictor="showing_model:Shows", spec=arena_world(), workers=1, samples=2)
    asked = 2 * scenes["P1h"]
    rows = lab.rows(asked)
    references = References(folder=tmp_path, spec=arena_world(), split="dev", workers=1)
    rows |= references.rows(BY_CODE["P1h"], asked) | lab.untrained(asked)
    shades = np.stack([127 + 100 * scene[0].script.actions[:, :3] for scene in asked]).astype(np.uint8)
    assert len(rows[MODEL]) == 2 and all(np.array_equal(row[:, 0, :, 0, 0], shades) for row in rows[MODEL])
    assert all((rows[OTHERS][0][index, 0, :, 0, 0] != shades[index]).any() for index in range(LEAST_CONTROLS))
    for name, made in rows.items():
        count = LEAST_CONTROLS if name in (OTHERS, UNTRAINED) else len(asked)
        assert all(row.shape == films(asked)[:count].shape for row in made), name


def test_all_probes_are_called_by_one_word():
    """ "all" calls what every code together calls, at the size of any tier; a code of each kind calls just these."""
    every = called([*FAMILIES, *CODES, *FIDELITY_CODES], "smoke")
    assert called("all", "smoke") == every and (len(every[0]), len(every[1])) == (30, len(CODES))
    some = called("P1c,P8-solidity", "standard")
    assert ([family.code for family in some[0]], some[1]) == (["P1c"], ("solidity",))
    assert called("P8-solidity", "smoke") == ([], ("solidity",), ())
    assert called("P7-push", "standard") == ([], (), ("push",))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"family": ["P1x"]}, "P1x"),
        ({"tier": "huge"}, "tier"),
        ({"split": "train"}, "split"),
        ({"scenes": 1}, "scenes.*2 or more"),
        ({"scenes": 64, "split": "test"}, "64 of the test split"),
        ({"predictor": "nothing"}, "nothing"),
        ({"predictor": "worldsim.eval.predictors:CopyLast", "family": "P7-push"}, "P7-push of CopyLast.*checkpoint"),
        (
            {"predictor": "worldsim.eval.predictors:CopyLast", "family": "P8-solidity"},
            "P8-solidity of CopyLast.*surprise",
        ),
    ],
)
def test_wrong_arguments_leave_nothing(tmp_path: Path, arguments: dict, named: str):
    """Unknown families, tiers, splits and predictors are named, and no folder is made."""
    with pytest.raises(UsageError, match=named):
        probe(**{"predictor": "arena-small", "out": tmp_path / "out", **arguments})
    assert not (tmp_path / "out").exists()
