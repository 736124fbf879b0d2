"""Fine-tunes Deep-AE on the simulated SoC and compares every updated weight with PyTorch in float64."""

import copy
import sys
import time

import numpy as np
import torch
from deep_ae import model
from sounds import windows

import traindeeploy
from traindeeploy.acceptance import deviations, loss_deviation
from traindeeploy.plan_table import table

STEPS, BATCH, RATE = 5, 16, 0.05


def reference(module: torch.nn.Module, data: np.ndarray) -> tuple[dict[str, np.ndarray], list[float]]:
    """Parameters and losses of the same steps in PyTorch, float64."""
    module = copy.deepcopy(module).double()
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
    losses = []
    for step in range(STEPS):
        batch = torch.from_numpy(data[step * BATCH : (step + 1) * BATCH]).double()
        loss = torch.nn.functional.mse_loss(module(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {name: value.detach().numpy() for name, value in module.named_parameters()}, losses


def main() -> int:
    """Returns 0 when everything agrees."""
    module, _ = model()
    data = windows(STEPS * BATCH)
    print(f"Deep-AE, full fine-tuning with SGD on {len(data)} windows of a fan's sound, batch {BATCH}")

    start = time.perf_counter()
    program = traindeeploy.compile(
        module, (torch.zeros(BATCH, 640),), loss="mse", recipe="full", target="pulp-redmule"
    )
    print(f"compiled in {time.perf_counter() - start:.1f} s to {len(program.elf):,} bytes of RISC-V code")
    start = time.perf_counter()
    result = program.run({"input": data, "target": data}, steps=STEPS, lr=RATE)
    print(f"simulated {STEPS} steps in {time.perf_counter() - start:.1f} s\n")
    print(result.summary())

    exact, losses = reference(module, data)
    before = {name: value.detach().numpy() for name, value in module.named_parameters()}
    found = deviations(before, result.params, exact, steps=STEPS)
    rows = [[item.name, f"{item.update:.2e}", f"{item.worst:.3f}"] for item in found]
    print("\nupdates compared with PyTorch in float64 (1 is what the acceptance rule allows):")
    print(table(["tensor", "largest update", "worst deviation"], rows, "lrr"))
    loss = loss_deviation(result.losses, losses)
    print(f"losses: worst deviation {loss:.3f}")
    worst = max(loss, *(item.worst for item in found))
    agrees = worst <= 1 and set(result.params) == set(exact)
    print(f"\n{'every updated weight agrees with PyTorch' if agrees else 'DOES NOT AGREE with PyTorch'}")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
