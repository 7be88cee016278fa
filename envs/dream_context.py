"""Where dreams begin: lead-ins of the true world, given frames, recordings. Knows no model and dreams nothing."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float32, UInt8
from safetensors.numpy import save_file

from worldsim.dataset import EpisodeDataset
from worldsim.errors import UsageError
from worldsim.foreign import read_tensors
from worldsim.spec import WorldSpec

CONTEXTS = "contexts.safetensors"
"""File beside a checkpoint's weights with true lead-ins for machines that cannot draw: frames (n, k+1, h, w, 3) uint8
and actions (n, k, a) float32."""
_SOURCES = ("frames", "state", "dataset")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """What one dream starts from: k actions and the k+1 frames around them (see `worldsim.episode` for alignment)."""

    actions: Float32[np.ndarray, "k a"]
    frames: UInt8[np.ndarray, "k+1 h w 3"]


class TrueWorld:
    """The world a model was trained on, built at first use and only to simulate lead-ins; nothing else steps it.

    Where it cannot be made or drawn, the lead-ins bundled with the checkpoint (``folder``) stand in for it, with a warning.
    """

    def __init__(self, spec: WorldSpec, task: str | None, folder: Path | None) -> None:
        self.spec = spec
        self.folder = folder
        self._kwargs = dict(spec.env_kwargs) if task is None else {**spec.env_kwargs, "task": task}
        self._env: gym.Env[Any, Any] | None = None
        self._bundled: dict[str, np.ndarray] | None = None

    def lead_in(self, seed: int, options: Mapping[str, Any]) -> Context:
        """Return the lead-in of the scene that the true world makes of ``seed`` and its own reset ``options``."""
        if self._bundled is not None:
            return self._bundled_lead_in(seed, options)
        try:
            return self._simulate(seed, options)
        except UsageError as error:
            missing = error.argument in ("OpenGL", "environment")
            if not missing or self.folder is None or not (self.folder / CONTEXTS).is_file():
                raise
            self._bundled = read_bundled(self.folder / CONTEXTS, self.spec)
            warnings.warn(
                f"The true world cannot be made or drawn here, so dreams start from the {len(self._bundled['frames'])} lead-ins "
                f"bundled with the checkpoint, chosen by seed (seed % {len(self._bundled['frames'])}). {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            return self._bundled_lead_in(seed, options)

    def twin(self) -> TrueWorld:
        """Return another handle on the same world, with an environment of its own (built when it is needed)."""
        other = copy.copy(self)
        other._env = None
        return other

    def close(self) -> None:
        """Release the true world and its renderer; calling it again does nothing."""
        if self._env is not None:
            self._env.close()
            self._env = None

    def _simulate(self, seed: int, options: Mapping[str, Any]) -> Context:
        from worldsim.envs.adapt import frame_of, make_environment

        if self._env is None:
            self._env = make_environment(self.spec.env_id, self._kwargs)
        observation, info = self._env.reset(seed=seed, options=dict(options) or None)
        if "context" in info:
            context = Context(frames=info["context"]["frames"].copy(), actions=info["context"]["actions"].copy())
        else:
            nothing = np.zeros((0, self.spec.action_dim), dtype=np.float32)
            context = Context(frames=frame_of(self._env, observation)[None], actions=nothing)
        check_frames(context.frames, context.actions, self.spec, where=f"lead-in of {self.spec.env_id}")
        return context

    def _bundled_lead_in(self, seed: int, options: Mapping[str, Any]) -> Context:
        assert self._bundled is not None
        if options:
            raise UsageError(
                "reset options",
                got=", ".join(options),
                allowed="only frames, state, scene or dataset where the true world cannot be made or drawn",
                fix="install what the warning above names, to choose factors of the scene",
            )
        return bundled_context(self._bundled, seed)


def bundle_contexts(folder: Path, spec: WorldSpec, count: int = 32, recording: str | None = None) -> Path:
    """Write lead-ins beside a checkpoint's weights, for machines on which the true world cannot be made or drawn.

    They are those of the true world's seeds 0 .. count-1, so that there a reset with such a seed starts from the very
    scene of that seed; or the beginnings of the first ``count`` episodes of a recording.
    """
    contexts = _true_lead_ins(spec, count) if recording is None else _recorded_lead_ins(spec, count, recording)
    target, temporary = folder / CONTEXTS, folder / f"{CONTEXTS}.tmp"
    frames, actions = (np.stack([getattr(context, name) for context in contexts]) for name in ("frames", "actions"))
    save_file({"frames": frames, "actions": actions}, temporary)
    temporary.chmod(0o644)
    temporary.replace(target)
    return target


def _true_lead_ins(spec: WorldSpec, count: int) -> list[Context]:
    true = TrueWorld(spec, None, None)
    try:
        return [true.lead_in(seed, {}) for seed in range(count)]
    finally:
        true.close()


def _recorded_lead_ins(spec: WorldSpec, count: int, recording: str) -> list[Context]:
    dataset = EpisodeDataset.open(recording)
    try:
        ids = [int(one) for one in dataset.episode_ids()[:count]]
    finally:
        dataset.close()
    return dataset_contexts({"dataset": recording, "episode": ids, "start": 0}, len(ids), spec)


def bundled_context(bundled: Mapping[str, np.ndarray], seed: int) -> Context:
    """Return the lead-in that stands for a seed among the bundled ones (`read_bundled`)."""
    index = seed % len(bundled["frames"])
    return Context(frames=bundled["frames"][index].copy(), actions=bundled["actions"][index].copy())


def read_bundled(path: Path, spec: WorldSpec) -> dict[str, np.ndarray]:
    """Return the lead-ins that lie beside a checkpoint's weights; UsageError if there are none of this world."""
    try:
        arrays, _ = read_tensors(path, framework="np")
        frames, actions = arrays["frames"], arrays["actions"]
        if not 1 <= len(frames) == len(actions) or actions.dtype != np.float32:
            raise ValueError(f"{len(frames)} clips of frames, {len(actions)} of {actions.dtype} actions")
        check_frames(frames[0], actions[0], spec, where=str(path))
        check_actions(actions, spec, where=f"{path}: actions")
    except UsageError:
        raise
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UsageError(
            "bundled contexts",
            got=f"{path} ({error!r})",
            allowed="frames (n, k+1, h, w, 3) uint8 and actions (n, k, a) float32",
            fix="copy the checkpoint folder again",
        ) from error
    return arrays


def check_frames(frames: np.ndarray, actions: np.ndarray, spec: WorldSpec, where: str) -> None:
    """Raise UsageError unless ``frames`` (k+1, h, w, 3) and ``actions`` (k, a) are a context of the world ``spec``."""
    if frames.dtype != np.uint8:
        raise UsageError(
            f"{where}: frames", got=frames.dtype, allowed="uint8, 0 .. 255", fix="(x * 255).round().astype(np.uint8)"
        )
    if frames.ndim != 4 or frames.shape[1:] != tuple(spec.frame_shape) or len(frames) == 0:
        raise UsageError(
            f"{where}: frames",
            got=f"shape {frames.shape}",
            allowed=f"(k+1, {', '.join(map(str, spec.frame_shape))}): at least one frame of the model's size",
            fix="resize the frames, or use a model of that size",
        )
    if actions.shape != (len(frames) - 1, spec.action_dim):
        raise UsageError(
            f"{where}: actions",
            got=f"shape {actions.shape}",
            allowed=f"({len(frames) - 1}, {spec.action_dim}): {', '.join(spec.action_names)} between {len(frames)} frames",
            fix="actions[t] is applied at frames[t] and yields frames[t+1]",
        )
    check_actions(actions, spec, where=f"{where}: actions")


def check_actions(actions: np.ndarray, spec: WorldSpec, where: str) -> None:
    """Raise UsageError naming the first element of ``actions`` (..., a) that is not finite or outside its bounds."""
    low, high = np.asarray(spec.action_low, np.float32), np.asarray(spec.action_high, np.float32)
    wrong = ~((actions >= low) & (actions <= high))  # NaN compares false
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        name = spec.action_names[at[-1]]
        raise UsageError(
            where,
            got=f"{name} = {actions[at]}",
            allowed=f"finite values, {name} from {low[at[-1]]:g} to {high[at[-1]]:g}",
            fix="clip actions to env.action_space, and check the policy's output",
        )


def split_options(options: Mapping[str, Any]) -> tuple[str | None, dict[str, Any], dict[str, Any]]:
    """Sort reset options into (source, the dream's own options, what is passed on to the true world's reset)."""
    own = {key: options[key] for key in ("frames", "actions", "state", "dataset", "episode", "start") if key in options}
    if isinstance(own.get("state"), Mapping):  # a state of the true world, not of a dream
        own.pop("state")
    passed = {key: value for key, value in options.items() if key not in own}
    sources = [key for key in _SOURCES if key in own]
    partners = {"frames": {"actions"}, "dataset": {"episode", "start"}, "state": set()}
    allowed = {sources[0], *partners[sources[0]]} if sources else set()
    if not set(own) <= allowed or (sources and passed):
        raise UsageError(
            "reset options",
            got=", ".join(options),
            allowed="{frames, actions}, {state}, {dataset, episode, start}, {scene} or factors of the true world",
            fix="give one source of the starting point only",
        )
    return (sources[0] if sources else None), own, passed


def given_contexts(own: Mapping[str, Any], num_rows: int, spec: WorldSpec) -> list[Context]:
    """Return contexts from ``frames`` and ``actions``, given once for all rows or with a leading axis of rows."""
    frames = np.asarray(own["frames"])
    actions = np.asarray(own.get("actions", np.zeros((0, spec.action_dim))), dtype=np.float32)
    if frames.ndim == 5 and len(frames) == num_rows:
        if actions.ndim == 2 and len(actions) == 0:
            actions = np.repeat(actions[None], num_rows, axis=0)
        if len(actions) != num_rows:
            raise UsageError(
                'options["actions"]', got=f"{len(actions)} rows", allowed=f"{num_rows} rows", fix="one row per dream"
            )
        pairs = list(zip(frames, actions, strict=True))
    else:
        pairs = [(frames, actions)] * num_rows
    for row_frames, row_actions in pairs:
        check_frames(row_frames, row_actions, spec, where="reset options")
    return [Context(frames=f.copy(), actions=spec.decided(a).copy()) for f, a in pairs]


def dataset_contexts(own: Mapping[str, Any], num_rows: int, spec: WorldSpec) -> list[Context]:
    """Return contexts cut from a recording: ``dataset`` folder, ``episode`` id and ``start`` frame (one or per row)."""
    dataset = EpisodeDataset.open(own["dataset"])
    try:
        _check_same_world(dataset.spec, spec)
        episodes = per_row(own.get("episode", dataset.episode_ids()[0]), num_rows, "episode")
        starts = per_row(own.get("start", 0), num_rows, "start")
        contexts = []
        for episode_id, start in zip(episodes, starts, strict=True):
            episode = dataset.episode(episode_id)
            stop = start + spec.context_steps
            if not 0 <= start <= stop <= episode.num_steps:
                raise UsageError(
                    'options["start"]',
                    got=start,
                    allowed=f"0 .. {episode.num_steps - spec.context_steps} in episode {episode_id}",
                    fix=f"a context of {spec.context_steps} actions must fit into the episode",
                )
            contexts.append(
                Context(frames=episode.frames[start : stop + 1].copy(), actions=episode.actions[start:stop].copy())
            )
        return contexts
    finally:
        dataset.close()


def _check_same_world(recorded: WorldSpec, spec: WorldSpec) -> None:
    for name in ("action_names", "action_low", "action_high", "frame_shape", "frame_rate_hz"):
        if getattr(recorded, name) != getattr(spec, name):
            raise UsageError(
                f"dataset {name}",
                got=getattr(recorded, name),
                allowed=f"{getattr(spec, name)} as in the checkpoint",
                fix="use a recording of the world the model was trained on",
            )


def per_row(value: object, num_rows: int, name: str) -> list[int]:
    """Return one integer per row from one for all or from a sequence of ``num_rows``; UsageError for anything else."""
    array = np.asarray(value)
    if not np.issubdtype(array.dtype, np.integer) or array.shape not in ((), (num_rows,)):
        raise UsageError(
            f"options[{name!r}]", got=value, allowed=f"one integer, or {num_rows} of them", fix="one per dream"
        )
    return [int(v) for v in np.broadcast_to(array, (num_rows,))]
