"""Long lives in one process: dreams of 20,000 steps, a thousand play sessions, forked and spawned worlds, worlds in threads.

Memory stays where it was, speed too, nothing that was opened stays open. Figures are printed: ``-rP`` shows them. Run by
``make test-slow``; times are of this process alone, so that a busy machine does not look like a slow world.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldsim import checkpoint as checkpoints
from worldsim.config import ModelConfig
from worldsim.envs.arena import ArenaEnv, arena_spec
from worldsim.envs.dream import DreamEnv, DreamVectorEnv
from worldsim.envs.gl import choose_backend
from worldsim.play.limits import Limits
from worldsim.play.session import Session
from worldsim.play.shelf import Shelf
from worldsim.world_model import WorldModel, load, untrained

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform != "linux", reason="memory and file handles are read from /proc"),
]
SMALLEST = ModelConfig(
    width=32, depth=1, heads=2, patch=8, stem_channels=8, head_blocks=1, cond_width=16, readout_width=16, window=4,
    max_steps=2,
)  # fmt: skip
STEPS, WIDE_STEPS, WIDE, SESSIONS, WARM = 20_000, 300, 64, 1000, 50
LOOKS_UP = np.radians(20.0)
"""Tilt of the camera from which on there may be nothing in the picture but sky."""
MORE_MB = 20.0
"""Memory that a long life may add: what allocators and caches come to. A leak of a kilobyte a step would be as much."""
SLOWER = 1.5
"""Times as long that a late step may take as an early one, in the median."""


@dataclasses.dataclass(frozen=True)
class Held:
    """What this process holds at one time."""

    memory_mb: float
    files: int

    @classmethod
    def now(cls) -> Held:
        """Collect what is garbage, and count the rest."""
        gc.collect()
        status = Path("/proc/self/status").read_text()
        memory = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]
        return cls(memory, len(list(Path("/proc/self/fd").iterdir())))


@dataclasses.dataclass
class Life:
    """What was held from time to time, and the processor time that each step took, in seconds."""

    held: list[Held]
    seconds: list[float]

    def rates(self) -> tuple[float, float]:
        """Return steps a second of the first and of the last quarter, in the median."""
        quarter = len(self.seconds) // 4
        return 1 / float(np.median(self.seconds[:quarter])), 1 / float(np.median(self.seconds[-quarter:]))


def live(steps: int, step: Callable[[int], None], warm: int, looks: int = 7) -> Life:
    """Warm up, then take ``steps`` steps and look at what is held at the beginning, at the end and between."""
    for number in range(warm):
        step(number)
    life = Life([Held.now()], [])
    for number in range(steps):
        begun = time.process_time()
        step(warm + number)
        life.seconds.append(time.process_time() - begun)
        if (number + 1) * (looks - 1) // steps > number * (looks - 1) // steps:
            life.held.append(Held.now())
    return life


def tell(name: str, life: Life, rows: int = 1) -> None:
    """Print the figures, and hold them to what is promised."""
    memory, files = ([getattr(held, kind) for held in life.held] for kind in ("memory_mb", "files"))
    before, after = life.rates()
    print(f"{name}: {', '.join(f'{one:.1f}' for one in memory)} MB from beginning to end; "
          f"{rows * before:.1f} frames/s at the beginning, {rows * after:.1f} at the end; {files} open files")  # fmt: skip
    assert min(memory[-3:]) < min(memory[:3]) + MORE_MB  # one look may meet what an allocator holds for a while
    assert after > before / SLOWER
    assert len(set(files)) == 1


@pytest.fixture(scope="module")
def smallest() -> WorldModel:
    """Return an untrained model of a small Arena: what any model needs to live long."""
    spec = arena_spec(ArenaEnv(height=16, width=16))
    weights = checkpoints.build(SMALLEST, spec).state_dict()
    made = checkpoints.Checkpoint(model=SMALLEST, world=spec, weights=weights, sampler_steps=1)
    return WorldModel(made, dtype=torch.float32)


@pytest.fixture
def contexts_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Return what counts the OpenGL contexts that EGL has made since and not destroyed."""
    gc.collect()  # or what earlier tests dropped would be destroyed meanwhile
    choose_backend()
    if os.environ.get("MUJOCO_GL") != "egl":
        pytest.skip("contexts are counted where EGL makes them")
    from mujoco.egl import egl_ext

    numbers = {"eglCreateContext": 0, "eglDestroyContext": 0}
    calls = {name: getattr(egl_ext, name) for name in numbers}
    for name in numbers:

        def counted(*args: Any, name: str = name) -> Any:
            numbers[name] += 1
            return calls[name](*args)

        monkeypatch.setattr(egl_ext, name, counted)
    yield lambda: numbers["eglCreateContext"] - numbers["eglDestroyContext"]
    print(f"OpenGL contexts: {numbers['eglCreateContext']} made, {numbers['eglDestroyContext']} destroyed")


def test_twenty_thousand_steps_in_one_dream(smallest: WorldModel) -> None:
    """Frame 20,000 costs what an early one costs and all that is read off it is finite; nothing grows meanwhile."""
    env = DreamEnv(smallest)
    env.reset(seed=0)
    rng = np.random.default_rng(0)

    def step(number: int) -> None:
        frame, reward, *_, info = env.step(rng.uniform(-1, 1, 5).astype(np.float32))
        assert np.isfinite(reward) and np.isfinite(info["state"]).all(), number
        assert env.observation_space.contains(frame), number

    tell("20,000 steps in 1", live(STEPS, step, warm=10 * WARM))
    state = env.save_state()
    assert int(state.times) == STEPS + 10 * WARM + env.model.spec.context_steps + 1
    assert bool(state.recent.isfinite().all()) and bool(state.readout.isfinite().all())
    env.close()


def test_three_hundred_steps_in_sixty_four_dreams_of_the_embedded_model() -> None:
    """64 dreams of arena-small, begun anew every hundred steps: finite, nothing grows or slows, no picture gone but where sky is seen."""
    env = DreamVectorEnv(WIDE, "arena-small", horizon=100)
    env.reset(seed=0)
    tilt = env.model.spec.readouts[0].names.index("camera/tilt")
    rng, shown = np.random.default_rng(0), []

    def step(number: int) -> None:
        frames, rewards, *_, infos = env.step(rng.uniform(-1, 1, (WIDE, 5)).astype(np.float32))
        assert np.isfinite(rewards).all() and np.isfinite(infos["state"]).all(), number
        level = infos["state"][:, tilt] < LOOKS_UP
        shown.extend(frames.std(axis=(1, 2, 3))[level].tolist())

    tell("300 steps in 64", live(WIDE_STEPS, step, warm=5), rows=WIDE)
    print(f"least contrast of {len(shown)} frames with a floor: {min(shown):.1f} grey levels")
    assert len(shown) > WIDE * WIDE_STEPS / 4
    assert min(shown) > 2
    env.close()


def test_a_thousand_play_sessions(smallest: WorldModel, tmp_path: Path, contexts_open: Callable[[], int]) -> None:
    """Players who come, look about and go, every fourth without a word, leave no memory, file or OpenGL context behind."""
    folder = checkpoints.save(smallest.checkpoint, tmp_path / "smallest", card="untrained", dtype=torch.float32)
    shelf, limits = Shelf([str(folder)]), Limits()

    def step(number: int) -> None:
        session = Session(shelf, limits)
        session.use_view("depth" if number % 8 == 0 else "frame")
        session.tick([1.0, 0.0, 0.0, 0.0, 0.0])
        assert set(session.panes()) == {"truth", "dream"}
        if number % 4:
            session.close()

    life = live(SESSIONS, step, warm=WARM, looks=5)
    tell("1,000 play sessions", life)
    assert contexts_open() == 0


def test_what_is_read_is_closed(smallest: WorldModel, stripe_recording: Path, tmp_path: Path) -> None:
    """Checkpoints loaded, moments saved and restored, dreams begun in recordings: no file stays open, nothing grows."""
    folder = checkpoints.save(smallest.checkpoint, tmp_path / "smallest", card="untrained", dtype=torch.float32)
    env, dream = DreamEnv(smallest), DreamEnv(untrained(_recorded(stripe_recording)))
    env.reset(seed=0)
    moment = tmp_path / "moment.safetensors"

    def step(number: int) -> None:
        assert load(folder).spec == smallest.spec
        env.save_state().save(moment)
        env.reset(options={"state": moment})
        dream.reset(seed=number, options={"dataset": stripe_recording, "episode": number % 40, "start": 1})

    life = live(100, step, warm=10)
    tell("100 times read", life)
    env.close()


def _recorded(folder: Path) -> Any:
    from worldsim.dataset import EpisodeDataset

    dataset = EpisodeDataset.open(folder)
    spec = dataset.spec
    dataset.close()
    return spec


# ---------------------------------------------------------------- processes and threads

ELSEWHERE = """
import hashlib, multiprocessing, sys, threading
import numpy as np
import torch
from worldsim.envs.arena import ArenaEnv
from worldsim.envs.dream import DreamEnv
from worldsim.errors import UsageError

def play(env):
    frames = [env.reset(seed=3)[0]] + [env.step(np.full(5, 0.3, np.float32))[0] for _ in range(3)]
    return np.stack(frames).astype(int)

def worlds():
    return ArenaEnv(height=32, width=32), DreamEnv("arena-small")

def seen():
    return [play(env) for env in worlds()]

def send(pipe, inherited):
    try:
        pipe.send([play(env) for env in inherited] if inherited else seen())
    except UsageError as error:
        pipe.send(str(error))

def process(how, inherited=()):
    context = multiprocessing.get_context(how)
    here, there = context.Pipe()
    child = context.Process(target=send, args=(there, inherited))
    child.start()
    try:
        if not here.poll(40):
            print("hangs:", how, "inherited" if inherited else "new", flush=True)
            return []
        return here.recv()
    finally:
        child.kill()
        child.join()

def threads():
    answers = [[] for _ in range(3)]
    workers = [threading.Thread(target=lambda one=one: one.extend(seen())) for one in answers]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return answers

if __name__ == "__main__":
    how, count = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(count)
    made = worlds()
    here = [play(env) for env in made]
    answers = {
        "fork": lambda: [process("fork"), process("fork", made)],
        "spawn": lambda: [process("spawn")],
        "threads": threads,
    }[how]()
    again = [play(env) for env in made]
    for answer in [*answers, again]:
        if isinstance(answer, str):
            print("refused:", answer, flush=True)
        elif answer:
            print("truth", np.abs(answer[0] - here[0]).max(), "dream", np.abs(answer[1] - here[1]).max(), flush=True)
    print("end", len(answers))
"""


def elsewhere(folder: Path, how: str, threads: int = 1, **environment: str) -> list[str]:
    """Draw and dream in a process, then in its child or in threads beside it; return what was said of the difference."""
    script = folder / "elsewhere.py"
    script.write_text(ELSEWHERE)
    inherited = {name: value for name, value in os.environ.items() if name not in ("LP_NUM_THREADS", "MUJOCO_GL")}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), how, str(threads)], capture_output=True, text=True, timeout=400,
        env={**inherited, "OMP_NUM_THREADS": str(threads), **environment}, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout.splitlines()


@pytest.mark.parametrize("how", ["fork", "spawn", "threads"])
def test_worlds_live_in_processes_and_threads(how: str, tmp_path: Path) -> None:
    """After this process has drawn and dreamt, its children and threads show the same to the bit, and so does it again."""
    said = elsewhere(tmp_path, how)
    print(how, said)
    count = {"fork": 2, "spawn": 1, "threads": 3}[how]
    assert said == ["truth 0 dream 0"] * (count + 1) + [f"end {count}"]


def test_a_forked_dream_waits_for_no_thread_of_its_parent(tmp_path: Path) -> None:
    """Where torch computes in two threads, a forked child goes on in one: it dreams, and rounds otherwise at most."""
    said = elsewhere(tmp_path, "fork", threads=2)
    print("fork, two threads", said)
    numbers = [list(map(int, re.findall(r"\d+", line))) for line in said[:-1]]
    assert len(numbers) == 3 and all(truth == 0 and dream <= 3 for truth, dream in numbers)


def test_a_forked_child_is_told_that_it_cannot_draw(tmp_path: Path) -> None:
    """Where the user chose EGL, so that it draws by a pool of threads, a forked child is refused with advice."""
    said = "\n".join(elsewhere(tmp_path, "fork", MUJOCO_GL="egl", LP_NUM_THREADS="2"))
    assert said.count("refused: drawing: got a process forked from one") == 2 and said.count("'spawn'") == 2, said
    assert "hangs" not in said and "truth 0 dream 0" in said  # the parent goes on


def test_a_forked_child_draws_where_the_user_chose_egl(tmp_path: Path) -> None:
    """MUJOCO_GL=egl alone, as many people have it set: no threads of OpenGL, so children draw the same."""
    assert elsewhere(tmp_path, "fork", MUJOCO_GL="egl") == ["truth 0 dream 0"] * 3 + ["end 2"]
