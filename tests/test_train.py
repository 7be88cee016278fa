"""Training end to end on a tiny recording: alignment is learnt, and a killed run continues to the same bits."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import worldsim
from worldsim import checkpoint as checkpoints
from worldsim.beginning import first_precision
from worldsim.config import PRESETS
from worldsim.dataset import EpisodeDataset, FrameCache
from worldsim.denoiser import Context, Denoiser, to_unit
from worldsim.draws import draw
from worldsim.errors import UsageError
from worldsim.losses import LossConfig
from worldsim.spec import WorldSpec
from worldsim.storage import RecordingHeader, build_index, write_shard
from worldsim.train import TrainConfig, train
from worldsim.training_step import ClipSampler, clip_length
from worldsim.validation import ValidationSet, validate

QUICK = TrainConfig(frames_per_step=16, clip_frames=(4, 8), clip_shares=(0.5, 0.5), save_minutes=0.0, sampler_steps=2)


@pytest.mark.parametrize(
    "preset",
    [
        pytest.param("nano", marks=pytest.mark.heavy),
        pytest.param("nano-unet", marks=pytest.mark.slow),
        pytest.param("nano-unet-stacked", marks=pytest.mark.slow),
    ],
)
def test_training_learns_that_an_action_shows_in_the_next_frame(stripe_recording: Path, tmp_path: Path, preset: str):
    """A world that paints the last action into its pixels is learnt with the right alignment, reward and state too."""
    config = TrainConfig(frames_per_step=32, reads_per_step=64, clip_frames=(4, 8), clip_shares=(0.6, 0.4))
    folder = train(stripe_recording, tmp_path / "run", preset=preset, steps=120, config=config, progress=False)
    model = worldsim.load(folder)
    cache = EpisodeDataset.open(stripe_recording).cache("val")
    held_out = ValidationSet.choose(cache, 2, 6, 8)
    state = model.rollout(2).start(*held_out.context, np.arange(len(held_out.frames)))
    action = held_out.future_actions[:, 0]
    out = model.rollout(2).step(state, action)
    shade = out.frames[:, 2:14].mean((1, 2, 3)) / 127.5 - 1
    assert np.corrcoef(shade, action[:, 0])[0, 1] > 0.9
    assert np.corrcoef(out.readouts["state"][:, 0], action[:, 0])[0, 1] > 0.8
    assert np.corrcoef(out.rewards, action[:, 0])[0, 1] > 0.8
    scores = validate(model.rollout(2), held_out).scores
    assert scores["action_sensitivity"] > 0.02 and scores["error_1"] < scores["copy_last_1"]
    assert (tmp_path / "run" / "strips").is_dir() and list((tmp_path / "run" / "logs").rglob("events*"))


@pytest.mark.heavy
@pytest.mark.parametrize("preset", ["nano", "nano-pyramid", "nano-unet", "nano-unet-stacked"])
def test_training_in_bfloat16_learns_the_same(stripe_recording: Path, tmp_path: Path, preset: str):
    """Every part of a step, own context and shortcut too, runs where bfloat16 is faster, and moves all weights alike."""
    weights = []
    whole = dataclasses.replace(QUICK, self_context_start=0.0, self_context_share=1.0, shortcut_start=0.0)
    still = dataclasses.replace(QUICK.optim, muon_lr=0.0, adamw_lr=0.0, readout_lr=0.0)
    for precision, optim in (("bf16", QUICK.optim), ("fp32", QUICK.optim), ("fp32", still)):
        config = dataclasses.replace(whole, precision=precision, optim=optim, save_minutes=60.0)
        out = tmp_path / str(len(weights))
        train(stripe_recording, out, preset=preset, steps=2, config=config, progress=False)
        weights.append(load_file(out / "state.safetensors"))
    ours, theirs, first = weights
    moves = [(ours[name] - start, theirs[name] - start) for name, start in first.items() if name.startswith("model/")]
    assert all(one.any() == other.any() for one, other in moves)
    one, other = (np.concatenate([move.ravel() for move in column]) for column in zip(*moves, strict=True))
    assert one @ other > 0.9 * np.linalg.norm(one) * np.linalg.norm(other)


def test_clips_are_drawn_for_their_actions(tmp_path: Path):
    """Half of an episode waits and one action is rare: balanced clips hold it far more often, even ones as recorded."""
    rng = np.random.default_rng(0)
    actions = np.zeros((1000, 2), np.float32)
    actions[:500, 0] = rng.uniform(-1, 1, 500)
    actions[480:510, 1] = 0.5
    starts = np.arange(0, 1001, 20)  # 50 episodes of 20 actions, hence of 21 frames
    arrays = {
        "actions": actions,
        "rewards": np.zeros(1000, np.float32),
        "terminated": np.zeros(1000, bool),
        "episode_ids": np.arange(50),
        "offsets": starts + np.arange(51),
        "frame_shape": np.array([2, 2, 3]),
    }
    for name, rows in arrays.items():
        np.save(tmp_path / f"{name}.npy", rows)
    times = np.concatenate([np.arange(first, first + 21) for first in starts[:-1]])
    frames = np.zeros((1050, 12), np.uint8)
    frames[:, 0], frames[:, 1] = times % 256, times // 256
    frames.tofile(tmp_path / "frames.u8")
    cache = FrameCache(tmp_path)
    even, balanced = (
        ClipSampler.of(cache, 8, share).draw(range(400), (1,)).actions.numpy() != 0 for share in (0.0, 1.0)
    )
    assert even.mean((0, 1)) == pytest.approx([0.5, 0.03], abs=0.05)
    assert balanced[..., 1].mean() > 0.2 and balanced[..., 0].mean() > 0.5
    assert balanced.any(axis=(1, 2)).all() and not even.any(axis=(1, 2)).all()
    clip = ClipSampler.of(cache, 8, 0.5).draw(range(5), (2,))
    times = clip.frames[:, :, 0, 0, 0].long() + 256 * clip.frames[:, :, 0, 0, 1].long()
    assert torch.equal(times[:, 1:] - times[:, :-1], torch.ones(5, 8, dtype=torch.long))
    assert np.array_equal(clip.actions.numpy(), actions[times[:, :-1].numpy()])


def test_an_unknown_precision_is_refused() -> None:
    """The error names what there is."""
    with pytest.raises(UsageError, match="auto, bf16, fp32"):
        TrainConfig(precision="int8")


def test_clips_are_as_long_as_many_episodes() -> None:
    """Where nearly all episodes are short, clips are too: the few long ones would be all that is learnt."""

    def offsets(*lengths: int) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(lengths)])

    assert clip_length(offsets(*[65] * 9), 16) == 16
    assert clip_length(offsets(*[65] * 9), 100) == 64
    assert clip_length(offsets(*[12] * 60, 100), 40) == 11
    assert clip_length(offsets(*[12] * 6, 100), 40) == 40
    assert clip_length(offsets(1, 2), 8) == 1


def test_validation_shows_many_episodes(stripe_recording: Path, tmp_path: Path) -> None:
    """Where one episode is far longer than all others, it is not the only one that is dreamt."""
    source = EpisodeDataset.open(stripe_recording)
    shorter = {}
    for i in source.episode_ids():
        episode, steps = source.episode(i), 12 if i == source.episode_ids("val")[0] else 5
        cut = {name: getattr(episode, name)[:steps] for name in ("actions", "rewards", "terminated", "truncated")}
        rows = {name: column[: steps + 1] for name, column in episode.readouts.items()}
        shorter[i] = dataclasses.replace(episode, frames=episode.frames[: steps + 1], readouts=rows, extras={}, **cut)
    write_shard(tmp_path, 0, RecordingHeader(spec=source.spec, seed=0), shorter)
    build_index(tmp_path)
    cache = EpisodeDataset.open(tmp_path).cache("val")
    held_out = ValidationSet.choose(cache, 2, 20, 3)
    assert held_out.frames.shape[:2] == (3, 6) and held_out.context_steps == 2
    assert len(np.unique(held_out.frames[:, 0].reshape(3, -1), axis=0)) == 3
    assert ValidationSet.choose(cache, 2, 20, 1).frames.shape[:2] == (1, 13)


@pytest.mark.heavy
def test_killed_run_continues_to_the_same_bits(stripe_recording: Path, tmp_path: Path):
    """SIGKILL in mid-run, start again: the weights are those of a run that was never interrupted, bit for bit."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from worldsim.train import TrainConfig, train\n"
        "c = TrainConfig(frames_per_step=16, clip_frames=(4, 8), clip_shares=(0.5, 0.5), save_minutes=0.0, sampler_steps=2)\n"
        f"train({str(stripe_recording)!r}, {str(broken)!r}, preset='nano', steps=12, config=c, progress=False)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not (broken / "state.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert json.loads((broken / "run.json").read_text())["steps"] == 12
    for folder in (whole, broken):
        train(stripe_recording, folder, preset="nano", steps=12, config=QUICK, progress=False)
    first, second = load_file(whole / "state.safetensors"), load_file(broken / "state.safetensors")
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert np.array_equal(values, second[name]), name


def test_a_recording_without_validation_is_refused_at_once(stripe_recording: Path, tmp_path: Path) -> None:
    """A recording of few episodes ends in words before the first step, not after the last one."""
    whole = EpisodeDataset.open(stripe_recording)
    episodes = {i: whole.episode(i) for i in whole.episode_ids("train")[:12]}
    write_shard(tmp_path / "data", 0, RecordingHeader(spec=whole.spec, seed=0), episodes)
    build_index(tmp_path / "data")
    with pytest.raises(UsageError, match=r"'val' without episodes.*record at least 20"):
        train(tmp_path / "data", tmp_path / "run", preset="nano", steps=10**6, config=QUICK, progress=False)
    assert not (tmp_path / "run").exists()


def test_run_folder_of_other_settings_is_refused(stripe_recording: Path, tmp_path: Path):
    """A run is never continued with other settings: the error names the setting and both values."""
    train(stripe_recording, tmp_path / "run", preset="nano", steps=2, config=QUICK, progress=False)
    other = TrainConfig(frames_per_step=16, clip_frames=(4, 8), clip_shares=(0.5, 0.5), save_minutes=0.0, seed=5)
    with pytest.raises(UsageError, match="config"):
        train(stripe_recording, tmp_path / "run", preset="nano", steps=2, config=other, progress=False)


@pytest.mark.parametrize("other", [{"steps": 3}, {"minutes": 1.0}])
def test_a_run_is_as_long_as_it_was_planned(stripe_recording: Path, tmp_path: Path, other: dict[str, Any]):
    """Learning rates fall towards the end that was planned: who asks for another is told how to train on."""
    train(stripe_recording, tmp_path / "run", preset="nano", steps=2, config=QUICK, progress=False)
    with pytest.raises(UsageError, match=rf"{next(iter(other))}: .*2 steps.*--init"):
        train(stripe_recording, tmp_path / "run", preset="nano", config=QUICK, progress=False, **other)
    train(stripe_recording, tmp_path / "run", preset="nano", steps=2, config=QUICK, progress=False)


def test_training_can_begin_from_a_checkpoint(stripe_recording: Path, tmp_path: Path):
    """`init` starts from given weights: with no step's worth of learning rate they would stay; the sizes are theirs."""
    first = train(stripe_recording, tmp_path / "a", preset="nano", steps=2, config=QUICK, progress=False)
    second = train(
        stripe_recording, tmp_path / "b", preset="small", steps=1, init=str(first), config=QUICK, progress=False
    )
    assert worldsim.load(second).config == worldsim.load(first).config
    training = worldsim.load(second).checkpoint.training
    assert training["init"] == str(first)
    assert training["begun_from"] == worldsim.load(first).checkpoint.training
    assert f"| begun from | `{training['begun_from']['command']}`" in (second / "README.md").read_text()


def with_actions(world: WorldSpec, number: int) -> WorldSpec:
    """Return the world with so many actions between -1 and 1."""
    names = tuple(f"action {i}" for i in range(number))
    return dataclasses.replace(world, action_names=names, action_low=(-1.0,) * number, action_high=(1.0,) * number)


@pytest.mark.parametrize("actions", [1, 3])
@pytest.mark.parametrize("preset", ["nano", "nano-unet"])
def test_what_another_world_taught_is_taken_over(stripe_recording: Path, preset: str, actions: int):
    """Told of no action, a world that took over another's weights goes on as that one does, whatever its own actions are."""
    torch.manual_seed(0)
    world = EpisodeDataset.open(stripe_recording).spec
    first = checkpoints.build(PRESETS[preset], with_actions(world, 2))
    for parameter in first.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    second = checkpoints.build(PRESETS[preset], with_actions(world, actions))
    frames = torch.randint(0, 256, (2, 5, *world.frame_shape), dtype=torch.uint8)
    draws = draw((4, *world.frame_shape), [(0, 0), (0, 1)], LossConfig(action_dropout=1.0), 8, 0.0)
    shown, noise = to_unit(frames[:, :-1]), torch.randn(2, 4, *world.frame_shape)

    def goes_on(denoiser: Denoiser) -> torch.Tensor:
        unknown = torch.zeros(2, 4, len(denoiser.network.condition.action_centre))
        conds = denoiser.conditions(unknown, torch.zeros(2, dtype=torch.bool), draws)
        return denoiser.estimate(Context.of(shown, draws), noise, conds)

    with torch.no_grad():
        before = (goes_on(second) - goes_on(first)).abs().mean()
        second.take_over(first, readouts=False)
        after = (goes_on(second) - goes_on(first)).abs().mean()
    assert before > 0.1 and after < (1e-5 if actions > 2 else before / 4)  # what actions lack had some part in the flow


@pytest.mark.heavy
def test_training_can_begin_from_another_world(stripe_recording: Path, tmp_path: Path):
    """The sizes of the model are those of the other world; frames, actions and readouts are this one's."""
    first = train(stripe_recording, tmp_path / "a", preset="nano", steps=1, config=QUICK, progress=False)
    whole = EpisodeDataset.open(stripe_recording)
    spec = dataclasses.replace(with_actions(whole.spec, 2), env_id="test/Other-v0", readouts=())
    episodes = {}
    for index in range(40):
        one = whole.episode(index)
        episodes[index] = dataclasses.replace(one, actions=np.repeat(one.actions, 2, axis=1), readouts={})
    write_shard(tmp_path / "data", 0, RecordingHeader(spec=spec, seed=0), episodes)
    build_index(tmp_path / "data")
    second = worldsim.load(
        train(tmp_path / "data", tmp_path / "b", steps=1, init=str(first), config=QUICK, progress=False)
    )
    assert second.config == worldsim.load(first).config and second.spec == spec
    alike = torch.nn.functional.cosine_similarity
    name = "network.blocks.0.qkv.weight"
    weights = [worldsim.load(folder).checkpoint.weights[name].flatten() for folder in (first, tmp_path / "b")]
    assert alike(*weights, dim=0) > 0.95
    third = worldsim.load(
        train(tmp_path / "data", tmp_path / "c", steps=1, init="arena-small", config=QUICK, progress=False)
    )
    arena = worldsim.load("arena-small")
    assert arena.spec.frame_shape == (64, 64, 3) != third.spec.frame_shape == spec.frame_shape
    assert alike(*(model.checkpoint.weights[name].float().flatten() for model in (arena, third)), dim=0) > 0.95
    only = dataclasses.replace(QUICK, loss=LossConfig(readouts_only=True))
    with pytest.raises(UsageError, match=r"readouts_only: got .*Stripe"):
        train(tmp_path / "data", tmp_path / "d", steps=1, init=str(first), config=only, progress=False)
    weighs = dataclasses.replace(QUICK, loss=LossConfig(readout_weights={"state/hue": 2}))
    with pytest.raises(UsageError, match=r"readout_weights: got 'state/hue'"):
        train(stripe_recording, tmp_path / "d", steps=1, config=weighs, progress=False)
    assert not (tmp_path / "d").exists()


@pytest.mark.heavy
def test_readouts_can_be_learnt_on_a_world_that_stays_as_it_is(stripe_recording: Path, tmp_path: Path):
    """With readouts_only the frames of a dream stay the same to the bit, while what is read off them gets better."""
    first = train(stripe_recording, tmp_path / "world", preset="nano", steps=3, config=QUICK, progress=False)
    loss = LossConfig(readouts_only=True, readout_weight=1.0)
    config = dataclasses.replace(QUICK, loss=loss, reads_per_step=32)
    second = train(stripe_recording, tmp_path / "read", init=str(first), steps=60, config=config, progress=False)
    held_out = ValidationSet.choose(EpisodeDataset.open(stripe_recording).cache("val"), 2, 6, 8)
    outs = [worldsim.load(folder).rollout(2) for folder in (first, second)]
    states = [rollout.start(*held_out.context, np.arange(len(held_out.frames))) for rollout in outs]
    steps = [rollout.step(state, held_out.future_actions[:, 0]) for rollout, state in zip(outs, states, strict=True)]
    np.testing.assert_array_equal(steps[0].frames, steps[1].frames)
    shown = steps[1].frames[:, 2:14].mean((1, 2, 3)) / 127.5 - 1
    error = [np.square(step.readouts["state"][:, 0] - shown).mean() for step in steps]
    assert error[1] < error[0] / 2
    for refused, preset, init in (("init", "nano", None), ("a camera", "small-camera", str(first))):
        with pytest.raises(UsageError, match=refused):
            train(stripe_recording, tmp_path / "n", preset=preset, init=init, steps=1, config=config, progress=False)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "minutes, steps"),
        ({"steps": 3, "minutes": 1.0}, "minutes, steps"),
        ({"steps": 0}, "steps"),
        ({"minutes": -1.0}, "minutes"),
        ({"steps": 1, "preset": "huge"}, "preset"),
        ({"steps": 1, "init": "nowhere"}, "checkpoint"),
    ],
)
def test_wrong_arguments_are_named_and_leave_nothing(stripe_recording: Path, tmp_path: Path, arguments, named):
    """Every wrong argument ends in an error that names it, before a checkpoint or a state is written."""
    with pytest.raises(UsageError, match=named):
        train(stripe_recording, tmp_path / "run", **{"preset": "nano", "config": QUICK, "progress": False, **arguments})
    assert not (tmp_path / "run" / "state.safetensors").exists()


def test_a_run_goes_on_in_the_precision_that_it_was_begun_in(tmp_path: Path) -> None:
    """What auto chose is kept with the run, whatever pays on the machine where it goes on; what is asked for is obeyed."""
    cpu, plan = torch.device("cpu"), tmp_path / "run.json"
    chosen = first_precision(plan, TrainConfig(), cpu)
    other = "fp32" if chosen == "bf16" else "bf16"
    plan.write_text(json.dumps({"precision": other}))
    assert first_precision(plan, TrainConfig(), cpu) == other
    assert first_precision(plan, TrainConfig(precision=chosen), cpu) == chosen


def widened(recording: Path, folder: Path, columns: int, **changes: Any) -> Path:
    """Write a recording again with so many columns of its frames once more beside them, and other changes of its world."""
    source = EpisodeDataset.open(recording)
    height, width, colours = source.spec.frame_shape
    spec = dataclasses.replace(source.spec, frame_shape=(height, width + columns, colours), **changes)
    episodes = {i: source.episode(i) for i in source.episode_ids()}
    wider = {
        i: dataclasses.replace(one, frames=np.concatenate([one.frames, one.frames[:, :, :columns]], axis=2))
        for i, one in episodes.items()
    }
    write_shard(folder, 0, RecordingHeader(spec=spec, seed=0), wider)
    build_index(folder)
    return folder


@pytest.mark.heavy
def test_frames_of_several_sizes_are_learnt_in_turn(stripe_recording: Path, tmp_path: Path) -> None:
    """The second step takes the wider recording, readouts and all; both sizes can be dreamt; other worlds are refused."""
    wide = widened(stripe_recording, tmp_path / "wide", 16)
    made = []
    for also in ((), (str(wide),)):
        config = dataclasses.replace(QUICK, also=also)
        run = train(stripe_recording, tmp_path / f"{len(also)}", steps=2, preset="nano", config=config, progress=False)
        made.append(checkpoints.load(run))
    moved = dataclasses.replace(QUICK, also=(str(wide.rename(tmp_path / "moved")),))
    train(stripe_recording, tmp_path / "1", steps=2, preset="nano", config=moved, progress=False)  # it goes on
    with pytest.raises(UsageError, match="dataset"):
        train(stripe_recording, tmp_path / "1", steps=2, preset="nano", config=QUICK, progress=False)
    alone, both = made
    assert not torch.equal(alone.weights["network.head.out.bias"], both.weights["network.head.out.bias"])
    assert both.dataset["train_frames"] == 2 * alone.dataset["train_frames"]
    assert both.dataset["fingerprint"].startswith(alone.dataset["fingerprint"] + "+")
    model, episode = worldsim.load(tmp_path / "1"), EpisodeDataset.open(tmp_path / "moved").episode(0)
    shown = model.predict(episode.frames[None, :3], episode.actions[None, :2], episode.actions[None, 2:4], seeds=[0])
    assert shown.shape == (1, 1, 2, 32, 48, 3)
    for also, said in [
        (widened(stripe_recording, tmp_path / "odd", 8), "multiples of 16"),
        (widened(stripe_recording, tmp_path / "other", 16, action_names=("tone",)), "but for their frames"),
    ]:
        with pytest.raises(UsageError, match=rf"also: got .*{said}"):
            config = dataclasses.replace(QUICK, also=(str(also),))
            train(stripe_recording, tmp_path / "never", steps=1, preset="nano", config=config, progress=False)
    with pytest.raises(UsageError, match=r"data: got .*multiples of 16"):
        train(tmp_path / "odd", tmp_path / "never", steps=1, preset="nano", config=QUICK, progress=False)
    assert not (tmp_path / "never").exists()
