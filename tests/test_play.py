"""One player's worlds without a network: the same keys for both, going back, forks, links, recordings, questions."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image

from worldsim import checkpoint as checkpoints
from worldsim.dataset import EpisodeDataset
from worldsim.envs.arena import arena_spec
from worldsim.envs.importing import import_dataset
from worldsim.envs.state import element
from worldsim.errors import UsageError
from worldsim.play import protocol
from worldsim.play.desk import frame_message, futures_message, perform
from worldsim.play.limits import Limits
from worldsim.play.recording import encoded, formats
from worldsim.play.session import Session
from worldsim.play.shelf import Shelf
from worldsim.play.tape import Beginning, Stride, decode, encode
from worldsim.play.wire import unpack
from worldsim.spec import WorldSpec
from worldsim.world_model import untrained

LIMITS = Limits(history_steps=8, keyframe_steps=4, forks=2, recorded_steps=5)
STILL, RIGHT, ORBIT = [0.0] * 5, [1.0, 0, 0, 0, 0], [0.0, 0, 1, 0, 0]


def saved(folder: Path, spec: WorldSpec, seed: int = 0) -> str:
    """Save an untrained model of a world and return its folder."""
    model = untrained(spec, seed=seed)
    return str(checkpoints.save(model.checkpoint, folder, card="untrained", dtype=torch.float32))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Return two models of the Arena by their folders, and what is embedded."""
    folder = tmp_path_factory.mktemp("checkpoints")
    made = gym.make("worldsim:worldsim/Arena-v0", disable_env_checker=True)
    spec = arena_spec(made)
    made.close()
    return Shelf([saved(folder / "a", spec), saved(folder / "b", spec, seed=1)])


@pytest.fixture(scope="module")
def player(shelf: Shelf) -> Iterator[Session]:
    """Return a player for all tests: opening a renderer takes longer than most of them."""
    made = Session(shelf, LIMITS)
    yield made
    made.close()


@pytest.fixture
def session(player: Session, shelf: Shelf) -> Session:
    """Return the player at the beginning of the scene of seed 0, as if just come."""
    player.limits, player.paused = LIMITS, False
    player.begin(Beginning(seed=0, checkpoint=shelf.names[0]))
    player.use_steps(2)
    player.use_view("frame")
    player.steer_by("off")
    player.record(False)
    player.stop_asking()
    return player


def shown(session: Session) -> dict[str, np.ndarray]:
    """Return copies of what is shown."""
    return {name: clip.copy() for name, clip in session.panes().items()}


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    """Return whether two looks at a session are the same to the bit."""
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def state_of(session: Session, name: str) -> float:
    """Return an element of the true state."""
    assert session.pair.truth is not None and session.pair.truth.now.state is not None
    return float(element(session.pair.truth.now.state, name))


def test_the_same_keys_drive_both(session: Session) -> None:
    """Truth and dream begin in one frame; an action moves what it should in the truth, and changes the dream."""
    panes = shown(session)
    assert np.array_equal(panes["truth"], panes["dream"])
    start = session.pair.save()
    session.tick(STILL)
    still = session.pair.dreamt.frame.copy()
    session.pair.restore(start)
    before = [state_of(session, name) for name in ("pusher/x", "pusher/y", "camera/azimuth_sin")]
    session.tick(RIGHT)
    assert not np.array_equal(still, session.pair.dreamt.frame)
    assert np.hypot(state_of(session, "pusher/x") - before[0], state_of(session, "pusher/y") - before[1]) > 0.02
    session.tick(ORBIT)
    assert state_of(session, "camera/azimuth_sin") != pytest.approx(before[2], abs=1e-3)


def test_going_back_is_exact(session: Session) -> None:
    """A rewind shows what was shown, to the bit, in both worlds, pauses, and what is done again comes out the same."""
    looks = [shown(session)]
    for step in range(10):
        session.tick(RIGHT if step % 2 else ORBIT)
        looks.append(shown(session))
    assert session.rewind(3) == 3
    assert session.step == 7 and session.paused and same(shown(session), looks[7])
    session.tick(RIGHT)
    assert same(shown(session), looks[8])
    assert session.rewind(1000) >= 7  # as far as is kept
    assert same(shown(session), looks[session.step])
    assert session.can_rewind == 0 and session.rewind(1) == 0


def test_history_has_a_bound(session: Session) -> None:
    """However long one plays, only some whole worlds and steps are kept, and only the link's first steps."""
    session.limits = dataclasses.replace(LIMITS, link_steps=6)
    for _ in range(18):
        session.tick(STILL)
    assert len(session._keyframes) <= 4 and len(session._recent) <= 12 and len(session._first) == 6
    assert LIMITS.history_steps <= session.can_rewind <= 12


def test_forks_lead_elsewhere_and_back(session: Session) -> None:
    """A kept moment is exact; from it other actions lead elsewhere and the same ones to the same; only so many are kept."""
    session.tick(STILL)
    kept = shown(session)
    assert session.fork() == 0
    session.tick(RIGHT)
    there = shown(session)
    session.back(0)
    assert same(shown(session), kept)
    session.tick(ORBIT)
    assert not same(shown(session), there)
    session.back(0)
    assert session.can_rewind == 0
    session.tick(RIGHT)
    assert same(shown(session), there)
    session.rewind(5)
    assert session.step == 1 and same(shown(session), kept)
    session.fork()
    with pytest.raises(UsageError, match="2 kept"):
        session.fork()
    with pytest.raises(UsageError, match="fork"):
        session.back(2)
    session.begin(session.beginning)
    assert session.forks == []


def test_a_link_reproduces_scene_and_actions(session: Session, shelf: Shelf) -> None:
    """Opening a link in another session ends in the same two frames, sampler steps and rewinds included; a key ends it."""
    session.begin(Beginning(seed=5, checkpoint=session.checkpoint, task="reach", factors={"count": 2, "posts": 0}))
    for levels in (RIGHT, [0.5, -0.25, 0, 0, 0], ORBIT):
        session.tick(levels)
    session.rewind(1)
    session.use_steps(4)
    session.tick([0, 0, -1, 0, 1])
    other = Session(shelf, LIMITS)
    other.open(session.link())
    assert other.replaying == 3 and not same(shown(other), shown(session))
    while other.replaying:
        other.tick(STILL)
    assert same(shown(other), shown(session)) and other.num_steps == 4
    assert other.link() == session.link()
    other.open(session.link())
    other.tick(RIGHT)
    assert other.replaying == 0
    other.close()


@pytest.mark.parametrize("link", ["", "x", "é", "AAAA", "eNoDAAAAAAE", "A" * 9000])
def test_false_links_are_refused(session: Session, link: str) -> None:
    """What is no link is refused with what to do, and the worlds stay as they are."""
    before = shown(session)
    with pytest.raises(UsageError, match="link"):
        session.open(link)
    assert same(shown(session), before)


def test_links_that_ask_too_much_are_refused(session: Session) -> None:
    """Too many steps, actions of another world, too many sampler steps, unknown checkpoints and swollen text: all refused."""
    here = session.beginning
    strides = [Stride((0,) * 5, 1)]
    for beginning, way in (
        (here, strides * 601),
        (here, [Stride((0, 0), 1)]),
        (here, [Stride((0,) * 5, 64)]),
        (here, [Stride((0,) * 5, 3)]),
        (dataclasses.replace(here, checkpoint="/etc/passwd"), strides),
        (dataclasses.replace(here, task="none such"), strides),
        (dataclasses.replace(here, factors={"a": ["b" * 60] * 5} | {f"k{i}": "c" * 64 for i in range(30)}), strides),
    ):
        with pytest.raises(UsageError):
            session.open(encode(beginning, way))
    with pytest.raises(UsageError, match="cut short"):  # by us: it would unpack to more than a link can need
        session.open(encode(dataclasses.replace(here, checkpoint="x" * 300_000), strides))
    assert decode(encode(here, strides), 1) == (here, strides)
    session.tick(STILL)


def test_scenes_take_factors_and_refuse_others(session: Session) -> None:
    """Factors of the Arena pin the scene; unknown ones, states and other tasks are refused and nothing changes."""
    session.begin(Beginning(seed=1, checkpoint=session.checkpoint, factors={"count": 2, "colour": ["red", "blue"]}))
    assert state_of(session, "red/present") == state_of(session, "blue/present") == 1
    before, beginning = shown(session), session.beginning
    for factors in ({"count": 99}, {"weight": 1}, {"state": "x"}, {"lead_in": [1]}, {"colour": ["red", "red"]}):
        with pytest.raises(UsageError):
            session.begin(dataclasses.replace(beginning, factors=factors))
    with pytest.raises(UsageError, match="task"):
        session.begin(dataclasses.replace(beginning, task="fly"))
    assert same(shown(session), before) and session.beginning == beginning
    session.tick(STILL)
    assert session.step == 1


def test_steps_and_checkpoints_change_while_playing(session: Session, shelf: Shelf) -> None:
    """Other sampler steps take effect at the next frame; another checkpoint begins the scene anew; false ones are refused."""
    session.tick(STILL)
    start = session.pair.save()
    session.tick(STILL)
    two = shown(session)
    session.pair.restore(start)
    session.use_steps(8)
    session.tick(STILL)
    assert not np.array_equal(shown(session)["dream"], two["dream"])
    assert np.array_equal(shown(session)["truth"], two["truth"])
    with pytest.raises(UsageError):
        session.use_steps(3)
    session.tick(STILL)
    session.use_checkpoint(shelf.names[1])
    assert session.step == 0 and session.checkpoint == shelf.names[1] and session.num_steps == 2
    session.tick(STILL)
    with pytest.raises(UsageError, match="checkpoint"):
        session.use_checkpoint("../../etc")
    assert session.step == 1


def test_views_of_the_truth(session: Session) -> None:
    """Depth is grey and segmentation has the bodies' own colours; both are of the present; other views are refused."""
    session.begin(Beginning(seed=1, checkpoint=session.checkpoint, factors={"count": 1, "colour": "red"}))
    session.use_view("depth")
    depth = shown(session)["truth"][0]
    assert (depth == depth[..., :1]).all() and len(np.unique(depth)) > 20
    session.use_view("segmentation")
    before = shown(session)["truth"][0]
    assert ((before[..., 0] > 200) & (before[..., 1] < 50)).any()
    session.tick(ORBIT)
    assert not np.array_equal(shown(session)["truth"][0], before)
    with pytest.raises(UsageError, match="view"):
        session.use_view("x-ray")


def test_recordings_open(session: Session) -> None:
    """A recording is an animated WebP of both worlds, as long as was played but bounded; without steps it is refused."""
    session.record(True)
    for _ in range(8):
        session.tick(RIGHT)
    take = session.record(False)
    frames = take.clip
    assert len(frames) == LIMITS.recorded_steps and session.recording is None
    with Image.open(io.BytesIO(encoded(take, 10.0, "webp"))) as clip:
        assert clip.format == "WEBP" and getattr(clip, "n_frames", 1) == len(frames)
        assert clip.size == (2 * (64 + 2 + 64), 128)
        clip.seek(len(frames) - 1)
        assert np.array_equal(np.asarray(clip.convert("RGB"))[::2, ::2], frames[-1])
    with pytest.raises(UsageError, match="recording"):
        encoded(session.record(False), 10.0, "webp")


def test_recordings_as_video(session: Session) -> None:
    """Where PyAV is installed a recording can be an MP4 of as many frames; elsewhere it is refused, and not offered."""
    session.record(True)
    for _ in range(3):
        session.tick(RIGHT)
    take = session.record(False)
    if "mp4" not in formats():
        with pytest.raises(UsageError, match="pip install av"):
            encoded(take, 10.0, "mp4")
        return
    av = pytest.importorskip("av")
    with av.open(io.BytesIO(encoded(take, 10.0, "mp4"))) as video:
        assert len(list(video.decode(video=0))) == len(take.clip)


def test_recordings_as_episodes(session: Session, tmp_path: Path) -> None:
    """What was played since the last jump is an episode that can be imported; what a challenge hides is not in it."""
    session.record(True)
    session.tick(RIGHT)
    session.rewind(1)
    before = shown(session)["truth"][0]
    played = [RIGHT, ORBIT, RIGHT]
    for levels in played:
        session.tick(levels)
    take = session.record(False)
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "played.npz").write_bytes(encoded(take, 10.0, "npz"))
    import_dataset(tmp_path / "clips", out=tmp_path / "data")
    episode = EpisodeDataset.open(tmp_path / "data").episode(0)
    assert episode.frames.shape == (4, 64, 64, 3) and len(take.clip) == 4
    np.testing.assert_array_equal(episode.frames[0], before)
    np.testing.assert_array_equal(episode.frames[-1], shown(session)["truth"][0])
    np.testing.assert_allclose(episode.actions, np.asarray(played), atol=0.01)
    session.record(True)
    session.ask()
    session.tick(RIGHT)
    with pytest.raises(UsageError, match="no steps"):
        encoded(session.record(False), 10.0, "npz")


def test_the_autopilot_steers_until_a_key_is_pressed(session: Session) -> None:
    """A planner pushes and nothing else; its imagined futures can be shown once, at half size; held keys come first."""
    session.begin(Beginning(seed=0, checkpoint=session.checkpoint, task="reach"))
    for by in ("dream", "truth"):
        session.steer_by(by)
        session.tick(STILL)
        message = futures_message(session)
        assert message is not None and futures_message(session) is None
        header, panes = unpack(message)
        assert len(header["scores"]) == len(panes) == 8 and panes["plan 1"].shape == (8, 32, 32, 3)
        assert header["scores"][header["best"]] == max(header["scores"])
        assert not any(session._first[-1].levels[2:])
    assert any(session._first[-1].levels)  # in truth some pushes come nearer than others
    session.tick(ORBIT)
    assert session._first[-1].levels == (0, 0, 127, 0, 0)
    session.steer_by("off")
    session.tick(STILL)
    assert not any(session._first[-1].levels)


def test_the_challenge_hides_the_truth_until_it_is_answered(session: Session) -> None:
    """While a question is open nothing of the truth is shown or told; who points at the body is off by nothing."""
    question = session.ask()
    assert session.paused and session.hides_truth and list(session.panes()) == ["dream"]
    header, panes = unpack(frame_message(session))
    assert "truth" not in panes and header["reward"]["truth"] is None and not header["success"]["truth"]
    assert len(question.lead_in) == 11 and state_of(session, f"{question.colour}/visible") <= 0.05
    with pytest.raises(UsageError, match="hidden"):
        session.steer_by("truth")
    assert session.pair.truth is not None
    first = session.answer(0.5, 0.5)
    assert set(first.errors_cm) == {"you", "dream"} and "truth" in session.panes()
    with pytest.raises(UsageError, match="no open question"):
        session.answer(0.5, 0.5)
    session.begin(question.beginning)
    session.question, session.answered = question, False
    for _ in range(6):
        session.tick(STILL)
    second = session.answer(*first.pictures["truth"])
    assert second.errors_cm["you"] < 0.1 < first.errors_cm["you"]
    assert session.score.rounds == 2 and session.score.won >= 1
    assert session.score.you_cm == pytest.approx((first.errors_cm["you"] + second.errors_cm["you"]) / 2)
    session.stop_asking()
    assert session.score.rounds == 0


def test_every_message_is_understood(session: Session) -> None:
    """The desk knows what to do with every message, beside those that are the clock's own."""
    clock = {protocol.Hold, protocol.Step, protocol.Speed}
    assert set(protocol.MESSAGES.values()) - clock <= set(perform.registry)
