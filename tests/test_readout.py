"""What is read off frames: reward and termination with the action, the world's state without, as points and by weight."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch

from worldsim import checkpoint as checkpoints
from worldsim.config import ModelConfig
from worldsim.denoiser import Denoiser
from worldsim.episode import Readout
from worldsim.errors import UsageError
from worldsim.losses import LossConfig
from worldsim.reading import read_clips
from worldsim.readout import Read, reading_weights
from worldsim.spec import WorldSpec
from worldsim.training_step import fit_readouts

SPEC = WorldSpec(
    env_id="test/Costly-v0",
    frame_shape=(32, 32, 3),
    action_names=("right", "down"),
    action_low=(-2.0, -2.0),
    action_high=(2.0, 2.0),
    frame_rate_hz=10.0,
    context_steps=2,
    readouts=(Readout(name="state", names=("x", "y"), units=("px", "px")),),
)


def reader(told: bool) -> Denoiser:
    """Return a tiny random denoiser."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "width": 32,
        "depth": 1,
        "heads": 2,
        "stem_channels": 8,
        "head_blocks": 1,
        "cond_width": 16,
    }
    return checkpoints.build(ModelConfig(**sizes, window=4, reads_action=told), SPEC)


def charged(seed: int, count: int = 64) -> Read:
    """Return small frames of noise, actions whose squares are taken away, and a state that only they could tell."""
    rng = np.random.default_rng(seed)
    before, shown = (torch.from_numpy(rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)) for _ in range(2))
    actions = torch.from_numpy(rng.uniform(-2, 2, (count, 2)).astype(np.float32))
    cost = -actions.square().sum(-1)
    ends = (actions[:, 0] > 1).float()
    return Read(before=before, shown=shown, actions=actions, rewards=cost, terminated=ends, readouts={"state": actions})


@pytest.mark.parametrize("told", [True, False], ids=["told", "untold"])
def test_what_an_action_costs_is_learnt_where_rewards_are_told_of_it(told: bool) -> None:
    """Of a cost, and of an end, that hang on the action alone, most is learnt, or nothing; the state is told nothing."""
    denoiser = reader(told)
    optimizer = torch.optim.AdamW(denoiser.network.readout.parameters(), lr=7e-3)
    for step in range(160 if told else 100):
        optimizer.zero_grad()
        denoiser.reading_loss(charged(step), LossConfig())["loss"].backward()
        optimizer.step()
    fresh = charged(1000, 256)
    with torch.no_grad():
        left = {name: float(value) for name, value in denoiser.reading_loss(fresh, LossConfig()).items()}
    reward_spread = float(fresh.rewards.var())
    if told:
        assert left["reward"] < 0.3 * reward_spread and left["terminated"] < 0.3
    else:
        assert left["reward"] > 0.8 * reward_spread and left["terminated"] > 0.5
    assert left["state"] > 0.8 * float(fresh.readouts["state"].var())


def test_a_network_that_does_not_know_the_action_is_told_none() -> None:
    """Where an action is unknown, what is read does not hang on it; where it is known, reward and end do, the state does not."""
    denoiser = reader(told=True)
    before, shown = torch.rand(2, 3, 32, 32, 3)
    some, others = torch.ones(3, 2), -torch.ones(3, 2)
    read = functools.partial(denoiser.network.read, before, shown)
    known, unknown = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)
    assert torch.equal(read(some, unknown), read(others, unknown))
    apart = read(some, known) != read(others, known)
    assert apart[:, :2].all() and not apart[:, 2:].any()


def test_rewards_of_older_checkpoints_are_told_of_no_action() -> None:
    """What a checkpoint says nothing of, it was not trained with; what is said comes back as it was."""
    for told in (True, False):
        said = reader(told).network.config
        assert ModelConfig.from_json(said.to_json()) == said
    assert "reads_action" not in reader(told=False).network.config.to_json()


def dotted(seed: int, count: int = 64) -> Read:
    """Return noisy pictures with one bright dot each, and where it is in pixels."""
    rng = np.random.default_rng(seed)
    places = rng.integers(2, 30, (count, 2))
    shown = rng.integers(0, 120, (count, 32, 32, 3), np.uint8)
    for picture, (x, y) in zip(shown, places, strict=True):
        picture[y - 1 : y + 2, x - 1 : x + 2] = 255
    nothing = torch.zeros(count)
    return Read(
        before=torch.from_numpy(shown),
        shown=torch.from_numpy(shown),
        actions=torch.zeros(count, 2),
        rewards=nothing,
        terminated=nothing,
        readouts={"state": torch.from_numpy(places.astype(np.float32))},
    )


def test_places_are_read_within_a_pixel_or_two_where_they_weigh() -> None:
    """A dot's height in new pictures is read after a short training, and what weighs nothing is not learnt."""
    denoiser, config = reader(told=False), LossConfig(readout_weights={"state/x": 0})
    fit_readouts(denoiser, {"state": dotted(0, 1000).readouts["state"].numpy()})
    optimizer = torch.optim.AdamW(denoiser.network.readout.parameters(), lr=3e-3)
    for step in range(150):
        optimizer.zero_grad()
        denoiser.reading_loss(dotted(step), config)["loss"].backward()
        optimizer.step()
    fresh = dotted(1000, 256)
    pictures = np.stack([fresh.before.numpy(), fresh.shown.numpy()], axis=1)
    found = read_clips(denoiser.eval(), pictures)["state"][:, 1]
    true = fresh.readouts["state"].numpy()
    x, y = 1 - ((found - true) ** 2).mean(0) / true.var(0)
    assert y > 0.95 and x < 0.3


def test_weights_of_readouts() -> None:
    """The first pattern that fits an element counts, and the mean weight stays 1."""
    readouts = (Readout(name="state", names=("red/x", "red/vx", "blue/x"), units=("m", "m/s", "m")), *SPEC.readouts)
    with pytest.raises(UsageError, match=r"'state/green/\*'.*state/red/x"):
        reading_weights(readouts, {"state/green/*": 1})
    with pytest.raises(UsageError, match="-1"):
        reading_weights(readouts, {"state/*": -1})
    with pytest.raises(UsageError, match="0 for all of 'state'"):
        reading_weights(readouts[:1], {"state/*": 0})
    weights = reading_weights(readouts[:1], {"*/vx": 0, "state/red/*": 3})["state"]
    assert torch.allclose(weights, torch.tensor([3.0, 0.0, 1.0]) * 3 / 4)
