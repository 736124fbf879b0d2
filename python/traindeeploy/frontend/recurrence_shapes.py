"""What PyTorch's exporter has to know of recurrent operators: the shapes of their results.

By itself it runs their decomposition on tensors without data, a step of time after the other, to learn these:
11 s for an LSTM of 500 steps, twice. The operators stay whole in the exported program either way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch._C import DispatchKey
from torch._decomp import decomposition_table


def _results(
    input: torch.Tensor,
    hx: torch.Tensor | Sequence[torch.Tensor],
    params: Sequence[torch.Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, ...]:
    """Tensors as aten.lstm, gru, rnn_tanh and rnn_relu (overload `input`) return: output and last states."""
    states = [hx] if isinstance(hx, torch.Tensor) else hx
    output = input.new_empty((*input.shape[:-1], states[0].shape[-1] * (2 if bidirectional else 1)))
    return output, *(state.new_empty(state.shape) for state in states)


@contextmanager
def recurrences_by_shape() -> Iterator[None]:
    """While it lasts, these operators have results without values, for tensors that have none."""
    operators = [
        packet.input
        for packet in (
            torch.ops.aten.lstm,
            torch.ops.aten.gru,
            torch.ops.aten.rnn_tanh,
            torch.ops.aten.rnn_relu,
        )
    ]
    before = [(op, dict(op.py_kernels), decomposition_table.get(op)) for op in operators]
    try:
        for op in operators:
            for key in (DispatchKey.CompositeImplicitAutograd, DispatchKey.Autograd, DispatchKey.Meta):
                if key in op.py_kernels:
                    op.py_kernels[key] = _results
            decomposition_table[op] = _results
            op._dispatch_cache.clear()
        yield
    finally:
        for op, kernels, decomposition in before:
            op.py_kernels.update(kernels)
            if decomposition is None:
                del decomposition_table[op]
            else:
                decomposition_table[op] = decomposition
            op._dispatch_cache.clear()
