"""Gradients of the training graph in float64: central differences, torch.autograd, torch.optim."""

import re

import numpy as np
import pytest
from mlir.ir import Location, Module

from traindeeploy import host
from traindeeploy.errors import TrainDeeployError
from traindeeploy.optimizers import SGD, attach

DTYPES = {"float64": "f64", "int32": "i32"}
REST = "td-insert-updates,func.func(td-decompose,cse,canonicalize,td-fuse-elementwise,canonicalize,cse)"


def shape_text(shape, dtype="f64"):
    return "tensor<" + "".join(f"{size}x" for size in shape) + dtype + ">"


def make_step(body, params, inputs, result, loss="mse", trainable=None, momentum=0.0, mutate=None, before=""):
    """Builds and compiles a step.

    `body` is the text of a forward function that reads parameters as %name and
    inputs as %name and defines %result of shape `result`. `loss` None: `body`
    computes the loss itself. `mutate` changes the text after differentiation, `before` comes ahead of it.
    """
    lines = [f"train.parameter @{name} : {shape_text(value.shape)}" for name, value in params.items()]
    arguments = ", ".join(
        f'%{name}: {shape_text(value.shape, DTYPES[value.dtype.name])} {{train.name = "{name}"}}'
        for name, value in inputs.items()
        if loss is None or name not in ("target", "labels")
    )
    function = "step" if loss is None else "forward"
    lines.append(f"func.func @{function}({arguments}) -> {shape_text(result)} {{")
    lines += [f"  %{name} = train.read @{name} : {shape_text(value.shape)}" for name, value in params.items()]
    lines += ["  " + line.strip() for line in body.strip().splitlines()]
    lines += [f"  return %result : {shape_text(result)}", "}"]
    names = ",".join(params if trainable is None else trainable)
    with host.make_context(), Location.unknown():
        module = Module.parse("\n".join(lines))
        attached = "" if loss is None else f"td-attach-loss{{loss={loss}}},"
        host.run_pipeline(module, f"{attached}td-apply-recipe{{trainable={names}}},{before}td-differentiate")
        if mutate:
            changed = mutate(str(module))
            assert changed != str(module)
            module = Module.parse(changed)
        attach(module, SGD(momentum=momentum), element="f64")
        host.run_pipeline(module, REST)
        return host.HostStep(module)


def gradients(step, params, inputs):
    """The gradients: what a step with learning rate 1 takes away."""
    _, updated = step(params, {**inputs, "lr": np.array(1.0)})
    return {name: params[name] - updated[name] for name in step.updated}


def worst_error(step, params, inputs):
    """Largest deviation of a gradient from central differences, relative to its largest element."""
    frozen = {**inputs, "lr": np.array(0.0)}
    worst = 0.0
    for name, gradient in gradients(step, params, inputs).items():
        numeric = np.empty_like(gradient)
        for index in np.ndindex(gradient.shape):
            losses = []
            for sign in (1, -1):
                moved = {key: value.copy() for key, value in params.items()}
                moved[name][index] += sign * 1e-5
                losses.append(step(moved, frozen)[0])
            numeric[index] = (losses[0] - losses[1]) / 2e-5
        assert np.isfinite(gradient).all()
        scale = max(np.abs(numeric).max(), 1e-3)
        worst = max(worst, float(np.abs(gradient - numeric).max()) / scale)
    return worst


def check(body, param_shapes, result, inputs=None, loss="mse", **options):
    """Checks the gradients of all parameters of a forward function at a random point."""
    random = np.random.default_rng(len(body) + sum(map(sum, param_shapes.values())))
    params = {name: random.uniform(-1.5, 1.5, shape) for name, shape in param_shapes.items()}
    inputs = dict(inputs or {})
    if loss == "mse":
        inputs["target"] = random.uniform(-1.5, 1.5, result)
    step = make_step(body, params, inputs, result, loss, **options)
    assert step.updated == list(options.get("trainable") or params)
    error = worst_error(step, params, inputs)
    assert error < 1e-7, error


def linear(result, input_, weight, x, w, bias=None):
    operands = f"%{input_}, %{weight}" + (f", %{bias}" if bias else "")
    types = f"{shape_text(x)}, {shape_text(w)}" + (f", {shape_text(w[:1])}" if bias else "")
    return f"%{result} = train.linear {operands} : {types} -> {shape_text((*x[:-1], w[0]))}"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("x", [(7, 5), (1, 1), (13,), (3, 1, 5), (2, 3, 1, 7)], ids=str)
@pytest.mark.parametrize("out", [1, 3])
def test_linear(x, out, bias):
    shapes = {"x": x, "w": (out, x[-1]), **({"b": (out,)} if bias else {})}
    result = (*x[:-1], out)
    check(linear("result", "x", "w", x, (out, x[-1]), "b" if bias else None), shapes, result)


@pytest.mark.parametrize("transposed_a", [False, True])
@pytest.mark.parametrize("transposed_b", [False, True])
@pytest.mark.parametrize("sizes", [(7, 3, 5), (1, 13, 1)], ids=str)
def test_matmul(sizes, transposed_a, transposed_b):
    m, k, n = sizes
    a, b = ((n, m) if transposed_a else (m, n)), ((k, n) if transposed_b else (n, k))
    maps = [
        "affine_map<(d0, d1, d2) -> (d2, d0)>" if transposed_a else "affine_map<(d0, d1, d2) -> (d0, d2)>",
        "affine_map<(d0, d1, d2) -> (d1, d2)>" if transposed_b else "affine_map<(d0, d1, d2) -> (d2, d1)>",
        "affine_map<(d0, d1, d2) -> (d0, d1)>",
    ]
    body = f"""
      %result = linalg.matmul indexing_maps = [{", ".join(maps)}]
        ins(%a, %b : {shape_text(a)}, {shape_text(b)}) outs(%c : {shape_text((m, k))}) -> {shape_text((m, k))}
    """
    check(body, {"a": a, "b": b, "c": (m, k)}, (m, k))


@pytest.mark.parametrize("op", ["relu", "sigmoid", "tanh"])
@pytest.mark.parametrize("shape", [(7, 5), (), (1,), (3, 1, 13)], ids=str)
def test_unary(op, shape):
    check(f"%result = train.{op} %x : {shape_text(shape)}", {"x": shape}, shape)


@pytest.mark.parametrize("op", ["add", "sub", "mul"])
@pytest.mark.parametrize(
    "lhs, rhs, result",
    [
        ((7, 5), (7, 5), (7, 5)),
        ((7, 5), (5,), (7, 5)),
        ((5,), (7, 5), (7, 5)),
        ((7, 1), (1, 5), (7, 5)),
        ((3, 1, 5), (7, 1), (3, 7, 5)),
        ((1, 3), (3,), (1, 3)),
        ((1, 1), (13,), (1, 13)),
        ((), (7, 5), (7, 5)),
        ((5, 3), (), (5, 3)),
        ((), (), ()),
        ((1, 5, 1), (3, 1, 7), (3, 5, 7)),
        ((1,), (1, 1, 1), (1, 1, 1)),
    ],
    ids=str,
)
def test_binary(op, lhs, rhs, result):
    body = f"%result = train.{op} %x, %y : {shape_text(lhs)}, {shape_text(rhs)} -> {shape_text(result)}"
    check(body, {"x": lhs, "y": rhs}, result)


def test_scalar_constants():
    body = """
      %two = arith.constant dense<2.0> : tensor<f64>
      %half = arith.constant dense<0.5> : tensor<1x1xf64>
      %a = train.mul %x, %two : tensor<7x5xf64>, tensor<f64> -> tensor<7x5xf64>
      %result = train.sub %half, %a : tensor<1x1xf64>, tensor<7x5xf64> -> tensor<7x5xf64>
    """
    check(body, {"x": (7, 5)}, (7, 5))


@pytest.mark.parametrize(
    "source, result",
    [
        ((3, 5, 7), (15, 7)),
        ((15,), (3, 1, 5)),
        ((), (1, 1)),
        ((1, 1), ()),
        ((3, 5), (5, 3)),
        ((7, 6), (14, 3)),
    ],
    ids=str,
)
def test_reshape(source, result):
    body = f"""
      %y = train.reshape %x : {shape_text(source)} -> {shape_text(result)}
      %result = train.tanh %y : {shape_text(result)}
    """
    check(body, {"x": source}, result)


def test_tensor_reshapes():
    body = """
      %y = tensor.collapse_shape %x [[0, 1], [2]] : tensor<3x5x7xf64> into tensor<15x7xf64>
      %z = train.tanh %y : tensor<15x7xf64>
      %result = tensor.expand_shape %z [[0], [1, 2]] output_shape [15, 1, 7]
        : tensor<15x7xf64> into tensor<15x1x7xf64>
    """
    check(body, {"x": (3, 5, 7)}, (15, 1, 7))


@pytest.mark.parametrize("shape", [(7, 5), (1, 1), (13,), (3, 5, 7), ()], ids=str)
def test_mse_loss(shape):
    """With respect to both operands."""
    body = f"%result = train.mse_loss %y, %t : {shape_text(shape)} -> tensor<f64>"
    check(body, {"y": shape, "t": shape}, (), loss=None)


@pytest.mark.parametrize("shape", [(7, 5), (1, 1), (1, 13), (13, 1), (5, 3)], ids=str)
def test_cross_entropy(shape):
    labels = (np.arange(shape[0]) * 3 % shape[1]).astype(np.int32)
    body = f"%result = train.tanh %y : {shape_text(shape)}"
    check(body, {"y": shape}, shape, {"labels": labels}, loss="cross-entropy")


def test_cross_entropy_is_stable():
    logits = np.array([[1e4, 0.0, -1e4], [-1e4, -1e4, -1e4], [700.0, 710.0, -800.0]])
    labels = np.array([1, 2, 0], np.int32)
    body = "%zero = arith.constant dense<0.0> : tensor<f64>\n"
    body += "%result = train.add %y, %zero : tensor<3x3xf64>, tensor<f64> -> tensor<3x3xf64>"
    step = make_step(body, {"y": logits}, {"labels": labels}, (3, 3), "cross-entropy")
    loss, _ = step({"y": logits}, {"labels": labels, "lr": np.array(0.0)})
    assert loss == pytest.approx((1e4 + np.log(3.0) + 10.0 + np.log1p(np.exp(-10.0))) / 3, rel=1e-14)
    gradient = gradients(step, {"y": logits}, {"labels": labels})["y"]
    softmax = np.exp(logits - logits.max(1, keepdims=True))
    softmax /= softmax.sum(1, keepdims=True)
    np.testing.assert_allclose(gradient, (softmax - np.eye(3)[labels]) / 3, atol=1e-11)


def test_nan_stays_nan():
    """ReLU of NaN is NaN, as in PyTorch, and a NaN reaches loss and gradient."""
    x = np.array([np.nan, 1.0, -1.0])
    step = make_step("%result = train.relu %x : tensor<3xf64>", {"x": x}, {"target": np.zeros(3)}, (3,))
    loss, updated = step({"x": x}, {"target": np.zeros(3), "lr": np.array(1.0)})
    assert np.isnan(loss)
    assert np.isnan(updated["x"][0]) and np.isfinite(updated["x"][1:]).all()


def test_value_used_twice():
    body = """
      %a = train.tanh %x : tensor<7x5xf64>
      %b = train.mul %a, %a : tensor<7x5xf64>, tensor<7x5xf64> -> tensor<7x5xf64>
      %c = train.sigmoid %a : tensor<7x5xf64>
      %result = train.add %b, %c : tensor<7x5xf64>, tensor<7x5xf64> -> tensor<7x5xf64>
    """
    check(body, {"x": (7, 5)}, (7, 5))


@pytest.mark.parametrize("reads", ["one", "several"])
def test_linear_used_three_times(reads):
    lines = []
    for i in range(3):
        if reads == "several":
            lines.append(f"%w{i} = train.read @w : tensor<5x5xf64>")
        weight = f"w{i}" if reads == "several" else "w"
        lines.append(linear(f"y{i}", "x" if i == 0 else f"z{i - 1}", weight, (7, 5), (5, 5), "b"))
        lines.append(f"%{'result' if i == 2 else f'z{i}'} = train.tanh %y{i} : tensor<7x5xf64>")
    check("\n".join(lines), {"x": (7, 5), "w": (5, 5), "b": (5,)}, (7, 5))


def test_residual_and_weight_as_plain_operand():
    """A weight in a matmul and element by element: its update waits for both."""
    body = f"""
      {linear("y", "x", "w", (5, 5), (5, 5))}
      %z = train.mul %y, %w : tensor<5x5xf64>, tensor<5x5xf64> -> tensor<5x5xf64>
      %u = train.relu %z : tensor<5x5xf64>
      %result = train.add %u, %x : tensor<5x5xf64>, tensor<5x5xf64> -> tensor<5x5xf64>
    """
    check(body, {"x": (5, 5), "w": (5, 5)}, (5, 5))


def mlp(widths, bias, activation="relu"):
    """A forward function of linears with activations between; (body, parameter shapes)."""
    batch, *features = widths
    lines, shapes = [], {}
    value = "x"
    for i in range(len(features) - 1):
        shapes[f"l{i}.w"] = (features[i + 1], features[i])
        if bias:
            shapes[f"l{i}.b"] = (features[i + 1],)
        last = i == len(features) - 2
        out = "result" if last else f"y{i}"
        lines.append(
            linear(
                out, value, f"l{i}.w", (batch, features[i]), shapes[f"l{i}.w"], f"l{i}.b" if bias else None
            )
        )
        if not last:
            lines.append(f"%z{i} = train.{activation} %{out} : {shape_text((batch, features[i + 1]))}")
            value = f"z{i}"
    return "\n".join(lines), shapes


def make_mlp(widths, bias, loss, seed, activation="relu"):
    body, shapes = mlp(widths, bias, activation)
    random = np.random.default_rng(seed)
    params = {name: random.uniform(-1, 1, shape) / np.sqrt(shape[-1]) for name, shape in shapes.items()}
    batch, result = widths[0], (widths[0], widths[-1])

    def sample():
        answer = (
            {"target": random.normal(size=result)}
            if loss == "mse"
            else {"labels": random.integers(0, widths[-1], batch).astype(np.int32)}
        )
        return {"x": random.normal(size=(batch, widths[1])), **answer}

    return body, params, sample, result


@pytest.mark.parametrize("trainable", [["l0.w", "l0.b"], ["l2.b"], ["l1.w", "l3.b"], ["l3.w"]], ids=str)
def test_frozen_subsets(trainable):
    """Part of the parameters: the same gradients as with all, the rest bit for bit."""
    body, params, sample, result = make_mlp((3, 7, 5, 1, 13, 3), True, "mse", 1, "tanh")
    inputs = sample()
    everything = gradients(make_step(body, params, inputs, result), params, inputs)
    step = make_step(body, params, inputs, result, trainable=trainable)
    assert step.updated == trainable
    _, updated = step(params, {**inputs, "lr": np.array(1.0)})
    for name in params:
        if name in trainable:
            np.testing.assert_allclose(params[name] - updated[name], everything[name], rtol=1e-12, atol=1e-14)
        else:
            assert updated[name].tobytes() == params[name].tobytes()
    assert worst_error(step, params, inputs) < 1e-7


def test_learning_rate_zero_changes_nothing():
    body, params, sample, result = make_mlp((3, 7, 5, 3), True, "mse", 2)
    inputs = sample()
    step = make_step(body, params, inputs, result)
    _, updated = step(params, {**inputs, "lr": np.array(0.0)})
    for name, value in params.items():
        assert updated[name].tobytes() == value.tobytes()


def torch_forward(torch, params, x, activation):
    for i in range(len([name for name in params if name.endswith(".w")])):
        if i:
            x = getattr(torch, activation)(x)
        x = torch.nn.functional.linear(x, params[f"l{i}.w"], params.get(f"l{i}.b"))
    return x


def torch_loss(torch, prediction, sample):
    if "target" in sample:
        return torch.nn.functional.mse_loss(prediction, torch.from_numpy(sample["target"]))
    return torch.nn.functional.cross_entropy(prediction, torch.from_numpy(sample["labels"]).long())


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize(
    "widths, bias, activation, momentum",
    [
        ((3, 17, 31, 1, 13), True, "relu", 0.0),
        ((16, 17, 31, 1, 13), False, "tanh", 0.9),
        ((1, 64, 32, 8, 32, 64), True, "relu", 0.9),
        ((5, 13, 7), True, "sigmoid", 0.5),
    ],
    ids=str,
)
def test_against_torch(widths, bias, activation, momentum, loss):
    """Five steps of whole MLPs against torch.autograd and torch.optim.SGD."""
    torch = pytest.importorskip("torch")
    body, params, sample, result = make_mlp(widths, bias, loss, 3, activation)
    samples = [sample() for _ in range(5)]
    step = make_step(body, params, samples[0], result, loss, momentum=momentum)
    reference = {name: torch.from_numpy(value.copy()).requires_grad_() for name, value in params.items()}
    optimizer = torch.optim.SGD(reference.values(), lr=0.05, momentum=momentum)
    values = {**params, **step.initial_state()}
    for inputs in samples:
        value, values = step(values, {**inputs, "lr": np.array(0.05)})
        optimizer.zero_grad()
        prediction = torch_forward(torch, reference, torch.from_numpy(inputs["x"]), activation)
        expected = torch_loss(torch, prediction, inputs)
        expected.backward()
        optimizer.step()
        assert value == pytest.approx(expected.item(), rel=1e-13)
        for name, tensor in reference.items():
            np.testing.assert_allclose(values[name], tensor.detach().numpy(), rtol=1e-12, atol=1e-14)
    if momentum:
        for name, tensor in reference.items():
            buffer = optimizer.state[tensor]["momentum_buffer"].numpy()
            np.testing.assert_allclose(values[f"{name}.momentum"], buffer, rtol=1e-11, atol=1e-14)


def test_loss_is_a_compensated_sum():
    """float32: the mean of many squares to the last bit but one, where a plain sum loses four digits."""
    random = np.random.default_rng(4)
    shape = (64, 1024)
    target = random.normal(size=shape).astype(np.float32)
    text = f"""
      train.parameter @w : tensor<f32>
      func.func @forward(%x: {shape_text(shape, "f32")} {{train.name = "x"}}) -> {shape_text(shape, "f32")} {{
        %w = train.read @w : tensor<f32>
        %y = train.mul %x, %w : {shape_text(shape, "f32")}, tensor<f32> -> {shape_text(shape, "f32")}
        return %y : {shape_text(shape, "f32")}
      }}
    """
    with host.make_context(), Location.unknown():
        module = Module.parse(text)
    attach(module, SGD())
    host.run_pipeline(module, host.graph_pipeline("mse", ["w"]))
    sample = {"x": np.zeros(shape, np.float32), "target": target}
    _, losses = host.run_on_host(module, {"w": np.float32(0)}, [sample], 0.0)
    exact = np.square(target).astype(np.float64).mean()
    assert losses[0] == pytest.approx(exact, rel=2**-23)


def test_float64_helper():
    """The same graph text in float32 and float64; names stay."""
    text = """
      train.parameter @"tensor<f32>, w" : tensor<3x5xf32>
      func.func @forward(%x: tensor<7x5xf32> {train.name = "x"}) -> tensor<7x3xf32> {
        %half = arith.constant dense<0.5> : tensor<f32>
        %w = train.read @"tensor<f32>, w" : tensor<3x5xf32>
        %y = train.linear %x, %w : tensor<7x5xf32>, tensor<3x5xf32> -> tensor<7x3xf32>
        %z = train.mul %y, %half : tensor<7x3xf32>, tensor<f32> -> tensor<7x3xf32>
        return %z : tensor<7x3xf32>
      }
    """
    name = "tensor<f32>, w"
    random = np.random.default_rng(5)
    params = {name: random.normal(size=(3, 5))}
    samples = [{"x": random.normal(size=(7, 5)), "target": random.normal(size=(7, 3))} for _ in range(2)]
    results = []
    for version, element in ((text, "f32"), (host.to_float64(text), "f64")):
        with host.make_context(), Location.unknown():
            module = Module.parse(version)
        attach(module, SGD(momentum=0.9), element=element)
        host.run_pipeline(module, host.graph_pipeline("mse", [name]))
        results.append(host.run_on_host(module, params, samples, 0.1))
    (values32, losses32), (values64, losses64) = results
    assert values32[name].dtype == np.float32 and values64[name].dtype == np.float64
    np.testing.assert_allclose(values32[name], values64[name], atol=1e-6)
    np.testing.assert_allclose(losses32, losses64, rtol=1e-6)
    assert set(values64) == {name, name + ".momentum"}


# What is changed in the text of the differentiated graph: (pattern, replacement).
MUTATIONS = {
    "another activation's derivative": (r"train\.relu_vjp", "train.tanh_vjp"),
    "a wrong factor": (r"dense<0\.[0-9E-]*> : tensor<f64>", "dense<0.05> : tensor<f64>"),
    "a wrong sign": (r"train\.sub %", "train.add %"),
    "a value in place of its cotangent": (r"train\.relu_vjp (%\w+), %\w+", r"train.relu_vjp \1, \1"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_wrong_gradient_is_seen(mutation):
    """The checks above do fail: gradients that were tampered with."""
    body, params, sample, result = make_mlp((3, 7, 5, 3), True, "mse", 6)
    inputs = sample()
    assert worst_error(make_step(body, params, inputs, result), params, inputs) < 1e-7
    step = make_step(body, params, inputs, result, mutate=lambda text: re.sub(*MUTATIONS[mutation], text))
    assert worst_error(step, params, inputs) > 1e-3


def test_missing_input_is_named():
    body, params, sample, result = make_mlp((3, 7, 3), True, "mse", 7)
    inputs = sample()
    step = make_step(body, params, inputs, result)
    with pytest.raises(TrainDeeployError, match="the input 'lr' is missing"):
        step(params, inputs)
    with pytest.raises(TrainDeeployError, match=r"'x' has shape \(3, 5\), not \(3, 7\)"):
        step(params, {**inputs, "x": np.zeros((3, 5)), "lr": np.array(0.1)})
