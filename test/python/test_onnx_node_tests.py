"""A sample of ONNX's own node tests: right or refused in one line, and right at least where docs say so.

`make onnx-node-tests` runs all of them and writes docs/onnx_node_tests.md.
"""

import random

import onnx

import onnx_node_tests


def test_a_sample_is_right_where_the_page_says_so():
    version, expected = onnx_node_tests.expected()
    tests = list(onnx_node_tests.load())
    sample = random.Random(onnx.__version__).sample(tests, onnx_node_tests.SAMPLE)
    said = dict(zip((test.name for test in sample), onnx_node_tests.outcomes(sample), strict=True))
    kinds = {name: words.partition(":")[0] for name, words in said.items()}
    assert not {name: said[name] for name, kind in kinds.items() if kind not in ("right", "refused")}
    if version == onnx.__version__:
        right = [test.name for test in sample if expected(test) == "right"]
        assert len(right) > onnx_node_tests.SAMPLE / 3
        assert not {name: said[name] for name in right if kinds[name] != "right"}
