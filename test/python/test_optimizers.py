"""Optimizers on the simulator, against torch.optim in float64; one from outside; what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import traindeeploy
from reference import Mlp
from traindeeploy import TrainDeeployError
from traindeeploy.acceptance import MIXED, MIXED_LOSS_TOLERANCE, deviations, loss_deviation
from traindeeploy.optimizers import (
    OPTIMIZERS,
    SGD,
    Adam,
    AdamW,
    Lion,
    Number,
    Optimizer,
    ParameterGroup,
    Updates,
    choose,
    hyperparameter,
    maximum,
    sqrt,
)
from traindeeploy.precision import DynamicScale, loss_scale

STEPS, LR = 10, 0.02


def lion(torch: Any, parameters: Any, lr: float, betas: tuple[float, float], weight_decay: float) -> Any:
    """Algorithm 2 of arXiv:2302.06675, which torch.optim does not have."""

    class Reference(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self) -> None:
            for p in self.param_groups[0]["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                update = torch.sign(betas[0] * m + (1 - betas[0]) * p.grad)
                p.sub_(lr * (update + weight_decay * p))
                m.copy_(betas[1] * m + (1 - betas[1]) * p.grad)

    return Reference(parameters, {})


def of_torch(torch: Any, optimizer: Optimizer, parameters: Any, lr: float) -> Any:
    """The same optimizer for a reference."""
    options = optimizer.to_json()
    name = options.pop("name")
    if name == "lion":
        return lion(torch, parameters, lr, **options)
    kind = next(kind for kind in dir(torch.optim) if kind.lower() == name and kind != name)
    return getattr(torch.optim, kind)(parameters, lr=lr, foreach=False, **options)


def reference(
    mlp: Mlp, data: Mapping[str, np.ndarray], make: Any, steps: int = STEPS
) -> tuple[Any, list[float]]:
    """Parameters and losses of a run in float64; `make` gives an optimizer for the module's parameters."""
    import torch

    module, _ = mlp.module(1)
    module = module.double()
    optimizer = make(torch, list(module.parameters()))
    losses, batch = [], len(data["x"]) // steps
    for step in range(steps):
        rows = slice(step * batch, (step + 1) * batch)
        optimizer.zero_grad()
        y = module(torch.from_numpy(data["x"][rows]).double())
        loss = torch.nn.functional.mse_loss(y, torch.from_numpy(data["target"][rows]).double())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {name: value.detach().numpy() for name, value in module.named_parameters()}, losses


def compare(
    optimizer: Optimizer | str,
    *,
    mlp: Mlp,
    batch: int = 3,
    target: str = "pulp-redmule",
    make: Any = None,
) -> traindeeploy.driver.Result:
    """Trains on the simulator and in the reference, and asserts that they agree by the rule."""
    pytest.importorskip("torch")
    module, inputs = mlp.module(batch)
    mixed = target == "pulp-redmule-fp16"
    program = traindeeploy.compile(
        module, inputs, loss="mse", optimizer=optimizer, target=target, precision="mixed" if mixed else "fp32"
    )
    data = mlp.data(batch * STEPS)
    result = program.run(data, steps=STEPS, lr=LR)
    chosen = choose(optimizer)
    lr = float(np.float32(LR))
    expected, losses = reference(
        mlp, data, make or (lambda torch, parameters: of_torch(torch, chosen, parameters, lr))
    )
    assert loss_deviation(result.losses, losses, MIXED_LOSS_TOLERANCE if mixed else 2e-6) <= 1
    for item in deviations(mlp.params, result.params, expected, steps=STEPS, **(MIXED if mixed else {})):
        assert item.update > 0 and item.worst <= 1, item
    return result


# A gradient near zero has few right digits, and Adam and its like move a weight by the rate all the same:
# with an eps of the size of gradients the update is as well determined as the gradient. The defaults have a
# test of their own.
CASES = (
    "sgd:momentum=0.9,nesterov=true,weight_decay=0.1",
    "sgd:momentum=0.8,dampening=0.3",
    "sgd:weight_decay=0.05",
    "adam:eps=0.01,weight_decay=0.02",
    "adam:eps=0.01,betas=0+0.5",
    "adamw:eps=0.01",
    "adamw:eps=0.02,amsgrad=true,betas=0.8+0.9,weight_decay=0.3",
    "rmsprop:eps=0.01",
    "rmsprop:eps=0.02,alpha=0.9,momentum=0.5,centered=true,weight_decay=0.01",
    "adagrad:eps=0.01",
    "adagrad:eps=0.01,lr_decay=0.1,weight_decay=0.02,initial_accumulator_value=0.1",
)


# On other targets the update is the same kernel, behind another product.
ELSEWHERE = (CASES[0], CASES[6], CASES[8])


@pytest.mark.parametrize(
    ("optimizer", "target"),
    [
        *((case, "pulp-redmule") for case in CASES),
        *((case, target) for case in ELSEWHERE for target in ("pulp", "pulp-redmule-fp16")),
    ],
)
def test_agrees_with_torch(optimizer: str, target: str) -> None:
    compare(optimizer, mlp=Mlp([17, 31, 1, 13], activation="tanh"), target=target)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "adagrad", "lion:weight_decay=0.1"])
def test_defaults_agree_with_torch(optimizer: str) -> None:
    """Few weights, whose gradients are far from zero."""
    compare(optimizer, mlp=Mlp([3, 2, 2], activation="tanh", seed=WELL_CONDITIONED[optimizer]), batch=5)


WELL_CONDITIONED = {"adam": 0, "adamw": 0, "rmsprop": 0, "adagrad": 0, "lion:weight_decay=0.1": 0}


def test_every_optimizer_is_compared() -> None:
    assert {text.partition(":")[0] for text in (*CASES, *WELL_CONDITIONED)} == set(OPTIMIZERS)


def test_no_gradient_has_a_buffer_and_states_move_once() -> None:
    """Per parameter AdamW reads and writes two states more than SGD, and no array more."""
    pytest.importorskip("torch")
    mlp = Mlp([64, 128, 32], bias=False)
    module, inputs = mlp.module(8)
    plans = [
        traindeeploy.compile(module, inputs, loss="mse", optimizer=name).plan() for name in ("sgd", "adamw")
    ]
    count = sum(value.size for value in mlp.params.values())
    assert [plan["memory"]["state"] for plan in plans] == [0, 8 * count + 4]
    for way in ("l2_to_l1", "l1_to_l2"):
        more = plans[1]["transfers"][way] - plans[0]["transfers"][way]
        assert 8 * count <= more <= 8 * count + 2048
    # Not even the smaller gradient would fit into what is used more.
    smallest = 4 * min(value.size for value in mlp.params.values())
    assert plans[1]["memory"]["dynamic_peak"] < plans[0]["memory"]["dynamic_peak"] + smallest // 2


@dataclass(frozen=True)
class Made(Optimizer):
    """Not known to the compiler: three states with values of their own, and one that all share."""

    share: float = hyperparameter(0.7)

    def shared(self) -> Mapping[str, float]:
        return {"weight_of_all": 2.0}

    def states(self) -> Mapping[str, float]:
        return {"first": 0.5, "second": 0.0, "most": 0.01}

    def once(self, rate: Number, shared: Mapping[str, Number]) -> tuple[Sequence[Number], Sequence[Number]]:
        return [rate / shared["weight_of_all"]], [shared["weight_of_all"] * 1.25]

    def each(
        self, weight: Number, gradient: Number, states: Mapping[str, Number], numbers: Sequence[Number]
    ) -> tuple[Number, Sequence[Number]]:
        first = self.share * states["first"] + gradient
        second = states["second"] + first * first
        most = maximum(states["most"], second)
        return weight - numbers[0] * (first / (sqrt(most) + 1.0)), [first, second, most]


@pytest.mark.parametrize("target", ["pulp-redmule", "pulp"])
def test_one_from_outside(target: str) -> None:
    def make(torch: Any, parameters: Any) -> Any:
        class Reference(torch.optim.Optimizer):
            of_all = 2.0

            @torch.no_grad()
            def step(self) -> None:
                for p in parameters:
                    state = self.state[p]
                    if not state:
                        for name, value in (("first", 0.5), ("second", 0.0), ("most", 0.01)):
                            state[name] = torch.full_like(p, value)
                    state["first"] = 0.7 * state["first"] + p.grad
                    state["second"] = state["second"] + state["first"] ** 2
                    state["most"] = torch.maximum(state["most"], state["second"])
                    p.sub_(LR / self.of_all * state["first"] / (state["most"].sqrt() + 1))
                self.of_all *= 1.25

        return Reference(parameters, {})

    result = compare(Made(), mlp=Mlp([17, 13, 5], activation="tanh"), target=target, make=make)
    assert result.state["optimizer/weight_of_all"] == pytest.approx(2 * 1.25**STEPS, rel=1e-6)
    assert result.state["optimizer/layers.0.weight/most"].shape == (13, 17)


def test_going_on_is_one_run(tmp_path: Path) -> None:
    """The count of updates goes on too: a second run is not corrected as a first one."""
    pytest.importorskip("torch")
    mlp = Mlp([17, 13, 5], activation="tanh")
    module, inputs = mlp.module(2)
    program = traindeeploy.compile(module, inputs, loss="mse", optimizer="adamw:amsgrad=true")
    data = mlp.data(8)
    whole = program.run(data, steps=6, lr=LR)
    half = program.run(data, steps=3, lr=LR)
    half.write(tmp_path)
    rest = program.run(data, steps=3, lr=LR, init=tmp_path / "params.npz")
    assert rest.losses == whole.losses[3:]
    assert rest.state["optimizer/updates"] == 6
    for name, value in {**whole.params, **whole.state}.items():
        np.testing.assert_array_equal({**rest.params, **rest.state}[name], value)

    other = traindeeploy.compile(module, inputs, loss="mse", momentum=0.9)
    with pytest.raises(TrainDeeployError, match=r"has 'optimizer/[^']*', which is no state of optimizer sgd"):
        other.run(data, steps=1, lr=LR, init=tmp_path / "params.npz")
    other.run(data, steps=1, lr=LR, init=half.params)


REFUSED = {
    "adm": "unknown optimizer 'adm'; there are: sgd, adam,",
    "adam:beta=0.5": "optimizer adam does not take 'beta=0.5'; it takes betas=, eps=",
    "adam:betas=0.9": "'0.9' is no betas of optimizer adam",
    "adam:betas=0.9+1": "betas of optimizer adam is to be at least 0 and below 1, not 1.0",
    "adamw:eps=-1": "eps of optimizer adamw is to be at least 0, not -1.0",
    "adamw:amsgrad=yes": "'yes' is no amsgrad of optimizer adamw",
    "rmsprop:weight_decay=nan": "weight_decay of optimizer rmsprop is to be at least 0, not nan",
    "sgd:nesterov=true": "nesterov of optimizer sgd needs a momentum, and no dampening",
    "sgd:momentum=1": "momentum of optimizer sgd is to be at least 0 and below 1, not 1.0",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_optimizer(text: str) -> None:
    with pytest.raises(TrainDeeployError) as caught:
        traindeeploy.compile("deep-ae", loss="mse", optimizer=text)
    assert str(caught.value).startswith(REFUSED[text]) and "\n" not in str(caught.value)


def test_a_momentum_is_sgds() -> None:
    assert choose("sgd", 0.5) == SGD(momentum=0.5)
    with pytest.raises(TrainDeeployError, match="a momentum beside optimizer adam is of sgd without one"):
        choose(Adam(), 0.5)


def test_names_of_states() -> None:
    class Wrong(Lion):
        def states(self) -> Mapping[str, float]:
            return {"steps": 0.0}

    with pytest.raises(TrainDeeployError, match="optimizer lion cannot have a state called 'steps'"):
        Wrong().text()

    class Short(AdamW):
        def states(self) -> Mapping[str, float]:
            return {**super().states(), "more": 0.0}

    with pytest.raises(
        TrainDeeployError, match="1 shared and 3 other states, but its formulas return 1 and 2"
    ):
        Short().text()


def torch_step(torch: Any, module: Any, optimizer: Any, data: Mapping[str, np.ndarray], rows: slice) -> Any:
    """Gradients of a batch in float64."""
    y = module(torch.from_numpy(data["x"][rows]).double())
    loss = torch.nn.functional.mse_loss(y, torch.from_numpy(data["target"][rows]).double())
    loss.backward()
    return loss


def trained(mlp: Mlp, batch: int, steps: int, **options: Any) -> tuple[Any, Mapping[str, np.ndarray]]:
    """A run on the simulator, and its data."""
    pytest.importorskip("torch")
    module, inputs = mlp.module(batch)
    data = mlp.data(batch * steps)
    target = options.get("target", "pulp-redmule")
    precision = "mixed" if target == "pulp-redmule-fp16" else "fp32"
    program = traindeeploy.compile(module, inputs, loss="mse", precision=precision, **options)
    return program.run(data, steps=steps, lr=LR), data


def agree(mlp: Mlp, got: Mapping[str, np.ndarray], module: Any, steps: int, target: str) -> None:
    """Asserts that parameters agree with a module's by the rule."""
    expected = {name: value.detach().numpy() for name, value in module.named_parameters()}
    rule = MIXED if target == "pulp-redmule-fp16" else {}
    for item in deviations(mlp.params, got, expected, steps=steps, **rule):
        assert item.update > 0 and item.worst <= 1, item


TARGETS = ("pulp-redmule", "pulp", "pulp-redmule-fp16")


@pytest.mark.parametrize("target", TARGETS)
def test_groups_and_clipped_values(target: str) -> None:
    """Groups as param_groups of torch, and clip_grad_value_."""
    mlp = Mlp([17, 13, 5], activation="tanh")
    groups = [ParameterGroup("bias", weight_decay=0.0), ParameterGroup(r"\.1\.", lr=0.5)]
    result, data = trained(
        mlp,
        3,
        STEPS,
        optimizer="adamw:eps=0.01,weight_decay=0.5",
        groups=groups,
        clip_value=0.05,
        target=target,
    )
    import torch

    module = mlp.module(1)[0].double()
    lr = float(np.float32(LR))
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [p],
                "weight_decay": 0.0 if "bias" in name else 0.5,
                "lr": lr * (0.5 if ".1." in name else 1),
            }
            for name, p in module.named_parameters()
        ],
        eps=0.01,
    )
    clipped = 0
    for step in range(STEPS):
        optimizer.zero_grad()
        torch_step(torch, module, optimizer, data, slice(3 * step, 3 * step + 3))
        clipped += sum(int((p.grad.abs() > 0.05).sum()) for p in module.parameters())
        torch.nn.utils.clip_grad_value_(module.parameters(), 0.05)
        optimizer.step()
    assert clipped > 0
    agree(mlp, result.params, module, STEPS, target)
    assert {key for key in result.state if "updates" in key} == {
        "optimizer/updates",
        "optimizer/updates_1",
        "optimizer/updates_2",
        "optimizer/updates_3",
    }


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam:eps=0.01"])
def test_clipped_norm(optimizer: str, target: str) -> None:
    """clip_grad_norm_, of which some steps are clipped and others are not."""
    mlp = Mlp([17, 13, 5], activation="tanh")
    result, data = trained(mlp, 3, STEPS, optimizer=optimizer, clip_norm=LIMIT, target=target)
    import torch

    module = mlp.module(1)[0].double()
    reference = of_torch(torch, choose(optimizer), list(module.parameters()), float(np.float32(LR)))
    norms = []
    for step in range(STEPS):
        reference.zero_grad()
        torch_step(torch, module, reference, data, slice(3 * step, 3 * step + 3))
        norms.append(float(torch.nn.utils.clip_grad_norm_(module.parameters(), LIMIT)))
        reference.step()
    assert min(norms) < LIMIT < max(norms)
    agree(mlp, result.params, module, STEPS, target)
    found = result.report["gradient_norm"]
    accuracy = 1e-2 if target == "pulp-redmule-fp16" else 1e-5
    assert found["max"] == pytest.approx(max(norms), rel=accuracy)
    assert found["mean"] == pytest.approx(np.mean(norms), rel=accuracy)


LIMIT = 1.9


@pytest.mark.parametrize("target", TARGETS)
def test_accumulation_and_averages(target: str) -> None:
    """Three steps of two samples are one of six; the average follows updates, as swa_utils has it."""
    mlp = Mlp([17, 13, 5], activation="tanh")
    result, data = trained(mlp, 2, 30, optimizer="adamw:eps=0.01", accumulate=3, ema=0.8, target=target)
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    module = mlp.module(1)[0].double()
    optimizer = torch.optim.AdamW(module.parameters(), lr=float(np.float32(LR)), eps=0.01)
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    for step in range(STEPS):
        optimizer.zero_grad()
        torch_step(torch, module, optimizer, data, slice(6 * step, 6 * step + 6))
        optimizer.step()
        average.update_parameters(module)
    agree(mlp, result.params, module, 30, target)
    agree(mlp, result.ema, average.module, 30, target)
    assert result.state["optimizer/updates"] == STEPS
    assert result.state["optimizer/micro_batches"] == 0


@pytest.mark.parametrize("target", ["pulp", "pulp-redmule-fp16"])
def test_sums_of_gradients_are_clipped_and_scaled(target: str) -> None:
    """Two steps an update, a norm that is limited, and a scale of the loss that follows what overflows."""
    pytest.importorskip("torch")
    mixed = target == "pulp-redmule-fp16"
    mlp = Mlp([17, 13, 5], activation="tanh" if mixed else "relu")
    module, inputs = mlp.module(3)
    first, limit_of_norm = (2.0**20, 1.3) if mixed else (2.0**24, 1.6)
    program = traindeeploy.compile(
        module,
        inputs,
        loss="mse",
        optimizer="adam:eps=0.01",
        accumulate=2,
        clip_norm=limit_of_norm,
        ema=0.8,
        target=target,
        precision="mixed" if mixed else "fp32",
        loss_scale=DynamicScale(init=first, growth_interval=3),
    )
    data = mlp.data(6 * STEPS)
    if not mixed:
        # Of the first half of an update the gradients overflow once they are scaled; the loss does not.
        data["x"][24:27] *= np.float32(1e17)
    result = program.run(data, steps=2 * STEPS, lr=LR)
    import torch

    module = module.double()
    reference = of_torch(torch, choose("adam:eps=0.01"), list(module.parameters()), float(np.float32(LR)))
    scale, tracker, skipped, norms, average = first, 0, 0, [], None
    limit = 65504.0 if mixed else float(np.finfo(np.float32).max)
    for step in range(STEPS):
        reference.zero_grad()
        parts, sums = [], [0.0 for _ in module.parameters()]
        for half in range(2):
            rows = slice(6 * step + 3 * half, 6 * step + 3 * half + 3)
            torch_step(torch, module, reference, data, rows)
            parts += [
                float((p.grad - before).abs().max())
                for p, before in zip(module.parameters(), sums, strict=True)
                if p.ndim > 1 or not mixed  # sums of rows are in float32
            ]
            sums = [p.grad.clone() for p in module.parameters()]
        if max(parts) * scale > limit:
            scale, tracker, skipped = scale / 2, 0, skipped + 1
            continue
        for p in module.parameters():
            p.grad /= 2
        norms.append(float(torch.nn.utils.clip_grad_norm_(module.parameters(), limit_of_norm)))
        reference.step()
        now = {name: value.detach().clone() for name, value in module.named_parameters()}
        average = now if average is None else {n: 0.8 * average[n] + 0.2 * now[n] for n in now}
        tracker += 1
        if tracker == 3:
            scale, tracker = 2 * scale, 0
    assert 0 < skipped < STEPS and min(norms) < limit_of_norm < max(norms)
    assert result.report["loss_scale"] == {"last": scale, "skipped": skipped}
    assert result.state["optimizer/updates"] == STEPS - skipped
    assert result.state["optimizer/micro_batches"] == 0
    assert result.report["gradient_norm"]["max"] == pytest.approx(max(norms), rel=1e-2 if mixed else 1e-5)
    agree(mlp, result.params, module, 2 * STEPS, target)
    for name, value in average.items():
        np.testing.assert_allclose(result.ema[name], value.numpy(), atol=1e-3 if mixed else 1e-5)


def test_groups_that_are_frozen_at_first() -> None:
    """As parameters whose gradient is None at first: bit for bit the same, and then as if the run began."""
    mlp = Mlp([17, 13, 5], activation="tanh")
    groups = [ParameterGroup(r"layers\.0", frozen=4)]
    options = {"optimizer": "adam:eps=0.01,weight_decay=0.1", "groups": groups}
    result, data = trained(mlp, 3, STEPS, **options)
    import torch

    module = mlp.module(1)[0].double()
    lr = float(np.float32(LR))
    optimizer = of_torch(torch, choose(options["optimizer"]), list(module.parameters()), lr)
    for step in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        torch_step(torch, module, optimizer, data, slice(3 * step, 3 * step + 3))
        if step < 4:
            for p in (module.layers["0"].weight, module.layers["0"].bias):
                p.grad = None
        optimizer.step()
    agree(mlp, result.params, module, STEPS, "pulp-redmule")
    first, _ = trained(mlp, 3, 4, **options)
    for name, value in first.params.items():
        assert np.array_equal(value, mlp.params[name]) == name.startswith("layers.0")
    assert {float(value) for key, value in result.state.items() if "updates" in key} == {6.0, 10.0}


def test_steps_between_updates_change_no_weight() -> None:
    mlp = Mlp([17, 13, 5])
    pytest.importorskip("torch")
    module, inputs = mlp.module(2)
    program = traindeeploy.compile(module, inputs, loss="mse", optimizer="adamw", accumulate=2)
    data = mlp.data(8)
    with pytest.raises(TrainDeeployError, match="3 steps are no multiple of the 2 that accumulate gradients"):
        program.run(data, steps=3, lr=LR)
    seen = program.run(data, steps=4, lr=LR, schedule=lambda update: LR / (1 + update))
    assert seen.report["learning_rate"] == pytest.approx([LR, LR, LR / 2, LR / 2])


REFUSED_TOGETHER: dict[str, dict[str, Any]] = {
    "no trained parameter matches the pattern 'nrom' of a group": {"groups": [ParameterGroup("nrom")]},
    "clip_value is -1; gradients are clipped to a number above 0": {"clip_value": -1},
    "clip_norm is nan; gradients are clipped": {"clip_norm": float("nan")},
    "gradients of 0 steps cannot be accumulated": {"accumulate": 0},
    "the decay 1 of the average of weights is not at least 0 and below 1": {"ema": 1},
    "clip_norm and groups that are frozen for some updates do not": {
        "clip_norm": 1,
        "groups": [ParameterGroup("bias", frozen=1)],
    },
}


@pytest.mark.parametrize("says", REFUSED_TOGETHER)
def test_what_does_not_go_together(says: str) -> None:
    with pytest.raises(TrainDeeployError) as caught:
        traindeeploy.compile("deep-ae", loss="mse", **REFUSED_TOGETHER[says])
    assert str(caught.value).startswith(says) and "\n" not in str(caught.value)


def test_patterns_of_groups() -> None:
    with pytest.raises(TrainDeeployError, match=r"the pattern '\(' of a group is no regular expression"):
        ParameterGroup("(")
    with pytest.raises(TrainDeeployError, match="the learning rate of group 'x' is -1 times as high"):
        ParameterGroup("x", lr=-1)
    with pytest.raises(TrainDeeployError, match="group 'x' is frozen for -1 updates; 0 to"):
        ParameterGroup("x", frozen=-1)
    with pytest.raises(TrainDeeployError, match="optimizer Made has no weight decay"):
        Updates(Made(), [ParameterGroup("x", weight_decay=0.0)])


@pytest.mark.parametrize("target", ["pulp", "pulp-redmule-fp16"])
def test_dynamic_scale_is_grad_scalers(target: str) -> None:
    """Steps that overflow change nothing, halve the scale and are counted; others double it in time."""
    pytest.importorskip("torch")
    mixed = target == "pulp-redmule-fp16"
    mlp = Mlp([17, 13, 5], activation="tanh" if mixed else "relu")
    module, inputs = mlp.module(3)
    program = traindeeploy.compile(
        module,
        inputs,
        loss="mse",
        optimizer="adam:eps=0.01",
        target=target,
        precision="mixed" if mixed else "fp32",
        loss_scale=DynamicScale(init=2.0**20 if mixed else 2.0**24, growth_interval=3),
    )
    data = mlp.data(3 * STEPS)
    if not mixed:
        # Of this batch the gradients overflow once they are scaled; the loss does not.
        data["x"][15:18] *= np.float32(1e17)
    result = program.run(data, steps=STEPS, lr=LR)
    import torch

    module = module.double()
    reference = of_torch(torch, choose("adam:eps=0.01"), list(module.parameters()), float(np.float32(LR)))
    scale, tracker, skipped = 2.0**20 if mixed else 2.0**24, 0, 0
    limit = 65504.0 if mixed else float(np.finfo(np.float32).max)
    for step in range(STEPS):
        reference.zero_grad()
        torch_step(torch, module, reference, data, slice(3 * step, 3 * step + 3))
        if max(float(p.grad.abs().max()) for p in module.parameters()) * scale > limit:
            scale, tracker, skipped = scale / 2, 0, skipped + 1
            continue
        reference.step()
        tracker += 1
        if tracker == 3:
            scale, tracker = 2 * scale, 0
    assert 0 < skipped < STEPS
    assert result.report["loss_scale"] == {"last": scale, "skipped": skipped}
    assert result.state["optimizer/loss_scale"] == scale
    assert result.state["optimizer/growth_tracker"] == tracker
    assert result.state["optimizer/updates"] == STEPS - skipped
    agree(mlp, result.params, module, STEPS, target)


def test_what_is_no_scale() -> None:
    assert loss_scale("dynamic:growth_interval=5") == DynamicScale(growth_interval=5)
    for text, says in {
        "dynamo": "unknown loss scale 'dynamo'; there are: dynamic",
        "dynamic:init=3": "loss scale 3 is not a power of two",
        "dynamic:growth_interval=0": "growth_interval 0 is not from 1 to 2",
    }.items():
        with pytest.raises(TrainDeeployError, match=says):
            loss_scale(text)
