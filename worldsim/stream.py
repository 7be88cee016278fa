"""One frame of a stream: the network run on the next frame of every row, against what was committed of those before.

A frame that was shown is committed by the first run of the next one: both go through the trunk side by side, the clean
frame first in attention, so that the next one finds it there. A run is cheaper by what a run costs whatever it computes.
Knows no sampler, no environment and no files.

Dimension keys: B batch, G groups of attention, N tokens of a group, K channels of a head, W window, P recent frames, A action.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from worldsim.attention import CHUNK_FRAMES, attend
from worldsim.cache import StreamCache
from worldsim.denoiser import CONTEXT_STEP
from worldsim.motion import elsewhere, go_on, surround, surroundings, turned, views_after
from worldsim.network import Features, Network, Phases, Told, action_windows, recent_frames
from worldsim.state import WorldState

Runs = tuple[Tensor, Tensor]
"""Noise levels (0 .. 1) and step-size indices of the network's runs on a frame, each (1 + S,): the one that commits it, then the sampler's."""


def runs_of(commit_level: float, levels: Sequence[float], index: int, device: torch.device | str) -> Runs:
    """Return the runs of a sampler that stands at ``levels`` with one step-size index."""
    indices = [CONTEXT_STEP, *[index] * len(levels)]
    return torch.tensor([commit_level, *levels], device=device), torch.tensor(indices, device=device)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moment:
    """All that the next frame of every row is computed from, but for its noise."""

    cache: StreamCache
    times: Tensor
    """(B,) frames shown so far; the last of them is not in the cache yet."""
    phases: Phases
    """Rotary phases of the frame that was shown last and of the next, (2 B, 1, N, K / 2)."""
    recent: Tensor
    """(B, P + 1, H, W, 3) the last frames shown, oldest first."""
    actions: Tensor
    """(B, M + 2, A) the last actions, oldest first, with the one into the next frame."""
    known: Tensor
    """(2, B) whether anything is known of the actions into the frame that was shown last, and into the next."""

    @classmethod
    def of(cls, network: Network, state: WorldState, action: Tensor, conditioned: bool = True) -> Moment:
        """Return the present of worlds in which ``action`` (B, A) is done next. Their cache is shared, and written in place."""
        times = state.times.clone()
        known = torch.full_like(times, conditioned, dtype=torch.bool)
        return cls(
            cache=state.cache,
            times=times,
            phases=network.phases(torch.cat([times - 1, times]), state.grid),
            recent=state.recent,
            actions=torch.cat([state.past_actions, action[:, None]], dim=1),
            known=torch.stack([known & (times > 1), known]),
        )


class FrameStream:
    """Runs the network on the next frame of every row: once with `commit_and_estimate`, then with `estimate`.

    The cache is written in place. What the condition decides (modulations of every block) is computed for all runs at once.
    """

    def __init__(self, network: Network, moment: Moment, runs: Runs) -> None:
        self.network, self.moment, self.runs = network, moment, runs
        self.cache, self.recent = moment.cache, moment.recent
        height, width = (side // network.config.patch for side in moment.recent.shape[2:4])
        self.grid = (height, width)
        self.rows = torch.arange(len(moment.times), device=moment.times.device)
        times, window = moment.times, network.config.window
        self.slots = ((times - 1) % window, times % window)  # of the frame that was shown, and of the next
        self.hidden = self._unseen(1)

    @functools.cached_property
    def told(self) -> Told:
        """What all runs are told, (1 + S, B, ...)."""
        levels, indices = (column[:, None].expand(-1, len(self.rows)) for column in self.runs)
        before, now = self.moment.actions[:, :-1].flatten(1), self.moment.actions[:, 1:].flatten(1)
        actions = torch.stack([before, *[now] * (len(levels) - 1)])
        known = torch.cat([self.moment.known, self.moment.known[1:].expand(len(levels) - 2, -1)])
        return self.network.told(levels, indices, actions, known)

    @functools.cached_property
    def empty(self) -> tuple[Tensor, Tensor] | None:
        """What hides slots that hold nothing yet, from the frame that was shown and from the next, each (B, 1, 1, W)."""
        times, window = self.moment.times, self.network.config.window
        if int(times.min()) >= window:
            return None
        slots = torch.arange(window, device=times.device)[None]
        nothing = torch.zeros(len(times), window, dtype=self.network.dtype, device=times.device)
        before = nothing.masked_fill(slots >= times[:, None], float("-inf"))
        return before[:, None, None], nothing.masked_fill(slots > times[:, None], float("-inf"))[:, None, None]

    def commit_and_estimate(self, noised: Tensor, frame: Tensor) -> Tensor:
        """Leave the frame that was shown in the cache for good; return the first clean estimate (B, H, W, 3) of the next.

        The one comes with its context noise, ``noised``, the other at the level of run 1, both (B, H, W, 3).
        """
        if not self.network.remembers:
            return self.estimate(frame, 1)
        recent = torch.cat([self.recent[:, :-1], self.recent[:, 1:]])  # (2 B, P, H, W, 3)
        told = self._told(slice(0, 2))
        made = self.network.features(torch.cat([noised, frame]), recent, told, self.moment.phases, self._mix_both)
        maps = self.network.maps(made.tokens, told.cond, recent[:, -1])
        shown, rows = self.recent[:, -1], len(noised)
        cos, sin = (phase[:rows, 0] for phase in self.moment.phases)
        self._keep_recall(*self.network.remember(shown, made.tokens[:rows], (cos, sin)))
        if self.network.config.surrounded:
            turn = maps[:rows]  # of a first frame, which follows nothing that shows anything, nothing
            self._keep_places(turned(self.cache.views, turn[:, None]), go_on(self.cache.around, turn, shown))
        return self._finish(Features(tokens=made.tokens[rows:], cells=made.cells[rows:]), maps[rows:], told.cond[rows:])

    def estimate(self, frame: Tensor, run: int) -> Tensor:
        """Return the clean estimate (B, H, W, 3), float32, of the next frame at the level of a run, once the last one is committed."""
        told = self._told(slice(run, run + 1))
        phases = self._phases_now()
        made = self.network.features(frame, self.recent[:, 1:], told, phases, self._mix_now)
        return self._finish(made, self.network.maps(made.tokens, told.cond, self.recent[:, -1]), told.cond)

    def read(self, shown: Tensor) -> Tensor:
        """Return the raw readout rows (B, R) of the next frame as it was shown (B, H, W, 3)."""
        return self.network.read(self.recent[:, -1], shown, self.moment.actions[:, -1], self.moment.known[1])

    def _finish(self, made: Features, maps: Tensor, cond: Tensor) -> Tensor:
        """Return the clean estimate of the next frame from what the trunk made of it."""
        around, hidden = self.recent[:, -1], self.hidden
        if self.network.config.surrounded:
            around = self.cache.around
            hidden = hidden | elsewhere(turned(self.cache.views, maps[:, None]))
        memory = self.cache.recall_keys, self.cache.patches
        recalled, nothing = self.network.recalled(
            made.tokens[:, None], self._phases_now(), memory, hidden[:, None], self.recent[:, -1:]
        )
        tokens = made.tokens.unflatten(1, self.grid)
        return self.network.head(tokens, made.cells, around, recalled[:, 0], nothing[:, 0], cond, maps).estimate

    def _told(self, runs: slice) -> Told:
        """Return what some of the runs are told, rows of one after those of the other."""
        return Told(
            level=self.told.level[runs].flatten(0, 1),
            cond=self.told.cond[runs].flatten(0, 1),
            modulations=[part[runs].flatten(0, 1) for part in self.told.modulations],
        )

    def _phases_now(self) -> Phases:
        """Return the phases of the next frame, (B, 1, N, K / 2)."""
        cos, sin = (phase.chunk(2)[1] for phase in self.moment.phases)
        return cos, sin

    def _unseen(self, frame: int) -> Tensor:
        """Tell which slots (B, W) hold no frame before this one; 0 is the one that was shown, 1 the next."""
        slots = torch.arange(self.network.config.window, device=self.moment.times.device)[None]
        return (slots >= self.moment.times[:, None] - 1 + frame) | (slots == self.slots[frame][:, None])

    def _keep(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put keys and values (B, G, N, K) of a frame into a layer's cache, and return that cache."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.rows, :, slots] = k.to(keys.dtype)  # under autocast the network computes in another type
        values[self.rows, :, slots] = v.to(values.dtype)
        return keys, values

    def _keep_recall(self, keys: Tensor, patches: Tensor) -> None:
        """Put what the frame that was shown will be recalled by (B, N, K), and as what (B, N, P), into the cache."""
        self.cache.recall_keys[self.rows, self.slots[0]] = keys.to(self.cache.recall_keys.dtype)
        self.cache.patches[self.rows, self.slots[0]] = patches

    def _keep_places(self, views: Tensor, around: Tensor) -> None:
        """Put the views (B, W, V) of earlier frames, as the one that was shown has them, and its surroundings (B, Y, X, 4) into the cache."""
        self.cache.views.copy_(views)
        self.cache.views[self.rows, self.slots[0]] = 0
        self.cache.around.copy_(around)

    def _attend(self, frame: int, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend to what is in the cache, and to this frame: (B, G, N, K). Frame 0 was shown, 1 is next."""
        keys, values = self._keep(layer, self.slots[frame], k, v)  # (B, G, W, N, K)
        bias = None if self.empty is None else self.empty[frame].repeat_interleave(k.shape[-2], -1)
        return attend(q, keys.flatten(2, 3), values.flatten(2, 3), bias)

    def _mix_now(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self._attend(1, layer, q, k, v)

    def _mix_both(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend one after the other (2 B, G, N, K): what the next frame overwrites, the last one still sees."""
        parts = zip(*(x.chunk(2) for x in (q, k, v)), strict=True)
        return torch.cat([self._attend(frame, layer, *part) for frame, part in enumerate(parts)])


def commit_context(
    network: Network,
    state: WorldState,
    row: int,
    context: tuple[Tensor, Tensor, Tensor],
    level: float,
    conditioned: bool = True,
) -> None:
    """Show T frames to an empty row: all but the last are committed in one pass, the same as one by one.

    ``context`` holds the frames (T, H, W, 3) as shown, those to commit with the noise of ``level`` (T - 1, H, W, 3), and the
    actions (T, A) into all. Nothing is known of the action that led into frame 0.
    """
    shown, noised, actions = context
    count, window, past = len(noised), network.config.window, network.config.past_actions
    times = torch.arange(count + 1, device=shown.device)
    recent = recent_frames(shown[None], network.config.recent + 1)[0]  # (T + 1, P + 1, H, W, 3)
    told_actions, known = action_windows(actions, past), (times > 0) & conditioned
    kept = times[:count][-window:]

    def mix(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # (T - 1, G, N, K)
        for ring, new in ((state.cache.keys[layer], k), (state.cache.values[layer], v)):
            ring[row, :, kept % window] = new[kept].transpose(0, 1).to(ring.dtype)
        return banded_attention(q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), window).transpose(0, 1)

    if network.config.surrounded and not count:
        state.cache.around[row] = surround(shown)[0]
    if network.remembers and count:
        index = torch.full((count,), CONTEXT_STEP, device=shown.device)
        at = torch.full((count,), level, device=shown.device)
        told = network.told(at, index, told_actions[:count], known[:count])  # (T - 1, ...)
        phases = network.phases(times[:count], state.grid)  # (T - 1, 1, N, K / 2)
        tokens = network.features(noised, recent[:count, 1:], told, phases, mix).tokens
        memory = network.remember(shown[:count], tokens, (phases[0][:, 0], phases[1][:, 0]))
        for ring, new in zip((state.cache.recall_keys, state.cache.patches), memory, strict=True):
            ring[row, kept % window] = new[kept].to(ring.dtype)
        if network.config.surrounded:
            maps = network.maps(tokens, told.cond, recent[:count, -1])[None]
            state.cache.around[row] = surroundings(shown[None, :count], maps)[0, -1]
            state.cache.views[row, kept % window] = views_after(maps[:, kept])[0, -1]
    state.readout[row] = network.read(recent[-2:-1, -1], shown[-1:], actions[-1:], known[-1:])[0]
    state.recent[row] = recent[-1]
    state.past_actions[row] = told_actions[-1].view(past + 1, -1)
    state.times[row] = count + 1


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
