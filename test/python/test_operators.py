"""Operators of the training graph in float64: values against PyTorch, gradients against central differences
and torch.autograd, on odd and prime shapes."""

import itertools

import numpy as np
import pytest

from test_gradients import gradients, make_step, shape_text, worst_error

torch = pytest.importorskip("torch")
F = torch.nn.functional


def attribute(value):
    if value is True:
        return "unit"
    if isinstance(value, int):
        return f"{value} : i64"
    if isinstance(value, float):
        return f"{value:.16e} : f64"
    return f"array<i64: {', '.join(map(str, value))}>"


def op(name, operands, shapes, result, results="%result", dtypes=None, second="", **attributes):
    """The text of one op in MLIR's generic syntax."""
    given = ", ".join(
        f"{key} = {attribute(value)}" for key, value in attributes.items() if value is not False
    )
    element = (dtypes or {}).get
    types = [shape_text(shape, element(name_, "f64")) for name_, shape in zip(operands, shapes, strict=True)]
    inputs = ", ".join(f"%{operand}" for operand in operands)
    signature = f"({', '.join(types)}) -> ({shape_text(result)}{second})"
    properties = f" <{{{given}}}>" if given else ""
    return f'{results} = "train.{name}"({inputs}){properties} : {signature}'


def check(body, values, result, reference, inputs=None, smooth=True):
    """Compares a forward function of the parameters `values` with `reference` of torch tensors.

    The loss is the mean square distance from a target: its value, and its gradients against autograd and,
    where there are few parameters and no kink at their values, central differences.
    """
    random = np.random.default_rng(len(body))
    inputs = dict(inputs or {})
    target = random.uniform(-1.5, 1.5, result)
    step = make_step(body, values, {**inputs, "target": target}, result)
    feeds = {**inputs, "target": target}
    loss, _ = step(values, {**feeds, "lr": np.array(0.0)})
    tensors = {name: torch.from_numpy(value.copy()).requires_grad_() for name, value in values.items()}
    given = {name: torch.from_numpy(value) for name, value in inputs.items()}
    found = reference(**tensors, **given)
    assert tuple(found.shape) == tuple(result)
    expected = F.mse_loss(found, torch.from_numpy(target))
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    for name, gradient in gradients(step, values, feeds).items():
        exact = tensors[name].grad.numpy()
        np.testing.assert_allclose(gradient, exact, rtol=1e-9, atol=1e-11 * max(1, np.abs(exact).max()))
    if smooth and sum(value.size for value in values.values()) < 200:
        assert worst_error(step, values, feeds) < 1e-6


def uniform(*shape, seed=0, low=-1.5, high=1.5):
    return np.random.default_rng(seed + sum(shape)).uniform(low, high, shape)


UNARY = {
    "exp": (torch.exp, {}, -1.5),
    "log": (torch.log, {}, 0.3),
    "sqrt": (torch.sqrt, {}, 0.3),
    "rsqrt": (torch.rsqrt, {}, 0.3),
    "erf": (torch.erf, {}, -1.5),
    "abs": (torch.abs, {}, -1.5),
    "gelu": (F.gelu, {}, -4.0),
    "gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), {"tanh": True}, -4.0),
    "clamp": (lambda x: torch.clamp(x, -0.5, 0.75), {"low": -0.5, "high": 0.75}, -1.5),
    "pow 2": (lambda x: x**2, {"exponent": 2.0}, -1.5),
    "pow 3": (lambda x: x**3, {"exponent": 3.0}, -1.5),
    "pow -2": (lambda x: x**-2.0, {"exponent": -2.0}, 0.5),
    "pow 0.5": (lambda x: x**0.5, {"exponent": 0.5}, 0.3),
    "pow -0.5": (lambda x: x**-0.5, {"exponent": -0.5}, 0.3),
    "pow 0": (lambda x: x**0.0, {"exponent": 0.0}, -1.5),
    "pow 11": (lambda x: x**11.0, {"exponent": 11.0}, 0.3),
    "pow 0.7": (lambda x: x**0.7, {"exponent": 0.7}, 0.3),
}


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("shape", [(), (7,), (3, 1, 5)], ids=str)
def test_functions(name, shape):
    function, attributes, low = UNARY[name]
    high = 4.0 if low == -4 else 1.5
    body = op(name.split()[0], ["x"], [shape], shape, **attributes)
    check(body, {"x": uniform(*shape, low=low, high=high)}, shape, function)


def test_the_two_gelus_are_not_the_same():
    """Over [-4, 4] the derivative of one is not that of the other: a gradient of the wrong kind is seen."""
    x = np.linspace(-4, 4, 97)
    found = {}
    for tanh in (False, True):
        body = op("gelu", ["x"], [(97,)], (97,), tanh=tanh)
        inputs = {"target": np.zeros(97)}
        step = make_step(body, {"x": x}, inputs, (97,))
        found[tanh] = gradients(step, {"x": x}, inputs)["x"]
    assert np.abs(found[True] - found[False]).max() > 1e-5


@pytest.mark.parametrize(
    "a, b", [((3, 5), (3, 5)), ((3, 5), ()), ((5,), (3, 1)), ((2, 1, 3), (5, 1))], ids=str
)
def test_div(a, b):
    result = np.broadcast_shapes(a, b)
    body = op("div", ["a", "b"], [a, b], result)
    check(body, {"a": uniform(*a), "b": uniform(*b, low=0.5)}, result, lambda a, b: a / b)


@pytest.mark.parametrize("order", [*itertools.permutations(range(3)), (3, 1, 0, 2)], ids=str)
def test_permute(order):
    shape = (2, 3, 5, 7)[: len(order)]
    result = tuple(shape[axis] for axis in order)
    body = op("permute", ["x"], [shape], result, permutation=order)
    check(body, {"x": uniform(*shape)}, result, lambda x: x.permute(order))


@pytest.mark.parametrize(
    "shape, result", [((), (3,)), ((1, 5), (3, 5)), ((3, 1), (2, 3, 5)), ((5,), (1, 3, 5))]
)
def test_broadcast(shape, result):
    check(op("broadcast", ["x"], [shape], result), {"x": uniform(*shape)}, result, lambda x: x.expand(result))


@pytest.mark.parametrize(
    "shape, index",
    [
        ((7,), (slice(2, 5),)),
        ((7, 5), (slice(1, 7, 3), slice(0, 5))),
        ((1, 11), (slice(0, 1), slice(3, 10, 2))),
    ],
)
def test_slice_and_embed(shape, index):
    result = tuple(len(range(*i.indices(n))) for i, n in zip(index, shape, strict=True))
    geometry = {"offsets": [i.start for i in index], "strides": [i.step or 1 for i in index]}
    body = op("slice", ["x"], [shape], result, **geometry)
    check(body, {"x": uniform(*shape)}, result, lambda x: x[index])

    def embed(x):
        return torch.zeros(shape, dtype=x.dtype).index_put(
            tuple(
                torch.meshgrid(
                    *[torch.arange(*i.indices(n)) for i, n in zip(index, shape, strict=True)], indexing="ij"
                )
            ),
            x,
        )

    body = op("embed", ["x"], [result], shape, **geometry)
    check(body, {"x": uniform(*result)}, shape, embed)


@pytest.mark.parametrize("axis, sizes", [(0, (2, 1)), (1, (3, 5, 2)), (2, (1, 4))])
def test_concat(axis, sizes):
    shapes = [tuple(size if i == axis else (3, 2, 5)[i] for i in range(3)) for size in sizes]
    result = tuple(sum(sizes) if i == axis else (3, 2, 5)[i] for i in range(3))
    names = ["a", "b", "c"][: len(sizes)]
    values = {name: uniform(*shape) for name, shape in zip(names, shapes, strict=True)}
    check(
        op("concat", names, shapes, result, axis=axis),
        values,
        result,
        lambda **v: torch.cat(list(v.values()), axis),
    )


@pytest.mark.parametrize("turned", list(itertools.product([False, True], repeat=2)))
@pytest.mark.parametrize(
    "a, b", [((), ()), ((1,), (1,)), ((3,), (3,)), ((2, 3), (2, 3)), ((2, 1), (3,)), ((3,), ())], ids=str
)
def test_matmul(a, b, turned):
    m, n, k = 5, 7, 3
    lhs = (*a, k, m) if turned[0] else (*a, m, k)
    rhs = (*b, n, k) if turned[1] else (*b, k, n)
    result = (*np.broadcast_shapes(a, b), m, n)

    def reference(a, b):
        return (a.mT if turned[0] else a) @ (b.mT if turned[1] else b)

    body = op("matmul", ["a", "b"], [lhs, rhs], result, transpose_lhs=turned[0], transpose_rhs=turned[1])
    check(body, {"a": uniform(*lhs), "b": uniform(*rhs)}, result, reference)


@pytest.mark.parametrize("name, function", [("sum", torch.sum), ("max", torch.amax)])
@pytest.mark.parametrize("axes", [(0,), (2,), (0, 2), (0, 1, 2)], ids=str)
def test_reductions(name, function, axes):
    shape = (3, 5, 7)
    result = tuple(size for axis, size in enumerate(shape) if axis not in axes)
    check(
        op(name, ["x"], [shape], result, axes=axes),
        {"x": uniform(*shape)},
        result,
        lambda x: function(x, axes),
    )


def test_equal_maxima_share():
    x = np.array([[1.0, 2.0, 2.0], [0.5, -1.0, 0.0]])
    body = op("max", ["x"], [(2, 3)], (2,), axes=(1,))
    inputs = {"target": np.zeros(2)}
    found = gradients(make_step(body, {"x": x}, inputs, (2,)), {"x": x}, inputs)["x"]
    np.testing.assert_allclose(found, [[0, 1, 1], [0.5, 0, 0]])


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize(
    "shape, axis", [((7,), 0), ((3, 5), 1), ((3, 5), 0), ((2, 3, 1, 7), 3), ((2, 5, 3), 1)]
)
def test_softmax(name, shape, axis):
    reference = getattr(torch, name)
    check(
        op(name, ["x"], [shape], shape, axis=axis),
        {"x": uniform(*shape)},
        shape,
        lambda x: reference(x, axis),
    )


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_large_logits(name):
    x = np.array([[300.0, -300.0, 0.0], [-300.0, -299.0, -300.0]])
    check(op(name, ["x"], [(2, 3)], (2, 3), axis=1), {"x": x}, (2, 3), lambda x: getattr(torch, name)(x, 1))


def normalized(x, axes, epsilon, rms):
    mean = 0 if rms else x.mean(axes, keepdim=True)
    return (x - mean) / torch.sqrt(((x - mean) ** 2).mean(axes, keepdim=True) + epsilon)


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize(
    "shape, axes, scale",
    [
        ((5, 7), (1,), (7,)),
        ((2, 3, 7), (2,), None),
        ((2, 3, 5), (1, 2), (3, 5)),
        ((2, 3, 2, 5), (0, 1, 2), (5,)),
        ((3, 11), (1,), (3, 1)),
        ((7,), (0,), (7,)),
        ((7, 7), (1,), (7,)),
    ],
    ids=str,
)
def test_normalize(shape, axes, scale, rms):
    names, shapes = ["x"], [shape]
    values = {"x": uniform(*shape)}
    if scale:
        names.append("scale")
        shapes.append(scale)
        values["scale"] = uniform(*scale)
    body = op("normalize", names, shapes, shape, axes=axes, epsilon=1e-3, rms=rms)
    check(body, values, shape, lambda x, scale=1: normalized(x, axes, 1e-3, rms) * scale)


def test_layer_norm_of_a_large_mean():
    """The variance is that of the deviations: it loses nothing to a mean a million times as large."""
    x = uniform(3, 7) + 1e6
    body = op("normalize", ["x"], [(3, 7)], (3, 7), axes=(1,), epsilon=1e-5)
    inputs = {"target": np.zeros((3, 7))}
    step = make_step(body, {"x": x}, inputs, (3, 7))
    loss, _ = step({"x": x}, {**inputs, "lr": np.array(0.0)})
    expected = normalized(torch.from_numpy(x), (1,), 1e-5, False).square().mean().item()
    assert loss == pytest.approx(expected, rel=1e-9)


CONVOLUTIONS = [
    # n, h, w, ic, oc, kernel, strides, padding [top, bottom, left, right], dilations, groups
    (1, 5, 5, 3, 7, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    (2, 7, 5, 2, 3, (3, 2), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    (1, 7, 6, 2, 3, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 1),
    (1, 7, 8, 2, 3, (3, 3), (2, 3), (0, 1, 2, 0), (1, 1), 1),
    (2, 5, 4, 3, 5, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    (1, 7, 7, 3, 2, (1, 1), (2, 2), (0, 0, 0, 0), (1, 1), 1),
    (1, 9, 8, 1, 2, (3, 2), (1, 1), (2, 2, 1, 1), (2, 3), 1),
    (1, 11, 7, 2, 2, (3, 3), (2, 3), (2, 2, 2, 2), (2, 2), 1),
    (1, 11, 11, 1, 1, (4, 3), (2, 2), (3, 3, 2, 2), (2, 3), 1),
    (1, 5, 5, 4, 4, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 4),
    (2, 5, 5, 3, 6, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 3),
    (1, 5, 4, 4, 6, (2, 3), (1, 1), (1, 0, 1, 1), (1, 1), 2),
    (1, 7, 7, 2, 2, (1, 1), (3, 3), (0, 0, 0, 0), (1, 1), 2),
    (1, 1, 11, 3, 2, (1, 5), (1, 2), (0, 0, 2, 2), (1, 1), 1),
    (1, 3, 3, 2, 2, (3, 3), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    (1, 5, 5, 1, 2, (2, 2), (5, 4), (0, 0, 0, 0), (1, 1), 1),
]


def geometry(case):
    n, h, w, ic, oc, kernel, strides, padding, dilations, groups = case
    sizes = [
        (size + padding[2 * i] + padding[2 * i + 1] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i, size in enumerate((h, w))
    ]
    attributes = {"strides": strides, "padding": padding, "dilations": dilations, "groups": groups}
    return (n, h, w, ic), (*kernel, ic // groups, oc), (n, *sizes, oc), attributes


def torch_convolution(x, w, case):
    _, _, _, _, _, _, strides, (top, bottom, left, right), dilations, groups = case
    padded = F.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom))
    return F.conv2d(padded, w.permute(3, 2, 0, 1), None, strides, 0, dilations, groups).permute(0, 2, 3, 1)


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_conv2d(case):
    x, w, y, attributes = geometry(case)
    body = op("conv2d", ["x", "w"], [x, w], y, **attributes)
    check(body, {"x": uniform(*x), "w": uniform(*w)}, y, lambda x, w: torch_convolution(x, w, case))


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_transposed_conv2d(case):
    x, w, y, attributes = geometry(case)
    body = op("conv2d_input_vjp", ["y", "w"], [y, w], x, **attributes)

    def transposed(y, w):
        at = torch.zeros(x, dtype=y.dtype, requires_grad=True)
        return torch.autograd.grad(torch_convolution(at, w, case), at, y, create_graph=True)[0]

    check(body, {"y": uniform(*y), "w": uniform(*w)}, x, transposed)


POOLINGS = [
    # n, h, w, c, kernel, strides, padding (both sides), dilations, ceil
    (1, 6, 7, 3, (3, 3), (2, 2), (1, 1), (1, 1), False),
    (2, 5, 5, 1, (2, 2), (2, 2), (0, 0), (1, 1), False),
    (1, 7, 5, 2, (3, 2), (1, 1), (1, 0), (1, 1), False),
    (1, 9, 11, 2, (3, 3), (2, 3), (1, 1), (2, 2), False),
    (1, 6, 6, 2, (3, 3), (2, 2), (0, 0), (1, 1), True),
    (1, 7, 7, 2, (2, 2), (3, 3), (0, 0), (1, 1), False),
    (1, 5, 7, 3, (5, 7), (1, 1), (0, 0), (1, 1), False),
    (1, 5, 5, 2, (1, 1), (2, 2), (0, 0), (1, 1), False),
]


@pytest.mark.parametrize("case", POOLINGS, ids=str)
def test_max_pool(case):
    n, h, w, c, kernel, strides, padding, dilations, ceil = case

    def reference(x):
        pooled = F.max_pool2d(x.permute(0, 3, 1, 2), kernel, strides, padding, dilations, ceil)
        return pooled.permute(0, 2, 3, 1)

    x = np.random.default_rng(h).permutation(n * h * w * c).reshape(n, h, w, c) / 10.0
    y = tuple(reference(torch.from_numpy(x)).shape)
    body = op(
        "max_pool2d", ["x"], [x.shape], y, "%result, %taps", second=f", {shape_text(y, 'i32')}",
        kernel=kernel, strides=strides, padding=[p for p in padding for _ in (0, 1)], dilations=dilations,
    )  # fmt: skip
    check(body, {"x": x}, y, reference)


def test_the_first_maximum_of_a_window_wins():
    def reference(x):
        return F.max_pool2d(x.permute(0, 3, 1, 2), 3, 2, 1).permute(0, 2, 3, 1)

    x = np.zeros((1, 4, 4, 1))
    body = op(
        "max_pool2d", ["x"], [x.shape], (1, 2, 2, 1), "%result, %taps", second=", tensor<1x2x2x1xi32>",
        kernel=(3, 3), strides=(2, 2), padding=(1, 1, 1, 1), dilations=(1, 1),
    )  # fmt: skip
    check(body, {"x": x}, (1, 2, 2, 1), reference, smooth=False)


@pytest.mark.parametrize("numbers", ["ties", "NaN"])
@pytest.mark.parametrize("case", POOLINGS, ids=str)
def test_relu_moves_behind_max_pool(case, numbers):
    """Values and gradients stay the same, bit for bit, and are those of PyTorch, with ties and NaN."""
    n, h, w, c, kernel, strides, padding, dilations, ceil = case
    random = np.random.default_rng(h * w)
    x = random.choice([-np.inf, -2.0, -1.0, -0.0, 0.0, 1.0, 2.0], (n, h, w, c))
    if numbers == "NaN":
        x[random.random(x.shape) < 0.1] = np.nan

    def reference(x):
        pooled = F.max_pool2d(F.relu(x).permute(0, 3, 1, 2), kernel, strides, padding, dilations, ceil)
        return pooled.permute(0, 2, 3, 1)

    expected = reference(torch.from_numpy(x).requires_grad_())
    y = tuple(expected.shape)
    body = f"%r = train.relu %x : {shape_text(x.shape)}\n" + op(
        "max_pool2d", ["r"], [x.shape], y, "%result, %taps", second=f", {shape_text(y, 'i32')}",
        kernel=kernel, strides=strides, padding=[p for p in padding for _ in (0, 1)], dilations=dilations,
    )  # fmt: skip
    target = random.uniform(-1.5, 1.5, y)
    found = []
    for before in ("", "func.func(td-move-activations),"):
        step = make_step(body, {"x": x}, {"target": target}, y, before=before)
        found.append(step({"x": x}, {"target": target, "lr": np.array(1.0)}))
    (loss, plain), (moved_loss, moved) = found
    np.testing.assert_array_equal(moved_loss, loss)
    np.testing.assert_array_equal(moved["x"], plain["x"])

    tensor = torch.from_numpy(x).requires_grad_()
    F.mse_loss(reference(tensor), torch.from_numpy(target)).backward()
    np.testing.assert_allclose(moved["x"], x - tensor.grad.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("case", [case for case in POOLINGS if case[7] == (1, 1) and not case[8]], ids=str)
def test_average_pool(case, exclude):
    n, h, w, c, kernel, strides, padding, _, _ = case

    def reference(x):
        pooled = F.avg_pool2d(x.permute(0, 3, 1, 2), kernel, strides, padding, False, not exclude)
        return pooled.permute(0, 2, 3, 1)

    x = uniform(n, h, w, c)
    y = tuple(reference(torch.from_numpy(x)).shape)
    sides = [p for p in padding for _ in (0, 1)]
    body = op(
        "avg_pool2d",
        ["x"],
        [x.shape],
        y,
        kernel=kernel,
        strides=strides,
        padding=sides,
        exclude_padding=exclude,
    )
    check(body, {"x": x}, y, reference)


@pytest.mark.parametrize("shape", [(5,), (2, 3)], ids=str)
def test_embedding(shape):
    indices = np.random.default_rng(0).integers(0, 7, shape).astype(np.int32)
    result = (*shape, 3)
    body = op("embedding", ["i", "w"], [shape, (7, 3)], result, dtypes={"i": "i32"})
    check(body, {"w": uniform(7, 3)}, result, lambda w, i: F.embedding(i.long(), w), inputs={"i": indices})


def test_the_padding_of_a_table_has_no_gradient():
    indices = np.array([3, 0, 3, 6, 2], np.int32)
    body = op("embedding", ["i", "w"], [(5,), (7, 3)], (5, 3), dtypes={"i": "i32"}, padding=3)

    def reference(w, i):
        return F.embedding(i.long(), w, padding_idx=3)

    # No check by differences: the row's gradient is not that of the function.
    check(body, {"w": uniform(7, 3)}, (5, 3), reference, inputs={"i": indices}, smooth=False)


def mixed(x):
    """The last step of MurmurHash3."""
    x = (x ^ (x >> 16)) * 0x85EBCA6B & 0xFFFFFFFF
    x = (x ^ (x >> 13)) * 0xC2B2AE35 & 0xFFFFFFFF
    return x ^ (x >> 16)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    "shape, counter, seed", [((), 0, 0), ((7,), 5, 1), ((3, 1, 11), 2**31 - 1, 7 << 32 | 3)]
)
def test_dropout(shape, counter, seed, probability):
    """Values and gradients, with the bits as they are defined."""
    count = int(np.prod(shape))
    key = mixed(mixed(counter ^ (seed & 0xFFFFFFFF)) ^ seed >> 32)
    bits = np.array([mixed(mixed((i + key) & 0xFFFFFFFF) ^ key) for i in range(count)]).reshape(shape)
    kept = bits < round((1 - probability) * 2**32)
    factor = torch.as_tensor(kept / (1 - probability) if probability < 1 else np.zeros(shape))
    body = op(
        "dropout", ["x", "c"], [shape, ()], shape, dtypes={"c": "i32"}, seed=seed, probability=probability
    )
    inputs = {"c": np.array(counter, np.int32)}
    check(body, {"x": uniform(*shape)}, shape, lambda x, c: x * factor, inputs=inputs)


LOSSES = {
    "mse": ("mse_loss", {}, lambda x, t: F.mse_loss(x, t)),
    "mse sum": ("mse_loss", {"sum": True}, lambda x, t: F.mse_loss(x, t, reduction="sum")),
    "l1": ("l1_loss", {}, lambda x, t: F.l1_loss(x, t)),
    "l1 sum": ("l1_loss", {"sum": True}, lambda x, t: F.l1_loss(x, t, reduction="sum")),
    "bce": ("bce_loss", {}, lambda x, t: F.binary_cross_entropy_with_logits(x, t)),
    "bce sum": (
        "bce_loss",
        {"sum": True},
        lambda x, t: F.binary_cross_entropy_with_logits(x, t, reduction="sum"),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_losses(name, scale):
    operator, attributes, reference = LOSSES[name]
    x, target = uniform(5, 7) * scale, uniform(5, 7, seed=1, low=0.0, high=1.0)
    body = op(operator, ["x", "t"], [(5, 7)] * 2, (), **attributes)
    compare_loss(body, x, target, reference)


def compare_loss(body, x, target, reference):
    inputs = {"t": target}
    step = make_step(body, {"x": x}, inputs, (), loss=None)
    loss, _ = step({"x": x}, {**inputs, "lr": np.array(0.0)})
    tensor = torch.from_numpy(x.copy()).requires_grad_()
    expected = reference(tensor, torch.from_numpy(target))
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    found = gradients(step, {"x": x}, inputs)["x"]
    np.testing.assert_allclose(found, tensor.grad.numpy(), rtol=1e-9, atol=1e-12)
    if np.abs(x).max() < 10:
        assert worst_error(step, {"x": x}, inputs) < 1e-6


@pytest.mark.parametrize("total", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("scale", [1.0, 300.0])
@pytest.mark.parametrize(
    ("shape", "axis", "ignored", "weighted"),
    [((5, 7), 1, None, False), ((5, 7), 1, -100, True), ((2, 3, 5), 1, 1, True), ((5, 1, 3, 2), 0, 0, False)],
)
def test_cross_entropy(shape, axis, ignored, weighted, total, smoothing, scale):
    x = uniform(*shape) * scale
    labels = x.argmin(axis=axis).astype(np.int32)
    if ignored is not None:
        labels.flat[1::2] = ignored
    classes = shape[axis]
    lines = []
    operands, shapes = ["x", "t"], [shape, labels.shape]
    weight = torch.linspace(0.5, 2, classes, dtype=torch.float64) if weighted else None
    if weighted:
        values = ", ".join(f"{value:.16e}" for value in weight.tolist())
        lines.append(f"%w = arith.constant dense<[{values}]> : tensor<{classes}xf64>")
        operands, shapes = [*operands, "w"], [*shapes, (classes,)]
    attributes = {} if ignored is None else {"ignored": ignored}
    lines.append(
        op(
            "cross_entropy", operands, shapes, (), dtypes={"t": "i32"}, axis=axis, smoothing=smoothing,
            sum=total, **attributes,
        )
    )  # fmt: skip
    compare_loss(
        "\n".join(lines),
        x,
        labels,
        lambda x, t: F.cross_entropy(
            x.movedim(axis, 1),
            t.long(),
            weight=weight,
            ignore_index=-100 if ignored is None else ignored,
            reduction="sum" if total else "mean",
            label_smoothing=smoothing,
        ),
    )


COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")


@pytest.mark.parametrize("predicate", COMPARISONS)
def test_select_by_a_comparison(predicate):
    """Of whole numbers, so that some are equal; operands broadcast, and the condition has no gradient."""
    x = np.round(uniform(3, 1, 5) * 2)
    y = np.round(uniform(7, 1, seed=1) * 2)
    types = "tensor<3x1x5xf64>, tensor<7x1xf64> -> tensor<3x7x5xf64>"
    body = f'%c = train.compare %x "{predicate}" %y : {types}\n' + op(
        "select", ["c", "x", "y"], [(3, 7, 5), (3, 1, 5), (7, 1)], (3, 7, 5)
    )
    compare = getattr(torch, predicate)
    check(body, {"x": x, "y": y}, (3, 7, 5), lambda x, y: torch.where(compare(x, y), x, y), smooth=False)


ROUNDINGS = {
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
    "even": torch.round,
    "sign": torch.sign,
}


@pytest.mark.parametrize("mode", ROUNDINGS)
def test_rounding_stops_the_gradient(mode):
    """At halves, whole numbers, what is large, and zero; only what is beside it has a gradient."""
    x = np.array(
        [0.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.0, 3.0, 0.3, -0.7, 1e15, -1e17, 4503599627370497.0, 1e-300]
    )
    type_ = "tensor<14xf64>"
    body = f'%y = train.round %x "{mode}" : {type_}\n%result = train.mul %y, %z : {type_}, {type_} -> {type_}'
    step = make_step(body, {"x": x, "z": uniform(14)}, {"target": np.zeros(14)}, (14,), trainable=["z"])
    z = np.ones(14)
    feeds = {"target": np.zeros(14)}
    expected = ROUNDINGS[mode](torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(gradients(step, {"x": x, "z": z}, feeds)["z"], 2 * expected**2 / 14)
    with pytest.raises(Exception, match="no trainable parameter reaches the loss"):
        make_step(body, {"x": x, "z": z}, feeds, (14,), trainable=["x"])


def test_detach_passes_the_value_only():
    body = """%y = train.detach %x : tensor<5xf64>
        %result = train.mul %y, %x : tensor<5xf64>, tensor<5xf64> -> tensor<5xf64>"""
    check(body, {"x": uniform(5)}, (5,), lambda x: x.detach() * x, smooth=False)


@pytest.mark.parametrize("padding", [-1, 2])
def test_embedding_by_floats(padding):
    """Whole numbers as floats, made of an input."""
    indices = np.array([[0, 2, 6], [2, 2, 5]], np.int32)
    body = "%f = train.from_integers %i : tensor<2x3xi32> -> tensor<2x3xf64>\n" + op(
        "embedding", ["f", "table"], [(2, 3), (7, 5)], (2, 3, 5), padding=padding
    )
    check(
        body,
        {"table": uniform(7, 5)},
        (2, 3, 5),
        lambda table, i: F.embedding(i.long(), table, padding_idx=None if padding < 0 else padding),
        inputs={"i": indices},
        smooth=padding < 0,
    )
