"""The report of `worldsim plan`: who reaches the goal in the true world, how long deciding takes, what was believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worldsim.eval.acting import Outcome
from worldsim.eval.quality_report import number, table
from worldsim.eval.statistics import estimate, proportion
from worldsim.provenance import describe

_OF_SUCCESS = (
    "Success is counted in MuJoCo, with Wilson 95 % intervals. `truth` plans on the simulator itself: a ceiling for this "
    "search."
)
_OF_RETURN = (
    "Return is the sum of the true world's rewards in an episode, its mean over starts with a 95 % bootstrap interval."
)
STILL = "still"
"""The agent that does nothing."""
_OF_STILL = (
    "More than doing nothing: the return less that of `still` from the same start, its mean over starts; an interval above 0 says "
    "that acting was worth its price."
)
_OF_BELIEF = (
    "Belief minus truth is what the planner expected to earn a step of the plan it played, less what it earned: above 0 it "
    "fools itself."
)


def agent_rows(table: Mapping[str, Sequence[Outcome]], replan: int) -> dict[str, dict[str, Any]]:
    """Return what is reported of every agent: `agent_row`, and start by start how much more it earned than doing nothing did."""
    rows = {name: agent_row(outcomes, replan) for name, outcomes in table.items()}
    if STILL in rows:
        for row in rows.values():
            more = np.subtract(row["returns"], rows[STILL]["returns"])
            row["over_still"] = estimate(more[:, None], lambda means: means[..., 0]).to_json()
    return rows


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
    earned = np.array([[one.rewards.sum()] for one in outcomes])
    return {
        "returns": earned[:, 0].tolist(),
        "return": estimate(earned, lambda means: means[..., 0]).to_json(),
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
    lines = [f"# Agents in the true {_world(results)}", "", how, "", agents_table(results), "", meaning(results)]
    clips = [f"- [{name}]({name}): imagined (left), come true (right)" for name in results["clips"]]
    return "\n".join([*lines, *([""] if clips else []), *clips, ""])


def agents_table(results: Mapping[str, Any]) -> str:
    """Return the table of agents as Markdown: success in the Arena's tasks, what was earned in any other world."""
    rows, own = [], _own(results)
    paired = STILL in results["agents"]
    for name, row in results["agents"].items():
        steps, seconds = row["steps_when_reached"], row["seconds_a_decision"]
        rows.append(
            [
                name,
                number(row["return"] if own else row["success"], 2),
                "-" if steps is None else f"{steps:g}",
                "-" if seconds is None else f"{seconds:.2f}",
                number(row["belief_minus_truth"], 2),
                *([number(row["over_still"], 2)] if paired else []),
            ]
        )
    columns = ["return", "steps when it ended"] if own else ["success", "steps when reached"]
    more = ["more than doing nothing"] if paired else []
    return table(["agent", *columns, "seconds a decision", "belief minus truth", *more], rows)


def meaning(results: Mapping[str, Any]) -> str:
    """Return what the numbers of a report mean."""
    paired = f" {_OF_STILL}" if STILL in results["agents"] else ""
    return f"{_OF_RETURN if _own(results) else _OF_SUCCESS} {_OF_BELIEF}{paired}"


def _own(results: Mapping[str, Any]) -> bool:
    """Tell whether the world is somebody's own rather than the Arena."""
    return results["settings"]["task"] == "reward"


def _world(results: Mapping[str, Any]) -> str:
    return results["world"] if _own(results) else f"Arena: {results['settings']['task']}"
