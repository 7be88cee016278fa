"""The frozen decoder: what the shipped weights read off fresh scenes, what they refuse to read, and how they are made."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from worldsim.dataset import EpisodeDataset
from worldsim.envs.painter import Painter
from worldsim.envs.record import record
from worldsim.envs.scene import COLOURS, ENTITY_NAMES, SceneSpec
from worldsim.envs.simulation import Simulation
from worldsim.envs.state import state_index
from worldsim.errors import UsageError
from worldsim.eval.decoder import Decoder, levels, load_decoder, load_network, weights_name
from worldsim.eval.decoder_examples import Examples, label, pusher_share, take_examples
from worldsim.eval.decoder_training import (
    DecoderConfig,
    Targets,
    augment,
    decoder_loss,
    fit,
    floors,
    main,
    measure_floor,
    train_decoder,
)
from worldsim.eval.places import read_places

PAIRS = [("red", "sphere"), ("yellow", "box"), ("blue", "cylinder"), ("magenta", "sphere"), ("cyan", "box")]
"""Colours and shapes that no recording shows together."""


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return load_decoder()


@pytest.fixture(scope="module")
def arena() -> Any:
    env = gym.make("worldsim:worldsim/Arena-v0", disable_env_checker=True)
    yield env
    env.close()


def shown(env: gym.Env[Any, Any], seeds: range, options: Mapping[str, Any] | None = None) -> Examples:
    """Return the first and last frames of the lead-ins of scenes, and what is true of them."""
    frames, states, shares = [], [], []
    for seed in seeds:
        _, info = env.reset(seed=seed, options=dict(options or {}))
        frames.append(info["context"]["frames"][[0, -1]])
        states.append(info["context"]["states"][[0, -1]])
        shares.append(pusher_share(states[-1]))
    return label(np.concatenate(frames), np.concatenate(states), np.concatenate(shares))


@pytest.fixture(scope="module")
def fresh(arena: gym.Env[Any, Any]) -> Examples:
    """Return 120 frames of 60 scenes that no recording holds."""
    return shown(arena, range(9_500_000, 9_500_060))


def test_floor_on_fresh_scenes(decoder: Decoder, fresh: Examples) -> None:
    """On true frames nearly all that is visible is read, to a centimetre, with its shape; noise and blur cost little."""
    measured = floors(decoder, fresh)
    for kind, median, recall in (("clean", 0.8, 0.975), ("noise", 1.2, 0.95), ("blur", 1.2, 0.96)):
        bodies, pusher = measured[kind]["bodies"], measured[kind]["pusher"]
        assert bodies["visible"] > 150, kind
        assert bodies["median_cm"] <= median, kind
        assert bodies["recall"] >= recall, kind
        assert bodies["false"] <= 0.005, kind
        assert bodies["shape_accuracy"] >= 0.87, kind
        assert pusher["median_cm"] <= 2 * median, kind
        assert pusher["recall"] >= 0.92, kind


def test_shapes_are_read_in_colours_they_were_never_seen_in(decoder: Decoder, arena: gym.Env[Any, Any]) -> None:
    """Pairs of colour and shape that are held out of every recording are read nearly as well as the others."""
    hits, cases = 0, 0
    for pairs in (PAIRS[:3], PAIRS[2:]):
        bodies = [{"colour": colour, "shape": shape} for colour, shape in pairs]
        examples = shown(arena, range(9_510_000, 9_510_015), {"bodies": bodies})
        floor = measure_floor(decoder, examples.frames, examples)["bodies"]
        hits, cases = hits + floor["shape_accuracy"] * floor["visible"], cases + floor["visible"]
    assert cases > 100
    assert hits / cases >= 0.85


def test_a_deleted_body_is_not_found(decoder: Decoder, arena: gym.Env[Any, Any]) -> None:
    """A body is found while it is there and not where it was taken away; its neighbours stay where they are."""
    painter = Painter(height=64, width=64, shadows=True)
    deleted, seen = 0, 0
    for seed in range(9_520_000, 9_520_012):
        frame, info = arena.reset(seed=seed)
        saved = arena.unwrapped.save_state()  # type: ignore[attr-defined]
        simulation = painter.simulate(SceneSpec.from_json(saved["scene"]))
        simulation.restore(saved["history"][-1])
        colour = simulation.scene.bodies[0].colour
        simulation.place(colour, 50.0, 50.0)
        frames, states = np.stack([frame, painter.frame(simulation)]), np.stack([info["state"]] * 2)
        places, slot = decoder.read_places(frames, states), COLOURS.index(colour)
        seen += int(places.found[0, slot])
        deleted += int(places.found[0, slot] and not places.found[1, slot])
        others = places.found.all(axis=0)
        assert np.linalg.norm(places.xy[0] - places.xy[1], axis=-1)[others].max(initial=0) < 0.04
    painter.close()
    assert deleted == seen >= 9


def test_nothing_is_found_in_noise(decoder: Decoder, fresh: Examples) -> None:
    """Grey frames, and noise of any strength without a world in it, show neither a body nor the pusher."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (10, 64, 64, 3)), rng.normal(128, 40, (10, 64, 64, 3)), np.full((5, 64, 64, 3), 90)]
    frames = np.concatenate(noise).clip(0, 255).astype(np.uint8)
    assert not decoder.read_places(frames, fresh.states[: len(frames)]).found.any()
    assert not decoder.read_pusher(frames, fresh.states[: len(frames)]).found.any()


def test_networks_that_disagree_or_doubt_read_nothing(decoder: Decoder, fresh: Examples) -> None:
    """One network that puts everything elsewhere, or finds nothing, makes all of it unreadable: found is never a guess."""
    frames, states = fresh.frames[:20], fresh.states[:20]
    assert decoder.read_places(frames, states).found.sum() > 20
    aside, blind = copy.deepcopy(decoder.networks[0]), copy.deepcopy(decoder.networks[0])
    aside.cells.add_(4.0)
    blind.presence_bias.sub_(100.0)
    for odd in (aside, blind):
        assert not Decoder([*decoder.networks[1:], odd]).read_places(frames, states).found.any()


def test_it_reads_as_the_colour_read_out_does(decoder: Decoder, fresh: Examples) -> None:
    """Both read-outs put whole bodies at the same place to a centimetre or two, whatever the leading axes."""
    frames, states = fresh.frames.reshape(60, 2, 64, 64, 3), fresh.states.reshape(60, 2, -1)
    mine, other = decoder.read_places(frames, states), read_places(frames, states)
    both = mine.found & other.found & (fresh.share[:, :6].reshape(60, 2, 6) > 0.99)
    assert np.median(np.linalg.norm(mine.xy - other.xy, axis=-1)[both]) < 0.01
    assert np.isnan(mine.xy[~mine.found]).all()
    assert decoder.read_pusher(frames, states).found.shape == (60, 2, 1)
    np.testing.assert_allclose(decoder.read_shapes(frames).sum(axis=-1), 1, atol=1e-5)
    alone = decoder.read_places(frames[3, 1], states[3, 1])
    np.testing.assert_allclose(alone.xy, mine.xy[3, 1], atol=1e-3)


def test_frames_and_weights_it_does_not_know_are_refused(decoder: Decoder, fresh: Examples, tmp_path: Path) -> None:
    """Frames of another size, and weights that are missing or no weights, raise errors that say what to do."""
    with pytest.raises(UsageError, match=r"32 x 64.*read_places"):
        decoder.read_places(fresh.frames[:, :32], fresh.states)
    with pytest.raises(UsageError, match="decoder_training"):
        load_network(tmp_path / weights_name(0))
    (tmp_path / weights_name(1)).write_bytes(b"no weights")
    with pytest.raises(UsageError, match=weights_name(1)):
        load_network(tmp_path / weights_name(1))


def test_the_pusher_is_hidden_by_what_stands_before_it(arena: gym.Env[Any, Any]) -> None:
    """The share of the pusher in sight is about that of its pixels, counted with everything and with nothing before it."""
    painter = Painter(height=64, width=64, shadows=True)
    rays, pixels = [], []

    def count(simulation: Simulation) -> int:
        return int((painter.segmentation(simulation) == ENTITY_NAMES.index("pusher")).sum())

    for seed in range(9_530_000, 9_530_040):
        _, info = arena.reset(seed=seed, options={"posts": 2, "curtain_height": 0.25 + 0.75 * (seed % 2)})
        saved = arena.unwrapped.save_state()  # type: ignore[attr-defined]
        simulation = painter.simulate(SceneSpec.from_json(saved["scene"]))
        simulation.restore(saved["history"][-1])
        earlier = info["context"]["states"][0].copy()  # bodies elsewhere, and the curtain down
        earlier[state_index("curtain/height")] = 0
        rays.append(float(pusher_share(np.stack([earlier, info["state"]]))[1]))
        whole = count(simulation)
        for geom in range(simulation.model.ngeom):
            if simulation.model.geom(geom).name.split("/")[0] not in ("pusher", "floor"):
                simulation.model.geom_pos[geom] += 50.0
        simulation.restore(saved["history"][-1])
        pixels.append(whole / count(simulation))
    painter.close()
    assert min(rays) < 0.1
    assert max(rays) > 0.9
    np.testing.assert_allclose(rays, pixels, atol=0.2)
    assert np.abs(np.subtract(rays, pixels)).mean() < 0.04


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a recording of 20 short episodes: 18 to train on, one to measure floors on."""
    folder = tmp_path_factory.mktemp("arena")
    record("worldsim/Arena-v0", out=folder, episodes=20, steps=13, workers=1)
    return str(folder)


def test_three_steps_lower_the_loss(recording: str) -> None:
    """Three steps on recorded frames lower the loss on those frames as they are."""
    cache = EpisodeDataset.open(recording).cache("train")
    examples = take_examples(cache, 18, 4, np.random.default_rng(0))
    columns = {name: torch.from_numpy(getattr(examples, name)) for name in Targets._fields}
    frames, targets = levels(torch.from_numpy(examples.frames)), Targets(**columns)
    before, after = (fit(examples, DecoderConfig(steps=steps, batch=16), seed=0)[0] for steps in (0, 3))
    losses = [float(decoder_loss(network(frames), targets, network.cells).detach()) for network in (before, after)]
    assert losses[1] < losses[0] - 0.02


def test_training_writes_weights_and_their_record(recording: str, tmp_path: Path) -> None:
    """The command writes weights that can be loaded and a record of their data, seed, commit and floor; twice the same."""
    config = DecoderConfig(episodes=4, frames_per_episode=4, steps=2, batch=4)
    for folder in ("one", "two"):
        train_decoder(recording, seed=5, out=str(tmp_path / folder), config=config)
    assert main([recording, "--seed=5", f"--out={tmp_path / 'three'}", "--config.steps=2", "--config.batch=4"]) == 0
    weights = tmp_path / "one" / weights_name(5)
    load_network(weights)
    assert weights.stat().st_size < 300_000
    assert weights.read_bytes() == (tmp_path / "two" / weights_name(5)).read_bytes()
    written = json.loads(weights.with_suffix(".json").read_text())
    assert written["data"]["fingerprint"] == EpisodeDataset.open(recording).fingerprint
    assert written["seed"] == 5 and written["config"]["steps"] == 2 and "commit" in written
    assert set(written["floor"]) == {"clean", "noise", "blur"}
    assert main([str(tmp_path)]) == 2


def test_changed_frames_keep_their_truth(decoder: Decoder, fresh: Examples) -> None:
    """After mirroring, exchanged colours, cut-outs, blur and noise, what the targets say is still what is to be seen."""
    generator = torch.Generator().manual_seed(0)
    columns = {name: torch.from_numpy(getattr(fresh, name)) for name in Targets._fields}
    frames, targets = augment(levels(torch.from_numpy(fresh.frames)), Targets(**columns), generator)
    with torch.inference_mode():
        readings = decoder.networks[0](frames)
    visible = targets.share >= 0.9
    assert float((readings.presence > 0)[visible].float().mean()) > 0.985
    assert float((readings.pixels - targets.pixels)[visible].norm(dim=-1).quantile(0.95)) < 0.8
    gone = targets.share <= 0.05
    assert float((readings.presence > 0)[gone].float().mean()) < 0.03
