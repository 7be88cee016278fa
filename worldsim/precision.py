"""Which number type pays on this device, found by measuring it, and computing in it. Knows matrices only."""

from __future__ import annotations

import functools
import time

import torch


def matmul_gflops(dtype: torch.dtype, size: int = 512, repeats: int = 4) -> float:
    """Measure the best rate of a square matrix product in GFLOP/s on the CPU with the current threads."""
    a = torch.ones(size, size, dtype=dtype)
    torch.mm(a, a)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


@functools.cache
def _bfloat16_pays_on_cpu(margin: float = 1.3) -> bool:
    """Whether bfloat16 products beat float32 ones clearly on this CPU (about 20 ms, once per process)."""
    return matmul_gflops(torch.bfloat16) > margin * matmul_gflops(torch.float32)


def fast_dtype(device: torch.device | str) -> torch.dtype:
    """Return bfloat16 where it pays on ``device``, float32 otherwise.

    CPUs without native bfloat16 units can be slower with it, so the CPU is measured and not looked up.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return torch.bfloat16 if _bfloat16_pays_on_cpu() else torch.float32
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
"""The number types that products are computed in, by the names that training takes."""


def autocast(device: torch.device | str, dtype: torch.dtype) -> torch.autocast:
    """Return the context in which products are computed in ``dtype``, bfloat16 or float32.

    Not Accelerate's, which a process can choose only once.
    """
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=dtype == torch.bfloat16)
