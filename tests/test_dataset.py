from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from worldsim.dataset import SPLITS, EpisodeDataset, split_of
from worldsim.episode import Episode, Readout
from worldsim.errors import UsageError
from worldsim.spec import WorldSpec
from worldsim.storage import RecordingHeader, build_index, write_shard

SPEC = WorldSpec(
    env_id="worldsim/Counter-v0",
    frame_shape=(4, 6, 3),
    action_names=("a", "b"),
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    frame_rate_hz=10.0,
    context_steps=2,
    readouts=(Readout(name="state", names=("episode", "frame"), units=("1", "1")),),
)
HEADER = RecordingHeader(spec=SPEC, seed=3)


def counting_episode(i: int, steps: int) -> Episode:
    """Every number says which episode and which step it belongs to, so that misalignment cannot hide."""
    frame = np.arange(steps + 1)
    frames = np.broadcast_to((frame * 7 + i).astype(np.uint8)[:, None, None, None], (steps + 1, *SPEC.frame_shape))
    return Episode(
        frames=np.ascontiguousarray(frames),
        actions=np.stack([np.full(steps, i), frame[:-1]], axis=1).astype(np.float32),
        rewards=(100 * i + frame[1:]).astype(np.float32),
        terminated=frame[1:] % 2 == 0,
        truncated=np.zeros(steps, bool),
        seed=i,
        readouts={"state": np.stack([np.full(steps + 1, i), frame], axis=1).astype(np.float32)},
        attributes={"split": split_of(HEADER.seed, i)},
    )


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Forty counting episodes of 5 to 9 steps in four shards."""
    for shard in range(4):
        episodes = {i: counting_episode(i, 5 + i % 5) for i in range(10 * shard, 10 * shard + 10)}
        write_shard(tmp_path, shard, HEADER, episodes)
    build_index(tmp_path)
    return tmp_path


def test_splits_are_a_pure_function_of_seed_and_id() -> None:
    """Splits are 90 / 5 / 5 in every block of 20, do not change when a recording grows, and depend on the seed."""
    for seed in (0, 1):
        splits = [split_of(seed, i) for i in range(400)]
        assert {name: splits.count(name) for name in SPLITS} == {"train": 360, "val": 20, "test": 20}
        assert [splits[20 * k : 20 * k + 20].count("val") for k in range(20)] == [1] * 20
    assert [split_of(0, i) for i in range(60)] != [split_of(1, i) for i in range(60)]
    assert [i for i in range(40) if split_of(0, i) == "val"] == [12, 27], "fixed for ever: recordings rely on it"


def test_splits_partition_the_episodes(recording: Path) -> None:
    """Every episode is in exactly one split."""
    dataset = EpisodeDataset.open(recording)
    parts = [set(dataset.episode_ids(split)) for split in SPLITS]
    assert sum(map(len, parts)) == 40 and set().union(*parts) == set(range(40))
    assert sum(dataset.num_frames(split) for split in SPLITS) == dataset.num_frames()


def test_windows_and_batches_are_aligned(recording: Path) -> None:
    """Every window lies inside one episode, and frames, actions, rewards, ends and read-outs in it belong together."""
    cache = EpisodeDataset.open(recording).cache("train")
    windows = cache.windows(6)
    assert len(windows) == sum(max(0, n - 5) for n in np.diff(cache.offsets))
    assert len(np.unique(windows, axis=0)) == len(windows)
    batch = cache.batch(windows[:, 0], windows[:, 1], 6)
    ids = cache.episode_ids[windows[:, 0]][:, None]
    frame = windows[:, 1:] + np.arange(6)
    np.testing.assert_array_equal(batch.frames[:, :, 0, 0, 0], (frame * 7 + ids).astype(np.uint8))
    np.testing.assert_array_equal(batch.actions[..., 0], np.broadcast_to(ids, frame[:, 1:].shape))
    np.testing.assert_array_equal(batch.actions[..., 1], frame[:, :-1])
    np.testing.assert_array_equal(batch.rewards, 100 * ids + frame[:, 1:])
    np.testing.assert_array_equal(batch.terminated, frame[:, 1:] % 2 == 0)
    np.testing.assert_array_equal(batch.readouts["state"][..., 1], frame)


def test_cache_is_built_once_and_belongs_to_its_data(recording: Path) -> None:
    """The second call maps the same files; when the recording grows, the cache is made anew and the old one goes."""
    first = EpisodeDataset.open(recording)
    before = first.cache("train")
    stamps = {path: path.stat().st_mtime_ns for path in (recording / "cache").rglob("*.*")}
    EpisodeDataset.open(recording).cache("train")
    assert {path: path.stat().st_mtime_ns for path in (recording / "cache").rglob("*.*")} == stamps
    write_shard(recording, 4, HEADER, {i: counting_episode(i, 5) for i in range(40, 60)})
    build_index(recording)
    grown = EpisodeDataset.open(recording)
    assert grown.fingerprint != first.fingerprint
    assert grown.cache("train").num_episodes == before.num_episodes + 18
    assert len(list((recording / "cache").iterdir())) == 1


def test_cut_off_cache_is_refused(recording: Path) -> None:
    """A frames file of the wrong size is named, not read."""
    dataset = EpisodeDataset.open(recording)
    dataset.cache("val")
    path = next((recording / "cache").rglob("frames.u8"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UsageError, match="cut-off"):
        dataset.cache("val")


def test_fingerprint_tells_contents_apart(tmp_path: Path) -> None:
    """Equal data give equal fingerprints wherever they lie; one changed action gives another."""
    prints = []
    for name, changed in (("a", 0.0), ("b", 0.0), ("c", 0.5)):
        episode = counting_episode(0, 5)
        episode.actions[3, 1] += changed
        write_shard(tmp_path / name, 0, HEADER, {0: episode})
        build_index(tmp_path / name)
        prints.append(EpisodeDataset.open(tmp_path / name).fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_dataset_may_be_sent_to_another_process(recording: Path) -> None:
    """A dataset that has files open can be pickled and reads on."""
    dataset = EpisodeDataset.open(recording)
    expected = dataset.episode(7).actions
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(dataset)).episode(7).actions, expected)
    dataset.close()
    np.testing.assert_array_equal(dataset.episode(7).actions, expected)


def test_user_mistakes_are_explained(recording: Path) -> None:
    """Wrong split, wrong id, too long a clip and windows past the end each say what is allowed."""
    dataset = EpisodeDataset.open(recording)
    with pytest.raises(UsageError, match="did you mean 'train'"):
        dataset.episode_ids("trian")
    with pytest.raises(UsageError, match="between 0 and 39"):
        dataset.episode(40)
    cache = dataset.cache("train")
    with pytest.raises(UsageError, match="1 to 10"):
        cache.windows(11)
    with pytest.raises(UsageError, match="inside their episodes"):
        cache.batch(np.array([0]), np.array([5]), 6)
