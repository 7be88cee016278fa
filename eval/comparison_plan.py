"""What `worldsim compare` is asked to do: arms, seeds, steps, learning rates to try. Trains and probes nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from worldsim.config import preset
from worldsim.errors import UsageError, suggestion
from worldsim.eval.hypotheses import HYPOTHESES
from worldsim.eval.probe import called
from worldsim.train import TrainConfig

RIVALS = ("unet", "unet-stacked")
LADDER_RIVAL = RIVALS[0]
MATCHINGS = {"parameters": "", "operations": "-flops"}
"""How arms are matched, and what their presets are called."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a comparison trains, and how it asks. Saved with the results."""

    base: str = "nano"
    """Preset of the transformer; the U-Nets are those beside it."""
    seeds: int
    """Trainings of every arm. Below three nothing is known of how trainings differ; below five all is exploratory."""
    steps: int
    """Optimisation steps of every training."""
    episodes: int
    """Episodes recorded to train on, where no recording is given."""
    tier: str
    """Scenes a family, as in `worldsim probe`."""
    scenes: int | None = None
    """Scenes a family instead of the tier's."""
    rates: tuple[float, ...] = (1.0,)
    """Learning rates that every arm is tried with, as multiples of those of ``train``; it is then trained with its best."""
    search_steps: int = 0
    """Steps of the trainings that try them."""
    rungs: tuple[str, ...] = ()
    """Smaller transformers, with a U-Net of as many parameters beside each, that show how error falls with compute."""
    ladder: tuple[int, ...] = ()
    """Steps of the trainings of ``rungs`` and base that show it, each with its own decay; one training each."""
    families: tuple[str, ...] = tuple(code for one in HYPOTHESES for code in one.families)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        counted = ("seeds", "steps", "episodes", *(["search_steps"] if len(self.rates) > 1 else []))
        for name in counted:
            if getattr(self, name) < 1:
                raise UsageError(name, got=getattr(self, name), allowed="1 or more", fix=f"{name}: 3")
        if not self.rates or min(self.rates) <= 0 or len(set(self.rates)) < len(self.rates):
            allowed = "one or more different multiples above 0"
            raise UsageError("rates", got=self.rates, allowed=allowed, fix="rates: [0.5, 1, 2]")
        if bool(self.rungs) != bool(self.ladder) or min(self.ladder, default=1) < 1:
            got, allowed = f"{self.ladder} for rungs {self.rungs}", "both or neither; 1 or more steps each"
            raise UsageError("ladder", got=got, allowed=allowed, fix="rungs: [], ladder: []")
        for name in (*(f"{self.base}-{rival}" for rival in RIVALS), *(f"{rung}-{LADDER_RIVAL}" for rung in self.rungs)):
            preset(name)
        called(self.families, self.tier)
        if self.scenes is not None and self.scenes < 2:
            raise UsageError(
                "scenes", got=self.scenes, allowed="2 or more, or none for those of the tier", fix="scenes: 24"
            )

    @property
    def arms(self) -> list[str]:
        """Presets that are trained, the transformer first."""
        return [self.base, *(f"{self.base}-{rival}{suffix}" for suffix in MATCHINGS.values() for rival in RIVALS)]


PLANS = {
    "quick": Plan(
        seeds=1, steps=150, episodes=100, tier="smoke", families=("P1c", "P1d", "P2b", "P3-I1"),
        train=TrainConfig(clip_frames=(8, 16), clip_shares=(0.6, 0.4), validate_minutes=60.0),
    ),
    "nano": Plan(
        seeds=3, steps=1000, episodes=2000, tier="standard", scenes=24, rates=(0.5, 1.0, 2.0), search_steps=120,
        rungs=("pico", "micro"), ladder=(125, 250, 500, 1000),
        train=TrainConfig(precision="fp32", reads_per_step=16, validate_minutes=60.0),
    ),
}  # fmt: skip
"""`quick` takes minutes and shows the path; `nano` is the comparison, hours on two cores.

`nano` learns in one type whatever the machine finds faster, and few frames for readouts of state, which no claim asks for.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of the comparison."""

    name: str
    """Name of its folders."""
    preset: str
    seed: int
    steps: int
    rate: float = 1.0
    """Its learning rates, as a multiple of the plan's."""

    def config(self, plan: Plan) -> TrainConfig:
        """Return the plan's training settings with this training's seed and learning rates; those of readouts stay."""
        optim = plan.train.optim
        rates = {"muon_lr": self.rate * optim.muon_lr, "adamw_lr": self.rate * optim.adamw_lr}
        return dataclasses.replace(plan.train, seed=self.seed, optim=dataclasses.replace(optim, **rates))


def searches_of(plan: Plan) -> list[Trial]:
    """Return the trainings that try learning rates, as many for every arm; none where there is nothing to choose.

    Their seed is none that is compared.
    """
    if len(plan.rates) == 1:
        return []
    return [
        Trial(name=f"{arm}-rate{rate:g}", preset=arm, seed=plan.seeds, steps=plan.search_steps, rate=rate)
        for rate in plan.rates
        for arm in plan.arms
    ]


def trials_of(plan: Plan) -> list[Trial]:
    """Return all trainings that are compared, seed by seed, so that whatever is finished first can be compared."""
    return [
        Trial(name=f"{arm}-seed{seed}", preset=arm, seed=seed, steps=plan.steps)
        for seed in range(plan.seeds)
        for arm in plan.arms
    ]


def ladder_of(plan: Plan) -> dict[str, list[Trial]]:
    """Return, for the transformer and for the U-Net beside it, the trainings that show how error falls with compute.

    The largest of them is not among these: it is trained anyway, and shows whether the law foretells it.
    """
    return {
        end: [
            Trial(name=f"{size}{end}-steps{steps}", preset=f"{size}{end}", seed=0, steps=steps)
            for size in (*plan.rungs, plan.base)
            for steps in plan.ladder
            if (size, steps) != (plan.base, plan.steps)
        ]
        for end in ("", f"-{LADDER_RIVAL}")
    }


def read_plan(plan: str) -> Plan:
    """Return a plan by its name, or read from a JSON file; UsageError says what is wrong with it."""
    if plan in PLANS:
        return PLANS[plan]
    path, allowed = Path(plan), f"{', '.join(PLANS)}, or a JSON file with fields of {Plan.__name__}"
    if not path.is_file():
        raise UsageError("plan", got=repr(plan), allowed=allowed, fix=suggestion(plan, tuple(PLANS)))
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        fields["families"] = tuple(fields.get("families", PLANS["nano"].families))
        fields |= {name: tuple(fields[name]) for name in ("rungs", "ladder") if name in fields}
        fields["rates"] = tuple(float(rate) for rate in fields.get("rates", (1.0,)))
        fields["train"] = TrainConfig.from_json(fields.get("train", {}))
        return Plan(**fields)
    except (ValueError, TypeError, AttributeError) as error:
        fix = f"{error}; begin with what results.json of another comparison has under plan"
        raise UsageError("plan", got=str(path), allowed=allowed, fix=fix) from error
