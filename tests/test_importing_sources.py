"""Every kind of source that can be imported, from tiny files made here: HDF5, Minari, videos. LeRobot has a file of its own."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from minari.data_collector import EpisodeBuffer
from PIL import Image

from worldsim.dataset import EpisodeDataset
from worldsim.envs.importing import import_dataset
from worldsim.errors import UsageError

STEPS = 6


def noise(seed: int, count: int = STEPS + 1, side: int = 32) -> np.ndarray:
    """Frames that no lossy store could get right by luck."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def smooth(seed: int, count: int = STEPS + 1, side: int = 32) -> np.ndarray:
    """Frames of one colour each, which lossy formats keep nearly as they are."""
    shades = np.random.default_rng(seed).integers(30, 220, (count, 1, 1, 3), np.uint8)
    return np.ascontiguousarray(np.broadcast_to(shades, (count, side, side, 3)))


def actions_of(seed: int, count: int = STEPS, size: int = 2) -> np.ndarray:
    """Uniform actions."""
    return np.random.default_rng(seed).uniform(-1, 1, (count, size)).astype(np.float32)


def test_hdf5_with_a_group_per_episode(tmp_path: Path) -> None:
    """Groups are taken in the order of their numbers, their columns by name; vectors become readouts."""
    with h5py.File(tmp_path / "plain.hdf5", "w") as file:
        for k in (0, 2, 10):
            group = file.create_group(f"trial{k}")
            group["frames"] = noise(k)
            group["actions"] = actions_of(k)
            group["rewards"] = np.arange(STEPS, dtype=np.float64)
            group["terminated"] = np.arange(STEPS) == STEPS - 1
            group["pose"] = np.full((STEPS + 1, 3), k, np.float64)
            group["depth"] = np.zeros((STEPS + 1, 8, 8), np.float32)
    account = import_dataset(tmp_path / "plain.hdf5", out=tmp_path / "data")
    dataset = EpisodeDataset.open(tmp_path / "data")
    for position, k in enumerate((0, 2, 10)):
        episode = dataset.episode(position)
        np.testing.assert_array_equal(episode.frames, noise(k))
        np.testing.assert_array_equal(episode.actions, actions_of(k))
        np.testing.assert_array_equal(episode.rewards, np.arange(STEPS))
        assert episode.terminated.tolist() == [False] * 5 + [True]
        np.testing.assert_array_equal(episode.readouts["pose"], np.full((STEPS + 1, 3), k))
    assert list(account["dropped"]["columns"]) == ["depth"]


def robomimic(path: Path, *, following: bool) -> None:
    """A file as robomimic writes it, with two cameras; perhaps with the observations after each step."""
    with h5py.File(path, "w") as file:
        for k in range(2):
            demo = file.create_group(f"data/demo_{k}")
            frames, wrist = noise(k), noise(k + 50)
            place = np.arange(STEPS + 1, dtype=np.float64)[:, None] + k
            for name, rows in (("front_image", frames), ("wrist_image", wrist), ("eef_pos", place)):
                demo[f"obs/{name}"] = rows[:-1]
                if following:
                    demo[f"next_obs/{name}"] = rows[1:]
            demo["actions"] = actions_of(k).astype(np.float64)
            demo["rewards"] = np.arange(STEPS)
            demo["dones"] = np.arange(STEPS) == STEPS - 1
            demo["states"] = np.zeros((STEPS, 400))
        file["mask/train"] = np.array([b"demo_0"])


@pytest.mark.parametrize("following", [True, False])
def test_robomimic(following: bool, tmp_path: Path) -> None:
    """With next_obs the frame after the last action is taken from there; without, that action is left out, and it is said."""
    robomimic(tmp_path / "demos.hdf5", following=following)
    with pytest.raises(UsageError, match=r"obs/front_image, obs/wrist_image"):
        import_dataset(tmp_path / "demos.hdf5", out=tmp_path / "data")
    account = import_dataset(tmp_path / "demos.hdf5", out=tmp_path / "data", image="front")
    episode = EpisodeDataset.open(tmp_path / "data").episode(1)
    steps = STEPS if following else STEPS - 1
    np.testing.assert_array_equal(episode.frames, noise(1)[: steps + 1])
    np.testing.assert_array_equal(episode.actions, actions_of(1)[:steps])
    np.testing.assert_array_equal(episode.readouts["eef_pos"][:, 0], np.arange(steps + 1) + 1)
    assert episode.terminated.any() == following
    said = " | ".join(account["changed"])
    assert ("last action" in said) != following
    assert "dones: taken as terminations" in said
    assert {"obs/wrist_image", "states"} <= set(account["dropped"]["columns"])


def test_a_file_per_episode(tmp_path: Path) -> None:
    """A folder of HDF5 files with actions at their top holds one episode a file."""
    for k in range(2):
        with h5py.File(tmp_path / f"episode_{k}.hdf5", "w") as file:
            file["action"] = actions_of(k)
            file["observations/images/top"] = noise(k, STEPS)
            file["observations/qpos"] = np.full((STEPS, 4), k, np.float32)
    import_dataset(tmp_path, out=tmp_path.parent / f"{tmp_path.name}-data")
    episode = EpisodeDataset.open(tmp_path.parent / f"{tmp_path.name}-data").episode(1)
    np.testing.assert_array_equal(episode.frames, noise(1, STEPS))
    np.testing.assert_array_equal(episode.actions, actions_of(1)[:-1])
    assert episode.readouts["qpos"].tolist() == [[1.0] * 4] * STEPS


def test_nothing_outside_the_file_is_read(tmp_path: Path) -> None:
    """Links, arrays kept in other files and virtual ones are refused by name: a file cannot make us read another one."""
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["frames"] = noise(0)
    (tmp_path / "secret.raw").write_bytes(noise(0).tobytes())
    layout = h5py.VirtualLayout((STEPS + 1, 32, 32, 3), np.uint8)
    layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "frames", (STEPS + 1, 32, 32, 3), np.uint8)
    for kind in ("external", "soft", "raw", "virtual"):
        path = tmp_path / f"{kind}.hdf5"
        with h5py.File(path, "w") as file:
            group = file.create_group("episode")
            group["actions"] = actions_of(0)
            if kind == "external":
                group["frames"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/frames")
            elif kind == "soft":
                group["frames"] = h5py.SoftLink("/elsewhere")
            elif kind == "raw":
                outside = [(str(tmp_path / "secret.raw"), 0, h5py.h5f.UNLIMITED)]
                group.create_dataset("frames", (STEPS + 1, 32, 32, 3), np.uint8, external=outside)
            else:
                group.create_virtual_dataset("frames", layout)
        with pytest.raises(UsageError, match=f"{kind}.hdf5/episode/frames.*the file itself"):
            import_dataset(path, out=tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_bad_hdf5_is_named(tmp_path: Path) -> None:
    """Cut-off files and absurd shapes are refused by name, before anything is allocated."""
    with h5py.File(tmp_path / "huge.hdf5", "w") as file:
        group = file.create_group("e0")
        group.create_dataset("frames", (600, 4096, 4096, 3), np.uint8, chunks=(1, 64, 64, 3))
        group["actions"] = actions_of(0, 599)
    with pytest.raises(UsageError, match="cannot hold it"):
        import_dataset(tmp_path / "huge.hdf5", out=tmp_path / "data", size=4096)
    with h5py.File(tmp_path / "wide.hdf5", "w") as file:
        group = file.create_group("e0")
        group["frames"] = noise(0)
        group.create_dataset("actions", (10**9, 1024), np.float32, chunks=(1, 1024))
    with pytest.raises(UsageError, match=r"wide\.hdf5/e0/actions.*GB"):
        import_dataset(tmp_path / "wide.hdf5", out=tmp_path / "data")
    robomimic(tmp_path / "cut.hdf5", following=False)
    (tmp_path / "cut.hdf5").write_bytes((tmp_path / "cut.hdf5").read_bytes()[:-3000])
    with pytest.raises(UsageError, match=r"cut\.hdf5"):
        import_dataset(tmp_path / "cut.hdf5", out=tmp_path / "data", image="front")
    assert not list((tmp_path / "data").rglob("*.*"))


def minari_dataset(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    spaces: tuple[gym.Space, gym.Space],
    buffers: list[EpisodeBuffer],
    *,
    jpeg: bool,
) -> Path:
    """Let Minari itself write a dataset, and return its folder."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari would rather have an environment to judge by, and a description
        minari.create_dataset_from_buffers(
            "toy/pixels-v0",
            buffers,
            observation_space=spaces[0],
            action_space=spaces[1],
            jpeg_encoding=jpeg,
            description="toy",
            algorithm_name="none",
            author="nobody",
            author_email="nobody@example.org",
            code_permalink="none",
        )
    return root / "toy" / "pixels-v0"


def buffer_of(k: int, frames: np.ndarray, actions: Any, *, entries: bool) -> EpisodeBuffer:
    """One episode as Minari collects it."""
    state = np.full((STEPS + 1, 3), k, np.float32)
    return EpisodeBuffer(
        id=k,
        seed=k,
        observations={"picture": list(frames), "joints": list(state)} if entries else list(frames),
        actions=list(actions),
        rewards=[float(k)] * STEPS,
        terminations=[False] * (STEPS - 1) + [True],
        truncations=[False] * STEPS,
        infos={"speed": np.zeros((STEPS + 1, 1), np.float32)},
    )


IMAGE = Box(0, 255, (32, 32, 3), np.uint8)
PICTURE_AND_JOINTS = Dict({"picture": IMAGE, "joints": Box(-1, 9, (3,), np.float32)})


@pytest.mark.parametrize("jpeg", [False, True])
@pytest.mark.parametrize("entries", [False, True])
def test_minari(jpeg: bool, entries: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Minari wrote is read: raw frames to the bit, JPEG as it decodes; Dict entries that are vectors become readouts."""
    make = smooth if jpeg else noise
    space = Box(-2, 2, (2,), np.float32)
    buffers = [buffer_of(k, make(k), actions_of(k), entries=entries) for k in range(11)]
    spaces = (PICTURE_AND_JOINTS if entries else IMAGE, space)
    source = minari_dataset(tmp_path / "minari", monkeypatch, spaces, buffers, jpeg=jpeg)
    account = import_dataset(source, out=tmp_path / "data", image="picture" if entries else None)
    dataset = EpisodeDataset.open(tmp_path / "data")
    loaded = {episode.id: episode for episode in minari.load_dataset("toy/pixels-v0").iterate_episodes()}
    for k in (0, 2, 10):
        episode = dataset.episode(k)
        seen = loaded[k].observations["picture"] if entries else loaded[k].observations
        np.testing.assert_array_equal(episode.frames, seen)
        np.testing.assert_array_equal(episode.actions, actions_of(k))
        np.testing.assert_array_equal(episode.rewards, [float(k)] * STEPS)
        assert episode.terminated[-1] and not episode.terminated[:-1].any()
        if entries:
            np.testing.assert_array_equal(episode.readouts["joints"], np.full((STEPS + 1, 3), k))
    assert dataset.spec.action_high == (2.0, 2.0)
    assert dataset.spec.env_id == "imported/toy-pixels-v0"
    assert any("JPEG" in change for change in account["changed"]) == jpeg
    assert list(account["dropped"]["columns"]) == ["infos/speed"]


@pytest.mark.parametrize(
    ("space", "actions", "wanted"),
    [
        (Discrete(3, start=1), [1, 3, 2, 1, 1, 3], np.eye(3)[[0, 2, 1, 0, 0, 2]]),
        (MultiDiscrete([2, 3]), [[0, 2]] * 6, [[1, 0, 0, 0, 1]] * 6),
        (MultiBinary(3), [[0, 1, 1]] * 6, [[0, 1, 1]] * 6),
        (Box(-1, 1, (2, 2), np.float32), [np.eye(2)] * 6, [[1, 0, 0, 1]] * 6),
    ],
    ids=lambda value: type(value).__name__,
)
def test_minari_actions(
    space: gym.Space, actions: Any, wanted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Actions of every flat space become rows of numbers: choices as gymnasium.spaces.flatten has them, others as they are."""
    dtype = space.dtype
    typed = [np.asarray(action, dtype) for action in actions]
    buffers = [buffer_of(0, noise(0), typed, entries=False)]
    source = minari_dataset(tmp_path / "minari", monkeypatch, (IMAGE, space), buffers, jpeg=False)
    import_dataset(source, out=tmp_path / "data")
    dataset = EpisodeDataset.open(tmp_path / "data")
    found = dataset.episode(0).actions
    np.testing.assert_array_equal(found, np.asarray(wanted, np.float32))
    np.testing.assert_array_equal(found, [gym.spaces.flatten(space, action) for action in typed])
    flat = gym.spaces.flatten_space(space)
    assert isinstance(flat, Box)
    assert (dataset.spec.action_low, dataset.spec.action_high) == (tuple(flat.low.tolist()), tuple(flat.high.tolist()))


def test_bad_minari_is_named(tmp_path: Path) -> None:
    """Nested actions, and pictures that are no JPEG or have another size, are refused with file, episode and frame."""
    folder = tmp_path / "toy" / "data"
    folder.mkdir(parents=True)
    metadata = {"data_format": "hdf5", "action_space": json.dumps({"type": "Tuple", "subspaces": []})}
    jpegs = []
    for side in (32, 48):
        memory = io.BytesIO()
        Image.fromarray(smooth(0, 1, side)[0]).save(memory, format="JPEG")
        jpegs.append(np.frombuffer(memory.getvalue(), np.uint8))
    with h5py.File(folder / "main_data.hdf5", "w") as file:
        group = file.create_group("episode_0")
        group["actions"] = actions_of(0)
        rows = group.create_dataset("observations", (STEPS + 1,), h5py.vlen_dtype(np.uint8))
        for k in range(STEPS + 1):
            rows[k] = jpegs[k == 3]
    (folder / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(UsageError, match="Tuple"):
        import_dataset(tmp_path / "toy", out=tmp_path / "data")
    (folder / "metadata.json").write_text("{}")
    with pytest.raises(UsageError, match=r"episode_0, frame 3.*48x48"):
        import_dataset(tmp_path / "toy", out=tmp_path / "data")
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        file["episode_0/observations"][3] = np.arange(100, dtype=np.uint8)  # pyright: ignore
    with pytest.raises(UsageError, match="episode_0, frame 3"):
        import_dataset(tmp_path / "toy", out=tmp_path / "data")
    assert not list((tmp_path / "data" / "shards").iterdir())


def write_video(path: Path, frames: np.ndarray, rate: int = 20) -> None:
    """Encode frames: GIF and WebP by Pillow (WebP without loss), MP4 by PyAV."""
    if path.suffix == ".mp4":
        av = pytest.importorskip("av", reason="needs the data extra")
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=rate, options={"crf": "1", "g": "4"})
            stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv444p"
            stream.codec_context.thread_count = 1
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        return
    first, *others = (Image.fromarray(frame) for frame in frames)
    settings: dict[str, Any] = {"lossless": True} if path.suffix == ".webp" else {}
    first.save(path, save_all=True, append_images=others, duration=1000 // rate, **settings)


def test_videos_with_actions(tmp_path: Path) -> None:
    """Videos of all formats are taken with their .npy or .csv; WebP and GIF of one colour to the bit, MP4 nearly."""
    source = tmp_path / "clips"
    source.mkdir()
    for k, suffix in enumerate((".mp4", ".webp", ".gif")):
        write_video(source / f"{k}{suffix}", smooth(k))
    np.save(source / "0.npy", actions_of(0))
    rows = "\n".join(",".join(str(float(value)) for value in row) for row in actions_of(1, STEPS + 1))
    (source / "1.csv").write_text(f"left,right\n{rows}\n")
    np.save(source / "2.npy", actions_of(2))
    write_video(source / "3.webp", smooth(3))
    account = import_dataset(source, out=tmp_path / "data")
    dataset = EpisodeDataset.open(tmp_path / "data")
    assert np.abs(dataset.episode(0).frames.astype(int) - smooth(0)).max() <= 4
    for k in (1, 2):
        np.testing.assert_array_equal(dataset.episode(k).frames, smooth(k))
    for k in range(3):
        np.testing.assert_array_equal(dataset.episode(k).actions, actions_of(k, STEPS + (k == 1))[:STEPS])
    assert dataset.spec.frame_rate_hz == 20
    assert dataset.spec.action_names == ("left", "right")
    assert "neither 3.npy nor 3.csv" in account["dropped"]["episodes"]["3.webp"]


def test_bad_videos_are_named(tmp_path: Path) -> None:
    """A cut-off video, a file that is something else, a table with a hole and vast pictures are refused by name."""
    for name, suffix in (("cut", ".webp"), ("list", ".mp4"), ("hole", ".gif"), ("vast", ".gif")):
        source = tmp_path / name
        source.mkdir()
        np.save(source / "a.npy", actions_of(0))
        write_video(source / f"a{suffix}", noise(0))
    content = (tmp_path / "cut" / "a.webp").read_bytes()
    (tmp_path / "cut" / "a.webp").write_bytes(content[: len(content) // 2])
    write_video(tmp_path / "list" / "other.gif", noise(0))
    (tmp_path / "list" / "a.mp4").write_text("ffconcat version 1.0\nfile other.gif\n")
    (tmp_path / "hole" / "a.npy").unlink()
    (tmp_path / "hole" / "a.csv").write_text("0,1\n0,\n" * 3)
    vast = bytearray((tmp_path / "vast" / "a.gif").read_bytes())
    vast[6:10] = 2 * (5000).to_bytes(2, "little")  # says that its pictures are 5000 x 5000
    (tmp_path / "vast" / "a.gif").write_bytes(vast)
    for name, says in (("cut", r"a\.webp"), ("list", r"a\.mp4"), ("hole", r"a\.csv.*row 1"), ("vast", r"a\.gif")):
        with pytest.raises(UsageError, match=says):
            import_dataset(tmp_path / name, out=tmp_path / "data")
    with pytest.raises(UsageError, match="leave --image out"):
        import_dataset(tmp_path / "hole", out=tmp_path / "data", image="wrist")
    assert not list((tmp_path / "data").rglob("*.hdf5"))
