"""Surprise: how far each frame of a real clip is from what the denoiser makes of it after the real frames before it.

No dream is made and nothing is learnt: the training loss, frame by frame, on the levels of the finest sampler. Knows no
world and no probe.

Dimension keys: B draws, L levels, T frames, G groups of attention, N tokens of a group, K channels of a head, P recent
frames, C condition channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.nn import functional as F

from worldsim.attention import attend_beside
from worldsim.cache import StreamCache
from worldsim.config import ModelConfig
from worldsim.denoiser import CONTEXT_STEP, Denoiser, add_noise, step_index, to_unit
from worldsim.errors import UsageError
from worldsim.losses import LossConfig, level_weight
from worldsim.motion import elsewhere, go_on, surround, turned
from worldsim.network import Features, Told, action_windows, recent_frames
from worldsim.rollout import check_context
from worldsim.sampler import uniform_levels

LEVELS = 4
DRAWS = 2
"""Noise levels and draws of noise a frame; draws are shared by all levels and by all clips of one seed."""


@torch.inference_mode()
def surprise(
    denoiser: Denoiser,
    frames: UInt8[np.ndarray, "b t1 h w 3"],
    actions: Float32[np.ndarray, "b t a"],
    seeds: Sequence[int],
    *,
    levels: int = LEVELS,
    draws: int = DRAWS,
    conditioned: bool = True,
    after: int = 0,
) -> Float32[np.ndarray, "b t"]:
    """Return the weighted denoising error of frames 1 .. T of each clip, each given the real frames before it.

    The mean over ``levels`` noise levels (0, 1/n, ...) and ``draws`` draws of noise of w(level) |x^(z) - x|^2: the mean
    square over a frame (range -1 .. 1), w the training loss's ramp. The context carries the noise with which frames are
    committed in a rollout; the actions are hidden from a model that is not ``conditioned``. Frames up to ``after`` are
    context only: they count 0, and cost little. Frame t has the same noise in all clips of one seed (one seed a clip), so
    that clips that agree up to a frame are alike up to it, bit for bit (and are run once up to it); bits never depend on
    the batch.
    """
    config, device = denoiser.network.config, next(denoiser.parameters()).device
    check_context(frames, actions, config.patch)
    if levels < 1 or config.max_steps % levels:
        allowed = ", ".join(str(n) for n in range(1, config.max_steps + 1) if config.max_steps % n == 0)
        raise UsageError("levels", got=levels, allowed=allowed, fix="these lie on the grid that training used")
    if draws < 1 or len(seeds) != len(frames):
        raise UsageError(
            "draws and seeds",
            got=f"{draws} draws, {len(seeds)} seeds for {len(frames)} clips",
            allowed="one draw or more, and one seed a clip",
            fix="give clips that are compared the same seed",
        )
    steps = actions.shape[1]
    if not 0 <= after <= steps:
        raise UsageError("after", got=after, allowed=f"0 .. {steps}", fix="0 reckons with every frame but the first")
    result = np.zeros((len(frames), steps), np.float32)
    for seed in dict.fromkeys(seeds):
        told = actions if conditioned else actions[..., :0]
        stories = {i: _story(frames[i], told[i]) for i, own in enumerate(seeds) if own == seed}
        noise = shared_noise(int(seed), draws, (steps, *frames.shape[2:])).to(device)
        walk = _Walk(denoiser, noise, uniform_levels(levels)[:-1], conditioned)
        before: int | None = None
        for i in sorted(stories, key=stories.__getitem__):  # neighbours share as much of their beginnings as any two
            alike = _agreement(stories[i], stories[before]) if before is not None else 0
            if before is not None:
                result[i, :alike] = result[before, :alike]
            walk.errors(_Film.of(frames[i], actions[i], config, device), alike, after, result[i])
            before = i
    return result


def shared_noise(seed: int, draws: int, shape: Sequence[int]) -> Tensor:
    """Return the noise of context and targets (draws, 2, T, H, W, 3) that a seed decides, frame by frame.

    ``shape`` is (T, H, W, 3); the noise of a frame does not depend on how many follow it.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn((draws, 2, *shape[1:]), generator=generator) for _ in range(shape[0])], dim=2)


def _story(frames: np.ndarray, actions: np.ndarray) -> list[bytes]:
    """Return a clip as what happens in it: the first frame, then every action with the frame that it leads to."""
    return [frames[0].tobytes(), *(a.tobytes() + f.tobytes() for a, f in zip(actions, frames[1:], strict=True))]


def _agreement(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    """Return after how many steps two stories first differ."""
    alike = next((i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))
    return max(alike - 1, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Film:
    """One clip: frames (T + 1, H, W, 3) of range -1 .. 1, those before each (T + 2, P, H, W, 3), actions (T, A).

    Of a network that is told past actions, these come with every action (`action_windows`).
    """

    frames: Tensor
    recent: Tensor
    actions: Tensor

    @classmethod
    def of(cls, frames: np.ndarray, actions: np.ndarray, config: ModelConfig, device: torch.device) -> _Film:
        unit = to_unit(torch.from_numpy(np.require(frames, requirements="W"))).to(device)
        into = torch.from_numpy(np.require(actions, requirements="W")).to(device)
        recent = recent_frames(unit[None], config.recent)[0]
        return cls(frames=unit, recent=recent, actions=action_windows(into, config.past_actions))


class _Walk:
    """Goes through clips of one seed, frame by frame: a frame is committed once a draw, for all levels of the next one.

    What is remembered of frame t lies in slot t, so that a clip that agrees with the last one up to a frame goes on from
    there. The numbers are those of the two-stream pass of training; every frame takes runs of one shape, whose bits hang
    on nothing that comes later.
    """

    def __init__(self, denoiser: Denoiser, noise: Tensor, levels: Sequence[float], conditioned: bool) -> None:
        self.network, self.noise, self.conditioned = denoiser.network, noise, conditioned
        config, device = self.network.config, noise.device
        draws, _, steps, height, width, _ = noise.shape
        self.grid = height // config.patch, width // config.patch
        self.memory = StreamCache.empty(
            dataclasses.replace(config, window=max(steps, 2)),
            self.network.layers(self.grid),
            draws,
            self.grid,
            device=device,
            dtype=self.network.dtype,
        )
        cos, sin = self.network.phases(torch.arange(steps + 1, device=device), self.grid)  # (T + 1, 1, N, K / 2)
        self.phases = list(zip(cos, sin, strict=True))
        self.around: list[Tensor] = []  # (B, Y, X, 4) of every committed frame, where the network keeps surroundings
        self.views: list[Tensor] = []  # (B, frames, V) of it and those before, as it has them
        self.levels = torch.tensor(levels, device=device)  # (L,)
        self.weights = level_weight(self.levels, LossConfig())[..., 0, 0, 0]

    def errors(self, film: _Film, start: int, after: int, result: np.ndarray) -> None:
        """Write the weighted error of frames start + 1 .. T into ``result`` (T,), but for those up to ``after``."""
        for t in range(start, len(film.actions)):
            self._commit(film, t)
            if t >= after:
                result[t] = self._error(film, t + 1).item()

    def _commit(self, film: _Film, t: int) -> None:
        """Remember frame t with its context noise. Nothing is known of the action that led into frame 0."""
        if not self.network.remembers:
            return
        level = torch.full((1,), 1 - self.network.config.context_noise, device=self.levels.device)
        told = self._told(film, t, level, CONTEXT_STEP)
        noised = add_noise(film.frames[t], self.noise[:, 0, t], level)[:, None]  # (B, 1, H, W, 3)
        made, kept = self._run(film, t, noised, told)
        for layer, (keys, values) in enumerate(kept):
            self.memory.keys[layer][:, :, t] = keys[:, 0]
            self.memory.values[layer][:, :, t] = values[:, 0]
        phases = self.phases[t][0][0], self.phases[t][1][0]
        keys, patches = self.network.remember(film.frames[None, None, t], made.tokens[:, 0], phases)
        self.memory.recall_keys[:, t] = keys
        self.memory.patches[:, t] = patches[0]
        if self.network.config.surrounded:
            shown = film.frames[t].expand(len(keys), -1, -1, -1)
            if t == 0:
                around, views = surround(shown), self.memory.views[:, :0]
            else:
                before = film.frames[t - 1].expand_as(shown)
                maps = self.network.maps(made.tokens[:, 0], told.cond[:, 0], before)
                around, views = go_on(self.around[t - 1], maps, shown), turned(self.views[t - 1], maps[:, None])
            self.around[t:] = [around]
            self.views[t:] = [F.pad(views, (0, 0, 0, 1))]

    def _error(self, film: _Film, t: int) -> Tensor:
        """Return the mean over draws and levels of the weighted error of frame t, given those that were committed."""
        told = self._told(film, t, self.levels, step_index(self.network.config.max_steps))
        noisy = add_noise(film.frames[t], self.noise[:, None, 1, t - 1], self.levels)  # (B, L, H, W, 3)
        made, _ = self._run(film, t, noisy, told)
        x, past = made.tokens, self._past(t)
        memory = self.memory.recall_keys[:, past], self.memory.patches[:, past]
        hidden = torch.zeros(*x.shape[:2], memory[0].shape[1], dtype=torch.bool, device=x.device)
        previous = film.frames[t - 1].expand(*x.shape[:2], -1, -1, -1)
        now = self.network.maps(x, told.cond, previous)
        if self.network.config.surrounded:
            hidden = elsewhere(turned(self.views[t - 1][:, None, past], now[:, :, None]))
        around = self.around[t - 1][:, None].expand(-1, x.shape[1], -1, -1, -1) if self.around else previous
        recalled, nothing = self.network.recalled(x, self.phases[t], memory, hidden, previous)  # (B, L, H, W, 3)
        blend = self.network.head(
            x.flatten(0, 1).unflatten(1, self.grid),
            made.cells,
            around.flatten(0, 1),
            recalled.flatten(0, 1),
            nothing.flatten(),
            told.cond.flatten(0, 1),
            now.flatten(0, 1),
        )
        squared = (blend.estimate - film.frames[t]).square().mean((-1, -2, -3))
        return (squared.view(x.shape[:2]) * self.weights).mean()

    def _run(
        self, film: _Film, t: int, noisy_BLHWc: Tensor, told: Told
    ) -> tuple[Features, list[tuple[Tensor, Tensor]]]:
        """Return what the trunk makes of forms of frame t, and every layer's keys and values (B, L, G, N, K) of them."""
        past, kept = self._past(t), []

        def mix(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # (B, L, G, N, K)
            kept.append((k, v))
            rings = self.memory.keys[layer], self.memory.values[layer]
            keys, values = (ring[:, :, past].flatten(2, 3) for ring in rings)
            return attend_beside(q, k, v, (keys, values))

        recent = film.recent[t].expand(*noisy_BLHWc.shape[:2], -1, -1, -1, -1)
        return self.network.features(noisy_BLHWc, recent, told, self.phases[t], mix), kept

    def _told(self, film: _Film, t: int, levels: Tensor, index: int) -> Told:
        """Return what frame t is conditioned on at some noise levels, for every draw (B, L, ...)."""
        action = film.actions[t - 1] if t else torch.zeros_like(film.actions[0])
        steps = torch.full(levels.shape, index, device=levels.device)
        known = torch.full(levels.shape, self.conditioned and t > 0, device=levels.device)
        told = self.network.told(levels, steps, action.expand(len(levels), -1), known)
        return dataclasses.replace(told, cond=told.cond.expand(len(self.noise), -1, -1))

    def _past(self, t: int) -> slice:
        """Return which frames frame t sees beside itself."""
        return slice(max(0, t + 1 - self.network.config.window), t)
