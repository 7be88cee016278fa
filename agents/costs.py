"""A dream behind the ``get_cost`` protocol of stable-worldmodel, so that its solvers plan in it.

Their solvers call ``get_cost(info_dict, action_candidates)`` with candidates (environments, samples, horizon, block *
action) and information repeated for every sample, and take the plans of least cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldsim.agents.imagination import bounded_box, fork_of, imagine
from worldsim.agents.objectives import Objective, Return
from worldsim.errors import UsageError


class DreamCost:
    """Costs of plans in the dream ``env``: minus what the ``objective`` gives them.

    ``info_dict`` must hold "pixels" (b, s, k+1, h, w, 3) uint8, what each of b environments has shown so far, repeated
    for its s samples, and "action" (b, s, k, a) between them (a single frame needs none). Candidates outside the action
    space are clipped into it, because these solvers sample without bounds.
    """

    def __init__(self, env: gym.Env[Any, Any], objective: Objective | None = None, seed: int = 0) -> None:
        self.env = env
        self.objective = objective or Return()
        self.space = bounded_box(env.action_space)
        self.seed = seed
        self._fork = fork_of(env, self.objective.needs_frames)

    def parameters(self) -> Iterator[Tensor]:
        """Yield one tensor, of the type and on the device that candidates shall have: solvers look at the first one."""
        yield torch.zeros(1)

    def get_cost(
        self, info_dict: Mapping[str, Any], action_candidates: Float[Tensor, "b s t blocked"]
    ) -> Float[Tensor, "b s"]:
        """Return the cost of every candidate: plans of one environment are dreamt side by side, from one context."""
        environments, samples, _, width = action_candidates.shape
        size = self.space.shape[0]
        if "pixels" not in info_dict or width % size:
            raise UsageError(
                "get_cost",
                got=f"entries {sorted(info_dict)}, candidates of {width} numbers a step",
                allowed=f'"pixels", and a multiple of {size} numbers a step',
                fix="give the frames seen so far; an action block of n holds n actions",
            )
        costs = []
        for row in range(environments):
            frames = _on_cpu(info_dict["pixels"][row, 0])
            actions = np.zeros((0, size), np.float32)
            if "action" in info_dict and len(frames) > 1:
                actions = _on_cpu(info_dict["action"][row, 0]).astype(np.float32)
            self.env.reset(seed=self.seed, options={"frames": frames, "actions": actions})
            plans = action_candidates[row].reshape(samples, -1, size).float().cpu().numpy()
            costs.append(-self.objective.score(imagine(self._fork, plans.clip(self.space.low, self.space.high))))
        return torch.as_tensor(np.stack(costs), dtype=action_candidates.dtype, device=action_candidates.device)


def _on_cpu(values: Any) -> np.ndarray:
    """Return an array of what a solver keeps as an array or as a tensor of any device."""
    return values.numpy(force=True) if isinstance(values, Tensor) else np.asarray(values)
