"""What a training run does, as settings. Knows no data and no loop."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from worldsim.errors import UsageError
from worldsim.losses import LossConfig
from worldsim.optim import OptimConfig
from worldsim.precision import TYPES

_MACHINE = ("gradient_accumulation", "shard", "precision")
"""How a step is fitted to the machines: its numbers are the same, up to rounding."""
_FOLDERS = ("also",)
"""Where recordings lie; which they are, a run knows by their fingerprints."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What a training run does. Saved as ``run.json`` with the number of steps it was resolved to."""

    seed: int = 0
    frames_per_step: int = 48
    """Target frames in a step, whatever the clip length and however many processes share it."""
    reads_per_step: int = 256
    """Single frames from all over the recording that reward, termination and named readouts are learnt from in a step, beside
    the clips: these show few scenes, and a frame is read in no time."""
    also: tuple[str, ...] = ()
    """Folders of further recordings of the same world, in frames of other sizes: steps take them in turn, so that all are
    learnt by one set of weights and nothing is padded. Dreams and validations are those of the first recording."""
    gradient_accumulation: int = 1
    """Parts in which a process passes its clips through the network, one after the other: less memory, the same step."""
    shard: bool = False
    """Whether weights, gradients and optimiser states are cut into one shard a process (FSDP2, under torchrun), for models
    whose training no device could hold; what is saved is whole."""
    precision: str = "auto"
    """What products are computed in: bf16, fp32, or auto: bf16 where it is clearly faster when the run begins, and the same
    whenever it goes on."""
    clip_frames: tuple[int, ...] = (8, 16, 40)
    """Target frames of a clip, stage by stage: clips grow until they are longer than the window."""
    clip_shares: tuple[float, ...] = (0.4, 0.4, 0.2)
    """Share of the steps of each stage."""
    balanced_share: float = 0.7
    """Share of the clips drawn so that every action dimension is at work equally often; the others are drawn evenly."""
    shortcut_share: float = 0.25
    """Share of clips trained for fewer sampler steps, once the shortcut objective has begun."""
    shortcut_start: float = 0.5
    """Share of the run after which the shortcut objective begins."""
    self_context_share: float = 0.4
    """Share of clips shown the model's own estimates as context, once that has begun."""
    self_context_start: float = 0.25
    """Share of the run after which models see their own estimates."""
    validate_minutes: float = 5.0
    save_minutes: float = 2.0
    sampler_steps: int = 2
    """Sampler steps of validation and the checkpoint's default."""
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        if len(self.clip_frames) != len(self.clip_shares) or abs(sum(self.clip_shares) - 1) > 1e-6:
            raise UsageError(
                "clip_shares",
                got=f"{self.clip_shares} for clip_frames {self.clip_frames}",
                allowed="one share per clip length, 1 in sum",
                fix="give both, for example clip_frames [8, 16] and clip_shares [0.5, 0.5]",
            )
        if self.precision not in (precisions := ("auto", *TYPES)):
            allowed = ", ".join(precisions)
            raise UsageError("precision", got=self.precision, allowed=allowed, fix="--config.precision auto")
        for name in ("frames_per_step", "reads_per_step", "gradient_accumulation"):
            if getattr(self, name) < 1:
                raise UsageError(name, got=getattr(self, name), allowed="1 or more", fix=f"--config.{name} 1")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrainConfig:
        """Rebuild settings from JSON, whole or in part; TypeError for unknown ones."""
        values: dict[str, Any] = dict(data)
        for name in ("clip_frames", "clip_shares", "also"):
            if name in values:
                values[name] = tuple(values[name])
        for name, kind in (("loss", LossConfig), ("optim", OptimConfig)):
            if name in values:
                values[name] = kind(**values[name])
        return cls(**values)

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide what is learnt, as JSON has them; a run may go on with others of the rest."""
        settings: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return {name: value for name, value in settings.items() if name not in (*_MACHINE, *_FOLDERS)}

    def stage_frames(self, step: int, total: int) -> int:
        """Return the clip length of ``step``."""
        edges = np.cumsum(self.clip_shares) * total
        return self.clip_frames[int(np.searchsorted(edges[:-1], step, side="right"))]
