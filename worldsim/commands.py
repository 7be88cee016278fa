"""The commands of `worldsim`: which function is behind each, how it is written, and what is said afterwards.

Names functions by their modules, and imports none of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """One subcommand: the function behind it, how it is written, and what to say afterwards."""

    target: str
    """``module:function``; its signature and docstring become the flags."""
    summary: str
    """One line in ``worldsim --help``."""
    examples: str
    """Commands that can be pasted, with what they do."""
    positional: str | None = None
    """The parameter that is given without a flag."""
    not_flags: tuple[str, ...] = ()
    """Parameters that only Python can give: arrays and the like."""
    around: str | None = None
    """``module:context manager`` that the function is called in; its parameters are flags too."""
    after_interrupt: str
    """What Ctrl-C leaves and how to go on."""
    report: Callable[[Any, Mapping[str, Any]], str]
    """(result, arguments) -> text for people."""


def _report_record(result: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    speed = result["frames_per_second"]
    done = f"{result['frames_recorded_now']} frames at {speed} frames/s" if speed else "nothing was missing"
    return (
        f"{result['episodes']} episodes in {options['out']} ({done}).\nNext: worldsim train {options['out']} --out RUN"
    )


def _report_import(result: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Say what was taken, changed and dropped, and why; long lists by their beginning."""
    taken, world, dropped, out = result["taken"], result["world"], result["dropped"], options["out"]
    splits = ", ".join(f"{count} {split}" for split, count in taken["splits"].items())
    height, width, _ = world["frame_shape"]
    rate = f"{world['frame_rate_hz']:g} a second"
    lines = [
        f"{taken['episodes']} of {result['source']['episodes']} episodes of kind {result['source']['kind']} in {out} ({splits}).",
        f"Frames: {taken['frames']}, {height}x{width}, {rate}.",
        f"Rewards: {taken['rewards']}. Terminations: {taken['terminations']}.",
        f"Actions: {_beginning(world['actions'], ', ')}. Readouts: {_beginning(world['readouts'], ', ') or 'none'}.",
        *(f"Changed: {change}." for change in result["changed"]),
    ]
    for what, reasons in dropped.items():
        listed = _beginning([f"{name} ({reason})" for name, reason in reasons.items()], "; ")
        lines.append(f"Dropped, {what}: {listed or 'none'}.")
    written = f"{result['episodes_now']} episodes written now" if result["episodes_now"] else "nothing was missing"
    return "\n".join([*lines, f"All of it: {out}/import.json ({written}).", f"Next: worldsim train {out} --out RUN"])


def _beginning(items: Iterable[str], between: str, most: int = 12) -> str:
    """Return the first items as one text, and how many more there are."""
    listed = list(items)
    more = [f"and {len(listed) - most} more"] * (len(listed) > most)
    return between.join([*listed[:most], *more])


def _report_train(result: Any, options: Mapping[str, Any]) -> str:
    out = options["out"]
    return (
        f"Checkpoint in {out}/checkpoint; strips and logs in {out}.\n"
        f"Step it: gym.make('worldsim:worldsim/Dream-v0', checkpoint='{out}')"
    )


def _report_markdown(result: Any, options: Mapping[str, Any]) -> str:
    del result
    report = Path(options["out"]) / "report.md"
    return f"{report.read_text(encoding='utf-8')}\nThis text: {report}. All numbers: {report.with_name('results.json')}"


def _report_probe(result: Any, options: Mapping[str, Any]) -> str:
    """Say the outcome of every family of scenes and of every concept, and where the report is."""
    lines = [f"{code}  {table['verdict']}" for code, table in result["families"].items()]
    for code, concept in (result["expectation"] or {}).items():
        claimed = "claimed" if concept["claimed"] else "not claimed"
        lines.append(f"P8-{code}  {'control' if concept['legal'] else claimed}")
    return "\n".join([*lines, f"Report: {options['out']}/report.md. All numbers: {options['out']}/results.json"])


def _report_selftest(result: Any, options: Mapping[str, Any]) -> str:
    """Say which probes may be believed, and what is wrong with the others."""
    lines = [f"{code}  {'; '.join(result['failures'].get(code, ['every band held']))}" for code in result["matrix"]]
    return "\n".join([*lines, f"Heat map: {options['out']}/matrix.png. All numbers: {options['out']}/results.json"])


def _report_lines(result: Any, options: Mapping[str, Any]) -> str:
    """Write a nested mapping as one indented line per value."""
    del options
    return "\n".join(_lines(result, ""))


def _report_columns(result: Mapping[str, Mapping[str, Any]], options: Mapping[str, Any]) -> str:
    """Write rows of a table, their names first."""
    del options
    head = ["", *next(iter(result.values()))]
    cells = [
        [name, *(f"{item:.1f}" if isinstance(item, float) else str(item) for item in row.values())]
        for name, row in result.items()
    ]
    widths = [max(len(row[i]) for row in [head, *cells]) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *cells]
    )


def _lines(value: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield f"{indent}{key}:"
            yield from _lines(item, indent + "  ")
        else:
            yield f"{indent}{key}: {item}"


RUN_AGAIN = "Run the same command again"
ON_CLUSTER = "worldsim.envs.cluster:on_cluster"
COMMANDS = {
    "record": Command(
        target="worldsim.envs.record:record",
        summary="record episodes of a Gymnasium environment, in parallel, resumable",
        positional="env_id",
        around=ON_CLUSTER,
        examples=(
            "  worldsim record worldsim/Arena-v0 --episodes 200 --out data/arena   # about 13,000 frames\n"
            "  worldsim record Pusher-v5 --episodes 50 --out data/pusher           # any world with flat actions\n"
            "  worldsim record worldsim/Arena-v0 --episodes 100000 --out /shared/arena --backend ray   # on all of a cluster"
        ),
        after_interrupt=f"{RUN_AGAIN} to go on: whole shards are kept.",
        report=_report_record,
    ),
    "import": Command(
        target="worldsim.envs.importing:import_dataset",
        summary="make a recording of a dataset you already have: Minari, LeRobot, HDF5, .npz, videos",
        positional="source",
        examples=(
            "  worldsim import my-episodes --out data/mine                          # .npz files, videos, HDF5, ...\n"
            "  worldsim import demos.hdf5 --image agentview --size 64 --out data/demos   # robomimic, one of its cameras"
        ),
        after_interrupt=f"{RUN_AGAIN} to go on: whole shards are kept.",
        report=_report_import,
    ),
    "train": Command(
        target="worldsim.train:train",
        summary="learn a world model from a recording",
        positional="data",
        examples=(
            "  worldsim train data/arena --preset nano --steps 300 --out runs/nano    # a first look\n"
            "  worldsim train data/arena --preset small --minutes 240 --out runs/small"
        ),
        after_interrupt=f"{RUN_AGAIN} to go on from the last saved state, to the bit.",
        report=_report_train,
    ),
    "quality": Command(
        target="worldsim.eval.quality:quality",
        summary="measure a checkpoint against the truth and against trivial predictors",
        positional="checkpoint",
        examples=(
            "  worldsim quality arena-small --out runs/quality\n"
            "  worldsim quality runs/pusher --out runs/pusher/quality       # of any world: pixels, its own numbers, actions\n"
            "  worldsim quality runs/pole --policy my_module:balance --out runs/pole/quality"
        ),
        after_interrupt=f"Finished parts are kept. {RUN_AGAIN} to go on.",
        report=_report_markdown,
    ),
    "probe": Command(
        target="worldsim.eval.probe:probe",
        summary="measure how much physics a predictor knows: permanence, 3D, causes, drift, control",
        positional="predictor",
        around=ON_CLUSTER,
        examples=(
            "  worldsim probe arena-small --out runs/probe                        # a first look: 8 scenes of a family\n"
            "  worldsim probe my_package:MyWorldModel --tier standard             # anybody's model: worldsim.eval.predictors"
        ),
        after_interrupt=f"Finished parts are kept. {RUN_AGAIN} to go on.",
        report=_report_probe,
    ),
    "selftest": Command(
        target="worldsim.eval.selftest:selftest",
        summary="probe the probes: corrupted truths that each must notice, or must not",
        examples="  worldsim selftest                       # 8 scenes of a family\n  worldsim selftest --tier standard",
        after_interrupt=f"Played scenes are kept. {RUN_AGAIN} to go on.",
        report=_report_selftest,
    ),
    "compare": Command(
        target="worldsim.eval.comparison:compare",
        summary="transformer against U-Nets: train alike, probe alike, answer the article's claims",
        positional="plan",
        around=ON_CLUSTER,
        examples=(
            "  worldsim compare quick --out runs/compare                       # minutes: shows the path, answers nothing\n"
            "  worldsim compare nano --data data/arena --workers 2             # hours: three trainings an arm, two at a time"
        ),
        after_interrupt=f"Finished trainings and probes are kept. {RUN_AGAIN} to go on.",
        report=_report_markdown,
    ),
    "plan": Command(
        target="worldsim.eval.planning:plan",
        summary="let planners act in the true Arena, imagining in a dream or in the truth",
        positional="checkpoint",
        examples=(
            "  worldsim plan arena-small --task reach --out runs/plan\n"
            "  worldsim plan runs/small --task push --planner cem --agents dream,truth --settings.horizon 20\n"
            "  worldsim plan --task reach --agents random,dream,runs/learn    # beside a policy of worldsim learn"
        ),
        after_interrupt=f"Finished episodes are kept. {RUN_AGAIN} to go on.",
        report=_report_markdown,
    ),
    "learn": Command(
        target="worldsim.eval.learning:learn",
        summary="train a policy in a dream, and judge it in the true Arena",
        positional="checkpoint",
        examples=(
            "  worldsim learn arena-small --task reach --steps 50000 --out runs/learn\n"
            "  worldsim learn --world truth --task reach --steps 50000 --out runs/learn-truth   # for comparison"
        ),
        after_interrupt=f"The last saved policy is kept. {RUN_AGAIN} to go on.",
        report=_report_markdown,
    ),
    "demo": Command(
        target="worldsim.eval.demo:demo",
        summary="dream beside the truth: a page of clips, curves and numbers",
        positional="checkpoint",
        examples=(
            "  worldsim demo                                  # the embedded checkpoint, into runs/demo/index.html\n"
            "  worldsim demo runs/small --out runs/small/demo"
        ),
        after_interrupt=f"Nothing is kept. {RUN_AGAIN} to start over.",
        report=lambda result, _: result.summary,
    ),
    "play": Command(
        target="worldsim.play.command:play",
        summary="play a dream beside the truth in the browser",
        positional="checkpoint",
        examples=(
            "  worldsim play                                  # the embedded checkpoint, at http://127.0.0.1:8765/\n"
            "  worldsim play runs/small --port 0 --sessions 8"
        ),
        after_interrupt="The page is closed; nothing is kept.",
        report=lambda result, _: f"{result} is closed.",
    ),
    "bench": Command(
        target="worldsim.eval.bench:bench",
        summary="measure the speed of everything on this machine",
        positional="checkpoint",
        examples="  worldsim bench --quick                 # a few minutes\n  worldsim bench runs/small --out runs/small/bench",
        after_interrupt=f"Nothing is kept. {RUN_AGAIN} to start over.",
        report=_report_markdown,
    ),
    "export": Command(
        target="worldsim.envs.export:export",
        summary="put a trained run into one small folder to hand on",
        positional="checkpoint",
        examples="  worldsim export runs/small --out my-world   # gym.make(..., checkpoint='my-world') anywhere",
        after_interrupt=f"{RUN_AGAIN} to start over.",
        report=lambda result, _: f"Checkpoint in {result}.",
    ),
    "presets": Command(
        target="worldsim.eval.sizes:presets",
        summary="count parameters and operations of the presets, transformers and U-Nets",
        positional="names",
        examples="  worldsim presets                     # nano and small, with the U-Nets beside them\n  worldsim presets nano,nano-unet",
        after_interrupt=f"Nothing is kept. {RUN_AGAIN} to start over.",
        report=_report_columns,
    ),
    "info": Command(
        target="worldsim.cli:info",
        summary="show what a checkpoint is and how it was trained",
        positional="checkpoint",
        examples="  worldsim info arena-small\n  worldsim info runs/small",
        after_interrupt="",
        report=_report_lines,
    ),
}
