"""CCT-2 adapts on the SoC to images that it was not trained for, and PyTorch does the same beside it.

    python examples/digits.py [--recipe blocks:2] [--steps 300] [--rate 0.01] [--target pulp-redmule]

The images are scikit-learn's handwritten digits (the extra `examples`), 8x8, enlarged to 32x32. On the host
CCT-2 learns them dark on light. The device sees them light on dark, with noise, and fine-tunes with one
image a step. It measures its accuracy itself, as it goes on, and keeps the parameters that are best.
"""

import argparse
import copy
import sys
import time

import numpy as np
import torch
from cct2 import Cct2
from torch import nn

import traindeeploy
from traindeeploy.acceptance import deviations, loss_deviation
from traindeeploy.recipes import LoraOptions

F = nn.functional
HELD_OUT = 300  # images that nothing trains on


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """Digits from 0 to 1, [count, 1, 8, 8], in a fixed random order, and their labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    pixels = torch.from_numpy(digits.images[order].astype(np.float32) / 16)
    return pixels[:, None], torch.from_numpy(digits.target[order])


def as_on_the_host(pixels: torch.Tensor) -> torch.Tensor:
    """[count, 3, 32, 32], dark on light, around 0."""
    large = F.interpolate(1 - pixels, size=(32, 32), mode="bilinear")
    return ((large - 0.5) / 0.35).expand(-1, 3, -1, -1).contiguous()


def as_on_the_device(pixels: torch.Tensor) -> torch.Tensor:
    """The same digits light on dark, with noise."""
    noise = torch.from_numpy(np.random.default_rng(1).standard_normal((len(pixels), 1, 32, 32)))
    return as_on_the_host(1 - pixels) + 0.2 * noise.float()


def pretrain(module: nn.Module, x: torch.Tensor, labels: torch.Tensor, epochs: int) -> None:
    """What happens in the laboratory: all parameters, Adam, batches of 32."""
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    torch.manual_seed(0)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            F.cross_entropy(module(x[batch]), labels[batch]).backward()
            optimizer.step()


@torch.no_grad()
def evaluate(module: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> str:
    """Loss and accuracy on held-out images."""
    logits = module(x)
    right = (logits.argmax(1) == labels).float().mean()
    return f"loss {F.cross_entropy(logits, labels):.3f}, accuracy {100 * right:.1f}%"


def fine_tune(
    module: nn.Module, names: list[str], x: torch.Tensor, labels: torch.Tensor, rate: float
) -> list[float]:
    """The device's steps in PyTorch: one image each, plain SGD."""
    parameters = dict(module.named_parameters())
    losses = []
    for i in range(len(x)):
        image = x[i : i + 1].to(parameters[names[0]].dtype)
        loss = F.cross_entropy(module(image), labels[i : i + 1])
        gradients = torch.autograd.grad(loss, [parameters[name] for name in names])
        with torch.no_grad():
            for name, gradient in zip(names, gradients, strict=True):
                parameters[name] -= rate * gradient
        losses.append(loss.item())
    return losses


def main() -> int:
    """Returns 0 when the first steps agree with PyTorch in float64."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--recipe", default="blocks:2", help="linear-probe, blocks:N, lora:N, ... (default: blocks:2)"
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=0.01, help="learning rate on the device")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of training before, on the host")
    parser.add_argument(
        "--measured",
        type=int,
        default=HELD_OUT,
        help="held-out images that measure accuracy; a fifth of them does while the device trains",
    )
    parser.add_argument("--target", default="pulp-redmule")
    options = parser.parse_args()

    pixels, labels = images()
    measured = min(options.measured, HELD_OUT)
    test, test_labels = as_on_the_device(pixels[:measured]), labels[:measured]
    module = Cct2()
    print(f"pretraining on the host, {options.epochs} epochs of {len(pixels) - HELD_OUT} images", flush=True)
    pretrain(module, as_on_the_host(pixels[HELD_OUT:]), labels[HELD_OUT:], options.epochs)
    module.eval()
    seen = as_on_the_host(pixels[:measured])
    print(f"  on images as it knows them  {evaluate(module, seen, test_labels)}")
    print(f"  on the device's images      {evaluate(module, test, test_labels)}")

    start = time.perf_counter()
    program = traindeeploy.compile(
        module,
        (test[:1],),
        loss="cross-entropy",
        recipe=options.recipe,
        target=options.target,
        lora=LoraOptions(rank=4) if options.recipe.startswith("lora") else None,
        entries=("train", "evaluate"),
    )
    print(
        f"compiled for {options.target} in {time.perf_counter() - start:.1f} s, recipe {options.recipe}",
        flush=True,
    )
    chosen = torch.arange(options.steps) % (len(pixels) - HELD_OUT) + HELD_OUT
    x, y = as_on_the_device(pixels)[chosen], labels[chosen]
    start = time.perf_counter()
    held_out = {"input": test.numpy(), "labels": test_labels.numpy()}
    some = max(1, measured // 5)
    result = program.run(
        {"input": x.numpy(), "labels": y.numpy()},
        steps=options.steps,
        lr=options.rate,
        validate={name: array[:some] for name, array in held_out.items()},
        validate_every=max(1, options.steps // 5),
    )
    report = result.report
    print(
        f"simulated {options.steps} steps in {time.perf_counter() - start:.1f} s:"
        f" {report['cycles']:,.0f} cycles each, {report['flop_per_cycle']:.1f} FLOP a cycle,"
        f" {1000 * report['cycles'] / report['clock_hz']:.1f} ms on the SoC"
    )
    kept = report["validation"]["best_step"]
    for point in report["validation"]["curve"]:
        accuracy = f"loss {point['loss']:.3f}, accuracy {100 * point['accuracy']:.1f}%"
        mark = " (kept)" if point["step"] == kept else ""
        print(f"  after {point['step']:3} steps, {some} images: {accuracy}{mark}")
    found = program.evaluate(held_out, result.params).metrics
    rows = [("on the SoC", f"loss {found['loss']:.3f}, accuracy {100 * found['accuracy']:.1f}%")]

    agrees = True
    if all(name in dict(module.named_parameters()) for name in result.params):
        names = list(result.params)
        beside = copy.deepcopy(module)
        losses = fine_tune(beside, names, x[:kept], y[:kept], options.rate)
        rows.append(("in PyTorch, float32", evaluate(beside, test, test_labels)))
        losses += fine_tune(beside, names, x[kept:], y[kept:], options.rate)
        exact = copy.deepcopy(module).double()
        few = min(options.steps, 3)
        expected = fine_tune(exact, names, x[:few], y[:few], float(np.float32(options.rate)))
        short = program.run({"input": x.numpy(), "labels": y.numpy()}, steps=few, lr=options.rate)
        reference = {
            name: value.detach().numpy() for name, value in exact.named_parameters() if name in names
        }
        found = deviations(program.initial, short.params, reference, steps=few)
        worst = max(loss_deviation(short.losses, expected), *(item.worst for item in found))
        agrees = worst <= 1
        print(f"first {few} steps against PyTorch in float64: {worst:.2f} of what the acceptance rule allows")
        part = max(1, options.steps // 4)
        for name, values in (("SoC", result.losses), ("PyTorch", losses)):
            first, last = np.mean(values[:part]), np.mean(values[-part:])
            print(f"  mean loss of the first and last {part} steps: {first:.3f}, {last:.3f} ({name})")
    for name, text in rows:
        print(f"  after {kept} steps {name:20} {text}")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
