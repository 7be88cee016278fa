"""What is said of transformers and U-Nets, and from which numbers."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_ind

import worldsim
from worldsim.errors import UsageError
from worldsim.eval.comparison import answers, compare, rounds
from worldsim.eval.comparison_figures import pictures
from worldsim.eval.comparison_plan import PLANS, Plan, read_plan, searches_of, trials_of
from worldsim.eval.comparison_report import markdown
from worldsim.eval.comparison_scores import Probed, asked, contrast, values
from worldsim.eval.comparison_trainings import Trainings, best_rates
from worldsim.eval.families import Scores
from worldsim.eval.hypotheses import HYPOTHESES, Contrast, Hypothesis, holm, outcome
from worldsim.eval.registry import FAMILIES
from worldsim.eval.skill import skill
from worldsim.eval.statistics import Estimate
from worldsim.train import TrainConfig, train

CODES = ("P1c", "P1d")
TRIVIAL = ("copy last", "freeze")
SCENES = 32
H1 = dataclasses.replace(HYPOTHESES[0], families=CODES)
(H8,) = (one for one in HYPOTHESES if one.code == "H8")
TINY = {"frames_per_step": 8, "clip_frames": [4], "clip_shares": [1.0], "validate_minutes": 60.0}
"""Settings of trainings that take no time."""


def probed(folder: Path, cost: float, seed: int = 0, void: bool = False) -> Probed:
    """Write what a probe leaves of a model whose bodies are off by ``cost`` cm more or less, and read it."""
    rng, columns = np.random.default_rng([seed, round(100 * cost)]), {}
    scenes = np.random.default_rng(7).uniform(0.5, 1.5, SCENES)  # some scenes are harder than others, for everyone
    rows = {"model": cost, "oracle": 0.3, "perception-limited oracle": 1.0, "copy last": 9.0, "freeze": 8.0}
    for code in CODES:
        for row, mean in rows.items():
            columns[f"{code}/{row}/cost"] = mean * scenes * rng.uniform(0.8, 1.2, SCENES) / 100 * 40
            columns[f"{code}/{row}/scored"] = np.full(SCENES, 40.0)
    folder.mkdir(parents=True)
    np.savez_compressed(folder / "scenes.npz", **columns)
    table = {"trivial": list(TRIVIAL), "outcome": "void" if void else "better than trivial"}
    (folder / "results.json").write_text(json.dumps({"families": dict.fromkeys(CODES, table)}))
    return Probed.read(folder, seed, {"error_8": cost / 100})


def test_a_models_number_is_its_probes_skill(tmp_path: Path):
    """The pooled number is the mean of the skills that the probe itself reports, by the same rows and columns."""
    model = probed(tmp_path / "one", cost=4.0)
    got = values(H1, CODES, [model])[0, 0]
    each = []
    for code in CODES:
        table = {
            row: Scores(
                columns={name: model.columns[code][f"{row}/{name}"] for name in ("cost", "scored")},
                frame_cost=np.zeros((SCENES, 1)), floor=0.4,
            )
            for row in ("model", "oracle", "perception-limited oracle", *TRIVIAL)
        }  # fmt: skip
        found = skill(table, "model", FAMILIES[code].error, TRIVIAL, one="perception-limited oracle").value
        assert found is not None
        each.append(found.value)
    assert got == pytest.approx(np.mean(each))


def test_void_families_and_families_not_asked_say_nothing(tmp_path: Path):
    """A hypothesis is answered from families that every model was asked about and that are not void."""
    good, void = probed(tmp_path / "good", 4.0), probed(tmp_path / "void", 4.0, void=True)
    assert asked(H1, [good]) == CODES and asked(H1, [good, void]) == ()
    assert asked(dataclasses.replace(H1, families=("P1c", "P1f")), [good]) == ("P1c",)


def test_three_trainings_are_compared_by_welch_fewer_by_bootstrap(tmp_path: Path):
    """The interval over trainings is scipy's; two seeds or one fall back on scenes, and say so."""
    ours = [probed(tmp_path / f"a{i}", 3.0 + 0.2 * i, seed=i) for i in range(3)]
    theirs = [probed(tmp_path / f"b{i}", 5.0 + 0.3 * i, seed=i) for i in range(3)]
    three = contrast(H1, CODES, ours, theirs)
    each = values(H1, CODES, [*ours, *theirs])[0]
    wanted = ttest_ind(each[:3], each[3:], equal_var=False).confidence_interval(0.95)
    assert (three.difference.low, three.difference.high) == pytest.approx(wanted)
    assert three.difference.value > 0.2 and three.p < 0.05 and three.trainings == 3
    one = contrast(H1, CODES, ours[:1], theirs[:1])
    assert "one training seed" in one.method and one.difference.low > 0
    same = contrast(H1, CODES, ours[:2], ours[:2])
    assert same.difference.low < 0 < same.difference.high and same.p > 0.5


def test_what_is_learnt_is_compared_by_held_out_dreams(tmp_path: Path):
    """The last validation of every training counts, by Welch; of fewer than three trainings nothing is said."""
    ours = [probed(tmp_path / f"a{i}", 5.0 + 0.3 * i, seed=i) for i in range(3)]
    theirs = [probed(tmp_path / f"b{i}", 3.0 + 0.2 * i, seed=i) for i in range(3)]
    codes = asked(H8, [*ours, *theirs])
    three = contrast(H8, codes, ours, theirs)
    assert three.difference.value == pytest.approx(0.053 - 0.032) and three.difference.low > 0 and three.p < 0.05
    wanted = ttest_ind([0.05, 0.053, 0.056], [0.03, 0.032, 0.034], equal_var=False).confidence_interval(0.95)
    assert (three.difference.low, three.difference.high) == pytest.approx(wanted)
    one = contrast(H8, codes, ours[:1], theirs[:1])
    assert one.p == 1.0 and not np.isfinite([one.difference.low, one.difference.high]).any()
    assert asked(dataclasses.replace(H8, measure="error_512"), ours) == ()  # no dream was so long


def interval(low: float, high: float) -> Contrast:
    difference = Estimate(value=(low + high) / 2, low=low, high=high, n=64)
    return Contrast(difference=difference, p=0.01, trainings=3, method="")


@pytest.mark.parametrize(
    ("first", "second", "p", "word"),
    [
        ((0.1, 0.3), (0.02, 0.4), 0.01, "supported"),
        ((0.1, 0.3), (-0.02, 0.4), 0.01, "inconclusive"),
        ((0.1, 0.3), (0.1, 0.3), 0.06, "inconclusive"),
        ((-0.3, -0.1), (-0.4, -0.2), 0.01, "reversed"),
        ((0.1, 0.3), (-0.4, -0.2), 0.01, "inconclusive"),
        ((-0.04, 0.03), (0.01, 0.04), 0.5, "equivalent"),
    ],
)
def test_outcomes_have_fixed_words(first: Any, second: Any, p: float, word: str):
    """Supported and reversed need both matchings and the corrected p; small differences are the same under any p."""
    contrasts = [interval(*first), interval(*second)]
    assert outcome(H1, contrasts, p) == word
    fewer = [contrasts[0], dataclasses.replace(contrasts[1], trainings=2)]
    assert outcome(H1, fewer, p) == "inconclusive"  # two trainings do not tell how trainings differ


def test_less_is_better_for_flicker():
    """Where less is better, a difference below nothing supports the claim."""
    flicker = next(one for one in HYPOTHESES if one.sign < 0)
    assert outcome(flicker, [interval(-3.0, -1.0)] * 2, 0.01) == "supported"


def test_holm_is_the_textbooks():
    """Three p values: .01 x 3, .02 x 2, and never less than the one before."""
    assert holm({"a": 0.02, "b": 0.01, "c": 0.03}) == pytest.approx({"b": 0.03, "a": 0.04, "c": 0.04})
    assert holm({"a": 0.9, "b": 0.8})["a"] == 1.0


def test_the_report_says_one_word_a_claim(tmp_path: Path):
    """A better transformer is supported against both U-Nets; the page says so, and what was not tested."""
    plan = dataclasses.replace(PLANS["nano"], families=CODES)
    costs = {"nano": 3.0}
    models = {
        trial.name: probed(tmp_path / trial.name, costs.get(trial.preset, 5.0) + 0.1 * trial.seed, trial.seed)
        for trial in trials_of(plan)
    }
    said = answers(plan, models)
    assert [said["answers"][rival]["H1"]["outcome"] for rival in ("unet", "unet-stacked")] == ["supported"] * 2
    size = {"parameters": 1_000_000, "training_mflop": 400.0, "dream_mflop": 140.0}
    names = dict.fromkeys(trial.preset for trial in trials_of(plan))
    results = {
        "plan": dataclasses.asdict(plan), **said, "sizes": dict.fromkeys(names, size), "not_tested": {"H6": "later"}, "rates_tried": {}, "scaling": None, "trainings_an_arm": plan.seeds,
        "trainings": {trial.name: {"minutes": 2.0, "validation": {"error_1": 0.1 + 0.01 * trial.seed}} for trial in trials_of(plan)},
        "device": "cpu", "threads": 1, "commit": "0" * 40, "dirty": False, "cpu": "any", "seed": 0, "versions": {},
        "time_utc": "", "seconds": 1.0,
    }  # fmt: skip
    text = markdown(results)
    assert "Learning rates" not in text
    tried = {"nano": {"0.5": 0.2, "1": 0.1234}, "nano-unet": {"0.5": 0.3, "1": None}}
    with_rates = markdown(results | {"rates_tried": tried})
    assert (
        "| nano | 0.2000 | **0.1234** |" in with_rates and "| nano-unet | **0.3000** | learnt nothing |" in with_rates
    )
    kind = {
        "points": [], "law": {"a": 0.5, "b": 0.25, "c": 0.02}, "exponent": [0.2, 0.3],
        "next": {"tflop": 40.0, "foretold": 0.1, "low": 0.09, "high": 0.11, "measured": 0.12},
    }  # fmt: skip
    found = {"kinds": {"dit": kind, "unet": kind}, "spread": 0.01, "p": 0.8, "outcome": "inconclusive"}
    found["difference"] = {"value": 0.0, "low": -0.1, "high": 0.1}
    with_ladder = markdown(results | {"scaling": found})
    assert "0.1000 [0.0900, 0.1100] | 0.1200 | +20.0% |" in with_ladder and "C^-0.25" in with_ladder
    assert "0.110 (sd 0.010) | - |" in text  # errors at the end of training; none was taken after 8 frames
    assert text.count("**supported**") == 2 and "exploratory" in text and "| H6 | later |" in text
    drawn = pictures(results)
    assert set(drawn) == {"verdict.png", "minutes.png", "claim-H1.png", "claim-H8.png"}
    assert all(name in text and picture.startswith(b"\x89PNG") for name, picture in drawn.items())
    alone = markdown(results | {"trainings_an_arm": 1})
    assert "answers nothing" in alone and "finished of 3 trainings an arm" in alone and "finished of" not in text


def test_bad_plans_are_refused(tmp_path: Path):
    """A misspelt name, a file with a foreign field, no seeds, a base without U-Nets, a folder of another plan."""
    with pytest.raises(UsageError, match="did you mean 'quick'"):
        read_plan("quik")
    path = tmp_path / "plan.json"
    path.write_text('{"seeds": 1, "steps": 2, "episodes": 3, "tier": "smoke", "colour": 1}')
    with pytest.raises(UsageError, match="colour"):
        read_plan(str(path))
    path.write_text('{"seeds": 1, "steps": 2, "episodes": 3, "tier": "smoke", "families": ["P1c"]}')
    assert read_plan(str(path)).families == ("P1c",)
    path.write_text(json.dumps(dataclasses.asdict(PLANS["quick"])))
    assert read_plan(str(path)) == PLANS["quick"]  # what a comparison writes down can be read again
    with pytest.raises(UsageError, match="seeds"):
        dataclasses.replace(PLANS["quick"], seeds=0)
    with pytest.raises(UsageError, match="preset"):
        dataclasses.replace(PLANS["quick"], base="large")
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(UsageError, match="another plan"):
        compare("quick", tmp_path)
    with pytest.raises(UsageError, match="workers"):
        compare("quick", tmp_path, workers=0)


def test_every_hypothesis_names_families_and_measures_that_there_are():
    """What was written down can be asked."""
    for one in HYPOTHESES:
        for code in one.families:
            assert one.measure is None or one.measure in {m.name for m in FAMILIES[code].measures}
    assert isinstance(HYPOTHESES[0], Hypothesis) and len({one.code for one in HYPOTHESES}) == len(HYPOTHESES)


@pytest.mark.parametrize("preset", ["nano-unet", "nano-unet-stacked"])
def test_u_nets_are_trained_and_stepped_as_any_other(stripe_recording: Path, tmp_path: Path, preset: str):
    """Two steps of training make a checkpoint that says what it is and dreams."""
    config = TrainConfig(frames_per_step=8, clip_frames=(4, 8), clip_shares=(0.5, 0.5), validate_minutes=60.0)
    folder = train(stripe_recording, tmp_path / "run", preset=preset, steps=2, config=config, progress=False)
    model = worldsim.load(folder)
    assert "U-Net" in (folder / "README.md").read_text()
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 3, *model.spec.frame_shape)).astype(np.uint8)
    dreamt = model.predict(frames, np.zeros((2, 2, 1), np.float32), np.zeros((2, 3, 1), np.float32))
    assert dreamt.shape == (2, 1, 3, *model.spec.frame_shape)


PLAN = Plan(
    seeds=2, steps=2, episodes=1, tier="smoke", families=("P1c",), rates=(0.5, 2.0), search_steps=1, train=TrainConfig.from_json(TINY)
)  # fmt: skip


def test_every_arm_tries_every_rate_and_is_trained_with_its_best():
    """As many trials an arm, of a seed that is not compared; then all seeds of an arm share its best rate."""
    searches, trials = searches_of(PLAN), trials_of(PLAN)
    assert {(one.preset, one.rate) for one in searches} == {(arm, rate) for arm in PLAN.arms for rate in (0.5, 2.0)}
    assert {one.seed for one in searches} == {2} and {one.seed for one in trials} == {0, 1}
    tried: dict[str, dict[str, float | None]] = {arm: {"0.5": 0.2, "2": 0.1} for arm in PLAN.arms}
    tried["nano"] = {"0.5": 0.2, "2": None}  # diverged
    assert best_rates(PLAN, tried) == {arm: 0.5 if arm == "nano" else 2.0 for arm in PLAN.arms}
    settings, plain = dataclasses.replace(trials[1], rate=2.0).config(PLAN).optim, PLAN.train.optim
    assert settings.muon_lr == 2 * plain.muon_lr and settings.adamw_lr == 2 * plain.adamw_lr
    assert settings.readout_lr == plain.readout_lr and trials[-1].config(PLAN).seed == 1
    assert len({one.name for one in [*searches, *trials]}) == len(searches) + len(trials)
    only = dataclasses.replace(PLAN, rates=(0.3,))
    assert searches_of(only) == [] and best_rates(only, {}) == dict.fromkeys(PLAN.arms, 0.3)
    with pytest.raises(UsageError, match="learnt at none"):
        best_rates(PLAN, {"nano": {"0.5": None}})


@pytest.mark.heavy
def test_trainings_at_a_time_are_those_one_by_one(stripe_recording: Path, tmp_path: Path):
    """Two processes leave what one leaves, finished trainings are not touched again, and searches read their scores."""
    searches = [one for one in searches_of(PLAN) if one.preset == "nano"]
    apart = Trainings(plan=PLAN, recording=stripe_recording, folder=tmp_path / "apart", workers=2)
    alone = Trainings(plan=PLAN, recording=stripe_recording, folder=tmp_path / "alone", workers=1)
    apart.finish(searches)
    alone.finish(searches)
    for one in searches:
        assert apart.record(one)["rate"] == one.rate and apart.record(one)["steps"] == 1
    assert apart.tried(searches)["nano"] == pytest.approx(alone.tried(searches)["nano"], rel=1e-3)
    weights = alone.run(searches[0]) / "checkpoint" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    alone.finish(searches)
    assert weights.stat().st_mtime_ns == before
    assert alone.record(dataclasses.replace(searches[0], name="none")) == {}
    said = alone.record(searches[0])
    shutil.rmtree(alone.folder / "runs")
    alone.finish(searches)
    assert alone.record(searches[0]) == said and not weights.exists()
    alone.finish(searches[:1], weights=True)
    assert weights.exists() and not alone.run(searches[1]).exists()


def test_seeds_are_finished_one_after_the_other_or_as_many_as_fit():
    """A round holds all arms of a seed; two seeds where more than one seed's trainings run at once; no seed is left out."""
    plan = dataclasses.replace(PLAN, seeds=3)
    trials = trials_of(plan)
    for at_once, expected in ((2, [(1, {0}), (2, {1}), (3, {2})]), (6, [(2, {0, 1}), (3, {2})])):
        found = list(rounds(plan, trials, at_once))
        assert [(done, {trial.seed for trial in some}) for done, some in found] == expected
        assert [trial for _, some in found for trial in some] == trials


@pytest.mark.parametrize("wrong", [{"rates": ()}, {"rates": (0.0,)}, {"rates": (1.0, 1.0)}, {"search_steps": 0}])
def test_a_search_that_cannot_be_is_refused(wrong: dict[str, Any]):
    """No rates, a rate of nothing, one twice, no steps to try them: the error names the argument."""
    with pytest.raises(UsageError, match=next(iter(wrong))):
        dataclasses.replace(PLAN, **wrong)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_comparison_runs_from_recording_to_report(tmp_path: Path):
    """Recording, five trainings, five probes and a report; a second call does nothing anew."""
    path = tmp_path / "plan.json"
    fields = {"seeds": 1, "steps": 2, "episodes": 20, "tier": "smoke", "families": ["P2b"]}
    path.write_text(json.dumps({**fields, "rates": [0.5, 1], "search_steps": 1, "train": TINY}))
    first = compare(str(path), tmp_path / "out", workers=2)
    assert set(first["answers"]["unet"]) == {"H2", "H7", "H8"} and len(first["trainings"]) == 5
    assert [set(errors) for errors in first["rates_tried"].values()] == [{"0.5", "1"}] * 5
    assert "answers nothing" in (tmp_path / "out" / "report.md").read_text()
    shutil.rmtree(tmp_path / "out" / "runs")  # what is probed needs its weights no more
    again = compare(str(path), tmp_path / "out")
    assert again["answers"] == first["answers"] and again["seconds"] < first["seconds"] / 3
