"""Datasets of others become recordings: lossless, accounted for, resumed after a kill, refused when they cannot be read."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

from worldsim import cli, storage
from worldsim.dataset import SPLITS, EpisodeDataset
from worldsim.envs import importing
from worldsim.envs.export import export
from worldsim.envs.import_frames import FrameSize
from worldsim.envs.importing import import_dataset, kind_of
from worldsim.episode import Episode
from worldsim.errors import UsageError
from worldsim.train import TrainConfig, train

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "your-dataset.md"
BLOCK = re.compile(r"(<!-- test: skip, [^>]+ -->\n)?```(bash|python)\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def stripes(stripe_recording: Path) -> list[Episode]:
    """Twenty episodes of the stripe world."""
    dataset = EpisodeDataset.open(stripe_recording)
    return [dataset.episode(i) for i in range(20)]


@pytest.fixture(scope="module")
def archives(stripes: list[Episode], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same episodes as a folder of .npz files, whose names sort by number only."""
    folder = tmp_path_factory.mktemp("archives") / "stripes"
    folder.mkdir()
    for k, episode in enumerate(stripes):
        np.savez_compressed(folder / f"run{k}.npz", **arrays_of(episode))
    return folder


def arrays_of(episode: Episode) -> dict[str, Any]:
    """What an exported archive holds."""
    return {
        "frames": episode.frames,
        "actions": episode.actions,
        "rewards": episode.rewards,
        "terminated": episode.terminated,
        "state": episode.readouts["state"],
    }


def assert_same(found: Episode, wanted: Episode) -> None:
    """Frames, actions and all columns are equal to the bit, and of the same type."""
    pairs = [(getattr(found, name), getattr(wanted, name)) for name in ("frames", "actions", "rewards", "terminated")]
    for one, other in [*pairs, (found.readouts["state"], wanted.readouts["state"])]:
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_what_was_exported_comes_back_to_the_bit(archives: Path, stripes: list[Episode], tmp_path: Path) -> None:
    """Frames, actions, rewards, ends and readouts of an archive are those of the episode it was written from."""
    account = import_dataset(archives, out=tmp_path / "data", frame_rate=10.0)
    dataset = EpisodeDataset.open(tmp_path / "data")
    for k, episode in enumerate(stripes):
        assert_same(dataset.episode(k), episode)
    assert dataset.spec.frame_shape == (32, 32, 3)
    assert dataset.spec.frame_rate_hz == 10
    assert [readout.name for readout in dataset.spec.readouts] == ["state"]
    seen = np.concatenate([episode.actions for episode in stripes])
    assert (dataset.spec.action_low, dataset.spec.action_high) == ((float(seen.min()),), (float(seen.max()),))
    assert all(dataset.episode_ids(split) for split in SPLITS)
    assert account["taken"]["frames"] == sum(len(episode.frames) for episode in stripes)
    assert account["dropped"] == {"episodes": {}, "columns": {}}
    assert account["world"]["env_id"] == dataset.spec.env_id == "imported/stripes"
    assert [change.split(":")[0] for change in account["changed"]] == ["action bounds"]
    written = json.loads((tmp_path / "data" / "import.json").read_text())
    assert written == {key: value for key, value in account.items() if key != "episodes_now"}


def test_it_is_learnt_and_dreamt(archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`worldsim train` takes the recording, and a dream begins from an episode of it; without one it says what is missing."""
    monkeypatch.setattr("worldsim.train.VALIDATION_WINDOWS", 1)
    import_dataset(archives, out=tmp_path / "data")
    config = TrainConfig(frames_per_step=8, clip_frames=(4,), clip_shares=(1.0,), sampler_steps=1)
    train(tmp_path / "data", tmp_path / "run", preset="nano", steps=2, config=config, progress=False)
    dream = gym.make("worldsim:worldsim/Dream-v0", checkpoint=str(tmp_path / "run"), num_steps=1)
    frame, info = dream.reset(seed=0, options={"dataset": tmp_path / "data", "episode": 3})
    episode = EpisodeDataset.open(tmp_path / "data").episode(3)
    steps = len(info["context"]["actions"])
    assert steps == 6
    np.testing.assert_array_equal(frame, episode.frames[steps])
    assert dream.step(dream.action_space.sample())[0].shape == (32, 32, 3)
    with pytest.raises(UsageError, match="imported/stripes"):
        dream.reset(seed=0)
    dream.close()
    folder = export(tmp_path / "run", out=tmp_path / "handed-on", contexts=3, data=str(tmp_path / "data"))
    alone = gym.make("worldsim:worldsim/Dream-v0", checkpoint=str(folder), num_steps=1)
    with pytest.warns(RuntimeWarning, match="3 lead-ins"):
        first, _ = alone.reset(seed=4)
    np.testing.assert_array_equal(first, EpisodeDataset.open(tmp_path / "data").episode(1).frames[steps])  # 4 % 3
    alone.close()


def test_the_account_says_what_was_dropped_and_changed(stripes: list[Episode], tmp_path: Path) -> None:
    """Every episode and column that is missing, and everything that is not as it was, is named with its reason."""
    source = tmp_path / "source"
    source.mkdir()
    good = arrays_of(stripes[0])
    broken = good["actions"].copy()
    broken[5] = np.nan
    state = good["state"].copy()
    state[0] = np.inf
    np.savez(source / "a.npz", **good, notes=np.array(["text"]), torque=np.ones(12, np.float32), speed=np.ones((13, 2)))
    np.savez(source / "b.npz", **{**good, "actions": broken})
    np.savez(source / "c.npz", **{name: rows[:2] for name, rows in good.items()})
    np.savez(source / "d.npz", actions=good["actions"])
    np.savez(source / "e.npz", frames=good["frames"])
    np.savez(source / "f.npz", **{**good, "actions": np.concatenate([good["actions"]] * 2)[:13], "state": state})
    np.savez(source / "g.npz", frames=good["frames"], actions=good["actions"])
    account = import_dataset(source, out=tmp_path / "data", size="16x48")
    assert account["source"]["episodes"] == 7
    assert account["taken"]["episodes"] == 3
    reasons = account["dropped"]["episodes"]
    assert sorted(reasons) == ["b.npz", "c.npz", "d.npz", "e.npz"]
    for name, reason in (("b", "step 5"), ("c", "too short: 2 frames"), ("d", "no frames"), ("e", "no actions")):
        assert reason in reasons[f"{name}.npz"]
    columns = account["dropped"]["columns"]
    assert sorted(columns) == ["notes", "speed", "state", "torque"]
    assert "not finite" in columns["state"] and "every episode" in columns["speed"]
    changes = " | ".join(account["changed"])
    assert "32x32 became 16x48" in changes and "Lanczos" in changes
    assert "in 1 episodes the last action" in changes
    assert "30 Hz, assumed" in changes
    assert "no episode is" in changes and "--seed" in changes
    assert account["taken"]["rewards"] == "in 2 of 3 episodes, 0 elsewhere"
    dataset = EpisodeDataset.open(tmp_path / "data")
    assert dataset.episode_ids() == [0, 1, 2]
    np.testing.assert_array_equal(dataset.episode(1).actions, good["actions"])
    assert dataset.episode(1).attributes["source"] == "f.npz"
    assert not dataset.episode(2).rewards.any()


def test_smaller_frames_are_means_over_areas(tmp_path: Path) -> None:
    """Halved frames are the means of four pixels; grey and RGBA frames become RGB."""
    rng = np.random.default_rng(0)
    for name, shape in (("grey", (4, 32, 64)), ("rgba", (4, 32, 64, 4))):
        frames = rng.integers(0, 256, shape, np.uint8)
        np.savez(tmp_path / f"{name}.npz", frames=frames, actions=np.zeros((3, 2), np.float32))
        account = import_dataset(tmp_path / f"{name}.npz", out=tmp_path / name, size="16x32")
        colours = np.repeat(frames[..., None], 3, 3) if name == "grey" else frames[..., :3]
        means = colours.reshape(4, 16, 2, 32, 2, 3).mean((2, 4))
        found = EpisodeDataset.open(tmp_path / name).episode(0).frames
        assert np.abs(found - means).max() <= 1  # each axis is rounded
        assert any("means over areas" in change for change in account["changed"])
        assert any(("grey became" if name == "grey" else "alpha") in change for change in account["changed"])


def test_frames_that_are_nearly_right_become_so(tmp_path: Path) -> None:
    """Without a size, sides go to the nearest multiples of 16, and the account says so; channels may come first."""
    frames = np.random.default_rng(0).integers(0, 256, (5, 3, 30, 50), np.uint8)
    np.savez(tmp_path / "a.npz", frames=frames, actions=np.zeros((4, 1), np.float32))
    account = import_dataset(tmp_path / "a.npz", out=tmp_path / "data")
    assert account["world"]["frame_shape"] == [32, 48, 3]
    assert any("30x50 became 32x48" in change for change in account["changed"])
    found = EpisodeDataset.open(tmp_path / "data").episode(0).frames[2]
    picture = Image.fromarray(np.moveaxis(frames[2], 0, 2)).resize((48, 32), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(found, np.asarray(picture))


def test_frame_skip_keeps_every_action_and_the_end(archives: Path, stripes: list[Episode], tmp_path: Path) -> None:
    """Of 12 steps every fifth frame: the last is kept, two actions before the first are not, five stand side by side."""
    account = import_dataset(archives, out=tmp_path / "data", frame_skip=5, frame_rate=10.0)
    dataset = EpisodeDataset.open(tmp_path / "data")
    found, whole = dataset.episode(7), stripes[7]
    np.testing.assert_array_equal(found.frames, whole.frames[[2, 7, 12]])
    np.testing.assert_array_equal(found.actions, whole.actions[2:].reshape(2, 5))
    np.testing.assert_allclose(found.rewards, whole.rewards[2:].reshape(2, 5).sum(1), rtol=1e-6)
    np.testing.assert_array_equal(found.terminated, [False, True])
    np.testing.assert_array_equal(found.readouts["state"], whole.readouts["state"][[2, 7, 12]])
    assert dataset.spec.action_names == tuple(f"action_0@{k}" for k in range(5))
    assert len(dataset.spec.action_low) == 5
    assert dataset.spec.frame_rate_hz == 2
    assert any("side by side" in change for change in account["changed"])


def test_choices_become_ones_and_zeros(tmp_path: Path) -> None:
    """Single whole numbers are choices: each becomes a row with a one at its place, between bounds of 0 and 1."""
    frames = np.zeros((5, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "a.npz", frames=frames, actions=np.array([0, 2, 1, 2]))
    account = import_dataset(tmp_path / "a.npz", out=tmp_path / "data")
    dataset = EpisodeDataset.open(tmp_path / "data")
    np.testing.assert_array_equal(dataset.episode(0).actions, np.eye(3, dtype=np.float32)[[0, 2, 1, 2]])
    assert (dataset.spec.action_low, dataset.spec.action_high) == ((0.0,) * 3, (1.0,) * 3)
    assert dataset.spec.action_names[2] == "action_is_2"
    assert any("each choice" in change for change in account["changed"])


KILLED = """
import os, sys
from worldsim import storage
from worldsim.envs import importing
importing.EPISODES_PER_SHARD = 6
write, left = storage.write_episode, [15]
def dies(*arguments):
    left[0] -= 1
    if left[0] < 0:
        os._exit(9)
    write(*arguments)
storage.write_episode = dies
importing.import_dataset(sys.argv[1], out=sys.argv[2])
"""


def test_a_killed_import_goes_on(archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies amid a shard leaves whole shards only; run again, the rest is written, and all is as in one go."""
    killed = subprocess.run([sys.executable, "-c", KILLED, str(archives), str(tmp_path / "data")], check=False)
    assert killed.returncode == 9
    shards = tmp_path / "data" / "shards"
    assert sorted(path.name for path in shards.glob("*.hdf5")) == ["00000.hdf5", "00001.hdf5"]
    before = {path.name: path.stat().st_mtime_ns for path in shards.glob("*.hdf5")}
    monkeypatch.setattr(importing, "EPISODES_PER_SHARD", 6)
    assert import_dataset(archives, out=tmp_path / "data")["episodes_now"] == 8
    assert import_dataset(archives, out=tmp_path / "data")["episodes_now"] == 0
    assert {name: (shards / name).stat().st_mtime_ns for name in before} == before
    assert len(list(shards.iterdir())) == 4
    import_dataset(archives, out=tmp_path / "whole")
    fingerprints = [EpisodeDataset.open(tmp_path / name).fingerprint for name in ("data", "whole")]
    assert fingerprints[0] == fingerprints[1]


def test_shards_end_by_bytes_too(archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard takes no more bytes of frames than it may, and every episode lies in one."""
    monkeypatch.setattr(importing, "FRAME_BYTES_PER_SHARD", 3 * 12 * 32 * 32 * 3)
    import_dataset(archives, out=tmp_path / "data")
    assert len(list((tmp_path / "data" / "shards").iterdir())) == 7
    assert EpisodeDataset.open(tmp_path / "data").episode_ids() == list(range(20))


@pytest.mark.parametrize("column", ["frames", "rewards"])
def test_a_source_that_changed_is_another(
    column: str, stripes: list[Episode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the same name and size is known by its ends, and by its columns where these were changed in between."""
    if column == "rewards":
        monkeypatch.setattr("worldsim.envs.import_survey.ENDS_BYTES", 0)
    arrays = arrays_of(stripes[0])
    np.savez(tmp_path / "a.npz", **arrays)
    import_dataset(tmp_path / "a.npz", out=tmp_path / "data")
    np.savez(tmp_path / "a.npz", **{**arrays, column: arrays[column][::-1]})
    with pytest.raises(UsageError, match="other settings"):
        import_dataset(tmp_path / "a.npz", out=tmp_path / "data")


def test_recordings_are_not_mixed(archives: Path, stripe_recording: Path, tmp_path: Path) -> None:
    """A folder that holds another recording, or the same source imported otherwise, is refused and left as it was."""
    import_dataset(archives, out=tmp_path / "data")
    before = (tmp_path / "data" / "metadata.json").read_bytes()
    others: list[dict[str, Any]] = [{"size": 16}, {"frame_skip": 2}, {"seed": 1}, {"frame_rate": 5.0}]
    for other in others:
        with pytest.raises(UsageError, match="other settings"):
            import_dataset(archives, out=tmp_path / "data", **other)
    assert (tmp_path / "data" / "metadata.json").read_bytes() == before
    with pytest.raises(UsageError, match="other settings"):
        import_dataset(archives, out=stripe_recording)
    with pytest.raises(UsageError, match="outside the source"):
        import_dataset(archives, out=archives / "data")
    with pytest.raises(UsageError, match="a recording of worldsim"):
        import_dataset(stripe_recording, out=tmp_path / "again")
    index = tmp_path / "minari"
    index.mkdir()
    (index / "main_data.hdf5").write_bytes(b"precious")
    with pytest.raises(UsageError, match="another dataset"):
        import_dataset(archives, out=index)


def test_a_full_disk_leaves_nothing(archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full the user is told so, and no half-written shard is left."""

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "write_episode", full)
    with pytest.raises(UsageError, match="No space left"):
        import_dataset(archives, out=tmp_path / "data")
    assert list((tmp_path / "data" / "shards").iterdir()) == []


def test_options_are_checked(archives: Path, tmp_path: Path) -> None:
    """Sizes, rates and sources that cannot be are refused with what is allowed."""
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"size": "60"}, "multiples of 16"),
        ({"size": "64by64"}, "HEIGHTxWIDTH"),
        ({"frame_skip": 0}, "1 or more"),
        ({"frame_rate": float("nan")}, "more than 0"),
        ({"image": "wrist"}, "frames"),
        ({"kind": "lerobot"}, "info.json"),
        ({"frame_skip": 9}, "too short"),
    ]
    for options, says in wrong:
        with pytest.raises(UsageError, match=says):
            import_dataset(archives, out=tmp_path / "data", **options)
    assert FrameSize.parse("32x64") == FrameSize(height=32, width=64)
    with pytest.raises(UsageError, match="nothing is"):
        kind_of(tmp_path / "nowhere")
    (tmp_path / "mixed").mkdir()
    for name in ("a.npz", "b.hdf5"):
        (tmp_path / "mixed" / name).touch()
    with pytest.raises(UsageError, match="--kind"):
        kind_of(tmp_path / "mixed")
    assert not (tmp_path / "data").exists()


def test_the_command_prints_the_account(archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`worldsim import` says what was taken and assumed, and what to type next; a second run that nothing was missing."""
    command = ["import", str(archives), "--out", str(tmp_path / "data"), "--kind", "npz", "--size", "16"]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    for part in ("20 of 20 episodes of kind npz", "18 train, 1 val, 1 test", "32x32 became 16x16", "Readouts: state"):
        assert part in printed
    assert f"worldsim train {tmp_path / 'data'}" in printed
    assert cli.main(command) == 0
    assert "nothing was missing" in capsys.readouterr().out


def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of docs/your-dataset.md runs as pasted, in its order, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(GUIDE.read_text(encoding="utf-8"))
    run = [(language, code) for skip, language, code in blocks if not skip]
    assert [language for language, _ in run] == ["python", "bash", "python"]
    for language, code in run:
        if language == "python":
            (tmp_path / "block.py").write_text(code)
            runpy.run_path(str(tmp_path / "block.py"))
            continue
        for line in code.splitlines():
            words = shlex.split(line, comments=True)
            assert words[0] == "worldsim"
            assert cli.main(words[1:]) == 0
