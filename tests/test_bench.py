"""The bench: everything that people ask for is measured and printed with its machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from worldsim import checkpoint
from worldsim.envs.arena import ArenaEnv, arena_spec
from worldsim.errors import UsageError
from worldsim.eval.bench import bench, resident_mb
from worldsim.world_model import untrained

WANTED = {
    "stream_fps_1_step",
    "stream_fps_2_steps",
    "stream_fps_4_steps",
    "batch16_fps_1_step",
    "batch16_fps_2_steps",
    "batch16_fps_4_steps",
    "batch16_peak_share",
    "peak_gflops_bf16",
    "first_frame_ms",
    "memory_mb_100_frames",
    "memory_mb_late",
    "recording_fps",
    "training_clips_per_second",
    "training_peak_share",
    "arena_ms_per_frame",
    "arena_drawing_cpu_ms",
    "device",
    "threads",
    "commit",
    "versions",
}


@pytest.mark.slow
def test_a_quick_bench_measures_all_that_is_asked_for(tmp_path: Path) -> None:
    """All keys are there, rates are positive, and the table for people holds the batched rate."""
    env = ArenaEnv()
    model = untrained(arena_spec(env))
    env.close()
    checkpoint.save(model.checkpoint, tmp_path / "nano", card="untrained", dtype=torch.bfloat16)
    results = bench(tmp_path / "nano", tmp_path / "out", quick=True)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
    assert results.keys() >= WANTED
    assert all(results[key] > 0 for key in WANTED if key.startswith(("stream", "batch16", "training", "recording")))
    assert f"{results['batch16_fps_2_steps']:g}" in (tmp_path / "out" / "report.md").read_text()


def test_a_missing_checkpoint_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    """The error names the checkpoint, and nothing is written."""
    with pytest.raises(UsageError, match="checkpoint"):
        bench(tmp_path / "none", tmp_path / "out", quick=True)
    assert not (tmp_path / "out").exists()


def test_resident_memory_sees_what_is_held() -> None:
    """Holding 50 MB more raises the number by about 50 MB."""
    before = resident_mb()
    if before is None:
        pytest.skip("this system does not tell its resident memory")
    held = np.ones(50_000_000, dtype=np.uint8)
    after = resident_mb()
    assert after is not None
    assert 40 < after - before < 70
    assert held[-1] == 1
