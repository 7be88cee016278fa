"""Architecture settings and the preset table. Knows no tensors and no world."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Mapping
from typing import Any

from worldsim.errors import UsageError, suggestion
from worldsim.foreign import is_mapping, is_number, is_whole, refused

ARCHITECTURES = {
    "dit": "block-causal Diffusion Transformer",
    "unet": "convolutional U-Net with attention over time",
    "unet-stacked": "convolutional U-Net over stacked frames",
}
"""Kinds of networks, and what they are called."""

RECENT_FRAMES = 2

ADDED = ("reads_action", "camera")
"""Parts that came later: checkpoints that do not speak of them are older, and have none."""

LIMITS = {
    "width": (8, 1 << 16),
    "depth": (1, 128),
    "heads": (1, 1 << 12),
    "time_every": (0, 128),
    "patch": (1, 128),
    "fine_patch": (1, 128),
    "stem_channels": (1, 1 << 14),
    "head_blocks": (0, 64),
    "cond_width": (1, 1 << 16),
    "readout_width": (4, 1 << 16),
    "window": (2, 1 << 12),
    "max_steps": (1, 1 << 16),
}
"""Least and greatest of every size: beyond what anybody trains, and within what can be counted before memory is taken."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Kind and sizes of a network. Saved with the weights, read back by `from_json`."""

    architecture: str = "dit"
    """What stands between the first and the last convolutions: one of `ARCHITECTURES`."""
    width: int
    """Channels of a token in the transformer trunk; of a U-Net, those of its lowest level."""
    depth: int
    """Number of transformer blocks; of a U-Net, residual blocks a level on each way."""
    heads: int
    """Attention heads; ``width / heads`` must be a multiple of 8 (it is split between time, height and width)."""
    time_every: int = 0
    """Every how many blocks of a transformer attends over time, place by place, while the others attend within their
    frame (as Dreamer 4 does, arXiv 2509.24527); 0: all attend to all places of all frames at once."""
    pyramid: bool = False
    """Whether a transformer's cells become patches level by level, by convolutions with a skip at each (`worldsim.pyramid`),
    instead of in one step."""
    patch: int = 16
    """Side of a spacetime patch in pixels (one frame deep): frame sides must be multiples of it."""
    fine_patch: int = 4
    """Side in pixels of one cell of the convolutional detail path around the trunk; divides ``patch``."""
    stem_channels: int = 64
    """Channels of the detail path."""
    head_blocks: int = 2
    """Residual blocks of the detail path after the trunk (one stands before it)."""
    cond_width: int = 128
    """Width of the per-frame conditioning vector (noise level, step size, action)."""
    readout_width: int = 256
    """Hidden units of the head that reads reward, termination and named readouts."""
    reads_action: bool = True
    """Whether reward and termination are read off the action too, and not off the frames alone: many worlds charge for effort."""
    camera: bool = False
    """Whether the motion of the whole picture is estimated as one, beside that of every pixel: for worlds whose camera moves.

    Such a network also remembers the surroundings of a picture, which have left it, unless it is ``stacked``.
    """
    window: int = 32
    """Frames a token can attend to, its own included."""
    max_steps: int = 8
    """Most sampler steps the shortcut objective is trained for; the finest step size is its inverse."""
    context_noise: float = 0.02
    """Noise (share of 1 in ``1 - level``) put on frames as they are committed to the cache."""

    def __post_init__(self) -> None:
        _check(dataclasses.asdict(self))
        if self.width % self.heads or (self.width // self.heads) % 8:
            raise UsageError(
                "heads",
                got=f"{self.heads} for width {self.width}",
                allowed="width / heads a multiple of 8",
                fix="choose heads = width / 64",
            )
        if self.patch % self.fine_patch:
            raise UsageError(
                "fine_patch",
                got=f"{self.fine_patch} for patch {self.patch}",
                allowed="a divisor of patch",
                fix="4 divides every common patch size",
            )
        if self.time_every < 0 or self.time_every > self.depth:
            raise UsageError(
                "time_every", got=self.time_every, allowed=f"0 .. depth ({self.depth})", fix="0 attends to all at once"
            )
        levels = self.patch // self.fine_patch
        halved = self.architecture != "dit" or self.pyramid
        if halved and (levels < 2 or levels & (levels - 1)):
            raise UsageError(
                "patch",
                got=f"{self.patch} for fine_patch {self.fine_patch}",
                allowed="fine_patch times a power of two: a U-Net or a pyramid halves its cells until they are patches",
                fix="4 x 4 = 16 is the default",
            )
        if self.max_steps & (self.max_steps - 1):
            raise UsageError("max_steps", got=self.max_steps, allowed="a power of two", fix="8 is the default")

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.width // self.heads

    @property
    def stacked(self) -> bool:
        """Whether the past comes as frames stacked in channels, and nothing is attended to or recalled."""
        return self.architecture == "unet-stacked"

    @property
    def recent(self) -> int:
        """Frames before the one at hand that are seen in pixels; with two of them motion can be seen locally."""
        return self.window - 1 if self.stacked else RECENT_FRAMES

    @property
    def past_actions(self) -> int:
        """Actions before the one at hand that come with it; an attending network has them in what it attends to."""
        return self.window - 2 if self.stacked else 0

    @property
    def surrounded(self) -> bool:
        """Whether what has left the picture is kept beyond its borders, and moved as the camera moves."""
        return self.camera and not self.stacked

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a JSON-able dictionary; what old checkpoints have not is not spoken of, as in theirs."""
        settings = dataclasses.asdict(self)
        return {name: value for name, value in settings.items() if value or name not in ADDED}

    @classmethod
    def from_json(cls, data: Any) -> ModelConfig:
        """Rebuild settings from `to_json`; UsageError names what is unknown, missing or out of all proportion."""
        known = {field.name for field in dataclasses.fields(cls)}
        needed = {field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING}
        if not is_mapping(data) or not needed <= set(data):
            raise refused("model config", data, f"settings by name, with {', '.join(sorted(needed))} among them")
        unknown = sorted(set(data) - known)
        if unknown:
            raise UsageError(
                "model config",
                got=f"unknown keys {unknown}",
                allowed=f"{sorted(known)}",
                fix="the checkpoint is of another version of worldsim: install the version its card names",
            )
        _check(data)
        noise = {"context_noise": float(data["context_noise"])} if "context_noise" in data else {}
        return cls(**{**dict.fromkeys(ADDED, False), **data, **noise})


def _check(settings: Mapping[str, Any]) -> None:
    """Refuse what is no number, and numbers out of all proportion, before anything is built of them."""
    kind = settings.get("architecture", "dit")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        fix = suggestion(str(kind), tuple(ARCHITECTURES))
        raise UsageError("architecture", got=repr(kind), allowed=", ".join(ARCHITECTURES), fix=fix)
    for name, (low, high) in LIMITS.items():
        if name in settings and not is_whole(settings[name], low, high):
            allowed, fix = f"a whole number, {low} .. {high}", "begin with a preset's: worldsim presets"
            raise UsageError(name, got=reprlib.repr(settings[name]), allowed=allowed, fix=fix)
    for name in ("pyramid", *ADDED):
        if not isinstance(settings.get(name, False), bool):
            raise refused(name, settings[name], "true or false")
    if not is_number(settings.get("context_noise", 0), 0, 1):
        raise refused("context_noise", settings["context_noise"], "0 .. 1")


def _beside(config: ModelConfig, architecture: str, width: int, heads: int, stem_channels: int) -> ModelConfig:
    """Return a U-Net of other sizes, and else like a transformer."""
    sizes = {"width": width, "heads": heads, "stem_channels": stem_channels, "depth": 1}
    return dataclasses.replace(config, architecture=architecture, **sizes)


_NANO = ModelConfig(
    width=128, depth=3, heads=2, stem_channels=20, head_blocks=1, cond_width=64, readout_width=96, window=16
)
_PICO = dataclasses.replace(_NANO, width=32, depth=2, heads=1, stem_channels=8, cond_width=24, readout_width=24)
_MICRO = dataclasses.replace(_NANO, width=64, depth=2, stem_channels=12, cond_width=48, readout_width=64)
_SMALL = ModelConfig(width=128, depth=6, heads=4, stem_channels=48, cond_width=64)

PRESETS: dict[str, ModelConfig] = {
    "pico": _PICO,
    "pico-unet": _beside(_PICO, "unet", 16, 1, 12),
    "micro": _MICRO,
    "micro-unet": _beside(_MICRO, "unet", 40, 1, 12),
    "nano": _NANO,
    "nano-pyramid": dataclasses.replace(_NANO, pyramid=True, depth=2, stem_channels=16),
    "nano-unet": _beside(_NANO, "unet", 128, 4, 20),
    "nano-unet-flops": _beside(_NANO, "unet", 96, 4, 12),
    "nano-unet-stacked": _beside(_NANO, "unet-stacked", 128, 4, 32),
    "nano-unet-stacked-flops": _beside(_NANO, "unet-stacked", 128, 4, 20),
    "small": _SMALL,
    "small-camera": dataclasses.replace(_SMALL, camera=True),
    "small-pyramid": dataclasses.replace(_SMALL, pyramid=True),
    "small-fine": dataclasses.replace(_SMALL, patch=8, time_every=3),
    "small-unet": _beside(_SMALL, "unet", 160, 5, 48),
    "small-unet-flops": _beside(_SMALL, "unet", 160, 4, 24),
    "small-unet-stacked": _beside(_SMALL, "unet-stacked", 160, 5, 56),
    "small-unet-stacked-flops": _beside(_SMALL, "unet-stacked", 160, 5, 44),
    "base": ModelConfig(width=512, depth=12, heads=8, patch=8, stem_channels=96, cond_width=256),
    "large": ModelConfig(width=1024, depth=24, heads=16, patch=8, stem_channels=128, cond_width=512),
}
"""One row per size: `pico` and `micro` to see how error falls with compute, `nano` for tests and sweeps, `small` for two CPU cores (`small-camera` is embedded), `base` and `large` for GPUs.

`small-fine` has four times the tokens, and blocks that take turns. Beside a transformer stand U-Nets of as many parameters (within 2 %) and, called -flops, of as many operations in training
(within 5 %), both counted for the Arena.
"""


def preset(name: str) -> ModelConfig:
    """Return the preset called ``name``; UsageError offers the known ones."""
    if name not in PRESETS:
        raise UsageError("preset", got=name, allowed=", ".join(PRESETS), fix=suggestion(name, tuple(PRESETS)))
    return PRESETS[name]
