"""The report of a probe: every row and number of a stranger's model, on a page that needs nothing else and claims no more."""

from __future__ import annotations

import copy
import html
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from worldsim.eval.probe import probe
from worldsim.eval.probe_page import light_copy, page
from worldsim.eval.probe_report import markdown
from worldsim.eval.selftest_record import UNTESTED
from worldsim.eval.tracking import CUT_OFF_M

pytestmark = pytest.mark.heavy
STRANGER = """
import numpy as np

class Repeats:
    def predict(self, context_frames, context_actions, actions, num_samples=1, seeds=None):
        return np.tile(context_frames[:, None, None, -1], (1, num_samples, actions.shape[1], 1, 1, 1))
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], Path]]:
    """Return the results of probing a model of ten lines, and the folder of its report."""
    folder = tmp_path_factory.mktemp("probe")
    (folder / "copying_model.py").write_text(STRANGER)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        sys.modules.pop("copying_model", None)
        out = folder / "report"
        families = "P1d,P3-I8,P6-right"
        yield probe("copying_model:Repeats", out, family=families, truth=folder / "truth", workers=1, scenes=2), out


def test_anybodys_model_is_probed(report: tuple[dict[str, Any], Path]) -> None:
    """A model of ten lines gets every row, intervals and strips; copying scores as copying does."""
    results, out = report
    rows = results["families"]["P1d"]["rows"]
    assert rows["model"] == rows["copy last"]
    known = results["selftest"]["families"]  # none where the simulator is not the one of the record
    why = "2 scenes, where the smallest tier has 8" if known else UNTESTED
    assert results["families"]["P1d"]["verdict"] == f"not tested: {why}"
    assert set(rows) == {
        "model", "oracle", "perception-limited oracle", "oracle without shadows", "copy last", "constant velocity",
        "freeze", "deleted", "mean frame", "climatology", "model, others' actions", "untrained",
    }  # fmt: skip
    assert rows["oracle"]["measures"]["recall"]["value"] == 1.0
    assert 0 < rows["model"]["error"]["value"] <= 100 * CUT_OFF_M
    assert list(json.loads((out / "results.json").read_text())["families"]) == ["P1d", "P3-I8", "P6-right"]
    text = (out / "report.md").read_text()
    assert text.count("Tier smoke with 2 scenes of each family, dev") == 1
    assert "P1d" in text and all((out / name).is_file() for name in results["families"]["P1d"]["strips"].values())
    assert not list(out.glob(".parts*"))


def test_the_page_needs_nothing_else(report: tuple[dict[str, Any], Path]) -> None:
    """No address, script or file is asked for, every picture and figure is in it, and every link within it leads somewhere."""
    results, out = report
    text = (out / "report.html").read_text()
    assert "<script" not in text and not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert not re.search(r"url\((?!#)|@import", text)
    strips = [name for family in results["families"].values() for name in family["strips"].values()]
    assert text.count('class="strip" src="data:image/png;base64,') == len(strips)
    assert ("Skill of corrupted truths" in text) == bool(results["selftest"]["families"])
    assert text.count("<svg") >= len(results["families"])
    identities = re.findall(r'id="([^"]+)"', text)
    assert len(identities) == len(set(identities)), "figures beside each other share no names"
    assert {link for link in re.findall(r'href="#([^"]+)"', text) if not link.startswith("m")} <= set(identities)


def test_verdicts_are_printed_as_they_were_reached(report: tuple[dict[str, Any], Path]) -> None:
    """Page and Markdown say the very words, about every family, and what was not asked is said to be not tested."""
    results, out = report
    for text in (html.unescape((out / "report.html").read_text()), (out / "report.md").read_text()):
        for family in results["families"].values():
            assert family["verdict"] in text
        assert "Not tested: the tier asks for none" in text


def test_what_is_not_known_is_not_claimed(report: tuple[dict[str, Any], Path]) -> None:
    """A void family has no bar, a name is not taken for markup, and what was seen before on test scenes is said."""
    results, out = copy.deepcopy(report[0]), report[1]
    before = page(results, out).count('class="dot"')
    results["families"]["P6-right"]["rows"]["model"]["skill"] = None
    results["predictor"], results["earlier_test_evaluations"] = "<b>bold</b>", 3
    text = page(results, out)
    assert text.count('class="dot"') + text.count('class="clip"') < before + page(report[0], out).count('class="clip"')
    assert "<b>bold" not in text and "&lt;b&gt;bold" in text
    assert "3 times before" in text
    results["selftest"]["families"] = {}
    assert markdown(results).count("not run on this code") == len(results["families"])


def test_a_light_copy_says_the_same(report: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    """What is committed has all numbers and verdicts, a picture of every family, and a fraction of the size."""
    results, out = report
    light_copy(out, tmp_path)
    assert (tmp_path / "results.json").read_bytes() == (out / "results.json").read_bytes()
    text = html.unescape((tmp_path / "report.html").read_text())
    assert all(family["verdict"] in text for family in results["families"].values())
    assert text.count('class="strip"') == len(results["families"])
    assert len(text) < 0.5 * (out / "report.html").stat().st_size
    assert ".png" not in (tmp_path / "report.md").read_text()
