"""Puts a quality report into words: claims with their outcome, and the Markdown tables. Measures nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from worldsim.eval.statistics import Estimate
from worldsim.provenance import describe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A number and the range it is wanted in. It holds by its value, or even by its whole interval."""

    text: str
    estimate: Estimate | None
    least: float
    most: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the value is in range; what could not be measured does not hold."""
        value = self.estimate
        return value is not None and self.least <= value.value and (self.most is None or value.value <= self.most)

    @property
    def certain(self) -> bool:
        """Whether the whole 95 % interval is in range."""
        value = self.estimate
        return value is not None and self.least <= value.low and (self.most is None or value.high <= self.most)

    def to_json(self) -> dict[str, Any]:
        """Return the claim as a JSON-able dictionary."""
        number = None if self.estimate is None else self.estimate.to_json()
        wanted = {"least": self.least, "most": self.most}
        return {"claim": self.text, "estimate": number, **wanted, "holds": self.holds, "certain": self.certain}


def claims_of_any_world(margins: Mapping[int, Estimate | None], gaps: Mapping[str, Estimate | None]) -> list[Claim]:
    """Return what is expected of a dream of any world: better than the best baseline after each horizon, and heeding every action."""
    return [
        *(
            Claim(text=f"moving pixels, frame {horizon}: error below the best baseline", estimate=best, least=0.0)
            for horizon, best in margins.items()
        ),
        *(Claim(text=f"action gap, {name}", estimate=gap, least=0.5) for name, gap in gaps.items()),
    ]


def number(value: Mapping[str, Any] | None, digits: int = 3) -> str:
    """Return "value [low, high]" of an estimate in JSON form; a dash where nothing could be measured."""
    if value is None:
        return "-"
    low, high = ("unbounded" if value[end] is None else f"{value[end]:.{digits}f}" for end in ("low", "high"))
    return f"{value['value']:.{digits}f} [{low}, {high}]"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def markdown(results: Mapping[str, Any]) -> str:
    """Return the whole report as Markdown."""
    settings = results["settings"]
    parts = [
        f"# Quality of {results['checkpoint']}",
        (
            f"{results['n']} held-out scenes, {settings['num_steps']} sampler steps a frame, 95 % intervals by bootstrap "
            f"over scenes. {describe(results)}. {results['seconds']} s."
        ),
        "## Claims",
        claims_table(results["claims"]),
        "## Error on moving pixels",
        (
            "Mean squared error (black -1, white 1) over the pixels whose true value has changed since the context or is "
            "changing now. Lower is better; the margin is the best baseline minus the model, above 0 if the model wins."
        ),
        moving_errors_table(results["moving_pixel_error"]),
        "Only while the camera has not moved (what moves is a body, the pusher or the curtain):",
        moving_errors_table(results["moving_pixel_error_still_camera"]),
        "## Action gap",
        (
            "Over the pixels that depend on one action dimension: what the model loses when this dimension is taken from "
            "another scene, over what the true world loses. 1 is perfect, 0 is blind to the dimension."
        ),
        gaps_table(results["action_gap"]),
        f"## After {settings['long_frames']} frames",
        (
            "Sharpness is Laplacian energy over the truth's. Readable: of the bodies visible in the true frame, the share "
            "that is read by colour in the dreamt one (present: of all bodies, hidden ones too). Ghosts: of the colours "
            "the scene does not have, the share that is read."
        ),
        _long(results["long_run"]),
        "## Film strips",
        "Chosen by rule: least, median and largest error over the first 32 frames, and the first scene.",
        *(f"![{rule}]({name})" for rule, name in results["strips"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def claims_table(claims: list[Mapping[str, Any]]) -> str:
    """Return the claims with what was wanted, what was measured and the outcome, as a Markdown table."""
    rows = []
    for claim in claims:
        most = "" if claim["most"] is None else f" and at most {claim['most']}"
        outcome = "holds, whole interval" if claim["certain"] else "holds" if claim["holds"] else "does NOT hold"
        rows.append([claim["claim"], f"at least {claim['least']}{most}", number(claim["estimate"]), outcome])
    return table(["claim", "wanted", "measured", "outcome"], rows)


def moving_errors_table(errors: Mapping[str, Any]) -> str:
    """Return errors on moving pixels, horizon by horizon, as a Markdown table."""
    names = {
        "model": "model",
        "copy_last": "copy last frame",
        "mean_frame": "mean frame",
        "shuffled_actions": "model, shuffled actions",
        "margin_over_best_baseline": "margin over best",
    }
    rows = [
        [horizon, *(number(row[name]) for name in names), f"{row['scenes']}", f"{row['moving_pixels']}"]
        for horizon, row in errors.items()
    ]
    return table(["frame", *names.values(), "scenes", "moving pixels"], rows)


def gaps_table(gaps: Mapping[str, Any]) -> str:
    """Return action gaps, part by part of the actions, as a Markdown table."""
    rows = []
    for name, gap in gaps.items():
        numbers = [number(gap[key]) for key in ("ratio", "error_right", "error_swapped", "truth_gap")]
        rows.append([name, *numbers, f"{100 * gap['pixels_share']:.1f} %"])
    header = ["dimension", "gap ratio", "error, right", "error, swapped", "the truth's gap", "pixels that depend on it"]
    return table(header, rows)


def _long(runs: Mapping[str, Any]) -> str:
    keys = ("sharpness_ratio", "readable", "readable_truth", "readable_present", "ghosts")
    rows = [[name, *(number(run[key]) for key in keys), f"{run['bodies']}"] for name, run in runs.items()]
    header = ["actions", "sharpness", "readable", "readable in truth", "readable of present", "ghosts", "visible cases"]
    return table(header, rows)
