"""Streaming imagination: one frame per action, with a ring of keys and values. Knows no environment and no files.

Dimension keys: B batch, G groups of attention, N tokens of a group, K channels of a head, W window, A action.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from worldsim.attention import CHUNK_FRAMES, attend
from worldsim.denoiser import CONTEXT_STEP, Denoiser, add_noise, step_index, to_uint8, to_unit
from worldsim.errors import UsageError
from worldsim.motion import elsewhere, go_on, surroundings, turned, views_after
from worldsim.network import Features, Network, action_windows, recent_frames
from worldsim.sampler import check_num_steps, sample_euler, uniform_levels
from worldsim.state import WorldState

Frames = UInt8[np.ndarray, "b h w 3"]


def _compute_alone() -> None:
    """Let a forked process compute in one thread: it has none of its parent's others, and torch would wait for them for ever."""
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_compute_alone)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepOutput:
    """What one imagined step yields, row by row: the next frame and what the model reads off it."""

    frames: UInt8[np.ndarray, "b h w 3"]
    rewards: Float32[np.ndarray, " b"]
    terminated: Float32[np.ndarray, " b"]
    """Probability of termination, 0 .. 1."""
    readouts: dict[str, Float32[np.ndarray, "b _"]]
    state: WorldState


class Rollout:
    """Streams a denoiser: `start` commits a context, every `step` imagines and commits one frame.

    Rows never see each other: noise comes from one generator per row, attention stays within a row. A rollout that is not
    ``conditioned`` knows of no action: what it dreams is what the model expects whatever is done.
    """

    def __init__(
        self, denoiser: Denoiser, num_steps: int, context_noise: float | None = None, *, conditioned: bool = True
    ) -> None:
        config = denoiser.network.config
        check_num_steps(num_steps, config.max_steps)
        self.denoiser = denoiser
        self.num_steps = num_steps
        self.conditioned = conditioned
        self.context_noise = config.context_noise if context_noise is None else context_noise

    @property
    def network(self) -> Network:
        """The network that is streamed."""
        return self.denoiser.network

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.network.parameters()).device

    @torch.inference_mode()
    def start(
        self,
        frames: UInt8[np.ndarray, "b k1 h w 3"],
        actions: Float32[np.ndarray, "b k a"],
        seeds: Int64[np.ndarray, " b"],
    ) -> WorldState:
        """Commit a context of k+1 frames and k actions; ``seeds`` start one noise generator per row."""
        check_context(frames, actions, self.network.config.patch)
        state = empty_state(self.denoiser, frames.shape[2:4], [int(seed) for seed in seeds])
        unit = to_unit(torch.from_numpy(np.require(frames, requirements="W"))).to(self.device)
        into = torch.from_numpy(np.pad(actions, ((0, 0), (1, 0), (0, 0)))).to(self.device)  # into frames 0 .. k
        level = 1 - self.context_noise
        for row, generator in enumerate(state.generators):  # one by one: bits never depend on the batch
            noise = torch.stack([torch.randn(unit.shape[2:], generator=generator) for _ in range(unit.shape[1])])
            noised = add_noise(unit[row], noise.to(self.device), torch.full((len(noise),), level, device=self.device))
            commit_context(self.network, state, row, (unit[row], noised, into[row]), level, self.conditioned)
        return dataclasses.replace(state, frames=frames[:, -1].copy())

    @torch.inference_mode()
    def step(self, state: WorldState, actions: Float32[np.ndarray, "b a"]) -> StepOutput:
        """Imagine the frame that ``actions`` lead to, commit it and read it. Consumes ``state``: fork it to keep it."""
        if not np.isfinite(actions).all():
            raise UsageError(
                "actions", got="NaN or infinity", allowed="finite numbers", fix="check the policy's output"
            )
        action = torch.from_numpy(np.ascontiguousarray(actions)).to(self.device)
        noise = state.draw(frame_shape(state, self.network.config.patch)).to(self.device)
        levels, passes, commit = self.passes()
        stream = FrameStream(self.network, state, action, [*passes, commit], self.conditioned)

        def denoise(z: Tensor, at: float) -> Tensor:
            return stream.estimate(z, state.recent, passes[levels.index(at)])

        clean = sample_euler(denoise, noise, self.num_steps)
        frames = to_uint8(clean)
        # what is committed is what was shown: the uint8 frame, so that a replay from recorded frames is the same dream
        noise = state.draw(frame_shape(state, self.network.config.patch)).to(self.device)
        unit = to_unit(frames)
        noised = add_noise(unit, noise, torch.full((len(actions),), commit[0], device=self.device))
        state = dataclasses.replace(state, readout=stream.commit(unit, noised, state.recent, commit))
        read = self.read(state)
        shown = frames.cpu().numpy()
        return StepOutput(
            frames=shown,
            rewards=read.pop("reward"),
            terminated=read.pop("terminated"),
            readouts=read,
            state=dataclasses.replace(state.after(unit, action), frames=shown),
        )

    def passes(self) -> tuple[list[float], list[Pass], Pass]:
        """Return the levels at which the sampler stands, the network's runs there, and the run that commits a frame."""
        levels = uniform_levels(self.num_steps)[:-1]
        passes = [(level, int(step_index(self.num_steps))) for level in levels]
        return levels, passes, (1 - self.context_noise, CONTEXT_STEP)

    def read(self, state: WorldState) -> dict[str, Float32[np.ndarray, "b ..."]]:
        """Return what the model reads off the last committed frame: "reward" and "terminated" (b,), readouts (b, n)."""
        return {name: values.cpu().numpy() for name, values in self.denoiser.read(state.readout).items()}

    def check_state(self, state: WorldState) -> None:
        """Raise UsageError unless ``state`` is one that this network can go on from."""
        size = frame_shape(state, self.network.config.patch)[:2]
        wanted, got = (_sizes(worlds) for worlds in (empty_state(self.denoiser, size, [0], device="meta"), state))
        others = [name for name in sorted({**got, **wanted}) if got.get(name) != wanted.get(name)]
        if others:
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            has, needs = (
                ", ".join(f"{name} {sizes.get(name)}" for name in others[:3]) + more for sizes in (got, wanted)
            )
            raise UsageError("world state", got=has, allowed=needs, fix="restore it with the model it came from")


def _sizes(state: WorldState) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return what a world remembers, by name: sizes and number types."""
    others = {"recent": state.recent, "past_actions": state.past_actions, "readout": state.readout}
    return {name: (tuple(x.shape[1:]), x.dtype) for name, x in {**state.cache.tensors(), **others}.items()}


def empty_state(
    denoiser: Denoiser, frame_size: Sequence[int], seeds: Sequence[int], *, device: torch.device | str | None = None
) -> WorldState:
    """Return worlds of a denoiser that remember nothing yet, one per seed; ``frame_size`` is height and width in pixels.

    They lie where the weights lie, unless another ``device`` is named.
    """
    network = denoiser.network
    grid = (frame_size[0] // network.config.patch, frame_size[1] // network.config.patch)
    return WorldState.empty(
        config=network.config,
        layers=network.layers(grid),
        grid=grid,
        sizes=(network.condition.action_dim, denoiser.raw_readout_dim),
        seeds=seeds,
        device=next(network.parameters()).device if device is None else device,
        dtype=network.dtype,
    )


def frame_shape(state: WorldState, patch: int) -> tuple[int, int, int]:
    """Return height, width and colours of the frames of a state."""
    return (state.grid[0] * patch, state.grid[1] * patch, 3)


Pass = tuple[float, int]
"""Noise level (0 .. 1) and step-size index of one run of the network on a frame."""


class FrameStream:
    """Runs the network on one frame of every row against the cache; the frame's own slot is overwritten each time.

    What the condition decides (modulations of every block) is computed for all ``passes`` at once.
    """

    def __init__(
        self, network: Network, state: WorldState, action: Tensor, passes: Sequence[Pass], conditioned: bool = True
    ) -> None:
        self.network, self.cache, self.grid = network, state.cache, state.grid
        window = network.config.window
        times, rows = state.times.clone(), len(action)
        self.rows = torch.arange(rows, device=times.device)
        self.action, self.known = action, torch.full((rows,), conditioned, device=times.device)
        self.slots = times % window
        self.phases = network.phases(times, state.grid)  # (B, 1, N, K / 2)
        self.empty: Tensor | None = None
        slots = torch.arange(window, device=times.device)[None]
        self.hidden = (slots >= times[:, None]) | (slots == self.slots[:, None])  # (B, W), from what is recalled
        if int(times.min()) + 1 < window:
            empty = torch.zeros(rows, window, dtype=network.dtype, device=times.device)
            self.empty = empty.masked_fill_(slots > times[:, None], float("-inf"))[:, None, None]  # (B, 1, 1, W)
        levels, indices = (torch.tensor(column, device=times.device) for column in zip(*passes, strict=True))
        action = torch.cat([state.past_actions.flatten(1), action], dim=-1)
        told = network.told(
            levels[:, None].expand(-1, rows),
            indices[:, None].expand(-1, rows),
            action.expand(len(passes), -1, -1),
            self.known.expand(len(passes), -1),
        )  # (passes, B, ...)
        self.told = {one: told.at(i) for i, one in enumerate(passes)}

    def estimate(self, frame: Tensor, recent: Tensor, at: Pass) -> Tensor:
        """Return the clean estimate (B, H, W, 3), float32, of a noisy frame after the recent ones (B, P, H, W, 3)."""
        made = self._run(frame, recent, at)
        memory = self.cache.recall_keys, self.cache.patches
        around, hidden, cond = recent[:, -1], self.hidden, self.told[at].cond
        maps = self.network.maps(made.tokens, cond, recent[:, -1])
        if self.network.config.surrounded:
            around = self.cache.around
            hidden = hidden | elsewhere(turned(self.cache.views, maps[:, None]))
        recalled, nothing = self.network.recalled(
            made.tokens[:, None], self.phases, memory, hidden[:, None], recent[:, -1:]
        )
        tokens = made.tokens.unflatten(1, self.grid)
        return self.network.head(tokens, made.cells, around, recalled[:, 0], nothing[:, 0], cond, maps).estimate

    def commit(self, shown: Tensor, noised: Tensor, recent: Tensor, at: Pass) -> Tensor:
        """Leave the frame in the cache for good and return its raw readout rows (B, R).

        The frame comes as it was shown and with the noise of ``at``, both (B, H, W, 3).
        """
        if self.network.remembers:
            tokens = self._run(noised, recent, at).tokens
            phases = self.phases[0][:, 0], self.phases[1][:, 0]
            self._keep_recall(*self.network.remember(shown, tokens, phases))
            if self.network.config.surrounded:
                maps = self.network.maps(tokens, self.told[at].cond, recent[:, -1])
                self._keep_places(turned(self.cache.views, maps[:, None]), go_on(self.cache.around, maps, shown))
        return self.network.read(recent[:, -1], shown, self.action, self.known)

    def _keep(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put keys and values (B, G, N, K) of the frame into a layer's cache, and return that cache."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.rows, :, self.slots] = k.to(keys.dtype)  # under autocast the network computes in another type
        values[self.rows, :, self.slots] = v.to(values.dtype)
        return keys, values

    def _keep_recall(self, keys: Tensor, patches: Tensor) -> None:
        """Put what the frame will be recalled by (B, N, K), and as what (B, N, P), into the cache."""
        self.cache.recall_keys[self.rows, self.slots] = keys.to(self.cache.recall_keys.dtype)
        self.cache.patches[self.rows, self.slots] = patches

    def _keep_places(self, views: Tensor, around: Tensor) -> None:
        """Put the views (B, W, V) of earlier frames, as this one has them, and its surroundings (B, Y, X, 4) into the cache."""
        self.cache.views.copy_(views)
        self.cache.views[self.rows, self.slots] = 0
        self.cache.around.copy_(around)

    def _mix(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend to what is in the cache, this frame included: (B, G, N, K)."""
        keys, values = self._keep(layer, k, v)  # (B, G, W, N, K)
        bias = None if self.empty is None else self.empty.repeat_interleave(k.shape[-2], -1)
        return attend(q, keys.flatten(2, 3), values.flatten(2, 3), bias)

    def _run(self, frame: Tensor, recent: Tensor, at: Pass) -> Features:
        return self.network.features(frame, recent, self.told[at], self.phases, self._mix)


def commit_context(
    network: Network,
    state: WorldState,
    row: int,
    context: tuple[Tensor, Tensor, Tensor],
    level: float,
    conditioned: bool = True,
) -> None:
    """Commit T frames to an empty row in one pass: the same as committing them one by one.

    ``context`` holds the frames (T, H, W, 3) as shown and with the noise of ``level``, and the actions (T, A) into them.
    Nothing is known of the action that led into frame 0.
    """
    shown, noised, actions = context
    count, window, past = len(shown), network.config.window, network.config.past_actions
    times = torch.arange(count, device=shown.device)
    recent = recent_frames(shown[None], network.config.recent)[0]  # (T + 1, P, H, W, 3)
    kept = times[-window:]

    def mix(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # (T, G, N, K)
        for ring, new in ((state.cache.keys[layer], k), (state.cache.values[layer], v)):
            ring[row, :, kept % window] = new[kept].transpose(0, 1).to(ring.dtype)
        return banded_attention(q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), window).transpose(0, 1)

    known = (times > 0) & conditioned
    if network.remembers:
        index = torch.full((count,), CONTEXT_STEP, device=shown.device)
        at = torch.full((count,), level, device=shown.device)
        told = network.told(at, index, action_windows(actions, past), known)  # (T, ...)
        phases = network.phases(times, state.grid)  # (T, 1, N, K / 2)
        tokens = network.features(noised, recent[:-1], told, phases, mix).tokens
        memory = network.remember(shown, tokens, (phases[0][:, 0], phases[1][:, 0]))
        for ring, new in zip((state.cache.recall_keys, state.cache.patches), memory, strict=True):
            ring[row, kept % window] = new[kept].to(ring.dtype)
        if network.config.surrounded:
            maps = network.maps(tokens, told.cond, recent[:-1, -1])[None]
            state.cache.around[row] = surroundings(shown[None], maps)[0, -1]
            state.cache.views[row, kept % window] = views_after(maps[:, kept])[0, -1]
    state.readout[row] = network.read(recent[-2:-1, -1], shown[-1:], actions[-1:], known[-1:])[0]
    state.recent[row] = recent[-1]
    state.past_actions[row] = action_windows(actions, past)[-1].view(past + 1, -1)[1:]
    state.times[row] = count


def banded_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Block-causal attention of one stream (H, T, N, K): frame t sees all tokens of frames t - window + 1 .. t."""
    _, frames, tokens, _ = q.shape
    outputs = []
    for start in range(0, frames, CHUNK_FRAMES):
        stop, low = min(start + CHUNK_FRAMES, frames), max(0, start - window + 1)
        query, key = torch.arange(start, stop)[:, None], torch.arange(low, stop)[None]
        hidden = ((key > query) | (key <= query - window)).repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)
        bias = torch.zeros(hidden.shape, dtype=q.dtype).masked_fill_(hidden, float("-inf")).to(q.device)
        out = attend(q[:, start:stop].flatten(1, 2), k[:, low:stop].flatten(1, 2), v[:, low:stop].flatten(1, 2), bias)
        outputs.append(out.unflatten(1, (stop - start, tokens)))
    return torch.cat(outputs, dim=1)


def check_context(frames: np.ndarray, actions: np.ndarray, patch: int) -> None:
    """Raise UsageError unless frames and actions form a context that the network can take."""
    if frames.dtype != np.uint8:
        raise UsageError("context frames", got=frames.dtype, allowed="uint8, 0 .. 255", fix="(x * 255).astype(uint8)")
    if frames.shape[1] != actions.shape[1] + 1:
        raise UsageError(
            "context",
            got=f"{frames.shape[1]} frames and {actions.shape[1]} actions",
            allowed="one frame more than actions",
            fix="actions[t] is applied at frames[t] and yields frames[t+1]",
        )
    if frames.shape[2] % patch or frames.shape[3] % patch:
        raise UsageError(
            "frame size",
            got=f"{frames.shape[2]} x {frames.shape[3]}",
            allowed=f"height and width multiples of {patch}",
            fix="resize the frames, or record at another size",
        )
    if not np.isfinite(actions).all():
        raise UsageError("context actions", got="NaN or infinity", allowed="finite numbers", fix="check the recording")


def predict(
    rollout: Rollout,
    context: tuple[UInt8[np.ndarray, "b k1 h w 3"], Float32[np.ndarray, "b k a"]],
    actions: Float32[np.ndarray, "b t a"],
    seeds: Sequence[int],
) -> UInt8[np.ndarray, "b t h w 3"]:
    """Dream the frames that follow a context under ``actions``, one sample per row."""
    state = rollout.start(*context, np.asarray(seeds, dtype=np.int64))
    frames = []
    for t in range(actions.shape[1]):
        out = rollout.step(state, np.ascontiguousarray(actions[:, t]))
        state = out.state
        frames.append(out.frames)
    return np.stack(frames, axis=1)
