"""Rotary phases over time, height and width, and block-causal attention. Knows no noise, no actions and no images.

Dimension keys: B batch, S streams (clean, noisy), T frames, N tokens of a frame, H heads, K channels of a head.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def rotary_frequencies(head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the angular frequencies (radians per frame or token) for time, height and width.

    Axial rotary embedding (RoFormer, Su et al. 2021, Eq. 15, applied to three axes): head_dim / 2 frequencies in all,
    geometric from 1 down to the inverse of the axis' base.
    """
    pairs = head_dim // 2
    space = pairs // 3
    counts, bases = (pairs - 2 * space, space, space), (64.0, 16.0, 16.0)

    def geometric(count: int, base: float) -> Tensor:
        return base ** (-torch.arange(count, dtype=torch.float64) / count)

    time, height, width = (geometric(count, base) for count, base in zip(counts, bases, strict=True))
    return time, height, width


def rotary_phases(times: Tensor, grid: tuple[int, int], head_dim: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (..., N, K/2) in float32 for frame indices ``times`` (...) and a token grid.

    Angles are formed in float64, so that frame 20,000 is as exact as frame 20. Space is measured from the centre of
    the frame: no table limits the resolution.
    """
    time_f, height_f, width_f = rotary_frequencies(head_dim)
    rows, columns = grid
    y = torch.arange(rows, dtype=torch.float64) - (rows - 1) / 2
    x = torch.arange(columns, dtype=torch.float64) - (columns - 1) / 2
    space = torch.cat(
        [
            (y[:, None, None] * height_f).expand(rows, columns, -1),
            (x[None, :, None] * width_f).expand(rows, columns, -1),
        ],
        dim=-1,
    ).reshape(rows * columns, -1)
    time = times.double().cpu()[..., None, None] * time_f
    shape = (*times.shape, rows * columns)
    angles = torch.cat([time.expand(*shape, -1), space.expand(*shape, -1)], dim=-1)
    return angles.cos().float().to(times.device), angles.sin().float().to(times.device)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate channel pairs of ``x`` (..., K) by the phases (..., K/2); float32 inside, the type of ``x`` outside."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Softmax attention (..., L, K) with an additive ``bias`` (0 or -inf) that broadcasts to the scores, or None.

    On CPUs the plain product form is up to 1.7x faster in bfloat16 than the fused kernel at our lengths (a few hundred
    keys), because the fused kernel works in float32 there; in float32, and elsewhere, the fused kernel is used.
    """
    if q.device.type != "cpu" or q.dtype == torch.float32:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        scores = scores + bias
    return scores.softmax(dim=-1) @ v


def attend_beside(q: Tensor, k: Tensor, v: Tensor, past: tuple[Tensor, Tensor]) -> Tensor:
    """Softmax attention of L forms of one frame, all (B, L, H, N, K): each sees itself and the past, and no other form.

    ``past`` holds keys and values (B, H, S, K) that all forms share, and that are never copied for each of them.
    """
    keys, values = past
    forms, count = q.shape[1], keys.shape[2]

    def together(x: Tensor) -> Tensor:  # (B, L, H, N, ...) -> (B, H, L * N, ...)
        return x.transpose(1, 2).flatten(2, 3)

    def apart(x: Tensor) -> Tensor:
        return x.unflatten(2, (forms, -1)).transpose(1, 2)

    q = q * q.shape[-1] ** -0.5
    scores = torch.cat([apart(together(q) @ keys.transpose(-1, -2)), q @ k.transpose(-1, -2)], dim=-1)
    shares = scores.softmax(dim=-1)  # (B, L, H, N, S + N)
    return apart(together(shares[..., :count]) @ values) + shares[..., count:] @ v


@functools.lru_cache(maxsize=256)
def _two_stream_bias(chunk: tuple[int, int], low: int, tokens: int, window: int, dtype: torch.dtype) -> Tensor:
    """Additive mask for the queries of frames [start, stop) of both streams against their reachable keys.

    Query (clean, i) sees clean frames i-window+1 .. i. Query (noisy, i) is the noisy form of frame i+1: it sees clean
    frames i-window+2 .. i and its own frame.
    """
    start, stop = chunk
    query, clean_key = torch.arange(start, stop)[:, None], torch.arange(low, stop)[None]
    clean_sees = (clean_key <= query) & (clean_key > query - window)
    noisy_sees = (clean_key <= query) & (clean_key > query + 1 - window)
    own = torch.eye(stop - start, dtype=torch.bool)
    sees = torch.cat(
        [torch.cat([clean_sees, torch.zeros_like(own)], dim=1), torch.cat([noisy_sees, own], dim=1)], dim=0
    )
    sees = sees.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)
    return torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, float("-inf"))


CHUNK_FRAMES = 8
"""Frames whose queries are taken together in training: keys that no query of a chunk can see are never multiplied."""


def two_stream_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Block-causal attention of a clean context stream and a noisy target stream, all (B, H, 2, T, N, K).

    Stream 0 holds clean frames 0 .. T-1, stream 1 the noisy forms of frames 1 .. T, so that every target has exactly
    the context it will have when streamed (as in Dreamer 4 and JiT-style causal training).
    """
    batch, heads, _, frames, tokens, channels = q.shape
    outputs = []
    for start in range(0, frames, CHUNK_FRAMES):
        stop = min(start + CHUNK_FRAMES, frames)
        low = max(0, start - window + 1)
        bias = _two_stream_bias((start, stop), low, tokens, window, q.dtype).to(q.device)

        def reach(x: Tensor, start: int = start, stop: int = stop, low: int = low) -> Tensor:
            return torch.cat([x[:, :, 0, low:stop], x[:, :, 1, start:stop]], dim=2).flatten(2, 3)

        out = attend(q[:, :, :, start:stop].flatten(2, 4), reach(k), reach(v), bias)
        outputs.append(out.view(batch, heads, 2, stop - start, tokens, channels))
    return torch.cat(outputs, dim=3)
