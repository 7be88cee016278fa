"""Predictors that cheat show what they are named for, the probes see it, and the committed report is made of its numbers."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from worldsim.dataset import EpisodeDataset
from worldsim.envs.controls import CONTEXT_STEPS
from worldsim.envs.record import record
from worldsim.errors import UsageError
from worldsim.eval.cheat_report import ASKED, CHEATS, FOLDER, caught, page
from worldsim.eval.cheats import CLIPS_VARIABLE
from worldsim.eval.families import Scene
from worldsim.eval.places import read_places
from worldsim.eval.predictors import ask, load_predictor
from worldsim.eval.registry import FAMILIES
from worldsim.eval.skill import measured
from worldsim.eval.tales import question_of
from worldsim.metrics import laplacian_energy

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recording of three short episodes of the Arena."""
    folder = tmp_path_factory.mktemp("clips")
    record("worldsim/Arena-v0", out=folder, episodes=3, steps=CONTEXT_STEPS + 14, workers=1)
    return folder


@pytest.fixture(scope="module")
def scenes(env: gym.Env) -> list[Scene]:
    """Return two scenes in which a body comes to rest behind the curtain, which falls."""
    return [FAMILIES["P1d"].scene(env, "dev", index) for index in (1, 3)]


def film(name: str, scenes: list[Scene]) -> np.ndarray:
    """Return what a cheat shows of scenes (n, m, t, h, w, 3)."""
    tales = [tale for scene in scenes for tale in scene]
    answer = ask(load_predictor(f"worldsim.eval.cheats:{name}"), question_of(tales), seeds=range(len(tales)))
    return answer.reshape(len(scenes), -1, *answer.shape[2:])


def value(name: str, scenes: list[Scene], measure: str, code: str = "P1d") -> float:
    """Return a measure of a cheat's films."""
    family = FAMILIES[code]
    scores = family.score(scenes, film(name, scenes), read_places)
    got = measured(scores, next(one for one in (family.error, *family.measures) if one.name == measure))
    assert got is not None
    return got.value


def test_what_is_pasted_was_hidden_and_comes_back_where_it_was(scenes: list[Scene]):
    """Paste hides the target in time and shows it again, but its world has stood still; a puppet goes on and brakes."""
    assert value("Paste", scenes, "shown while hidden") < 0.25 and value("Paste", scenes, "missed") < 0.2
    assert value("Paste", scenes, "went on") < 0.35
    assert value("Puppeteer", scenes, "went on") == pytest.approx(1.0, abs=0.35)
    assert value("ActionBlind", scenes, "shown while hidden") > 0.75


def test_blur_shows_less_and_less(scenes: list[Scene]):
    """Sharpness falls until hardly any is left, and in the end nothing can be read."""
    (tale,), shown = scenes[0], film("Blur", scenes)[0, 0]
    sharpness = laplacian_energy(shown)
    assert (np.diff(sharpness[:10]) < 0).all() and sharpness[-1] < 0.01 * sharpness[0]
    assert not read_places(shown[-1], tale.states[-1]).found.any()


def test_actions_matter_to_whom_they_should(env: gym.Env):
    """Two films that differ in the orbit alone are one and the same to who ignores actions; puppets turn the right way."""
    pairs = [FAMILIES["P6-orbit"].scene(env, "dev", index) for index in range(2)]
    blind = film("ActionBlind", pairs)
    assert np.array_equal(blind[:, 0], blind[:, 1])
    assert value("ActionBlind", pairs, "control lost", "P6-orbit") == 1.0
    assert value("Puppeteer", pairs, "control lost", "P6-orbit") < 0.9


def test_a_moment_of_the_recording_is_found_again(recording: Path, monkeypatch: pytest.MonkeyPatch):
    """Asked about something recorded, NearestClip plays what followed there; where the clip ends, its last frame stays."""
    monkeypatch.setenv(CLIPS_VARIABLE, str(recording))
    data = EpisodeDataset.open(recording)
    copier = load_predictor("worldsim.eval.cheats:NearestClip")
    for number in data.episode_ids("train"):
        episode, now = data.episode(number), CONTEXT_STEPS + 3
        context = episode.frames[None, now - CONTEXT_STEPS : now + 1], episode.actions[None, now - CONTEXT_STEPS : now]
        (shown,) = copier.predict(*context, episode.actions[None, now : now + 8], num_samples=2)
        assert np.array_equal(shown[0], episode.frames[now + 1 : now + 9]) and np.array_equal(shown[0], shown[1])
        (longer,) = copier.predict(*context, np.zeros((1, 40, episode.actions.shape[1]), np.float32))
        assert longer.shape[1] == 40 and np.array_equal(longer[0, -1], longer[0, -2])


def test_no_recording_and_other_frames_are_named(recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without something to copy from, or with frames of another size, the user is told which variable to set."""
    copier = load_predictor("worldsim.eval.cheats:NearestClip")
    asked = np.zeros((1, 11, 32, 32, 3), np.uint8), np.zeros((1, 10, 5), np.float32), np.zeros((1, 4, 5), np.float32)
    monkeypatch.setenv(CLIPS_VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match=CLIPS_VARIABLE):
        copier.predict(*asked)
    monkeypatch.setenv(CLIPS_VARIABLE, str(recording))
    with pytest.raises(UsageError, match=CLIPS_VARIABLE):
        copier.predict(*asked)


def test_an_empty_floor_can_be_shown():
    """Cheats answer where no body is to be seen."""
    grey = np.full((1, 11, 64, 64, 3), 128, np.uint8)
    for name in ("Paste", "Blur", "ActionBlind", "Puppeteer"):
        answer = load_predictor(f"worldsim.eval.cheats:{name}").predict(
            grey, np.zeros((1, 10, 5), np.float32), np.zeros((1, 3, 5), np.float32)
        )
        assert np.abs(answer.astype(int) - 128).max() <= 1


def test_the_report_is_made_of_its_numbers():
    """The committed table and sentences are what the committed numbers give, for every cheat and family."""
    results = json.loads((ROOT / FOLDER / "results.json").read_text(encoding="utf-8"))
    assert set(results["cheats"]) == set(CHEATS) and all(set(row) == set(ASKED) for row in results["cheats"].values())
    assert (ROOT / FOLDER / "README.md").read_text(encoding="utf-8") == page(results)
    assert all(any(caught(code, table) for code, table in row.items()) for row in results["cheats"].values())
