"""What all networks share: conditions, the convolutional detail path, recall, readouts, and the pass of training.

Knows frames, noise levels, step sizes and actions as tensors; knows no noise schedule, no loss and no world. What lies
between the detail path's two ends, the trunk, is the only thing in which a Diffusion Transformer (`worldsim.dit`) and
the U-Nets (`worldsim.unet`) differ.

Dimension keys: B batch, S streams (clean, noisy), T frames, F = all leading axes flattened, P recent frames, R x C
token grid, N = R * C tokens of a frame, D width, G groups of attention, K channels of a head, A action dimensions.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from worldsim.attention import rotary_phases, two_stream_attention
from worldsim.cache import Layer
from worldsim.config import ModelConfig
from worldsim.detail import DetailHead, DetailStem, normalise
from worldsim.motion import elsewhere, surroundings, turned, views_after
from worldsim.readout import ReadoutHead
from worldsim.recall import Recall

Phases = tuple[Tensor, Tensor]
"""Cosines and sines of rotary phases (..., N, K / 2)."""

Mix = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Attends: takes a layer's number, queries, keys and values (..., G, N, K) of frames, and returns (..., G, N, K)."""


class FrameCondition(nn.Module):
    """Embeds what a whole frame is conditioned on: noise level, sampler step size, and the action that leads into it."""

    frequencies: Tensor
    action_centre: Tensor
    action_reach: Tensor

    def __init__(self, config: ModelConfig, action_dim: int) -> None:
        super().__init__()
        width, told = config.cond_width, (1 + config.past_actions) * action_dim
        self.action_dim = action_dim
        self.register_buffer("action_centre", torch.zeros(told), persistent=False)
        self.register_buffer("action_reach", torch.ones(told), persistent=False)
        self.register_buffer("frequencies", 2 * math.pi * torch.logspace(-1, 3, 16, base=2), persistent=False)
        self.level = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.step = nn.Embedding(int(math.log2(config.max_steps)) + 2, width)
        self.action = nn.Sequential(nn.Linear(told, width), nn.SiLU(), nn.Linear(width, width))
        self.null_action = nn.Parameter(0.02 * torch.randn(width))
        self.out = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        nn.init.normal_(self.step.weight, std=0.02)

    def set_action_range(self, low: Sequence[float], high: Sequence[float]) -> None:
        """Map actions within ``low`` .. ``high`` to -1 .. 1; dimensions without bounds are taken as they are."""
        lows, highs = torch.tensor(low), torch.tensor(high)
        bounded = torch.isfinite(lows) & torch.isfinite(highs) & (highs > lows)
        times = len(self.action_centre) // len(lows)
        self.action_centre = torch.where(bounded, (lows + highs) / 2, 0.0).repeat(times)
        self.action_reach = torch.where(bounded, (highs - lows) / 2, 1.0).repeat(times)

    def scaled(self, action: Tensor) -> Tensor:
        """Map actions (..., A), or those of the past with them, to -1 .. 1."""
        dims = action.shape[-1]
        return ((action - self.action_centre[:dims]) / self.action_reach[:dims]).to(self.null_action.dtype)

    def forward(self, level: Tensor, step: Tensor, action: Tensor, known: Tensor) -> Tensor:
        """Embed ``level`` (...) in 0 (noise) .. 1 (clean), ``step`` (...) index, ``action`` (..., A) where ``known``.

        Step index 0 marks a context frame; index 1 + log2(n) a sampler of n steps. An unknown action is a learned null
        embedding, which is not the zero action. Of a network that is told past actions, ``action`` (..., M * A) holds
        them oldest first (`action_windows`). Returns (..., cond_width + A): the embedding and, beside it, the last
        action on its range (-1 .. 1, 0 if unknown), so that every modulation is linear in the action from the first step on.
        """
        angles = level[..., None].float() * self.frequencies.float()
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.null_action.dtype)
        action = self.scaled(action)
        action_part = torch.where(known[..., None], self.action(action), self.null_action)
        mixed = self.out(normalise(self.level(waves) + self.step(step) + action_part))
        return torch.cat([mixed, action[..., -self.action_dim :] * known[..., None]], dim=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told:
    """What a network is told of every frame, computed once for all its runs on these."""

    level: Tensor  # (...)
    cond: Tensor  # (..., C)
    modulations: list[Tensor]
    """What the trunk makes of it, each (..., 1, channels)."""

    def at(self, index: int) -> Told:
        """Return one entry of the first axis."""
        return Told(
            level=self.level[index], cond=self.cond[index], modulations=[part[index] for part in self.modulations]
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditions:
    """What the frames of clips are conditioned on: noise levels (B, T), and what `FrameCondition` makes of all (B, T, C)."""

    clean_level: Tensor
    clean: Tensor
    noisy_level: Tensor
    noisy: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """What the trunk made of frames."""

    tokens: Tensor
    """(..., N, D)"""
    cells: Tensor
    """(F, h, w, E) that the head's skip connection reads."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Copies:
    """What an estimate is made of, (B, T, H, W, 3) in float32."""

    moved: Tensor
    """The frame before, moved along the estimated flow."""
    recalled: Tensor
    """What was seen in the same place earlier."""
    moves: Tensor
    """Share (B, T, H, W, 1) of ``moved`` in the estimate; the rest is recalled or new."""
    local: Tensor
    """Flow (B, T, H, W, 2), in pixels, that is not the camera's."""
    flow: Tensor
    """Flow (B, T, H, W, 2), in pixels, along which ``around`` was moved."""
    around: Tensor
    """The frames before, in their surroundings (B, T, Y, X, 4), or alone (B, T, H, W, 3)."""
    maps: Tensor
    """How the camera moved before frames 0 .. T-1, as these say it (B, T, M); (B, T, 0) of a network without surroundings."""
    unheard: Tensor
    """What maps say beyond the action alone, those into noisy frames and with surroundings those into committed ones (B or 2 B, T, M)."""


class Network(nn.Module, abc.ABC):
    """Action-conditioned estimator of the next frame. Frames are (H, W, 3) floats, -1 .. 1 for black .. white."""

    def __init__(self, config: ModelConfig, action_dim: int, readout_dim: int) -> None:
        super().__init__()
        self.config = config
        cond_dim = config.cond_width + action_dim
        self.condition = FrameCondition(config, action_dim)
        self.stem = DetailStem(config, cond_dim)
        self.add_trunk(cond_dim)
        self.recall = None if config.stacked else Recall(config)
        self.head = DetailHead(config, cond_dim)
        self.readout = ReadoutHead(config, readout_dim, action_dim)

    @abc.abstractmethod
    def add_trunk(self, cond_dim: int) -> None:
        """Make the layers of the trunk."""

    @abc.abstractmethod
    def modulations(self, cond: Tensor) -> list[Tensor]:
        """Return what the trunk makes of conditions (..., C), for `Told`."""

    @abc.abstractmethod
    def trunk(self, cells: Tensor, told: Told, phases: Phases, mix: Mix) -> Features:
        """Run the stem's cells (F, h, w, E) of frames through the trunk; their leading axes are those of ``told.cond``."""

    @abc.abstractmethod
    def layers(self, grid: tuple[int, int]) -> list[Layer]:
        """Return what each attention layer keeps of a frame of so many tokens."""

    @abc.abstractmethod
    def attention_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Return the grid of the tokens that attend to each other: all of a frame's, or one."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights; inputs are cast to it."""
        return self.condition.null_action.dtype

    @property
    def remembers(self) -> bool:
        """Whether committed frames leave anything behind but their pixels."""
        return not self.config.stacked

    def told(self, level: Tensor, step: Tensor, action: Tensor, known: Tensor) -> Told:
        """Return what frames are conditioned on, by the arguments of `FrameCondition`."""
        cond = self.condition(level, step, action, known)
        return Told(level=level, cond=cond, modulations=self.modulations(cond))

    def features(self, frames: Tensor, recent: Tensor, told: Told, phases: Phases, mix: Mix) -> Features:
        """Run frames (..., H, W, 3), with the recent ones before each (..., P, H, W, 3), up to the head.

        A frame enters scaled by its level: at level 0, where it says nothing, nothing of it is seen. As it was, its noise drowned
        how far things had moved between the frames before (scaling inputs by their noise: Karras et al. 2022, Table 1).
        """
        cond_FC = told.cond.flatten(0, -2)
        frames = frames * told.level[..., None, None, None]
        cells = self.stem(frames.flatten(0, -4).to(self.dtype), recent.flatten(0, -5).to(self.dtype), cond_FC)
        return self.trunk(cells, told, phases, mix)

    def phases(self, times: Tensor, grid: tuple[int, int]) -> Phases:
        """Return the rotary phases of frames at ``times`` (...), with an axis for the groups: (..., 1, N, K / 2)."""
        cos, sin = rotary_phases(times, self.attention_grid(grid), self.config.head_dim)
        return cos[..., None, :, :], sin[..., None, :, :]

    def recalled(
        self, tokens: Tensor, phases: Phases, memory: tuple[Tensor, Tensor], hidden: Tensor, previous: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the recalled frames (B, T, H, W, 3), by the arguments of `Recall`, and which (B, T) had nothing to recall.

        Where all is ``hidden`` these are the ``previous`` frames (B, T, H, W, 3), and always so of a network that remembers nothing.
        """
        if self.recall is None:
            return previous.float(), hidden.new_zeros(hidden.shape[:-1])
        nothing = hidden.all(dim=-1)
        height, width = (side // self.config.patch for side in previous.shape[2:4])
        recalled = self.recall(tokens, phases, memory, hidden & ~nothing[..., None], (height, width))
        return torch.where(nothing[..., None, None, None], previous.float(), recalled), nothing

    def remember(self, shown: Tensor, tokens: Tensor, phases: Phases) -> tuple[Tensor, Tensor]:
        """Return the keys (..., N, K) and patches (..., N, P) by which, and as what, committed frames will be recalled."""
        assert self.recall is not None
        return self.recall.keys(tokens, phases), self.recall.patches(shown)

    def maps(self, tokens: Tensor, cond: Tensor, before: Tensor) -> Tensor:
        """Return how the camera moved (..., M) from the frames before (..., H, W, 3) to those with these tokens (..., N, D) and conditions (..., C).

        (..., 0) of a network without a camera; `worldsim.motion.projective_flow` says what the numbers are.
        """
        if self.head.camera is None:
            return cond.new_zeros(*cond.shape[:-1], 0)
        flat = self.head.camera(normalise(tokens).flatten(0, -3), cond.flatten(0, -2), before.flatten(0, -4))
        return flat.view(*cond.shape[:-1], -1)

    def unheard(self, maps: Tensor, cond: Tensor) -> Tensor:
        """Return what `maps` (..., M) say beyond what the action alone tells."""
        return maps if self.head.camera is None else maps - self.head.camera.blind(cond)

    def read(self, before: Tensor, shown: Tensor, action: Tensor, known: Tensor) -> Tensor:
        """Return raw readout rows (F, R) of frames, given the ones before (F, H, W, 3) and, where ``known`` (F,), the actions between."""
        return self.readout(before, shown, self.condition.scaled(action) * known[:, None])

    def forward(
        self,
        shown_BTHWc: Tensor,
        clean_BTHWc: Tensor,
        noisy_BTHWc: Tensor,
        conds: Conditions,
    ) -> tuple[Tensor, Copies]:
        """Estimate frames 1 .. T from their noisy forms, each given the clean frames before it, in one pass.

        ``shown`` holds frames 0 .. T-1 as they were seen, ``clean`` the same with their context noise, as they would be
        committed, ``noisy`` the noisy forms of frames 1 .. T. Returns the clean estimates of frames 1 .. T and
        the copies in them.
        """
        b, t = shown_BTHWc.shape[:2]
        height, width = (side // self.config.patch for side in shown_BTHWc.shape[2:4])
        grid = (height, width)
        first = 0 if self.remembers else 1  # a network without memory has no use for the clean stream
        times = torch.arange(t, device=shown_BTHWc.device)
        recent = recent_frames(shown_BTHWc, self.config.recent)  # (B, T + 1, P, H, W, 3)
        frames = torch.stack([clean_BTHWc, noisy_BTHWc][first:], dim=1)  # (B, S, T, H, W, 3)
        before = torch.stack([recent[:, :-1], recent[:, 1:]][first:], dim=1)  # (B, S, T, P, H, W, 3)
        level = torch.stack([conds.clean_level, conds.noisy_level][first:], dim=1)  # (B, S, T)
        cond = torch.stack([conds.clean, conds.noisy][first:], dim=1)  # (B, S, T, C)
        told = Told(level=level, cond=cond, modulations=self.modulations(cond))
        phases = self.phases(torch.stack([times, times + 1][first:]), grid)  # (S, T, 1, N, K / 2)
        made = self.features(frames, before, told, phases, self._mix_streams)  # tokens (B, S, T, N, D)
        clean, noisy = ((phases[0][stream, :, 0], phases[1][stream, :, 0]) for stream in (0, -1))
        memory = self.remember(shown_BTHWc, made.tokens[:, 0], clean) if self.remembers else (recent, recent)
        future = (times > times[:, None]) | (times < times[:, None] + 2 - self.config.window)  # target t is frame t + 1
        around, hidden, maps = shown_BTHWc, future.expand(b, t, t), shown_BTHWc.new_zeros(b, t, 0)
        now = self.maps(made.tokens[:, -1], conds.noisy, shown_BTHWc)
        unheard = self.unheard(now, conds.noisy)
        if self.config.surrounded:
            maps = self.maps(made.tokens[:, 0], conds.clean, recent[:, :-1, -1])
            unheard = torch.cat([unheard, self.unheard(maps, conds.clean)])
            around = surroundings(shown_BTHWc, maps)
            hidden = hidden | elsewhere(turned(views_after(maps.detach()), now.detach()[:, :, None]))
        recalled, nothing = self.recalled(made.tokens[:, -1], noisy, memory, hidden, shown_BTHWc)  # (B, T, H, W, 3)
        cells = made.cells.unflatten(0, frames.shape[:3])[:, -1].flatten(0, 1)
        tokens = made.tokens[:, -1].reshape(b * t, *grid, -1)  # (F, R, C, D)
        sources = around.flatten(0, 1), recalled.flatten(0, 1), nothing.flatten()
        blend = self.head(tokens, cells, *sources, conds.noisy.flatten(0, 1), now.flatten(0, 1))
        estimate, moved, moves, local, flow = (
            part.unflatten(0, (b, t)) for part in (blend.estimate, blend.moved, blend.moves, blend.local, blend.flow)
        )
        copies = Copies(
            moved=moved,
            recalled=recalled,
            moves=moves,
            local=local,
            flow=flow,
            around=around,
            maps=maps,
            unheard=unheard,
        )
        return estimate, copies

    def _mix_streams(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend as training does: (B, S, T, G, N, K), clean frames and noisy forms of the next ones."""
        del layer
        q, k, v = (y.movedim(3, 1) for y in (q, k, v))  # (B, G, S, T, N, K)
        return two_stream_attention(q, k, v, self.config.window).movedim(1, 3)


def recent_frames(frames_BTHWc: Tensor, count: int) -> Tensor:
    """Return the ``count`` frames before each of frames 0 .. T, oldest first (B, T + 1, count, H, W, 3).

    Where there was no frame yet there are zeros.
    """
    nothing = frames_BTHWc.new_zeros(1).expand(frames_BTHWc.shape[0], count, *frames_BTHWc.shape[2:])
    padded = torch.cat([nothing, frames_BTHWc], dim=1)
    length = frames_BTHWc.shape[1] + 1
    return torch.stack([padded[:, k : k + length] for k in range(count)], dim=2)


def action_windows(actions: Tensor, past: int) -> Tensor:
    """Return each of the actions (..., T, A) behind the ``past`` ones before it, as one row (..., T, (past + 1) * A).

    Where there was no action yet there are zeros.
    """
    steps = actions.shape[-2]
    padded = torch.cat([actions.new_zeros(*actions.shape[:-2], past, actions.shape[-1]), actions], dim=-2)
    return torch.cat([padded[..., k : k + steps, :] for k in range(past + 1)], dim=-1)
