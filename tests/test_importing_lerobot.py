"""LeRobot datasets (v3) are read where they lie: many episodes in a table and in a video."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from worldsim.dataset import EpisodeDataset
from worldsim.envs.import_lerobot import filled
from worldsim.envs.importing import import_dataset
from worldsim.errors import UsageError

pa = pytest.importorskip("pyarrow", reason="needs the data extra")
pq = pytest.importorskip("pyarrow.parquet", reason="needs the data extra")
av = pytest.importorskip("av", reason="needs the data extra")

LENGTHS, RATE = (7, 5, 6), 10
CAMERA = "observation.images.top"


def frames_of(episode: int) -> np.ndarray:
    """Frames of one colour each, all different, which a video keeps nearly as they are."""
    shades = np.random.default_rng(episode).integers(30, 220, (LENGTHS[episode], 1, 1, 3), np.uint8)
    return np.ascontiguousarray(np.broadcast_to(shades, (LENGTHS[episode], 32, 48, 3)))


def actions_of(episode: int) -> np.ndarray:
    """Uniform actions, one a frame."""
    return np.random.default_rng(100 + episode).uniform(-1, 1, (LENGTHS[episode], 2)).astype(np.float32)


def encode(path: Path, frames: np.ndarray, rate: int = RATE) -> None:
    """Write one video of all frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "1", "g": "4", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv444p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def png(frame: np.ndarray) -> dict[str, Any]:
    """A picture as LeRobot keeps it in a table."""
    memory = io.BytesIO()
    Image.fromarray(frame).save(memory, format="PNG")
    return {"bytes": memory.getvalue(), "path": None}


def write_dataset(root: Path, *, video: bool = True, cameras: tuple[str, ...] = (CAMERA,)) -> Path:
    """A dataset of three episodes: two in the first table and video, one in the second."""
    kind = {"dtype": "video" if video else "image", "shape": [32, 48, 3], "names": ["height", "width", "channels"]}
    features: dict[str, Any] = dict.fromkeys(cameras, kind)
    features |= {
        "action": {"dtype": "float32", "shape": [2], "names": {"motors": ["shoulder", "elbow"]}},
        "observation.state": {"dtype": "float32", "shape": [3], "names": None},
        "next.reward": {"dtype": "float32", "shape": [1], "names": None},
        "next.done": {"dtype": "bool", "shape": [1], "names": None},
        "frame_index": {"dtype": "int64", "shape": [1], "names": None},
        "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    }
    info = {"codebase_version": "v3.0", "fps": RATE, "features": features, "total_episodes": 3}
    (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(info))
    rows = []
    for file, episodes in enumerate(((0, 1), (2,))):
        table: dict[str, list[Any]] = {name: [] for name in features if video is False or name not in cameras}
        for episode in episodes:
            length = LENGTHS[episode]
            table["action"] += actions_of(episode).tolist()
            table["observation.state"] += [[float(episode), float(t), 0.5] for t in range(length)]
            table["next.reward"] += [float(t) for t in range(length)]
            table["next.done"] += [t >= length - 2 for t in range(length)]
            table["frame_index"] += list(range(length))
            table["episode_index"] += [episode] * length
            for camera in cameras if not video else ():
                table[camera] += [png(frame) for frame in frames_of(episode)]
            begin = sum(LENGTHS[other] for other in episodes if other < episode) / RATE
            row = {"episode_index": episode, "length": length, "data/chunk_index": 0, "data/file_index": file}
            for camera in cameras:
                row |= {f"videos/{camera}/chunk_index": 0, f"videos/{camera}/file_index": file}
                row |= {
                    f"videos/{camera}/from_timestamp": begin,
                    f"videos/{camera}/to_timestamp": begin + length / RATE,
                }
            rows.append(row)
        path = root / "data" / "chunk-000" / f"file-{file:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), path, row_group_size=3)  # groups of rows begin within episodes
        for camera in cameras if video else ():
            frames = np.concatenate([frames_of(episode) for episode in episodes])
            encode(root / "videos" / camera / "chunk-000" / f"file-{file:03d}.mp4", frames)
    pq.write_table(pa.Table.from_pylist(rows), root / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    return root


@pytest.mark.parametrize("video", [True, False])
def test_episodes_are_cut_out_of_their_files(video: bool, tmp_path: Path) -> None:
    """Every episode has its own frames, to the frame, and its own rows; pictures in tables are the same to the bit."""
    source = write_dataset(tmp_path / "arm", video=video)
    account = import_dataset(source, out=tmp_path / "data")
    dataset = EpisodeDataset.open(tmp_path / "data")
    assert account["taken"]["episodes"] == 3
    for k, length in enumerate(LENGTHS):
        episode = dataset.episode(k)
        assert np.abs(episode.frames.astype(int) - frames_of(k)).max() <= (4 if video else 0)
        np.testing.assert_array_equal(episode.actions, actions_of(k)[:-1])
        np.testing.assert_array_equal(episode.rewards, np.arange(length - 1))
        assert episode.terminated.tolist() == [False] * (length - 2) + [True]
        np.testing.assert_array_equal(episode.readouts["observation_state"][:, 1], np.arange(length))
    assert dataset.spec.action_names == ("shoulder", "elbow")
    assert dataset.spec.frame_rate_hz == RATE
    assert dataset.spec.env_id == "imported/arm"
    said = " | ".join(account["changed"])
    assert "in 3 episodes the last action" in said and ("decoded from video" in said) == video
    assert account["dropped"]["columns"] == {"episode_index": "bookkeeping", "frame_index": "bookkeeping"}


def test_cameras_are_chosen_by_name(tmp_path: Path) -> None:
    """Of several cameras one must be named; the others are dropped by name. A missing video drops its episodes."""
    source = write_dataset(tmp_path / "arm", cameras=(CAMERA, "observation.images.wrist"))
    with pytest.raises(UsageError, match=r"observation\.images\.wrist"):
        import_dataset(source, out=tmp_path / "data")
    (source / "videos" / "observation.images.wrist" / "chunk-000" / "file-001.mp4").unlink()
    account = import_dataset(source, out=tmp_path / "data", image="observation.images.wrist")
    assert account["dropped"]["columns"][CAMERA] == "another camera"
    assert account["taken"]["episodes"] == 2
    assert "is not there" in account["dropped"]["episodes"]["data/chunk-000/file-001.parquet, episode 2"]


def test_bad_datasets_are_named(tmp_path: Path) -> None:
    """Old versions, paths that lead out, cut-off tables and videos, and missing rows: refused with file and episode."""
    source = write_dataset(tmp_path / "arm")
    path = source / "meta" / "info.json"
    info = json.loads(path.read_text())
    table = source / "data" / "chunk-000" / "file-001.parquet"
    video = source / "videos" / CAMERA / "chunk-000" / "file-001.mp4"

    def refused(says: str) -> None:
        with pytest.raises(UsageError, match=says):
            import_dataset(source, out=tmp_path / "data")

    path.write_text(json.dumps({**info, "codebase_version": "v2.1"}))
    refused("v2.1")
    path.write_text(json.dumps({**info, "data_path": "../../{file_index}.parquet"}))
    refused("out of the dataset")
    path.write_text("{")
    refused("info.json")
    path.write_text(json.dumps(info))
    whole = table.read_bytes()
    table.write_bytes(whole[:-40])
    refused(r"file-001\.parquet")
    pq.write_table(pq.read_table(io.BytesIO(whole)).slice(0, 4), table)
    refused(r"file-001\.parquet, episode 2.*4 rows where 6")
    table.write_bytes(whole)
    content = video.read_bytes()
    video.write_bytes(content[: len(content) // 2])
    refused(r"file-001")
    encode(video, frames_of(2)[:4])
    refused("episode 2.*4 frames where 6")
    encode(video, frames_of(2), rate=RATE // 2)
    refused(r"episode 2, frame 1.*second 0\.200")
    episodes = source / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    rows = pq.read_table(episodes).to_pylist()
    rows[1]["length"] = None
    pq.write_table(pa.Table.from_pylist(rows), episodes)
    refused("meta/episodes.*lacks numbers")
    assert not list((tmp_path / "data").rglob("*.hdf5"))


def test_templates_are_filled_and_nothing_else() -> None:
    """Path templates take numbers with leading zeros and a key; attributes, wide formats and unknown names are refused."""
    values = {"chunk_index": 3, "file_index": 12, "video_key": "top"}
    assert (
        filled("videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index}.mp4", values)
        == "videos/top/chunk-003/file-12.mp4"
    )
    for template in (
        "{chunk_index.__class__}",
        "{chunk_index:0999999d}",
        "{secret}",
        "/etc/{file_index}",
        "a/../{file_index}",
    ):
        with pytest.raises(UsageError, match=r"info\.json"):
            filled(template, values)


WITHOUT = """
import sys
sys.modules[sys.argv[1]] = None
from worldsim.envs.importing import import_dataset
from worldsim.errors import UsageError
try:
    import_dataset(sys.argv[2], out=sys.argv[3])
except UsageError as error:
    print(error)
"""


@pytest.mark.parametrize("missing", ["pyarrow", "av"])
def test_a_missing_extra_is_named(missing: str, tmp_path: Path) -> None:
    """Without the packages of the data extra the user is told how to install it."""
    source = write_dataset(tmp_path / "arm")
    command = [sys.executable, "-c", WITHOUT, missing, str(source), str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "pip install 'worldsim[data]'" in done.stdout
