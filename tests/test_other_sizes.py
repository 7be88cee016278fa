"""Skill at frame sizes that a model was never trained at: copying has none of it, and what is lost is counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import worldsim
from worldsim.eval import other_sizes
from worldsim.eval.hypotheses import LOST
from worldsim.eval.other_sizes import SIZES, skill_at_sizes
from worldsim.world_model import WorldModel, untrained


class Repeats(WorldModel):
    """Repeats the last frame, but at 96 x 96 shows black ones."""

    def predict(
        self,
        context_frames: np.ndarray,
        context_actions: np.ndarray,
        actions: np.ndarray,
        num_samples: int = 1,
        seeds: Any = None,
    ) -> Any:
        """Return as many frames as there are actions."""
        last = context_frames[:, -1]
        if last.shape[1:3] == (96, 96):
            last = np.zeros_like(last)
        return np.repeat(last[:, None, None], actions.shape[1], axis=2)


def test_copying_has_no_skill_and_what_is_lost_is_the_mean_over_other_sizes(monkeypatch: pytest.MonkeyPatch):
    """Every size is asked in frames of that size: nothing is lost where frames are copied, much where they are black."""
    monkeypatch.setattr(other_sizes, "SCENES", 1)
    monkeypatch.setattr(other_sizes, "STEPS", 2)
    spec = worldsim.load("arena-small").spec
    skills = skill_at_sizes(Repeats(untrained(spec).checkpoint, dtype=torch.float32))
    assert list(skills) == ["64 x 64", *(f"{height} x {width}" for height, width in SIZES), LOST]
    assert max(abs(skills[name]) for name in ("64 x 64", "48 x 64", "64 x 96")) < 1e-6
    assert skills["96 x 96"] < -0.1
    assert skills[LOST] == pytest.approx(-skills["96 x 96"] / 3)
