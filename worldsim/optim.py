"""Optimisers, learning-rate plan and moving average of a training run. Knows parameters only."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How weights are moved. Learning rates are those of the flat part of the plan."""

    muon_lr: float = 8e-3
    """Muon (Jordan et al. 2024), scaled to AdamW's update size, for the matrices inside the transformer blocks."""
    adamw_lr: float = 3e-3
    """AdamW for everything else: embeddings, convolutions, modulation, norms, in and out projections."""
    readout_lr: float = 3e-4
    """AdamW for the readout head: named state differs between clips more than within them, so a batch holds few samples
    of it, and at the rate of the pixels it would chase each batch and learn nothing."""
    weight_decay: float = 0.01
    warmup_share: float = 0.02
    """Share of the steps in which the learning rate rises from 0."""
    decay_share: float = 0.25
    """Share of the steps, at the end, in which it falls linearly to a twentieth."""
    grad_clip: float = 1.0
    ema_decay: float = 0.998
    """Decay per step of the moving average that is saved, validated and played."""

    @property
    def rates(self) -> tuple[float, float, float]:
        """Peak learning rates in the order of `make_optimizers`."""
        return self.muon_lr, self.adamw_lr, self.readout_lr


def make_optimizers(model: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """Return Muon over the matrices of the transformer blocks, AdamW over the rest, and AdamW over the readout head."""
    matrices, readout, rest = [], [], []
    for name, parameter in model.named_parameters():
        inner = ".blocks." in name and "head." not in name and "modulation" not in name
        if inner and parameter.ndim == 2 and "gain" not in name:
            matrices.append(parameter)
        else:
            (readout if ".readout" in name else rest).append(parameter)

    def adamw(parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=config.weight_decay, betas=(0.9, 0.98))

    muon = torch.optim.Muon(
        matrices, lr=config.muon_lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, adamw(rest, config.adamw_lr), adamw(readout, config.readout_lr)]


def learning_rate_factor(step: int, total: int, config: OptimConfig) -> float:
    """Return the factor on both learning rates at ``step`` of ``total``: warm-up, flat, linear decay."""
    warmup, decay = max(1.0, config.warmup_share * total), max(1.0, config.decay_share * total)
    return max(0.05, min(1.0, (step + 1) / warmup, (total - step) / decay))


def make_average(model: nn.Module, config: OptimConfig) -> AveragedModel:
    """Return the exponential moving average of ``model``; buffers are copied.

    The decay grows with the number of updates n as (1 + n) / (10 + n) up to ``ema_decay``, so that short runs are not
    dominated by their random beginning.
    """

    def blend(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        n = int(count)
        return torch.lerp(averaged, current.detach(), 1 - min(config.ema_decay, (1 + n) / (10 + n)))

    return AveragedModel(model, avg_fn=blend, use_buffers=False).requires_grad_(False)
