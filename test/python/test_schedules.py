"""Learning rates over steps: values of torch.optim.lr_scheduler, texts, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from traindeeploy import TrainDeeployError
from traindeeploy.schedules import SCHEDULES, Table, parse, rates

LR, STEPS = 0.3, 25


def torch_rates(make, steps=STEPS):
    """What a scheduler of torch gives an optimizer for each step."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


# Of each schedule with what it needs and without, and the scheduler that has the same values.
CASES = {
    "constant": lambda s, o: s.LambdaLR(o, lambda step: 1.0),
    "step:step_size=7": lambda s, o: s.StepLR(o, 7),
    "step:step_size=1,gamma=0.9": lambda s, o: s.StepLR(o, 1, 0.9),
    "multi-step:milestones=11+3": lambda s, o: s.MultiStepLR(o, [3, 11]),
    "multi-step:milestones=1+1+20,gamma=0.5": lambda s, o: s.MultiStepLR(o, [1, 1, 20], 0.5),
    "exponential:gamma=0.8": lambda s, o: s.ExponentialLR(o, 0.8),
    "linear": lambda s, o: s.LinearLR(o),
    "linear:start_factor=0.1,end_factor=0.7,total_iters=13": lambda s, o: s.LinearLR(o, 0.1, 0.7, 13),
    "polynomial": lambda s, o: s.PolynomialLR(o, STEPS),
    "polynomial:total_iters=40,power=2.5": lambda s, o: s.PolynomialLR(o, 40, 2.5),
    "cosine": lambda s, o: s.CosineAnnealingLR(o, STEPS),
    "cosine:T_max=31,eta_min=0.01": lambda s, o: s.CosineAnnealingLR(o, 31, 0.01),
    "cosine-restarts:T_0=4": lambda s, o: s.CosineAnnealingWarmRestarts(o, 4),
    "cosine-restarts:T_0=3,T_mult=2,eta_min=0.02": lambda s, o: s.CosineAnnealingWarmRestarts(o, 3, 2, 0.02),
    # torch takes the rate of before for the first step, the others for each one that is left.
    "one-cycle:total_steps=26": lambda s, o: s.OneCycleLR(o, LR, 26),
    "one-cycle:total_steps=31,pct_start=0.5,div_factor=10,final_div_factor=100": lambda s, o: s.OneCycleLR(
        o, LR, 31, pct_start=0.5, div_factor=10, final_div_factor=100
    ),
}


@pytest.mark.parametrize("text", CASES)
def test_values_of_torch(text: str) -> None:
    expected = torch_rates(CASES[text])
    assert list(rates(text, LR, 0, 0, STEPS)) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_every_schedule_is_compared() -> None:
    assert {text.partition(":")[0] for text in CASES} == set(SCHEDULES) - {"table"}


@pytest.mark.parametrize("text", ["constant", "cosine", "step:step_size=5"])
def test_a_warm_up_comes_first(text: str) -> None:
    warmup = 6

    def make(s, o):
        return s.SequentialLR(
            o,
            [
                s.LinearLR(o, 1 / (warmup + 1), total_iters=warmup),
                {"constant": lambda: s.LambdaLR(o, lambda step: 1.0)}.get(
                    text,
                    lambda: s.CosineAnnealingLR(o, STEPS - warmup) if text == "cosine" else s.StepLR(o, 5),
                )(),
            ],
            milestones=[warmup],
        )

    assert list(rates(text, LR, warmup, 0, STEPS)) == pytest.approx(torch_rates(make), rel=1e-9)


@pytest.mark.parametrize("text", ["cosine:T_max=30", "one-cycle:total_steps=30", "multi-step:milestones=9"])
@pytest.mark.parametrize("warmup", [0, 7])
def test_a_run_goes_on_in_the_schedule(text: str, warmup: int) -> None:
    whole = list(rates(text, LR, warmup, 0, 20))
    assert list(rates(text, LR, warmup, 0, 5)) + list(rates(text, LR, warmup, 5, 15)) == whole


def test_functions_and_schedulers_of_torch() -> None:
    torch = pytest.importorskip("torch")
    assert list(rates(lambda step: 1.0 / (1 + step), LR, 0, 2, 3)) == [1 / 3, 1 / 4, 1 / 5]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    scheduler.step()
    assert list(rates(scheduler, LR, 0, 0, 3)) == pytest.approx([LR / 2, LR / 4, LR / 8])
    assert scheduler.get_last_lr() == [LR / 2]
    # One that is used up ends in words.
    one = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, 2)
    with pytest.raises(TrainDeeployError, match="the schedule ends after step"):
        list(rates(one, LR, 0, 0, 9))


def test_a_table(tmp_path: Path) -> None:
    (tmp_path / "rates.txt").write_text("0.5\n0.25\n1e-3\n")
    text = f"table:file={tmp_path / 'rates.txt'}"
    assert list(rates(text, LR, 0, 1, 2)) == [0.25, 1e-3]
    assert list(rates(Table((0.5, 0.1)), LR, 0, 0, 2)) == [0.5, 0.1]
    (tmp_path / "bad.txt").write_text("0.5\nfast\n")
    for name, says in (("bad.txt", "'fast' is not a finite number"), ("none.txt", "cannot read the rates")):
        with pytest.raises(TrainDeeployError, match=says):
            parse(f"table:file={tmp_path / name}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cosinus", "unknown schedule 'cosinus'; there are: constant, step"),
        ("step", "schedule step needs step_size="),
        ("step:step_size=0", "'0' is no step_size of schedule step"),
        ("step:size=3", "schedule step does not take 'size=3'; it takes step_size=, gamma="),
        ("constant:x=1", "it takes no parameters"),
        ("cosine:T_max", "schedule cosine does not take 'T_max'"),
        ("cosine:eta_min=inf", "'inf' is no eta_min"),
        ("multi-step:milestones=3+x", r"'3\+x' is no milestones"),
        ("one-cycle:pct_start=2", "pct_start of schedule one-cycle is from 0 to 1, not 2"),
        ("cosine:T_max=24", "schedule cosine has 24 steps, but the run needs 25"),
        ("polynomial:total_iters=7", "schedule polynomial has 7 steps, but the run needs 25"),
        ("one-cycle:total_steps=1", "schedule one-cycle has 1 steps"),
    ],
)
def test_what_is_refused(text: str, says: str) -> None:
    with pytest.raises(TrainDeeployError, match=says):
        rates(text, LR, 0, 0, STEPS)
