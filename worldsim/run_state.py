"""The exact state of a training run in one safetensors file, so that a killed run continues to the same bits.

Knows modules and optimisers as named tensors; no pickle, no data files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from worldsim.distributed import cut_like, like, whole, whole_state
from worldsim.errors import UsageError
from worldsim.foreign import is_mapping, is_number, is_whole, parse_json, read_tensors


def gather_state(modules: Mapping[str, nn.Module], optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Return modules and optimiser moments as named tensors on the CPU, in one piece each; all processes must call this."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"{name}/{key}": value for key, value in whole_state(module).items()}
    for number, optimizer in enumerate(optimizers):
        for index, moments in optimizer.state_dict()["state"].items():
            for key, value in moments.items():
                tensors[f"optimizer{number}/{index}/{key}"] = whole(torch.as_tensor(value))
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def save_state(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write what `gather_state` returned and a JSON ``record`` to ``path``, under a temporary name first."""
    temporary = path.with_name(path.name + ".tmp")
    save_file(dict(tensors), temporary, metadata={"record": json.dumps(dict(record))})
    temporary.replace(path)


def load_state(
    path: Path, modules: Mapping[str, nn.Module], optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, Any]:
    """Put what `save_state` wrote back into modules and optimisers and return the record."""
    try:
        tensors, metadata = read_tensors(path)
        record = parse_json(metadata["record"])
        kept = is_mapping(record) and is_mapping(record["identity"]) and is_mapping(record["scores"])
        if not kept or not is_whole(record["step"]) or not is_number(record["seconds"], 0):
            raise ValueError("no record of a training")
        for name, module in modules.items():
            prefix = f"{name}/"
            own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            module.load_state_dict(cut_like(own, module))
        for number, optimizer in enumerate(optimizers):
            moments = _moments(tensors, f"optimizer{number}/", optimizer)
            optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    except (OSError, ValueError, KeyError, RuntimeError, IndexError, TypeError) as error:
        raise UsageError(
            "training state",
            got=f"{path} ({str(error)[:200]})",
            allowed="the state file of this very run",
            fix="delete it to begin anew, or give another --out",
        ) from error
    return record


def _moments(
    tensors: Mapping[str, Tensor], prefix: str, optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, Tensor]]:
    """Return the moments of every parameter by its number, cut as the parameter is."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            index, key = name.removeprefix(prefix).split("/")
            parameter = parameters[int(index)]
            if tensor.ndim and tensor.shape != parameter.shape:
                raise ValueError(f"{name!r} of shape {tuple(tensor.shape)}, where {tuple(parameter.shape)} is due")
            moments.setdefault(int(index), {})[key] = like(tensor, parameter)
    return moments
