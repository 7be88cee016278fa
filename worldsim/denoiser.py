"""Noise, the training loss (`worldsim.losses`) and its inverse, side by side. Knows the network's call; knows no data files and no world.

``level`` t runs from 0 (noise) to 1 (clean): z = (1 - t) eps + t x (flow matching, Lipman et al. 2023, with
x-prediction as in JiT, arXiv 2511.13720). ``step size`` d is the inverse of the sampler's number of steps.

Dimension keys: B batch, T target frames, C condition channels, A action dimensions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.draws import Draws
from worldsim.episode import Readout
from worldsim.losses import (
    LossConfig,
    blurred_error,
    carried_error,
    level_weight,
    motion_error,
    pixel_weight,
    view_error,
)
from worldsim.network import Conditions, Network, action_windows
from worldsim.readout import Read, reading_weights
from worldsim.spec import WorldSpec

CONTEXT_STEP = 0
"""Step-size index that marks a frame as committed context."""


def step_index(num_steps: int) -> int:
    """Return the index by which the network knows a sampler of ``num_steps`` (1, 2, 4, ...) steps."""
    return 1 + round(math.log2(num_steps))


def add_noise(clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """Return z = (1 - t) eps + t x for ``level`` t that broadcasts over the trailing (H, W, 3) axes."""
    t = level[..., None, None, None]
    return (1 - t) * noise + t * clean


def to_unit(frames: Tensor) -> Tensor:
    """Map uint8 frames to floats, -1 for black and 1 for white."""
    return frames.float() / 127.5 - 1


def to_uint8(frames: Tensor) -> Tensor:
    """Undo `to_unit` with rounding and clipping."""
    return ((frames.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """T+1 frames and T actions as tensors.

    ``frames`` (B, T+1, H, W, 3) uint8; ``actions`` (B, T, A). ``actions[:, t]`` leads from frame t to frame t+1.
    """

    frames: Tensor
    actions: Tensor

    def rows(self, rows: Tensor) -> Clip:
        """Return some clips only."""
        return Clip(frames=self.frames[rows], actions=self.actions[rows])

    def to(self, device: torch.device | str) -> Clip:
        """Return the clip on ``device``."""
        return Clip(frames=self.frames.to(device), actions=self.actions.to(device))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """Frames 0 .. T-1 (B, T, H, W, 3), -1 .. 1: as they were shown, and with their context noise."""

    shown: Tensor
    noised: Tensor

    @classmethod
    def of(cls, shown: Tensor, draws: Draws) -> Context:
        """Return ``shown`` with the context noise of ``draws`` beside it."""
        return cls(shown=shown, noised=add_noise(shown, draws.context_noise, draws.context_level))

    def rows(self, rows: Tensor) -> Context:
        """Return some clips only."""
        return Context(shown=self.shown[rows], noised=self.noised[rows])


class Denoiser(nn.Module):
    """The network with the meaning of its inputs: ``loss`` for training, ``estimate`` for what it thinks is there."""

    def __init__(self, network: Network, spec: WorldSpec) -> None:
        super().__init__()
        self.network = network
        network.condition.set_action_range(spec.action_low, spec.action_high)
        self.readouts = spec.readouts
        for readout in spec.readouts:
            self.register_buffer(f"mean_{readout.name}", torch.zeros(len(readout.names)))
            self.register_buffer(f"std_{readout.name}", torch.ones(len(readout.names)))

    @staticmethod
    def readout_dim(readouts: Sequence[Readout]) -> int:
        """Length of a raw readout row: reward, termination logit, then every declared readout."""
        return 2 + sum(len(readout.names) for readout in readouts)

    def read(self, raw: Tensor) -> dict[str, Tensor]:
        """Split raw readout rows (..., readout_dim) into named values in the units of the recording."""
        values = {"reward": raw[..., 0], "terminated": raw[..., 1].sigmoid()}
        start = 2
        for readout in self.readouts:
            row = raw[..., start : start + len(readout.names)]
            mean, std = getattr(self, f"mean_{readout.name}"), getattr(self, f"std_{readout.name}")
            values[readout.name] = row * std.float() + mean.float()
            start += len(readout.names)
        return values

    def conditions(self, clip_actions: Tensor, known: Tensor, draws: Draws) -> Conditions:
        """Embed levels, step sizes and actions for the clean stream (frames 0 .. T-1) and the noisy one (1 .. T).

        ``clip_actions[:, t]`` leads into frame t+1; nothing is known of the action that led into frame 0.
        """
        condition = self.network.condition
        b, t = draws.level.shape
        into_clean = torch.cat([torch.zeros_like(clip_actions[:, :1]), clip_actions[:, :-1]], dim=1)
        known_BT = known[:, None].expand(b, t)
        known_clean = known_BT & (torch.arange(t, device=known.device) > 0)
        context_step = torch.full((b, t), CONTEXT_STEP, device=known.device)
        target_step = (1 + draws.num_steps.float().log2().round().long())[:, None].expand(b, t)
        into_clean, into_noisy = (
            action_windows(into, self.network.config.past_actions) for into in (into_clean, clip_actions)
        )
        return Conditions(
            clean_level=draws.context_level,
            clean=condition(draws.context_level, context_step, into_clean, known_clean),
            noisy_level=draws.level,
            noisy=condition(draws.level, target_step, into_noisy, known_BT),
        )

    def estimate(self, context: Context, noisy: Tensor, conds: Conditions) -> Tensor:
        """Return the clean estimates of frames 1 .. T."""
        return self.network(context.shown, context.noised, noisy, conds)[0]

    def forward(
        self,
        clip: Clip | None,
        draws: Draws | None,
        read: Read,
        config: LossConfig,
        context: Tensor | None = None,
        pixels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the terms of `reading_loss` and, of clips, those of `loss`: how distributed wrappers reach both."""
        terms = self.reading_loss(read, config)
        if clip is None:
            return terms
        assert draws is not None
        world = self.loss(clip, draws, config, context, pixels)
        return {**world, **terms, "loss": world["loss"] + terms["loss"]}

    def loss(
        self,
        clip: Clip,
        draws: Draws,
        config: LossConfig,
        context: Tensor | None = None,
        pixels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the named loss terms of clips; ``"loss"`` is their weighted sum.

        ``context`` (B, T, H, W, 3) floats replaces the true frames 0 .. T-1 as what the model is shown (for example its
        own earlier estimates); targets stay true. ``pixels`` are the weights by `pixel_weight`, for clips that are part of
        a larger step; by default those of these clips by themselves.
        """
        frames = to_unit(clip.frames)
        shown = frames[:, :-1] if context is None else context
        target = frames[:, 1:]
        seen = Context.of(shown, draws)
        noisy = add_noise(target, draws.noise, draws.level)
        conds = self.conditions(clip.actions, draws.known, draws)
        estimate, copies = self.network(seen.shown, seen.noised, noisy, conds)
        pixels = pixel_weight(frames, config) if pixels is None else pixels
        motion = motion_error(copies.moved - target, pixels)
        blurred = blurred_error(copies.around, copies.flow, target, pixels)
        recall = (pixels * (copies.recalled - target).square()).mean()
        made_up = (pixels * (1 - copies.moves)).mean()
        finest = draws.num_steps == self.network.config.max_steps
        if not bool(finest.all()):
            rows = (~finest).nonzero()[:, 0]
            goal = self.shortcut_goal(seen.rows(rows), noisy[rows], clip.actions[rows], draws.rows(rows))
            target = target.index_copy(0, rows, goal)
        squared = (estimate - target).square()
        robust = config.robust_scale * ((1 + squared / config.robust_scale**2).sqrt() - 1)
        weight = pixels * level_weight(draws.level, config)
        image = (weight * (squared + config.robust_weight * robust)).mean()
        total = image + config.motion_weight * motion + config.recall_weight * recall + config.share_weight * made_up
        total = total + config.blur_weight * blurred
        terms = {"image": image, "motion": motion, "blurred": blurred, "recall": recall, "made_up": made_up}
        if self.network.config.surrounded and shown.shape[1] > 1:
            terms["carried"] = carried_error(shown, copies.around, copies.maps)
            terms["view"] = view_error(shown, copies.maps)
            total = total + config.motion_weight * (terms["carried"] + terms["view"])
        if self.network.config.camera:
            terms["local"] = copies.local.float().norm(dim=-1).mean()
            terms["unheard"] = copies.unheard.norm(dim=-1).mean()
            total = total + config.local_weight * terms["local"] + config.unheard_weight * terms["unheard"]
        return {**terms, "loss": total}

    def reading_loss(self, read: Read, config: LossConfig) -> dict[str, Tensor]:
        """Return the loss terms of what is read off single frames; ``"loss"`` is their weighted sum."""
        known = torch.ones(len(read.actions), dtype=torch.bool, device=read.actions.device)
        raw = self.network.read(to_unit(read.before), to_unit(read.shown), read.actions, known)
        terms = {
            "reward": F.mse_loss(raw[..., 0], read.rewards.float()),
            "terminated": F.binary_cross_entropy_with_logits(raw[..., 1], read.terminated.float()),
        }
        start = 2
        for name, weights in reading_weights(self.readouts, config.readout_weights).items():
            mean, std = getattr(self, f"mean_{name}"), getattr(self, f"std_{name}")
            error = (raw[..., start : start + len(weights)] - (read.readouts[name].float() - mean) / std).square()
            terms[name] = (error.mean(0) * weights.to(error.device)).mean()
            start += len(weights)
        return {**terms, "loss": config.readout_weight * torch.stack(list(terms.values())).sum()}

    @torch.no_grad()
    def take_over(self, other: Denoiser, *, readouts: bool) -> None:
        """Begin with what ``other``, of the same sizes, has learnt of pictures and of motion, and of what is read off a frame.

        Without ``readouts`` that is learnt anew: ``other`` is of another world. Weights of the same shape are taken whole,
        of others the leading part that both have: there, actions come last. A camera that ``other`` has not says nothing at
        first, and what its local flow knew of the actions is learnt anew, because most of that is the camera's.
        """
        cells = self.network.head.cell**2
        theirs = other.state_dict()
        left = () if readouts else ("network.readout.out.", "network.readout.judge.", "mean_", "std_")
        for name, weight in self.state_dict().items():
            if name.startswith(left) or name not in theirs:
                continue
            mine, given = weight, theirs[name]
            if name.startswith("network.head.out."):  # a row of outputs for every pixel of a cell
                mine, given = (rows.view(cells, -1, *rows.shape[1:]) for rows in (mine, given))
            both = tuple(slice(min(a, b)) for a, b in zip(mine.shape, given.shape, strict=True))
            mine[both] = given[both]
        if self.network.config.camera and not other.network.config.camera:
            self.network.head.forget_steering()

    def freeze_world(self) -> None:
        """Freeze everything but the readout head."""
        self.requires_grad_(False)
        self.network.readout.requires_grad_(True)

    @torch.no_grad()
    def shortcut_goal(self, context: Context, noisy: Tensor, actions: Tensor, draws: Draws) -> Tensor:
        """Return the clean estimate that one step of size d should give: what two steps of d / 2 give.

        Shortcut models (Frans et al. 2024, Eq. 5) in x-space (Dreamer 4, arXiv 2509.24527, Eq. 7):
        b' = (x^(z, t, d/2) - z) / (1 - t), z' = z + b' d/2, b'' = (x^(z', t + d/2, d/2) - z') / (1 - t - d/2); the
        goal's velocity is (b' + b'') / 2, so the loss (1-t)^2 |b - (b' + b'')/2|^2 is |x^ - goal|^2.
        """
        t = draws.level[..., None, None, None]
        half = (0.5 / draws.num_steps)[:, None, None, None, None].to(t.dtype)
        steps = (2 * draws.num_steps).clamp(max=self.network.config.max_steps)
        first = dataclasses.replace(draws, num_steps=steps)
        x1 = self.estimate(context, noisy, self.conditions(actions, draws.known, first))
        b1 = (x1 - noisy) / (1 - t)
        middle = noisy + b1 * half
        second = dataclasses.replace(first, level=draws.level + half[..., 0, 0, 0])
        x2 = self.estimate(context, middle, self.conditions(actions, draws.known, second))
        b2 = (x2 - middle) / (1 - t - half)
        return noisy + (1 - t) * (b1 + b2) / 2
