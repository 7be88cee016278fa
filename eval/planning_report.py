"""The report of `worldsim plan`: who reaches the goal in the true world, how long deciding takes, what was believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worldsim.eval.acting import Outcome
from worldsim.eval.quality_report import number, table
from worldsim.eval.statistics import estimate, proportion
from worldsim.provenance import describe

MEANING = (
    "Success is counted in MuJoCo, with Wilson 95 % intervals. `truth` plans on the simulator itself: a ceiling for this "
    "search. Belief minus truth is what the planner expected to earn a step of the plan it played, less what it earned: "
    "above 0 it fools itself."
)


def agent_row(outcomes: Sequence[Outcome], replan: int) -> dict[str, Any]:
    """Return what is reported of one agent: success, steps, time per decision, and belief minus truth a step.

    Belief is compared with truth over the steps of each plan that were played, episode by episode.
    """
    decided = [one for one in outcomes if one.decisions]
    gaps = [
        np.mean([believed - one.rewards[step : step + replan].mean() for step, _, believed in one.decisions])
        for one in decided
    ]
    seconds = [took for one in decided for _, took, _ in one.decisions]
    reached = [one.steps for one in outcomes if one.success]
    return {
        "success": proportion(sum(one.success for one in outcomes), len(outcomes)).to_json(),
        "steps_when_reached": float(np.median(reached)) if reached else None,
        "seconds_a_decision": float(np.median(seconds)) if seconds else None,
        "belief_minus_truth": estimate(np.array(gaps)[:, None], lambda means: means[..., 0]).to_json()
        if gaps
        else None,
    }


def markdown(results: Mapping[str, Any]) -> str:
    """Return the report as Markdown."""
    settings = results["settings"]
    how = (
        f"{results['starts']} starts, the same for all, at most {results['episode_steps']} steps; planner "
        f"{settings['planner']}, horizon {settings['horizon']}, {settings['candidates']} candidates x "
        f"{settings['iterations']} iterations, each action held {settings['hold']} steps, replanned every "
        f"{settings['replan']}. {describe(results)}"
    )
    lines = [f"# Agents in the true Arena: {settings['task']}", "", how, "", agents_table(results), "", MEANING]
    clips = [f"- [{name}]({name}): imagined (left), come true (right)" for name in results["clips"]]
    return "\n".join([*lines, *([""] if clips else []), *clips, ""])


def agents_table(results: Mapping[str, Any]) -> str:
    """Return the table of agents as Markdown."""
    rows = []
    for name, row in results["agents"].items():
        steps, seconds = row["steps_when_reached"], row["seconds_a_decision"]
        rows.append(
            [
                name,
                number(row["success"], 2),
                "-" if steps is None else f"{steps:g}",
                "-" if seconds is None else f"{seconds:.2f}",
                number(row["belief_minus_truth"], 2),
            ]
        )
    return table(["agent", "success", "steps when reached", "seconds a decision", "belief minus truth"], rows)
