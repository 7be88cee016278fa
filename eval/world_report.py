"""Puts the quality of a dream of any world into words. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worldsim.eval.quality_report import claims_table, gaps_table, moving_errors_table, number, table
from worldsim.provenance import describe

MOST_NUMBERS = 40
"""Rows of the tables of numbers; ``results.json`` holds all."""


def world_markdown(results: Mapping[str, Any]) -> str:
    """Return the whole report as Markdown."""
    settings = results["settings"]
    parts = [
        f"# Quality of {results['checkpoint']}, a dream of {results['world']}",
        (
            f"{results['n']} moments of episodes driven by `{settings['policy']}`, at seeds that no recording has; "
            f"{settings['num_steps']} sampler steps a frame; 95 % intervals by bootstrap over moments. "
            f"{describe(results)}. {results['seconds']} s."
        ),
        "## Claims",
        claims_table(results["claims"]),
        "## Error on moving pixels",
        (
            "Mean squared error (black -1, white 1) over the pixels whose true value has changed since the moment or is "
            "changing now, while the true episode goes on. Lower is better; the margin is the best baseline minus the model, "
            "above 0 if the model wins. The mean frame is that of these very episodes."
        ),
        moving_errors_table(results["moving_pixel_error"]),
        "## The world's own numbers",
        (
            "Mean absolute error of what is read off the dreamt frames; beside it: the number held as it was at the moment, "
            "its mean over these episodes, and what the model reads off the true frame (what reading alone costs)."
        ),
        *_numbers(results["numbers"]),
        "## Action gap",
        (
            "Two truths from one moment differ in one part of the actions. Over the pixels where they differ: what the model "
            "loses when it is told the other one, over what the true world loses. 1 is perfect, 0 is blind to this part."
        ),
        gaps_table(results["action_gap"]),
        "## Film strips",
        "Chosen by rule: least, median and largest error over all frames, and the first moment.",
        *(f"![{rule}]({name})" for rule, name in results["strips"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def _numbers(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one table a horizon."""
    if not rows:
        return ["This world tells none."]
    tables = []
    guesses = {"dream": "dreamt", "held": "held", "mean": "mean", "read_off_truth": "read off the truth"}
    for horizon in rows[0]["dream"]:
        cells = [
            [row["name"], row["unit"], *(number(row[guess][horizon]) for guess in guesses)]
            for row in rows[:MOST_NUMBERS]
        ]
        tables += [f"After {horizon} frames:", table(["number", "unit", *guesses.values()], cells)]
    if len(rows) > MOST_NUMBERS:
        tables.append(f"And {len(rows) - MOST_NUMBERS} more, in `results.json`.")
    return tables
