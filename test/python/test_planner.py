"""The tile search against exhaustive enumeration, and what the plan must say when nothing fits."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import traindeeploy
from traindeeploy.target_attribute import mlir_attribute
from traindeeploy.tools import find_program

TARGETS = Path(traindeeploy.__file__).parent / "targets"


def step_module(batch: int, inputs: int, outputs: int, l1_bytes: int, target: str = "pulp-redmule") -> str:
    """The decomposed step of one linear layer whose weight is trained on a given cotangent."""
    description = tomllib.loads((TARGETS / f"{target}.toml").read_text())
    description["memory"]["l1"]["size"] = l1_bytes
    b, n, k = batch, inputs, outputs
    return f"""
#id = affine_map<(i, j) -> (i, j)>
module attributes {{tile.target = {mlir_attribute(description)}}} {{
  train.parameter @w trainable : tensor<{k}x{n}xf32>
  func.func @step(%x: tensor<{b}x{n}xf32> {{train.name = "x"}}, %d: tensor<{b}x{k}xf32> {{train.name = "d"}},
                  %lr: tensor<f32> {{train.name = "lr"}}) -> tensor<{b}x{k}xf32> {{
    %zero = arith.constant 0.0 : f32
    %w = train.read @w : tensor<{k}x{n}xf32>
    %ye = tensor.empty() : tensor<{b}x{k}xf32>
    %yf = linalg.fill ins(%zero : f32) outs(%ye : tensor<{b}x{k}xf32>) -> tensor<{b}x{k}xf32>
    %y = linalg.matmul indexing_maps = [affine_map<(m,k,n)->(m,n)>, affine_map<(m,k,n)->(k,n)>,
                                        affine_map<(m,k,n)->(m,k)>]
      ins(%x, %w : tensor<{b}x{n}xf32>, tensor<{k}x{n}xf32>)
      outs(%yf : tensor<{b}x{k}xf32>) -> tensor<{b}x{k}xf32>
      loc("fc")
    %we = tensor.empty() : tensor<{k}x{n}xf32>
    %wf = linalg.fill ins(%zero : f32) outs(%we : tensor<{k}x{n}xf32>) -> tensor<{k}x{n}xf32>
    %dw = linalg.matmul indexing_maps = [affine_map<(m,k,n)->(n,m)>, affine_map<(m,k,n)->(n,k)>,
                                         affine_map<(m,k,n)->(m,k)>]
      ins(%d, %x : tensor<{b}x{k}xf32>, tensor<{b}x{n}xf32>)
      outs(%wf : tensor<{k}x{n}xf32>) -> tensor<{k}x{n}xf32>
      loc("fc weight gradient")
    %new = linalg.generic {{indexing_maps = [#id, #id, affine_map<(i, j) -> ()>, #id],
                           iterator_types = ["parallel", "parallel"]}}
      ins(%w, %dw, %lr : tensor<{k}x{n}xf32>, tensor<{k}x{n}xf32>, tensor<f32>)
      outs(%we : tensor<{k}x{n}xf32>) {{
    ^bb0(%a: f32, %g: f32, %r: f32, %o: f32):
      %0 = arith.mulf %r, %g : f32
      %1 = arith.subf %a, %0 : f32
      linalg.yield %1 : f32
    }} -> tensor<{k}x{n}xf32>
    train.assign %new to @w : tensor<{k}x{n}xf32>
    return %y : tensor<{b}x{k}xf32>
  }}
}}
"""


def plan(module: str, exhaustive: bool = False) -> subprocess.CompletedProcess[str]:
    option = "--td-plan-step=estimates=true exhaustive=" + ("true" if exhaustive else "false")
    return subprocess.run(
        [str(find_program("td-opt")), option], input=module, capture_output=True, text=True, check=False
    )


def predicted(text: str) -> list[int]:
    """Predicted cycles of each group of a plan."""
    return [int(total) for total in re.findall(r"predicted \[(\d+),", text)]


# Sizes on both sides of the array's 12 x 16, odd and prime; L1 so small that tiles are forced.
CASES = [
    (1, 19, 23, 14336),
    (3, 23, 17, 14336),
    (13, 24, 18, 14336),
    (24, 19, 22, 16384),
    (17, 23, 23, 131072),
]


@pytest.mark.parametrize(("batch", "inputs", "outputs", "l1_bytes"), CASES)
@pytest.mark.parametrize("target", ["pulp-redmule", "pulp"])
def test_search_is_close_to_exhaustive(
    batch: int, inputs: int, outputs: int, l1_bytes: int, target: str
) -> None:
    module = step_module(batch, inputs, outputs, l1_bytes, target)
    found, best = plan(module), plan(module, exhaustive=True)
    assert found.returncode == 0, found.stderr
    assert best.returncode == 0, best.stderr
    searched, optimal = predicted(found.stdout), predicted(best.stdout)
    assert searched
    assert len(searched) == len(optimal)
    for ours, least in zip(searched, optimal, strict=True):
        assert least <= ours <= 1.05 * least


@pytest.mark.parametrize("target", ["pulp-redmule", "pulp"])
def test_tiles_fit_where_operands_do_not(target: str) -> None:
    """Operands of 1 to 4 MB through 24 KiB of L1."""
    result = plan(step_module(7, 1031, 997, 24576, target))
    assert result.returncode == 0, result.stderr
    tiles = re.findall(r"domain \[([^\]]*)\] tiles \[([^\]]*)\]", result.stdout)
    assert tiles
    for _, tile in tiles:
        a, b, c = (int(size) for size in tile.split(","))
        assert 4 * (a * b + b * c + a * c) <= 24576


def test_weights_beyond_l2_go_to_l3() -> None:
    result = plan(step_module(1, 2003, 3001, 131072))
    assert result.returncode == 0, result.stderr
    assert re.search(r'parameter "w".*#tile.memory<l3>', result.stdout)
    assert re.search(r'input "x".*#tile.memory<l2>', result.stdout)


def test_what_fits_nowhere_is_said_in_bytes() -> None:
    result = plan(step_module(1, 4001, 3001, 131072))
    assert result.returncode != 0
    assert re.search(
        r"needs 480\d+ bytes of L3 .* and 33554432 are available; its largest array is 'w'", result.stderr
    )


def test_an_l1_without_room_says_what_would_fit() -> None:
    size = 16384
    while (result := plan(step_module(1, 64, 64, size))).returncode == 0:
        size -= 512
    message = re.search(
        r"operator 'fc' needs at least (\d+) bytes of L1 .* (-?\d+) are available.* with (\d+) bytes more",
        result.stderr,
    )
    assert message, result.stderr
    needed, available, missing = (int(number) for number in message.groups())
    assert missing == needed - available > 0
    larger = plan(step_module(1, 64, 64, size + (missing + 63) // 64 * 64))
    assert "operator 'fc' needs" not in larger.stderr
    assert larger.returncode in (0, 1)
