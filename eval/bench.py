"""Speed and memory of everything on this machine: dreaming, starting, recording, training, the true world.

Rates are medians over repetitions after a warm-up that fills the attention window, so a dream is measured at its full
cost. Useful FLOPs are counted on the running code (`torch.utils.flop_counter`: matrix products and convolutions) and
set against the best matrix product measured just before. Knows no frames' content and judges no quality.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from worldsim.backends import split_device
from worldsim.checkpoint import resolve
from worldsim.dataset import EpisodeDataset
from worldsim.envs.arena import ArenaEnv
from worldsim.envs.painter import Painter
from worldsim.envs.record import record_shards, recording_header
from worldsim.envs.scene import SceneSpec
from worldsim.eval.quality_report import table
from worldsim.eval.sizes import counting
from worldsim.eval.trials import check_arena, make_arena
from worldsim.losses import LossConfig
from worldsim.optim import OptimConfig, make_optimizers
from worldsim.precision import autocast, fast_dtype, matmul_gflops
from worldsim.provenance import describe, provenance, write_json
from worldsim.rollout import Rollout
from worldsim.spec import WorldSpec
from worldsim.storage import write_atomically
from worldsim.training_step import ClipSampler, training_draws
from worldsim.world_model import WorldModel, load

BENCH_SEED = 4_000_000
SAMPLER_STEPS = (1, 2, 4)
BATCH = 16
PEAK_SIZES = (512, 1024, 2048, 4096)
TRAIN_CLIP_FRAMES = 16
TRAIN_CLIPS = 10
RECORDED_EPISODES, RECORDED_STEPS = 40, 64
_FIRST_FRAME = """
import json, sys, time
import gymnasium, worldsim
def first():
    begun = time.perf_counter()
    env = gymnasium.make("worldsim/Dream-v0", checkpoint=sys.argv[1], device=sys.argv[2])
    env.reset(seed=0)
    shown = time.perf_counter()
    env.step(env.action_space.sample())
    return [1000 * (shown - begun), 1000 * (time.perf_counter() - shown)]
print(json.dumps([first(), first()]))
"""


def bench(
    checkpoint: str | os.PathLike[str] = "arena-small",
    out: str | os.PathLike[str] = "runs/bench",
    quick: bool = False,
    device: str = "cpu",
) -> dict[str, Any]:
    """Measure speed and memory, and write ``results.json`` and ``report.md`` into the folder ``out``.

    Args:
        checkpoint: an embedded name, a checkpoint folder or a training run's folder; its world is the Arena.
        out: folder to write into.
        quick: fewer repetitions, and 1,000 instead of 5,000 frames for the memory of a long dream.
        device: where the model runs: cpu, cuda ..., with +openvino or +compile behind it for a back end.

    Returns:
        What is written to ``results.json``: rates in frames or clips a second, times in ms, memory in MB.

    """
    begun = time.perf_counter()
    folder = resolve(checkpoint)
    model, place = load(folder, device=device), split_device(device)[0]
    check_arena(model.spec)
    repeats = 3 if quick else 7
    results: dict[str, Any] = {
        "command": "bench",
        "checkpoint": str(checkpoint),
        **provenance(seed=BENCH_SEED, device=device),
        "quick": quick,
        "dtype": str(model.denoiser.network.dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in model.denoiser.parameters()),
        "n": repeats,
    }
    parts: dict[str, Callable[[], Mapping[str, Any]]] = {
        "peak": lambda: _peaks(repeats),
        "arena": lambda: _arena(model.spec, 100 if quick else 400),
        "dream": lambda: _dream(model, repeats, results["peak_gflops"]),
        "memory": lambda: _memory(model, 1000 if quick else 5000),
        "first frame": lambda: _first_frame(folder, device),
        "record and train": lambda: _record_and_train(model, repeats, results["peak_gflops"], place),
    }
    with tqdm(parts.items(), desc="bench", unit="part") as bar:
        for name, measure in bar:
            bar.set_postfix_str(name)
            results |= measure()
    results["seconds"] = round(time.perf_counter() - begun, 1)
    write_json(Path(out) / "results.json", results)
    write_atomically(Path(out) / "report.md", report(results).encode())
    return results


def _rate(step: Callable[[], Any], repeats: int, count: int = 1) -> float:
    """Return how often per second ``step`` could run, ``count`` times in a row; the median of ``repeats`` trials."""
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        for _ in range(count):
            step()
        seconds.append((time.perf_counter() - begun) / count)
    return 1 / statistics.median(seconds)


def _peaks(repeats: int) -> dict[str, float]:
    """Measure the best matrix product of this machine on the CPU, in GFLOP/s; shares are of the faster type's.

    A CPU without units for a type may need minutes for a large product: sizes grow while one takes less than a second.
    """
    peaks = {}
    for name, dtype in {"bf16": torch.bfloat16, "fp32": torch.float32}.items():
        best = 0.0
        for size in PEAK_SIZES:
            rate = matmul_gflops(dtype, size, repeats)
            best = max(best, rate)
            if 2 * (2 * size) ** 3 / 1e9 > rate:  # the next product, of twice the size, would take over a second
                break
        peaks[f"peak_gflops_{name}"] = round(best, 1)
    return {**peaks, "peak_gflops": max(peaks.values())}


def _arena(spec: WorldSpec, steps: int) -> dict[str, float]:
    """Measure a step of the true world (physics, drawing, state), a reset (scene, lead-in of drawn frames), drawing alone.

    Drawing is measured in processor time over all threads: what it costs on one core.
    """
    env = make_arena(spec)
    try:
        env.action_space.seed(BENCH_SEED)
        resets = []
        for scene in range(5):
            begun = time.perf_counter()
            env.reset(seed=BENCH_SEED + scene)
            resets.append(time.perf_counter() - begun)
        times = []
        for _ in range(steps):
            action = env.action_space.sample()
            begun = time.perf_counter()
            env.step(action)
            times.append(time.perf_counter() - begun)
        assert isinstance(env, ArenaEnv)
        scene = SceneSpec.from_json(env.save_state()["scene"])
        drawing = _drawing(scene, spec.frame_shape, steps)
    finally:
        env.close()
    return {
        "arena_drawing_cpu_ms": round(1000 * drawing, 3),
        "arena_ms_per_frame": round(1000 * statistics.median(times), 3),
        "arena_reset_ms": round(1000 * statistics.median(resets), 1),
    }


def _drawing(scene: SceneSpec, shape: tuple[int, int, int], frames: int) -> float:
    """Return the seconds of processor time that drawing one frame takes."""
    painter = Painter(height=shape[0], width=shape[1], shadows=True)
    try:
        simulation = painter.simulate(scene)
        painter.frame(simulation)
        begun = time.process_time()
        for _ in range(frames):
            painter.frame(simulation)
        return (time.process_time() - begun) / frames
    finally:
        painter.close()


class _Stream:
    """Dreams of ``batch`` rows that are stepped with random actions, their window already full."""

    def __init__(self, rollout: Rollout, spec: WorldSpec, batch: int) -> None:
        k, (h, w, _) = spec.context_steps, spec.frame_shape
        self.rollout = rollout
        self.rng = np.random.default_rng(BENCH_SEED)
        self.low = np.asarray(spec.action_low, np.float32)
        self.high = np.asarray(spec.action_high, np.float32)
        frames = self.rng.integers(0, 256, (batch, k + 1, h, w, 3), dtype=np.uint8)
        self.shape = (batch, spec.action_dim)
        actions = np.zeros((batch, k, spec.action_dim), np.float32)
        self.state = rollout.start(frames, actions, np.arange(batch))
        for _ in range(max(0, rollout.network.config.window - k)):
            self.step()

    def step(self) -> None:
        """Imagine one frame in every row."""
        actions = self.rng.uniform(self.low, self.high, self.shape).astype(np.float32)
        self.state = self.rollout.step(self.state, actions).state


def _dream(model: WorldModel, repeats: int, peak_gflops: float) -> dict[str, Any]:
    """Measure dreamt frames a second, single and in a batch, at each number of sampler steps."""
    results: dict[str, Any] = {}
    for steps in SAMPLER_STEPS:
        if steps > model.config.max_steps:
            continue
        suffix = f"{steps}_step" + "s" * (steps > 1)
        rollout = model.rollout(steps)
        stream = _Stream(rollout, model.spec, 1)
        results[f"stream_fps_{suffix}"] = round(_rate(stream.step, repeats, 20), 1)
        batch = _Stream(rollout, model.spec, BATCH)
        eager = _Stream(Rollout(model.denoiser, steps), model.spec, 1)  # what a back end computes is not counted
        with counting() as counter:
            eager.step()
        flops = counter.get_total_flops()
        fps = BATCH * _rate(batch.step, repeats, 3)
        results[f"batch{BATCH}_fps_{suffix}"] = round(fps, 1)
        results[f"gflop_per_frame_{suffix}"] = round(flops / 1e9, 3)
        results[f"batch{BATCH}_peak_share_{suffix}"] = round(fps * flops / 1e9 / peak_gflops, 3)
    default = f"{model.num_steps}_step" + "s" * (model.num_steps > 1)
    results["num_steps"] = model.num_steps
    results[f"batch{BATCH}_peak_share"] = results.get(f"batch{BATCH}_peak_share_{default}")
    return results


def resident_mb() -> float | None:
    """Return this process's resident memory in MB; None where the system does not tell (only Linux does)."""
    path = Path("/proc/self/statm")
    if not path.is_file():
        return None
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _memory(model: WorldModel, frames: int) -> dict[str, Any]:
    """Measure resident memory early and late in one long dream: what a frame leaves behind."""
    stream = _Stream(model.rollout(1), model.spec, 1)
    early = None
    for frame in range(1, frames + 1):
        stream.step()
        if frame == 100:
            early = resident_mb()
    late = resident_mb()
    return {
        "memory_mb_100_frames": None if early is None else round(early, 1),
        "memory_mb_late": None if late is None else round(late, 1),
        "memory_late_frames": frames,
        "memory_growth_kb_per_frame": None
        if early is None or late is None
        else round(1000 * (late - early) / frames, 3),
    }


def _first_frame(folder: Path, device: str) -> dict[str, float]:
    """Measure, in a new process, ms from ``gym.make`` to the first frame and on to the first dreamt one."""
    done = subprocess.run(
        [sys.executable, "-c", _FIRST_FRAME, str(folder), device], capture_output=True, text=True, check=True
    )
    (cold, cold_step), (warm, warm_step) = json.loads(done.stdout.splitlines()[-1])
    return {
        "first_frame_ms_new_process": round(cold, 1),
        "first_dreamt_frame_ms_new_process": round(cold + cold_step, 1),
        "first_frame_ms": round(warm, 1),
        "first_dreamt_frame_ms": round(warm + warm_step, 1),
    }


def _record_and_train(model: WorldModel, repeats: int, peak_gflops: float, device: str) -> dict[str, Any]:
    """Record a small set, then take training steps on it: forward, backward, optimisers, in the precision that pays."""
    with tempfile.TemporaryDirectory() as folder:
        header = recording_header(model.spec.env_id, dict(model.spec.env_kwargs), RECORDED_STEPS, BENCH_SEED)
        recorded = record_shards(Path(folder), header, RECORDED_EPISODES, episodes_per_shard=5)
        dataset = EpisodeDataset.open(folder)
        try:
            cache = dataset.cache("train")
            clip = ClipSampler.of(cache, TRAIN_CLIP_FRAMES, 0.0).draw(range(TRAIN_CLIPS), (BENCH_SEED,)).to(device)
        finally:
            dataset.close()
    denoiser = model.checkpoint.denoiser().to(device)
    dtype = fast_dtype(device)
    optimizers = make_optimizers(denoiser, OptimConfig(), dtype)
    loss = LossConfig()
    draws = training_draws(clip, denoiser, loss, 0.0, (BENCH_SEED, 1)).to(device)

    def step() -> None:
        with autocast(device, dtype):
            value = denoiser.loss(clip, draws, loss)["loss"]
        value.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    step()
    with counting() as counter:
        step()
    per_second = _rate(step, repeats)
    return {
        "recording_fps": recorded["frames_per_second"],
        "recording_workers": recorded["workers"],
        "training_clip_frames": TRAIN_CLIP_FRAMES,
        "training_clips_per_second": round(TRAIN_CLIPS * per_second, 2),
        "training_gflop_per_clip": round(counter.get_total_flops() / TRAIN_CLIPS / 1e9, 2),
        "training_peak_share": round(per_second * counter.get_total_flops() / 1e9 / peak_gflops, 3),
        "training_dtype": str(dtype).removeprefix("torch."),
    }


def report(results: Mapping[str, Any]) -> str:
    """Return the results as Markdown: what the machine is, the dream's rates, everything else."""
    speeds = []
    for steps in SAMPLER_STEPS:
        suffix = f"{steps}_step" + "s" * (steps > 1)
        if f"stream_fps_{suffix}" in results:
            keys = ("stream_fps_", f"batch{BATCH}_fps_", "gflop_per_frame_", f"batch{BATCH}_peak_share_")
            speeds.append([f"{steps}", *(f"{results[key + suffix]:g}" for key in keys)])
    late = f"{results['memory_late_frames']:,}"
    rows = [
        ["gym.make to first frame (new process)", f"{results['first_frame_ms_new_process']:g} ms"],
        ["gym.make to first frame (again)", f"{results['first_frame_ms']:g} ms"],
        ["memory after 100 frames", f"{results['memory_mb_100_frames']} MB"],
        [f"memory after {late} frames", f"{results['memory_mb_late']} MB"],
        ["true world, one step with its frame", f"{results['arena_ms_per_frame']:g} ms"],
        ["drawing one frame of it, on one core", f"{results['arena_drawing_cpu_ms']:g} ms"],
        [f"recording, {results['recording_workers']} processes", f"{results['recording_fps']:g} frames/s"],
        [
            f"training, clips of {results['training_clip_frames']} frames, {results['training_dtype']}",
            f"{results['training_clips_per_second']:g} clips/s ({100 * results['training_peak_share']:.0f} % of peak)",
        ],
        [
            "best matrix product, bf16 / fp32",
            f"{results['peak_gflops_bf16']:g} / {results['peak_gflops_fp32']:g} GFLOP/s",
        ],
    ]
    header = [
        "sampler steps",
        "frames/s, single",
        f"frames/s, batch {BATCH}",
        "GFLOP a frame",
        "share of the better peak (batch)",
    ]
    parts = [
        f"# Speed of {results['checkpoint']}",
        f"{results['parameters']:,} parameters in {results['dtype']}. {describe(results)}. {results['seconds']} s.",
        table(header, speeds),
        table(["what", "measured"], rows),
    ]
    return "\n\n".join(parts) + "\n"
