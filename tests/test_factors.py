"""Factors, options and the scenes drawn from them: what recordings may show, what is held out, what is refused."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.envs.factors import FACTORS, HELD_OUT_PAIRS, HELD_OUT_WEDGE, MOTIONS, is_held_out_pair, motion_of
from worldsim.envs.options import BODY_KEYS, SCENE_KEYS, parse_options
from worldsim.envs.sampling import draw_scene
from worldsim.envs.scene import COLOURS, HALF_FLOOR, SHAPES, SceneSpec
from worldsim.errors import UsageError


def _draw(key: int = 0, **options: Any) -> SceneSpec:
    return draw_scene(key, parse_options(options))


def _speed(body: Any) -> float:
    return float(np.hypot(body.vx, body.vy))


def _within(name: str, value: float, split: str) -> bool:
    return any(span.low - 1e-9 <= value <= span.high + 1e-9 for span in getattr(FACTORS[name], split))


@pytest.mark.parametrize("name", sorted(n for n, f in FACTORS.items() if f.held_out and "post_half" not in n))
def test_held_out_and_train_spans_only_meet_at_their_ends(name: str) -> None:
    """No value but a shared end belongs to a train and to a held-out span (sizes of posts differ by their shape)."""
    for train, held in itertools.product(FACTORS[name].train, FACTORS[name].held_out):
        assert train.high <= held.low or held.high <= train.low


def test_train_scenes_show_nothing_held_out() -> None:
    """Scenes drawn without options keep to the train spans and never show a held-out pair."""
    for key in range(150):
        scene = _draw(key)
        for name in set(SCENE_KEYS) - {"count", "posts"}:
            assert _within(name, getattr(scene, name), "train"), name
        assert 1 <= len(scene.bodies) <= 3
        assert not HELD_OUT_WEDGE[0] < scene.camera_azimuth < HELD_OUT_WEDGE[1]
        for body in scene.bodies:
            assert _within("radius", body.radius, "train") and _within("mass", body.mass, "train")
            assert _within("speed", round(_speed(body), 9), "train")
            assert not is_held_out_pair(body.colour, body.shape, motion_of(_speed(body)))


def test_held_out_scenes_keep_to_held_out_values() -> None:
    """The held-out split draws every factor that has held-out values from them, the camera from its wedge."""
    for key in range(60):
        scene = _draw(key, split="held_out")
        assert 4 <= len(scene.bodies) <= 5
        assert HELD_OUT_WEDGE[0] <= scene.camera_azimuth <= HELD_OUT_WEDGE[1]
        for name in ("damping", "friction", "camera_elevation", "curtain_half_width", "light_strength"):
            assert _within(name, getattr(scene, name), "held_out"), name
        for body in scene.bodies:
            assert _within("radius", body.radius, "held_out") and _within("speed", round(_speed(body), 9), "held_out")


def test_one_factor_can_be_held_out_alone() -> None:
    """``held_out=[name]`` moves that factor alone; all other draws of the same seed stay as they were."""
    plain, moved = _draw(3).to_json(), _draw(3, held_out=["camera_azimuth"]).to_json()
    assert {name for name in plain if plain[name] != moved[name]} == {"camera_azimuth"}


def test_held_out_pairs_are_a_quarter_and_hide_no_single_value() -> None:
    """Each kind of pair loses 20-30 % of its cells, and every colour, shape and motion keeps a cell that is seen."""
    sizes = {"colour": COLOURS, "shape": SHAPES, "motion": MOTIONS}
    for (first, second), pairs in HELD_OUT_PAIRS.items():
        cells = set(itertools.product(sizes[first], sizes[second]))
        assert pairs <= cells and 0.2 <= len(pairs) / len(cells) <= 0.3
    for colour, motion in itertools.product(COLOURS, MOTIONS):
        if (colour, motion) not in HELD_OUT_PAIRS["colour", "motion"]:
            assert any(not is_held_out_pair(colour, shape, motion) for shape in SHAPES)


def test_pairs_can_be_asked_for() -> None:
    """With ``held_out=["pairs"]`` bodies show held-out pairs: all but the rare one that no free colour allows."""
    scenes = [_draw(key, held_out=["pairs"]) for key in range(40)]
    bodies = [body for scene in scenes for body in scene.bodies]
    held = [is_held_out_pair(body.colour, body.shape, motion_of(_speed(body))) for body in bodies]
    assert np.mean(held) > 0.9


@settings(max_examples=40, deadline=None)
@given(key=st.integers(0, 2**62), count=st.integers(1, 5), posts=st.integers(0, 2))
def test_nothing_overlaps_and_colours_are_unique(key: int, count: int, posts: int) -> None:
    """In every scene each colour comes at most once, and bodies stand inside the floor without touching."""
    scene = _draw(key, count=count, posts=posts)
    assert len({body.colour for body in scene.bodies}) == count and len(scene.posts) == posts
    for body in scene.bodies:
        assert max(abs(body.x), abs(body.y)) + body.radius <= HALF_FLOOR
        assert np.hypot(body.x - scene.pusher_x, body.y - scene.pusher_y) > body.radius
    for first, second in itertools.combinations(scene.bodies, 2):
        apart = np.hypot(first.x - second.x, first.y - second.y)
        assert apart >= first.radius + second.radius


def test_pinning_a_factor_leaves_every_other_draw() -> None:
    """The same seed with another damping is the same scene with another damping: scenes come in exact pairs."""
    plain, pinned = _draw(11).to_json(), _draw(11, damping=0.35).to_json()
    assert pinned.pop("damping") == 0.35
    plain.pop("damping")
    assert plain == pinned


def test_bodies_can_be_pinned_exactly() -> None:
    """A list of bodies fixes shape, colour, place and velocity to the given numbers, in the given order."""
    wanted = [
        {"colour": "blue", "shape": "box", "x": 0.3, "y": -0.2, "vx": 0.25, "vy": 0.0, "radius": 0.1, "mass": 0.5},
        {"colour": "red", "shape": "cylinder", "x": -0.3, "y": 0.2, "speed": 0.4, "direction": 90},
    ]
    scene = _draw(5, bodies=wanted, posts=[{"shape": "barrier", "x": 0.0, "y": 0.0, "angle": 30}])
    for body, pins in zip(scene.bodies, wanted, strict=True):
        assert all(getattr(body, name) == value for name, value in pins.items() if name not in ("speed", "direction"))
    assert scene.bodies[1].vx == pytest.approx(0) and scene.bodies[1].vy == pytest.approx(0.4)
    assert (scene.posts[0].shape, scene.posts[0].angle) == ("barrier", 30)


def test_lists_pin_some_bodies_and_leave_others() -> None:
    """A list under a body factor's name has one entry a body; None leaves that body to chance; one value is for all."""
    scene = _draw(2, shape=["box", None], speed=0.0)
    assert len(scene.bodies) == 2 and scene.bodies[0].shape == "box"
    assert all(_speed(body) == 0 for body in scene.bodies)


def test_scene_survives_json() -> None:
    """A scene written as JSON comes back equal, to the last bit."""
    scene = _draw(7, count=3, posts=2)
    assert SceneSpec.from_json(json.loads(json.dumps(scene.to_json()))) == scene


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dampin": 1.0}, "did you mean 'damping'"),
        ({"damping": 9.0}, "held out 0.6..1"),
        ({"damping": "high"}, "train 0, 0.35"),
        ({"damping": float("nan")}, "damping"),
        ({"count": 2.5}, "count"),
        ({"count": 6}, "4..5"),
        ({"shape": "cone"}, "sphere, box, cylinder"),
        ({"colour": ["red", "red"]}, "at most once"),
        ({"colour": "red"}, "one entry"),
        ({"x": [0.1, 0.2], "shape": ["box"]}, "equal lengths"),
        ({"bodies": [{"colr": "red"}]}, "did you mean 'colour'"),
        ({"bodies": [{"vx": 0.7, "vy": 0.7}]}, "up to 0.8"),
        ({"bodies": [{"vx": "fast"}]}, "two numbers"),
        ({"bodies": "red"}, "list of dictionaries"),
        ({"bodies": [{}, {}], "count": 3}, "leave 'count' out"),
        ({"bodies": [{"x": 0.1, "y": 0.0}, {"x": 0.15, "y": 0.0}]}, "overlaps"),
        ({"bodies": [{"x": 0.65, "y": 0.0}]}, "the walls"),
        ({"posts": 3}, "posts"),
        ({"posts": [{"width": 1}]}, "half_x"),
        ({"split": "test"}, "held_out"),
        ({"held_out": ["pusher_x"]}, "held_out"),
        ({"lead_in": np.zeros((3, 5))}, "(10, 5)"),
        ({"lead_in": np.full((10, 5), 2.0)}, "-1..1"),
    ],
)
def test_wrong_options_are_refused_with_the_way_out(options: dict[str, Any], text: str) -> None:
    """Every mistake in the options is a UsageError that says what is allowed."""
    with pytest.raises(UsageError) as caught:
        _draw(0, **options)
    assert text in str(caught.value)


def test_every_factor_says_what_it_is() -> None:
    """Each factor has a unit, a description and values; every body key is a factor."""
    for factor in FACTORS.values():
        assert factor.unit and factor.doc and (factor.train or factor.names)
    assert set(BODY_KEYS) <= set(FACTORS)
