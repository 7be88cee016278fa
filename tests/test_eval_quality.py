"""Measurements of a model against the true Arena: a perfect and a blind dreamer, and the whole report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from worldsim.envs.arena import ArenaEnv, arena_spec
from worldsim.errors import UsageError
from worldsim.eval.gaps import action_gap, gap_scripts
from worldsim.eval.longrun import long_run
from worldsim.eval.quality import quality
from worldsim.eval.strips import film_strip, save_strip
from worldsim.eval.trials import QUALITY_SEED, Truth, dream, make_arena, recorded_scripts, simulate, stack_actions
from worldsim.spec import WorldSpec
from worldsim.world_model import untrained

SEEDS = [QUALITY_SEED + i for i in range(3)]


@pytest.fixture(scope="module")
def spec() -> WorldSpec:
    env = ArenaEnv()
    try:
        return arena_spec(env)
    finally:
        env.close()


@dataclasses.dataclass(frozen=True)
class Shown:
    """One streamed frame per row."""

    frames: np.ndarray
    state: Any


class TrueDreamer:
    """Streams the true world itself; the noise seed is the scene's. ``deaf_to`` are dimensions it does not hear."""

    def __init__(self, spec: WorldSpec, deaf_to: Sequence[int] = ()) -> None:
        self.spec, self.deaf_to = spec, list(deaf_to)

    def start(self, frames: np.ndarray, actions: np.ndarray, seeds: np.ndarray) -> Any:
        """Reset one true world per seed."""
        worlds = [make_arena(self.spec) for _ in seeds]
        for world, seed in zip(worlds, seeds, strict=True):
            world.reset(seed=int(seed))
        return worlds

    def step(self, state: Any, actions: np.ndarray) -> Shown:
        """Step every world."""
        heard = actions.copy()
        heard[:, self.deaf_to] = 0
        frames = [world.step(action)[0] for world, action in zip(state, heard, strict=True)]
        return Shown(frames=np.stack(frames), state=state)


@pytest.mark.parametrize("dimension", [0, 2, 4])
def test_a_perfect_model_has_gap_one_and_a_deaf_one_zero(spec: WorldSpec, dimension: int) -> None:
    """The true world scores exactly 1 in every dimension; the same world deaf to one scores exactly 0 in that one."""
    env = make_arena(spec)
    scripts = gap_scripts(env, spec, dimension, SEEDS[:2], steps=6)
    env.close()
    perfect = action_gap(TrueDreamer(spec), spec, dimension, scripts)
    deaf = action_gap(TrueDreamer(spec, [dimension]), spec, dimension, scripts)
    assert perfect.ratio is not None
    assert deaf.ratio is not None
    assert (perfect.ratio.value, perfect.ratio.low, perfect.ratio.high) == (1.0, 1.0, 1.0)
    assert perfect.error_right is not None
    assert perfect.error_right.value == 0
    assert deaf.ratio.value == 0
    assert perfect.pixels_share > 0.001


def test_truth_and_perfect_dream_agree_frame_by_frame(spec: WorldSpec) -> None:
    """A dream starts at the truth's last context frame and its frame t answers to the truth's frame t."""
    env = make_arena(spec)
    scripts = recorded_scripts(env, SEEDS[:2], 6)
    env.close()
    scripts = [dataclasses.replace(script, options={}) for script in scripts]
    truth = simulate(spec, scripts)
    dreamt = dream(TrueDreamer(spec), truth, stack_actions(scripts), seeds=SEEDS[:2], times=[1, 4, 6], batch=1)
    assert (dreamt == truth.frames[:, [0, 3, 5]]).all()
    assert truth.context_frames.shape[1] == spec.context_steps + 1


def test_the_truth_does_not_depend_on_the_number_of_processes(spec: WorldSpec) -> None:
    """Two processes simulate bit for bit what one does, in the same order."""
    env = make_arena(spec)
    scripts = recorded_scripts(env, SEEDS, 3)
    env.close()
    one, two = simulate(spec, scripts, workers=1), simulate(spec, scripts, workers=2)
    for field in dataclasses.fields(Truth):
        assert np.array_equal(getattr(one, field.name), getattr(two, field.name)), field.name


def test_long_runs_of_the_truth_are_sharp_readable_and_without_ghosts(spec: WorldSpec) -> None:
    """The true world read as if it were a dream scores 1, 1 and 0; a grey blur scores 0 in sharpness and reading."""
    env = make_arena(spec)
    scripts = recorded_scripts(env, SEEDS, 12)
    env.close()
    still = [dataclasses.replace(script, actions=np.zeros_like(script.actions)) for script in scripts]
    truth = simulate(spec, still, [10, 11, 12])
    perfect = long_run(truth.frames, truth)
    grey = long_run(np.full_like(truth.frames, 128), truth)
    assert perfect.bodies > 0
    numbers = [perfect.sharpness_ratio, perfect.readable, perfect.ghosts, grey.sharpness_ratio, grey.readable]
    assert [None if number is None else number.value for number in numbers] == [1.0, 1.0, 0.0, 0.0, 0.0]


@pytest.mark.heavy
def test_the_report_says_what_was_measured_and_on_how_much(
    spec: WorldSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrained model gets a whole report: JSON, Markdown and strips, with n, intervals, and claims that fail."""
    monkeypatch.setattr("worldsim.eval.quality.MEAN_FRAME_SCENES", 2)
    results = quality(untrained(spec), tmp_path, 2, long_frames=37, num_steps=1, workers=1)
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert {"device", "threads", "commit", "seed", "n", "seconds"} <= results.keys()
    assert set(results["action_gap"]) == set(spec.action_names)
    frame = results["moving_pixel_error"]["8"]
    assert frame["scenes"] == 2
    assert frame["model"]["low"] <= frame["model"]["value"] <= frame["model"]["high"]
    assert not all(claim["holds"] for claim in results["claims"])
    report = (tmp_path / "report.md").read_text()
    assert "does NOT hold" in report
    for name in results["strips"].values():
        with Image.open(tmp_path / name) as strip:
            assert strip.width > 6 * 64


def test_questions_that_cannot_be_answered_are_refused(spec: WorldSpec, tmp_path: Path) -> None:
    """One scene has nobody to swap actions with, a dream may be too short to judge, and nobody drives the Arena."""
    with pytest.raises(UsageError, match="scenes"):
        quality(untrained(spec), tmp_path, 1)
    with pytest.raises(UsageError, match="long_frames"):
        quality(untrained(spec), tmp_path, 2, long_frames=8)
    with pytest.raises(UsageError, match="workers"):
        quality(untrained(spec), tmp_path, 2, workers=0)
    with pytest.raises(UsageError, match="behaviours of its own"):
        quality(untrained(spec), tmp_path, 2, policy="module:function")
    assert not list(tmp_path.iterdir())


def test_a_strip_takes_the_place_of_the_last_one_whole(tmp_path: Path) -> None:
    """Whoever is reading the old file reads it to its end; nothing else is left in the folder."""
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    first = save_strip(tmp_path / "strips" / "strip_best.png", film_strip({"truth": frames}, (1, 2)))
    (tmp_path / "kept.png").hardlink_to(first)
    before = (tmp_path / "kept.png").read_bytes()
    save_strip(first, film_strip({"truth": frames + 255}, (1, 2)))
    assert (tmp_path / "kept.png").read_bytes() == before != first.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == ["strip_best.png"]
    assert np.asarray(Image.open(first)).shape == np.asarray(Image.open(tmp_path / "kept.png")).shape
