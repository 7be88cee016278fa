"""Trains the two networks of `worldsim.eval.infilling` alike and says what seeing the end of a clip is worth.

``python -m worldsim.eval.infilling_report RECORDING OUT`` trains three of each, keeps every finished one, and writes
``results.json``, ``README.md`` and ``strip.png`` into OUT.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from jaxtyping import UInt8
from jsonargparse import auto_cli
from tqdm import tqdm

from worldsim.dataset import EpisodeDataset, FrameCache
from worldsim.denoiser import to_uint8, to_unit
from worldsim.envs.workers import in_processes
from worldsim.eval.comparison_scores import welch
from worldsim.eval.infilling import ClipDenoiser, Shown, fill, fill_loss
from worldsim.eval.quality_report import table
from worldsim.eval.strips import film_strip, save_strip
from worldsim.metrics import moving_error, moving_pixels
from worldsim.optim import OptimConfig, learning_rate_factor, make_average
from worldsim.provenance import describe, provenance, write_json
from worldsim.storage import write_atomically
from worldsim.training_step import ClipSampler

ARMS = {"both ways": True, "past only": False}
"""Names of the two masks of attention, and whether frames see those after them."""
ENDS = {"end shown": True, "end hidden": False}
SHOWN = Shown()
CLIPS, CHECKED, BALANCED = 4, 128, 0.7
"""Clips of a step, held-out clips that are filled in, and how many clips are drawn by their actions."""
Pictures = Mapping[str, UInt8[np.ndarray, "t h w 3"]]
OPTIM = OptimConfig(adamw_lr=2e-3)


def infilling(recording: str, out: str, steps: int = 800, seeds: int = 3, workers: int = 2) -> dict[str, Any]:
    """Train both networks ``seeds`` times on an Arena recording, fill held-out clips in, and write the report into ``out``.

    Args:
        recording: folder of a recording (`worldsim record`), 64 x 64 frames.
        out: folder for the report and for what is finished; the same command goes on after an interruption.
        steps: optimisation steps of each training.
        seeds: trainings of each network.
        workers: trainings at a time, each with its share of the cores.
    """
    folder, names = Path(out), [f"{arm} {seed}" for seed in range(seeds) for arm in ARMS]
    waiting = [name for name in names if not _kept(folder, name).is_file()]
    if any(_read(folder, name)["steps"] != steps for name in set(names) - set(waiting)):
        raise SystemExit(f"{folder} holds trainings of another number of steps: give another folder, or remove it")
    tasks = [joblib.delayed(_finish)(recording, folder, name, steps) for name in waiting]
    with tqdm(total=len(names), initial=len(names) - len(waiting), desc="infilling", unit="training") as bar:
        for _ in in_processes(tasks, max(1, min(workers, len(tasks) or 1)), order="generator_unordered"):
            bar.update()
    found = {name: _read(folder, name) for name in names}
    results = {
        "command": f"python -m worldsim.eval.infilling_report RECORDING OUT --steps {steps} --seeds {seeds}",
        **provenance(), "shown": [SHOWN.start, SHOWN.between, SHOWN.end], "steps": steps, "trainings": found,
        "differences": differences(found),
    }  # fmt: skip
    write_json(folder / "results.json", results)
    write_atomically(folder / "README.md", page(results).encode())
    return results


def _kept(folder: Path, name: str) -> Path:
    return folder / "trainings" / f"{name.replace(' ', '-')}.json"


def _read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads(_kept(folder, name).read_text(encoding="utf-8"))


def _finish(recording: str, folder: Path, name: str, steps: int) -> None:
    """Train one, fill held-out clips in, and keep the errors."""
    arm, _, seed = name.rpartition(" ")
    dataset = EpisodeDataset.open(recording)
    model = learn(dataset.cache("train"), int(seed), steps, both_ways=ARMS[arm])
    scores, pictures = errors(model, dataset.cache("val"))
    _kept(folder, name).parent.mkdir(parents=True, exist_ok=True)
    if seed == "0":
        save_strip(
            folder / f"strip_{arm.replace(' ', '_')}.png",
            film_strip(pictures, range(SHOWN.between), f"attention {arm}"),
        )
    parameters = sum(one.numel() for one in model.parameters())
    write_json(_kept(folder, name), {"steps": steps, "parameters": parameters, "errors": scores})


def learn(cache: FrameCache, seed: int, steps: int, *, both_ways: bool) -> ClipDenoiser:
    """Return a network that learnt to fill clips in, half of them without their end."""
    torch.manual_seed(seed)
    model = ClipDenoiser(cache.actions.shape[-1], both_ways=both_ways)
    average = make_average(model, OPTIM)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=OPTIM.weight_decay, betas=(0.9, 0.98))
    clips = ClipSampler.of(cache, SHOWN.length - 1, BALANCED)
    for step in range(steps):
        clip = clips.draw(range(CLIPS), (seed, step))
        shown = SHOWN.mask(torch.arange(CLIPS) % 2 == 0)
        generator = torch.Generator().manual_seed(seed * steps + step)
        fill_loss(model, to_unit(clip.frames), clip.actions, shown, generator).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIM.grad_clip)
        for group in optimizer.param_groups:
            group["lr"] = OPTIM.adamw_lr * learning_rate_factor(step, steps, OPTIM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update_parameters(model)
    learnt = average.module
    assert isinstance(learnt, ClipDenoiser)
    return learnt


def errors(model: ClipDenoiser, cache: FrameCache) -> tuple[dict[str, list[float]], Pictures]:
    """Return the squared error on moving pixels of every hidden frame, by who fills it in, and clips to look at.

    Beside the model stand the last shown frame, and a cross-fade from it to the first frame of the end.
    """
    windows = cache.windows(SHOWN.length)
    rows = windows[np.linspace(0, len(windows) - 1, min(CHECKED, len(windows))).astype(int)]
    batch = cache.batch(rows[:, 0], rows[:, 1], SHOWN.length)
    last, truth, end = (batch.frames[:, part] for part in (SHOWN.start - 1, SHOWN.hidden, SHOWN.hidden.stop))
    moving = moving_pixels(truth, last)
    shares = (np.arange(SHOWN.between) + 1)[:, None, None, None] / (SHOWN.between + 1)
    faded = np.rint((1 - shares) * last[:, None] + shares * end[:, None]).astype(np.uint8)
    filled = {"last frame": np.broadcast_to(last[:, None], truth.shape), "cross-fade": faded}
    filled |= {name: _filled(model, batch.frames, batch.actions, with_end) for name, with_end in ENDS.items()}
    scores: dict[str, list[float]] = {}
    for name, frames in filled.items():
        total, count = moving_error(frames, truth, moving)
        scores[name] = (total.sum(0) / np.maximum(count.sum(0), 1)).tolist()
    shown = int(np.argsort(moving.sum((1, 2, 3)))[len(moving) * 3 // 4])
    return scores, {name: np.ascontiguousarray(frames[shown]) for name, frames in {"truth": truth, **filled}.items()}


def _filled(model: ClipDenoiser, frames: np.ndarray, actions: np.ndarray, with_end: bool) -> np.ndarray:
    """Return the hidden frames as the model fills them in, some clips at a time."""
    parts = []
    for first in range(0, len(frames), 16):
        some = to_unit(torch.from_numpy(frames[first : first + 16]))
        shown = SHOWN.mask(torch.full((len(some),), with_end))
        dreamt = fill(model.eval(), some, torch.from_numpy(actions[first : first + 16]), shown, seed=first)
        parts.append(to_uint8(dreamt[:, SHOWN.hidden]).numpy())
    return np.concatenate(parts)


def differences(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return differences of errors between kinds of trainings, with Welch's 95 % interval over seeds."""

    def of(arm: str, end: str) -> list[float]:
        return [float(np.mean(one["errors"][end])) for name, one in found.items() if name.rpartition(" ")[0] == arm]

    return {
        "both ways with the end, less past only": _between(of("both ways", "end shown"), of("past only", "end shown")),
        "both ways without the end, less past only": _between(of("both ways", "end hidden"), of("past only", "end hidden")),
        "both ways with the end, less without it": _between(of("both ways", "end shown"), of("both ways", "end hidden")),
    }  # fmt: skip


def _between(one: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    value = float(np.mean(one) - np.mean(other))
    if min(len(one), len(other)) < 2:
        return {"value": value}
    low, high, _ = welch(one, other)
    return {"value": value, "low": low, "high": high}


def page(results: Mapping[str, Any]) -> str:
    """Return the report in Markdown."""
    found = results["trainings"]
    rows = []
    for arm in ARMS:
        own = [one["errors"] for name, one in found.items() if name.rpartition(" ")[0] == arm]
        for end in ENDS:
            rows.append([f"attention {arm}, {end}", *_frames([one[end] for one in own])])
    trivial = next(iter(found.values()))["errors"]
    rows += [[name, *_frames([trivial[name]])] for name in ("cross-fade", "last frame")]
    said = [
        [name, f"{one['value']:+.4f}", f"[{one['low']:+.4f}, {one['high']:+.4f}]" if "low" in one else "-"]
        for name, one in results["differences"].items()
    ]
    start, between, end = results["shown"]
    parameters = next(iter(found.values()))["parameters"]
    columns = ["filled in by", "all", *(f"frame {number + 1}" for number in range(between))]
    how = (
        f"Of {start + between + end} frames the first {start} and the last {end} are shown and {between} are filled in, given all actions. "
        f"Two Diffusion Transformers of {parameters / 1e6:.2f} M parameters, {results['steps']} steps each, {len(found) // len(ARMS)} trainings "
        f"each; half of the clips they learn from hide their end. Squared error on moving pixels (range -1 .. 1) of {CHECKED} held-out clips, "
        f"mean over trainings. {describe(results)}."
    )
    return "\n\n".join([
        "# Filling in between a shown start and a shown end",
        how,
        table(columns, rows),
        "Differences of the mean error with Welch's 95 % interval over trainings; less is better:",
        table(["", "difference", "interval"], said),
        "![both ways](strip_both_ways.png)\n![past only](strip_past_only.png)",
        f"Made by `{results['command']}`.",
    ]) + "\n"  # fmt: skip


def _frames(errors: Sequence[Sequence[float]]) -> list[str]:
    """Return the mean over all frames, with its spread over trainings, and that of each frame."""
    means = np.mean(errors, axis=1)
    spread = f" (sd {means.std(ddof=1):.4f})" if len(means) > 1 else ""
    return [f"{means.mean():.4f}{spread}", *(f"{value:.3f}" for value in np.mean(errors, axis=0))]


if __name__ == "__main__":
    auto_cli(infilling)
