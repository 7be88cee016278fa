from __future__ import annotations

import dataclasses
import shutil
import sys
import threading
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest

from worldsim.dataset import EpisodeDataset
from worldsim.episode import Episode, Readout
from worldsim.errors import UsageError
from worldsim.spec import WorldSpec
from worldsim.storage import RecordingHeader, build_index, shard_is_whole, shard_path, write_shard

SPEC = WorldSpec(
    env_id="worldsim/Toy-v0",
    frame_shape=(32, 40, 3),
    action_names=("left", "up"),
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    frame_rate_hz=10.0,
    context_steps=2,
    readouts=(Readout(name="state", names=("x", "y", "z"), units=("m", "m", "m")),),
)
HEADER = RecordingHeader(spec=SPEC, seed=5, details={"behaviours": 1})


def noise_episode(seed: int, steps: int = 11) -> Episode:
    """Frames and columns of pure noise: nothing that a lossy store could get right by luck."""
    rng = np.random.default_rng(seed)
    return Episode(
        frames=rng.integers(0, 256, (steps + 1, *SPEC.frame_shape), np.uint8),
        actions=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        rewards=rng.normal(size=steps).astype(np.float32),
        terminated=rng.random(steps) < 0.5,
        truncated=np.zeros(steps, bool),
        seed=seed,
        readouts={"state": rng.normal(size=(steps + 1, 3)).astype(np.float32)},
        extras={"contacts": rng.normal(size=(steps, 4, 3)).astype(np.float32)},
        attributes={"split": "train", "behaviour": "noise"},
    )


def write_recording(folder: Path, num_shards: int = 2, per_shard: int = 3) -> dict[int, Episode]:
    episodes = {i: noise_episode(i) for i in range(num_shards * per_shard)}
    for shard in range(num_shards):
        ids = range(shard * per_shard, (shard + 1) * per_shard)
        write_shard(folder, shard, HEADER, {i: episodes[i] for i in ids})
    build_index(folder)
    return episodes


def assert_equal(first: Episode, second: Episode) -> None:
    for field in ("frames", "actions", "rewards", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field))
        assert getattr(first, field).dtype == getattr(second, field).dtype
    for field in ("readouts", "extras"):
        columns, others = getattr(first, field), getattr(second, field)
        assert columns.keys() == others.keys()
        for name, values in columns.items():
            np.testing.assert_array_equal(values, others[name])
    assert (first.seed, dict(first.attributes)) == (second.seed, dict(second.attributes))


def test_round_trip(tmp_path: Path) -> None:
    """What was written is read back bit for bit: arrays, dtypes, seeds and attributes."""
    episodes = write_recording(tmp_path)
    dataset = EpisodeDataset.open(tmp_path)
    assert dataset.spec == SPEC
    for i, episode in episodes.items():
        assert_equal(dataset.episode(i), episode)


def test_minari_reads_it_bit_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`minari.load_dataset` gives the recorded arrays, unaltered, from a folder in its data root."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    episodes = write_recording(tmp_path / "worldsim" / "toy-v0" / "data")
    dataset = minari.load_dataset("worldsim/toy-v0")
    assert dataset.total_episodes == len(episodes)
    assert dataset.total_steps == sum(episode.num_steps for episode in episodes.values())
    assert dataset.observation_space.shape == SPEC.frame_shape
    assert dataset.action_space.shape == (2,)
    for found in dataset.iterate_episodes():
        episode = episodes[found.id]
        np.testing.assert_array_equal(found.observations, episode.frames)
        np.testing.assert_array_equal(found.actions, episode.actions)
        np.testing.assert_array_equal(found.rewards, episode.rewards)
        np.testing.assert_array_equal(found.terminations, episode.terminated)
        np.testing.assert_array_equal(found.infos["state"], episode.readouts["state"])
        np.testing.assert_array_equal(found.infos["contacts"], episode.extras["contacts"])


def test_same_episodes_same_bytes(tmp_path: Path) -> None:
    """A shard's bytes depend on nothing but its episodes and header: no times, no order of insertion."""
    episodes = {i: noise_episode(i) for i in range(2)}
    write_shard(tmp_path / "a", 0, HEADER, episodes)
    write_shard(tmp_path / "b", 0, HEADER, dict(reversed(episodes.items())))
    assert shard_path(tmp_path / "a", 0).read_bytes() == shard_path(tmp_path / "b", 0).read_bytes()


def test_a_profiler_changes_no_bytes(tmp_path: Path) -> None:
    """Who samples the stacks of a process holds its objects for a moment; shards are laid out the same all the same."""
    episodes = {i: noise_episode(i) for i in range(3)}
    expected = write_shard(tmp_path, 0, HEADER, episodes).read_bytes()
    done = threading.Event()

    def sample() -> None:
        held = None
        while not done.wait(0.001):
            held = sys._current_frames()
        del held

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        for _ in range(20):
            assert write_shard(tmp_path, 0, HEADER, episodes).read_bytes() == expected
    finally:
        done.set()
        thread.join()


def test_index_is_rebuilt_from_the_shards(tmp_path: Path) -> None:
    """Index and metadata can be lost: made anew from the shards they are the same, byte for byte."""
    write_recording(tmp_path)
    names = ("main_data.hdf5", "metadata.json")
    before = [(tmp_path / name).read_bytes() for name in names]
    for name in names:
        (tmp_path / name).unlink()
    build_index(tmp_path)
    assert [(tmp_path / name).read_bytes() for name in names] == before


def test_recording_may_be_moved(tmp_path: Path) -> None:
    """Links are relative: a recording that was moved as a folder reads as before."""
    episodes = write_recording(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert_equal(EpisodeDataset.open(tmp_path / "there").episode(4), episodes[4])
    with h5py.File(tmp_path / "there" / "main_data.hdf5") as index:
        np.testing.assert_array_equal(np.asarray(index["episode_4/observations"]), episodes[4].frames)


@pytest.mark.parametrize("kept", [0, 1000, -1])
def test_truncated_shard_is_named(tmp_path: Path, kept: int) -> None:
    """A shard that was cut off is refused by name, by the dataset and by the rebuilding of the index."""
    write_recording(tmp_path)
    path = shard_path(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UsageError, match=r"shards.00001\.hdf5"):
        EpisodeDataset.open(tmp_path)
    with pytest.raises(UsageError, match=r"shards.00001\.hdf5"):
        build_index(tmp_path)
    assert not shard_is_whole(tmp_path, 1, HEADER, range(3, 6))


def test_flipped_bytes_inside_a_shard_are_named(tmp_path: Path) -> None:
    """Damage that leaves the size as it was is noticed when the episode is read, and the shard is named."""
    write_recording(tmp_path)
    path = shard_path(tmp_path, 1)
    content = bytearray(path.read_bytes())
    content[20_000:120_000] = bytes(100_000)
    path.write_bytes(content)
    dataset = EpisodeDataset.open(tmp_path)
    with pytest.raises(UsageError, match=r"shards.00001\.hdf5"):
        for i in dataset.episode_ids():
            dataset.episode(i)


def test_foreign_shard_is_named(tmp_path: Path) -> None:
    """A shard of another recording, or an HDF5 file of another program, is neither indexed nor overwritten."""
    write_recording(tmp_path)
    other = dataclasses.replace(HEADER, seed=6)
    write_shard(tmp_path, 1, other, {3: noise_episode(3)})
    with pytest.raises(UsageError, match=r"shards.00001\.hdf5"):
        build_index(tmp_path)
    with pytest.raises(UsageError, match=r"shards.00001\.hdf5"):
        shard_is_whole(tmp_path, 1, HEADER, range(3, 6))
    with h5py.File(shard_path(tmp_path, 1), "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(UsageError, match=r"shards.00001\.hdf5"):
        build_index(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """When the disk is full the user is told so, and no half-written file is left."""
    folder = shard_path(tmp_path, 0).parent
    folder.mkdir()
    (folder / "00000.tmp").symlink_to("/dev/full")
    with pytest.raises(UsageError, match="No space left"):
        write_shard(tmp_path, 0, HEADER, {0: noise_episode(0)})
    assert list(folder.iterdir()) == []


def test_empty_folder_and_interrupted_recording(tmp_path: Path) -> None:
    """No recording, and a recording without its index, are told apart and each error says what to do."""
    with pytest.raises(UsageError, match="worldsim record"):
        EpisodeDataset.open(tmp_path / "nowhere")
    write_recording(tmp_path)
    (tmp_path / "metadata.json").unlink()
    with pytest.raises(UsageError, match="interrupted"):
        EpisodeDataset.open(tmp_path)
    (tmp_path / "metadata.json").write_text('{"worldsim": {"spe')
    with pytest.raises(UsageError, match="build_index"):
        EpisodeDataset.open(tmp_path)
