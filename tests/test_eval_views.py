"""Probes of 3D consistency: scenes that hold their event, and measures that see what they are named for, and only that."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import gymnasium as gym
import numpy as np
import pytest
import scipy.ndimage

from worldsim.envs.camera import ground_axes
from worldsim.envs.controls import ORBIT_STEP
from worldsim.envs.factors import FACTORS, HELD_OUT_WEDGE
from worldsim.envs.painter import Painter
from worldsim.envs.simulation import Simulation
from worldsim.envs.state import body_slots, element
from worldsim.eval.families import Scene, Scores, films
from worldsim.eval.places import read_places
from worldsim.eval.tales import Tale
from worldsim.eval.view_scores import (
    AZIMUTH_CUT_OFF_DEG,
    PIXEL_CUT_OFF,
    RING_STEP_DEG,
    meeting_point,
    views_without_bodies,
)
from worldsim.eval.views import VIEWS, Views, planar_shift

SCENES = 2
FAMILIES = {family.code: family for family in VIEWS}
Told = dict[str, list[Scene]]


@pytest.fixture(scope="module")
def told(env: gym.Env) -> Told:
    """Return some scenes of every family."""
    return {code: [family.scene(env, "dev", index) for index in range(SCENES)] for code, family in FAMILIES.items()}


def drawn(scenes: Sequence[Scene], painter: Painter, rule: Callable[[Tale], Callable[[int, Simulation], None]]):
    """Draw every tale again after an edit."""
    return np.stack([[tale.redraw(painter, rule(tale)) for tale in scene] for scene in scenes])


def turn_camera(simulation: Simulation, azimuth: float) -> None:
    *rest, _, tilt, curtain = simulation.snapshot()
    simulation.restore(np.array([*rest, azimuth, tilt, curtain]))


def measures(family: Views, scores: Scores) -> dict[str, float]:
    """Return all measures of a row by name; NaN where there is nothing to measure."""
    with np.errstate(invalid="ignore"):
        return {
            one.name: float(one.statistic(np.array([scores.columns[name].mean() for name in one.columns])))
            for one in (family.error, *family.measures)
        }


def measured(code: str, scenes: Sequence[Scene], frames: np.ndarray) -> dict[str, float]:
    scores = FAMILIES[code].score(scenes, frames, read_places)
    assert all(column.shape == (len(scenes),) and np.isfinite(column).all() for column in scores.columns.values())
    assert scores.frame_cost.shape == (len(scenes), frames.shape[2])
    return measures(FAMILIES[code], scores)


def azimuths(tale: Tale) -> np.ndarray:
    states = np.concatenate([tale.context_states[-1:], tale.states])
    return np.degrees(np.arctan2(element(states, "camera/azimuth_sin"), element(states, "camera/azimuth_cos"))) % 360


def test_a_scene_is_its_seed(env: gym.Env, told: Told):
    """The same split and index give the same pixels, another split another scene."""
    again, other = (FAMILIES["P2b"].scene(env, split, 1) for split in ("dev", "test"))
    assert all(np.array_equal(one.frames, two.frames) for one, two in zip(again, told["P2b"][1], strict=True))
    assert not np.array_equal(other[0].frames, again[0].frames)


@pytest.mark.parametrize("code", list(FAMILIES))
def test_every_scene_holds_its_event(told: Told, code: str):
    """Three bodies are seen at first, and the camera does with them what the family is named for."""
    for tale, *stares in told[code]:
        turned = azimuths(tale)
        inside = (turned >= HELD_OUT_WEDGE[0]) & (turned <= HELD_OUT_WEDGE[1])
        present = body_slots(tale.states[0], "present") > 0.5
        seen = body_slots(tale.states, "visible")[:, present]
        xy = np.stack([body_slots(tale.states, axis)[:, present] for axis in "xy"], axis=-1)
        way = np.linalg.norm(np.diff(xy, axis=0), axis=-1).sum(axis=0)
        assert present.sum() == 3 and len(tale.scene.posts) == 0 and not inside[0]
        assert body_slots(tale.context_states[-1], "visible")[present].min() >= 0.8
        assert (body_slots(tale.states, "radius")[0, present] <= FACTORS["radius"].train[-1].high).all()
        assert (way.max() >= 0.2) if code == "P2c" else (way == 0).all()
        assert inside.any() == (code in ("P2a", "P2e")) and (code != "P2e" or inside.sum() >= 12)
        assert len(stares) == (code in ("P2a", "P2b"))
        for stare in stares:
            assert turned[-1] == pytest.approx(turned[0], abs=0.01)
            assert not stare.script.actions.any() and (stare.frames == tale.context_frames[-1]).all()
        hidden = (seen <= 0.05).all(axis=1)
        first, end = FAMILIES[code].hidden((tale, *stares))
        assert np.array_equal(np.flatnonzero(hidden), np.arange(first, end))
        if code == "P2d":
            assert 4 <= end - first <= 16 and (seen[-4:] >= 0.5).all() and np.ptp(turned) >= 30
        assert FAMILIES[code].title in FAMILIES[code].describe((tale, *stares))


@pytest.mark.parametrize("code", list(FAMILIES))
def test_the_truth_is_obedient_and_consistent(told: Told, code: str):
    """The true frames turn as commanded, agree with the truth to the floor, with each other, and loops close."""
    got = measured(code, told[code], films(told[code]))
    assert got["obedience gain"] == pytest.approx(1, abs=0.02)
    assert got["azimuth error"] < 0.17 and got["azimuth unread"] == 0
    assert got["reprojection error"] < 0.5 and got["tracking error"] < 1.2 and got["missed"] == 0
    assert np.isnan(got["lag"]) if code == "P2d" else got["lag"] == 0
    assert np.isnan(got["triangulation residual"]) if code == "P2c" else got["triangulation residual"] < 0.5
    for name in ("loop closure", "loop excess"):
        assert got[name] == pytest.approx(0, abs=0.01) if code in ("P2a", "P2b") else np.isnan(got[name])
    assert got["error in the wedge"] < 1.2 if code in ("P2a", "P2e") else np.isnan(got["error in the wedge"])


@pytest.mark.parametrize("code", list(FAMILIES))
def test_still_pictures_noise_and_flat_pictures_do_not_pass(told: Told, painter: Painter, code: str):
    """Copying, noise and grey obey nothing and know nothing; no trivial row passes for obedient and right."""
    scenes = told[code]
    rows = dict(FAMILIES[code].trivial(scenes, painter))
    assert set(rows) == {"copy last", "planar shift"} | ({"deleted"} if code == "P2d" else set())
    frames = films(scenes)
    rows["noise"] = np.random.default_rng(0).integers(0, 256, frames.shape, np.uint8)
    rows["grey"] = np.full_like(frames, 128)
    got = {name: measured(code, scenes, row) for name, row in rows.items()}
    for name in ("copy last", "noise", "grey"):
        assert got[name]["obedience gain"] == pytest.approx(0, abs=0.03)
    best = min(got[name]["tracking error"] for name in rows if name not in ("noise", "grey"))
    assert best > 4 and all(got[name]["tracking error"] >= best for name in ("copy last", "noise", "grey"))
    assert got["grey"]["missed"] > 0.5 and got["grey"]["azimuth unread"] == 1.0
    assert got["grey"]["azimuth error"] == AZIMUTH_CUT_OFF_DEG and got["grey"]["reprojection error"] == PIXEL_CUT_OFF
    assert code == "P2c" or got["grey"]["triangulation residual"] == PIXEL_CUT_OFF
    assert got["planar shift"]["tracking error"] < got["copy last"]["tracking error"]
    assert not 0.8 <= got["planar shift"]["obedience gain"] <= 1.2


def test_the_camera_is_read_through_what_models_do_to_frames(told: Told, painter: Painter):
    """Blur, noise, gamma and paleness do not change the azimuth that is read, nor do bodies gone or left behind."""
    scenes = told["P2c"]
    frames = films(scenes).astype(np.float64)
    noise = np.random.default_rng(0).normal(0, 12, frames.shape)
    first = np.stack([scene[0].context_frames[-1:] for scene in scenes])[:, None].astype(np.float64)
    coloured = scipy.ndimage.binary_dilation(np.ptp(first, axis=-1) > 40, np.ones((1, 1, 1, 3, 3)))[..., None]
    rows = {
        "blur": scipy.ndimage.gaussian_filter(frames, (0, 0, 0, 2, 2, 0)),
        "noise": np.clip(frames + noise, 0, 255),
        "gamma": 255 * (frames / 255) ** 1.3,
        "pale": 90 + frames / 2,
        "bodies stay in the picture": np.where(coloured, first, frames),
    }
    away = drawn(
        scenes, painter, lambda tale: lambda t, simulation: simulation.place(tale.scene.bodies[0].colour, 9.0, 9.0)
    )
    got = {
        name: measured("P2c", scenes, row.round().astype(np.uint8))
        for name, row in {**rows, "one body less": away}.items()
    }
    for name, values in got.items():
        assert values["obedience gain"] == pytest.approx(1, abs=0.02), name
        assert values["azimuth error"] < 0.4 and values["azimuth unread"] == 0, name
    assert got["one body less"]["missed"] == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize("code", ["P2a", "P2c"])
def test_a_camera_that_lags_is_seen(told: Told, painter: Painter, code: str):
    """One frame late costs no gain to speak of, but a frame of lag, azimuth and places."""

    def late(tale: Tale) -> Callable[[int, Simulation], None]:
        return lambda t, simulation: turn_camera(simulation, float(azimuths(tale)[t - 1]))

    got = measured(code, told[code], drawn(told[code], painter, late))
    assert got["lag"] == 1.0
    assert got["azimuth error"] > 3 and got["tracking error"] > 3
    assert got["obedience gain"] > 0.75


@pytest.mark.parametrize("code", ["P2a", "P2d"])
def test_frames_that_cannot_be_read_cost_obedience_once_they_are_the_last(told: Told, code: str):
    """Grey frames between readable ones cost azimuth but no gain; from some frame on to the end, all that was asked."""
    scenes = told[code]
    turning = [int(np.flatnonzero(scene[0].script.actions[:, 2])[-1]) + 1 for scene in scenes]
    blinking, breaking = films(scenes), films(scenes)
    for row, last in enumerate(turning):
        blinking[row, 0, last // 2 : last // 2 + 3] = 128
        breaking[row, 0, last // 2 :] = 128
    got = measured(code, scenes, blinking)
    assert got["obedience gain"] == pytest.approx(1, abs=0.02)
    if code == "P2a":
        assert got["azimuth unread"] > 0.1 and got["azimuth error"] > 0.1 * AZIMUTH_CUT_OFF_DEG
    gain = measured(code, scenes, breaking)["obedience gain"]
    assert gain == pytest.approx(11 / 23 if code == "P2a" else 0, abs=0.02)


def test_a_camera_of_another_gain_is_seen(told: Told, painter: Painter):
    """Whoever turns by four fifths of the way has gain .8, never closes the loop and errs more the farther it goes."""

    def lazy(tale: Tale) -> Callable[[int, Simulation], None]:
        turned = ORBIT_STEP * np.cumsum(tale.script.actions[:, 2])
        return lambda t, simulation: turn_camera(simulation, float(azimuths(tale)[0] + 0.8 * turned[t - 1]))

    scenes = told["P2a"]
    frames = drawn(scenes, painter, lazy)
    got = measured("P2a", scenes, frames)
    assert got["obedience gain"] == pytest.approx(0.8, abs=0.02)
    assert got["azimuth error"] > 20 and got["loop closure"] > 12 and got["loop excess"] == got["loop closure"]
    assert got["triangulation residual"] > 2
    cost = FAMILIES["P2a"].score(scenes, frames, read_places).frame_cost.mean(axis=0)
    assert cost[0] < cost[2] < cost[8]


def test_a_mirrored_world_agrees_with_itself_but_not_with_the_truth(told: Told, painter: Painter):
    """Bodies mirrored at the first line of sight: the camera obeys and the views agree, in the wrong places."""

    def mirrored(tale: Tale) -> Callable[[int, Simulation], None]:
        right = ground_axes(float(azimuths(tale)[0]))[0]

        def edit(t: int, simulation: Simulation) -> None:
            for body in tale.scene.bodies:
                place = np.array([body.x, body.y])
                simulation.place(body.colour, *(place - 2 * (place @ right) * right))

        return edit

    scenes = told["P2a"]
    got = measured("P2a", scenes, drawn(scenes, painter, mirrored))
    assert got["obedience gain"] == pytest.approx(1, abs=0.02)
    assert got["reprojection error"] > 3 and got["tracking error"] > 8
    assert got["triangulation residual"] < 0.5
    flipped = np.ascontiguousarray(films(scenes)[..., ::-1, :])
    assert measured("P2a", scenes, flipped)["azimuth error"] > 30


def test_a_world_that_trembles_disagrees_with_itself(told: Told, painter: Painter):
    """Bodies that are somewhat elsewhere in every view show in the residual, and at the end of a loop."""
    rng = np.random.default_rng(0)

    def trembling(tale: Tale) -> Callable[[int, Simulation], None]:
        def edit(t: int, simulation: Simulation) -> None:
            for body in tale.scene.bodies:
                angle = rng.uniform(0, 2 * np.pi)
                simulation.place(body.colour, body.x + 0.08 * np.cos(angle), body.y + 0.08 * np.sin(angle))

        return edit

    scenes = told["P2b"]
    frames = films(scenes)
    frames[:, :1] = drawn([scene[:1] for scene in scenes], painter, trembling)
    got, true = measured("P2b", scenes, frames), measured("P2b", scenes, films(scenes))
    assert got["triangulation residual"] > 1 > 5 * true["triangulation residual"]
    assert got["loop closure"] == pytest.approx(8, abs=1.0) and got["loop excess"] == got["loop closure"]
    frames[:, 1] = frames[:, 0]
    assert measured("P2b", scenes, frames)["loop excess"] == 0
    assert measured("P2b", scenes, np.full_like(frames, 128))["loop closure"] == pytest.approx(20)


def test_frames_of_the_wedge_count_where_they_should(told: Told):
    """What happens in the held-out wedge is P2a's affair nowhere but in its own column, and all that counts in P2e."""
    for code in ("P2a", "P2e"):
        scenes = told[code]
        inside = FAMILIES[code].counted(scenes) == (code == "P2e")
        frames = films(scenes)
        before = measured(code, scenes, frames)
        frames[:, 0][inside] = 128
        after = measured(code, scenes, frames)
        assert after["error in the wedge"] == pytest.approx(20)
        assert (after["tracking error"] == before["tracking error"]) == (code == "P2a")
        assert (after["reprojection error"] == before["reprojection error"]) == (code == "P2a")
        assert after["azimuth unread"] == (code == "P2e")


def test_out_of_sight_out_of_mind_fails(told: Told, painter: Painter):
    """Bodies forgotten while the camera looked away are missed after it; a flat picture goes out of sight as it should."""
    scenes, family = told["P2d"], FAMILIES["P2d"]
    rows = family.trivial(scenes, painter)
    cost = {name: family.score(scenes, row, read_places).frame_cost for name, row in rows.items()}
    for index, scene in enumerate(scenes):
        first, end = family.hidden(scene)
        assert cost["deleted"][index, first:end].max() == 0 and cost["deleted"][index, -4:].min() == pytest.approx(20)
        assert cost["planar shift"][index, first + 1 : end - 1].max() == 0


def test_a_flat_picture_turns_about_its_middle(told: Told):
    """Nothing asked, nothing moved; after a full circle the picture is the first one again, and between it is not."""
    tale, stare = told["P2a"][0]
    circle, rest = planar_shift([tale, stare], 1.0)
    assert (rest == stare.context_frames[-1]).all()
    assert np.abs(circle[-1].astype(int) - tale.context_frames[-1]).max() <= 1
    half = tale.context_frames[-1][::-1, ::-1]
    assert np.abs(circle[11].astype(int) - half).mean() < 1


def test_a_ring_shows_the_scene_without_its_bodies(told: Told, painter: Painter):
    """The view of the ring at the true azimuth is the true frame where nothing is coloured."""
    tale = told["P2a"][0][0]
    at = float(azimuths(tale)[3])
    views = views_without_bodies(painter, tale.scene, tale.start, [at, at + RING_STEP_DEG])
    frame = tale.frames[2].astype(int)
    coloured = scipy.ndimage.binary_dilation(np.ptp(frame, axis=-1) > 8, iterations=6)  # and its shadow
    differs = [float(np.abs(view.astype(int) - frame)[np.logical_not(coloured)].mean()) for view in views]
    assert differs[0] < 0.2 and differs[1] > 2
    assert not read_places(views, np.repeat(tale.states[2:3], 2, axis=0)).found.any()


def test_lines_meet_where_they_meet():
    """Lines through one point meet there; parallel and skew ones half-way."""
    rng = np.random.default_rng(0)
    origins, point = rng.normal(size=(5, 3)), np.array([0.3, -0.2, 0.1])
    assert meeting_point(origins, np.tile(point, (5, 1))) == pytest.approx(point)
    skew = meeting_point(np.array([[-1.0, 0, 0], [0, -1.0, 1]]), np.array([[1.0, 0, 0], [0, 1.0, 1]]))
    assert skew == pytest.approx([0, 0, 0.5])
