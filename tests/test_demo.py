"""The demo page: truth beside dream, self-contained, with its numbers."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from worldsim.envs.arena import ArenaEnv, arena_spec
from worldsim.envs.state import element
from worldsim.errors import UsageError
from worldsim.eval.demo import Demo, demo
from worldsim.eval.showcase import SHOWCASE, showcase_scripts
from worldsim.eval.trials import Truth, simulate
from worldsim.spec import WorldSpec
from worldsim.world_model import untrained


@pytest.fixture(scope="module")
def spec() -> WorldSpec:
    env = ArenaEnv()
    try:
        return arena_spec(env)
    finally:
        env.close()


@pytest.fixture(scope="module")
def made(spec: WorldSpec, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return demo(untrained(spec), tmp_path_factory.mktemp("demo"), ("push", "curtain"), frames=32)


@pytest.fixture(scope="module")
def truth(spec: WorldSpec) -> Truth:
    return simulate(spec, showcase_scripts(48))


def test_the_page_needs_nothing_else(made: Demo) -> None:
    """No script, no link and no picture of the page is fetched from anywhere."""
    page = made.page.read_text()
    assert not re.search(r"<script|<link|@import|url\(http", page)
    assert all(source.startswith("data:image/webp;base64,") for source in re.findall(r'src="([^"]+)"', page))
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_every_clip_shows_truth_and_dream_from_the_same_first_frame(made: Demo) -> None:
    """Each scene has one animated picture of all frames; its halves are equal at first and differ later."""
    clips = re.findall(r"data:image/webp;base64,([A-Za-z0-9+/=]+)", made.page.read_text())
    assert len(clips) == 2
    with Image.open(io.BytesIO(base64.b64decode(clips[0]))) as clip:
        assert getattr(clip, "n_frames", 1) == 33
        halves = []
        for frame in (0, 20):
            clip.seek(frame)
            picture = np.asarray(clip.convert("RGB"))
            halves.append((picture[:, :64], picture[:, -64:]))
    assert (halves[0][0] == halves[0][1]).all()
    assert (halves[1][0] != halves[1][1]).any()


def test_one_moving_picture_shows_truths_above_dreams(made: Demo) -> None:
    """demo.webp has the first frames equal in both rows, pixel for pixel at double size, and other ones later."""
    with Image.open(made.page.parent / "demo.webp") as clip:
        assert getattr(clip, "n_frames", 1) == 33
        assert clip.size == (2 * (64 + 2 + 64), 2 * (64 + 2 + 64))
        rows = []
        for frame in (0, 20):
            clip.seek(frame)
            picture = np.asarray(clip.convert("RGB"))
            rows.append((picture[:128], picture[-128:]))
    assert (rows[0][0] == rows[0][1]).all()
    assert (rows[1][0] != rows[1][1]).any()


def test_numbers_lie_beside_the_page_and_are_told(made: Demo) -> None:
    """results.json holds what was shown, and the summary names the page, the error and where the rest is."""
    results = json.loads((made.page.parent / "results.json").read_text())
    assert results == made.results
    assert {"device", "threads", "commit", "seed", "n", "seconds", "dream_frames_per_second"} <= results.keys()
    assert [row["scene"] for row in results["scenes"]] == ["push", "curtain"]
    assert str(made.page) in made.summary
    assert f"{results['all_scenes']['8']['copy_last']:.3f}" in made.summary


def test_an_unknown_scene_is_refused_with_the_closest_name(spec: WorldSpec, tmp_path: Path) -> None:
    """A misspelt scene is an error that offers the right one, and nothing is written."""
    with pytest.raises(UsageError, match="curtain"):
        demo(untrained(spec), tmp_path, ("curtian",))
    assert not list(tmp_path.iterdir())


def test_each_scene_shows_what_it_promises(truth: Truth) -> None:
    """The push moves the box, the collision hands speed on, the orbit turns and returns, the hidden come back."""
    names = list(SHOWCASE)

    def seen(scene: str, name: str) -> np.ndarray:
        return element(truth.states[names.index(scene)], name)

    assert np.hypot(np.ptp(seen("push", "red/x")), np.ptp(seen("push", "red/y"))) > 0.15
    assert seen("collision", "yellow/vx")[0] == 0
    assert seen("collision", "yellow/vx").max() > 0.1
    azimuth = np.degrees(
        np.unwrap(np.arctan2(seen("orbit", "camera/azimuth_sin"), seen("orbit", "camera/azimuth_cos")))
    )
    assert np.ptp(azimuth) > 150
    assert azimuth[-1] == pytest.approx(azimuth[0], abs=1)
    for scene, body in (("curtain", "magenta"), ("look_away", "red")):
        visible = seen(scene, f"{body}/visible")
        assert visible[0] > 0.9
        assert visible.min() < 0.05
        assert visible[-1] > 0.9
