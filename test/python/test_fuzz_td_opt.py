"""A bounded run of the fuzz test of the passes; `make fuzz` goes on for longer."""

import itertools
import time

import pytest

from fuzz_td_opt import UPSTREAM, Case, failures, mutations, run

SECONDS = 25


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_texts_end_in_a_result_or_a_diagnostic(seed: int) -> None:
    """As many of the seed's texts as there is time for, at most 400."""
    end = time.time() + SECONDS
    texts = itertools.takewhile(lambda _: time.time() < end, itertools.islice(mutations(seed), 400))
    found = [failure for failure in failures(texts) if failure.why not in UPSTREAM]
    assert not found, "\n\n".join(f"{f.why}\n{f.case.pipeline}\n{f.case.text}" for f in found[:3])


def test_the_fuzz_test_sees_an_assertion() -> None:
    text = '"tile.wait"() {operandSegmentSizes = array<index: 0, 0>} : () -> ()'
    assert run(Case("", text, "builtin.module()")) in UPSTREAM
