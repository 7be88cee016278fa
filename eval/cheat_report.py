"""Probes the cheats, and says where each is caught and by which number. Measures nothing itself.

``python -m worldsim.eval.cheat_report`` asks every cheat of `worldsim.eval.cheats` about a few families and rewrites
``docs/results/cheats``; the sentences below take their numbers from there. `NearestClip` needs the Arena's recording.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldsim.eval.probe import probe
from worldsim.eval.selftest_register import BY_MEASURE
from worldsim.provenance import describe, provenance, write_json
from worldsim.storage import write_atomically

FOLDER = Path("docs/results/cheats")
"""Where the committed report is, from the top of the repository."""
ASKED = ("P1c", "P1d", "P1g", "P2b", "P3-I1", "P3-I8", "P6-orbit", "P6-right")
CHEATS = ("Paste", "Blur", "ActionBlind", "NearestClip", "Puppeteer")
SAYS: Mapping[str, str] = {
    "Paste": (
        "hides bodies and pastes them back where they were last seen. Its world stands still: of the way behind the post it goes"
        " {P1c/went on}, recall {P1c/recall} in P1c and {P1d/recall} in P1d. Where nothing comes back (P1g) or nothing has an"
        " effect (P3-I8) it is right, and so not caught."
    ),
    "Blur": (
        "shows the last frame ever less sharply. What cannot be read is missed ({P1c/missed} of the bodies in P1c), which costs the"
        " cut-off; bodies that vanish in one film of a pair are effects of nothing ({P3-I8/effect of no cause} cm, of the truth"
        " {P3-I8/effect of no cause/oracle})."
    ),
    "ActionBlind": (
        "lets bodies slide on and heeds no action: its films of a pair are one film, P6 finds no control at all, an effect slope of"
        " {P3-I1/effect slope}, a camera that stands still (obedience {P2b/obedience gain}), and, since its curtain never rises, targets"
        " shown in {P1g/shown while hidden} of their hidden frames."
    ),
    "NearestClip": (
        "plays what followed the most similar moment of 2,000 recorded episodes. Frames are perfect and bodies are elsewhere:"
        " recall {P1c/recall}, no control (P6), and effects of {P3-I8/effect of no cause} cm where nothing was changed."
    ),
    "Puppeteer": (
        "moves curtain, camera and bodies over a still picture, by hand. P1d recalls {P1d/recall}, since a body that brakes can be seen to; it"
        " fails where something happens behind the curtain (P1c, recall {P1c/recall}) and where something is pushed (effect slope"
        " {P3-I1/effect slope}). That it does turn the camera is true, and P6-orbit says so."
    ),
}
"""What is said of each; ``{P1d/recall}`` is a measure of its row, ``{P1d/recall/oracle}`` of the truth's, and
``{P1d/skill}`` its skill."""


def cheats(out: str | Path, truth: str | Path = "runs/probe-truth", workers: int = 1) -> dict[str, Any]:
    """Probe every cheat with the scenes of the smoke tier, and write ``results.json`` and ``README.md`` into ``out``.

    ``truth`` keeps the true scenes. UsageError if there is no recording for `NearestClip` to copy from.
    """
    found: dict[str, Any] = {}
    for name in CHEATS:
        with tempfile.TemporaryDirectory() as folder:
            asked = probe(f"worldsim.eval.cheats:{name}", folder, family=ASKED, truth=truth, workers=workers)
        found[name] = {code: _kept(table) for code, table in asked["families"].items()}
    results = {"command": "python -m worldsim.eval.cheat_report", **provenance(), "tier": "smoke", "cheats": found}
    write_json(Path(out) / "results.json", results)
    write_atomically(Path(out) / "README.md", page(results).encode())
    return results


def _kept(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a family's table what the page needs: the rows of the cheat and of the truth."""
    wanted = ("n", "error", "skill", "best_trivial", "measures")
    rows = {name: {key: table["rows"][name][key] for key in wanted} for name in ("model", "oracle")}
    return {"title": table["title"], "outcome": table["outcome"], "verdict": table["verdict"], **rows}


def page(results: Mapping[str, Any]) -> str:
    """Return the report in Markdown: a table, and a paragraph for every cheat."""
    found = results["cheats"]
    codes = list(next(iter(found.values())))
    head = [f"| cheat | {' | '.join(codes)} |", f"|---|{'---|' * len(codes)}"]
    lines = [
        f"| `{name}` | {' | '.join(_cell(code, tables[code]) for code in codes)} |" for name, tables in found.items()
    ]
    said = [f"- `{name}`: {_filled(SAYS[name], found[name])}" for name in found if name in SAYS]
    count = next(iter(found.values()))[codes[0]]["model"]["n"]
    return "\n".join([
        "# Where cheats are caught",
        "",
        "Predictors that know no physics (`eval/cheats.py`), asked as any model is. Skill: 1 is the truth, 0 the best trivial",
        "row, with 95 % intervals; of "
        + " and ".join(f"{code} *{BY_MEASURE[code].measure}*" for code in codes if code in BY_MEASURE)
        + " instead, and the truth's.",
        "**Bold**: not caught there, that is, better than trivial or not told from the truth.",
        "",
        *head,
        *lines,
        "",
        *said,
        "",
        f"{count} dev scenes a family; {describe(results)}. Made by `{results['command']}`; all numbers: `results.json`.",
        "",
    ])  # fmt: skip


def caught(code: str, table: Mapping[str, Any]) -> bool:
    """Return whether a cheat is seen through by a family: not better than trivial, or clearly worse than the truth."""
    if code not in BY_MEASURE:
        return table["outcome"] != "better than trivial"
    model, truth = (table[row]["measures"][BY_MEASURE[code].measure] for row in ("model", "oracle"))
    return model["low"] > truth["high"]


def _cell(code: str, table: Mapping[str, Any]) -> str:
    if code in BY_MEASURE:
        own, truth = (table[row]["measures"][BY_MEASURE[code].measure] for row in ("model", "oracle"))
        text = f"{own['value']:.2f} ({truth['value']:.2f})"
    else:
        skill = table["model"]["skill"]
        text = f"{skill['value']:.2f} [{skill['low']:.2f}, {skill['high']:.2f}]" if skill else "void"
    return text if caught(code, table) else f"**{text}**"


def _filled(text: str, tables: Mapping[str, Any]) -> str:
    """Put numbers into a sentence."""

    def number(found: re.Match[str]) -> str:
        code, name, row = found["code"], found["name"], found["row"] or "model"
        value = tables[code][row]["skill"] if name == "skill" else tables[code][row]["measures"][name]
        return "undefined" if value is None else f"{value['value']:.2f}"

    return re.sub(r"\{(?P<code>[^/{}]+)/(?P<name>[^/{}]+)(/(?P<row>\w+))?\}", number, text)


if __name__ == "__main__":
    if sys.argv[1:] == ["page"]:  # the sentences only, from the numbers that are there
        kept = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
        write_atomically(FOLDER / "README.md", page(kept).encode())
    else:
        cheats(FOLDER)
