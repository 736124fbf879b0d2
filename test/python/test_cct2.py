"""CCT-2 and ResNet8 on the host: reference vectors, PyTorch in float64, mutations that must be seen."""

import itertools
import os
import re
from pathlib import Path

import numpy as np
import pytest

from traindeeploy import host
from traindeeploy.acceptance import deviations, loss_deviation
from traindeeploy.driver import training_graph
from traindeeploy.frontend import load_model
from traindeeploy.optimizers import SGD, attach
from traindeeploy.recipes import LoraOptions, RecipeError, apply_recipe

LR = np.float32(0.01)
STRATEGIES = {
    # recipe, trained parameters, MFLOP a step
    "LP": ("linear-probe", 1_290, 70.7),
    "FT-1": ("blocks:1", 99_723, 93.8),
    "LoRA-1": ("lora:1", 7_563, 83.4),
    "FT-2": ("blocks:2", 198_027, 123.2),
    "LoRA-2": ("lora:2", 13_707, 102.5),
    "full": ("full", 283_723, 208.5),
}


def batches(count, batch, classes=10, seed=0):
    random = np.random.default_rng(seed)
    return [
        (random.standard_normal((batch, 3, 32, 32)).astype(np.float32), random.integers(0, classes, batch))
        for _ in range(count)
    ]


def host_run(text, parameters, data, lr=LR):
    samples = [{"input": x, "labels": labels} for x, labels in data]
    return host.run_on_host(text, parameters, samples, lr)


def worst(before, after, reference, steps, relative=1e-4):
    return max(d.worst for d in deviations(before, after, reference, steps=steps, relative=relative))


def flop(text):
    return int(re.search(r"train\.flop = (\d+)", text)[1])


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies(name):
    """What a strategy trains and costs, and five steps of it against PyTorch."""
    pytest.importorskip("torch")
    from cct2_torch import Cct2, sgd

    recipe, count, mflop = STRATEGIES[name]
    text, model = training_graph("cct2", loss="cross-entropy", recipe=recipe)
    trained = re.findall(r"train\.parameter @(\S+) trainable", text)
    assert sum(model.parameters[n].size for n in trained) == count
    assert flop(text) / 1e6 == pytest.approx(mflop, abs=0.06)
    # Adapters start at B = 0, where A has no gradient: from elsewhere.
    random = np.random.default_rng(1)
    parameters = {
        n: random.standard_normal(v.shape).astype(np.float32) * np.float32(0.02) if "lora_B" in n else v
        for n, v in model.parameters.items()
    }
    adapters = {
        n.replace("lora_A.", ""): (n, n.replace("lora_A", "lora_B")) for n in parameters if "lora_A" in n
    }
    data = batches(2 if name == "full" else 3, 1)
    expected, losses = sgd(Cct2(), parameters, trained, data, float(LR), adapters)
    found, found_losses = host_run(text, parameters, data)
    relative = 1e-3 if name == "full" else 1e-4
    assert loss_deviation(found_losses, losses) <= 1
    assert worst(parameters, found, {n: expected[n] for n in trained}, len(data), relative) <= 1
    for n in set(parameters) - set(trained):
        assert found[n].tobytes() == parameters[n].tobytes()


@pytest.mark.parametrize("batch", [2, 5])
def test_batches(batch):
    pytest.importorskip("torch")
    from cct2_torch import Cct2, sgd

    text, model = training_graph("cct2", loss="cross-entropy", recipe="blocks:1", batch_size=batch)
    trained = re.findall(r"train\.parameter @(\S+) trainable", text)
    data = batches(1, batch)
    expected, losses = sgd(Cct2(), model.parameters, trained, data, float(LR))
    found, found_losses = host_run(text, model.parameters, data)
    assert loss_deviation(found_losses, losses) <= 1
    assert worst(model.parameters, found, {n: expected[n] for n in trained}, 1) <= 1


def test_module():
    """nn.Module gives what the built-in ONNX graph gives."""
    torch = pytest.importorskip("torch")
    from cct2_torch import Cct2

    data = batches(1, 1)
    results = []
    for model, inputs in (("cct2", None), (Cct2(), (torch.zeros(1, 3, 32, 32),))):
        text, imported = training_graph(model, inputs, loss="cross-entropy", recipe="blocks:2")
        assert flop(text) == 123_182_592
        assert "math.erf" in text and text.count("tensor.insert_slice") == 4
        results.append(host_run(text, imported.parameters, data))
    (first, losses), (second, same_losses) = results
    assert set(first) == set(second)
    assert losses == pytest.approx(same_losses, rel=1e-6)
    assert worst(imported.parameters, first, second, 1) <= 1


def test_large_logits():
    """Logits of +-300 with the label on the smallest stay finite and right."""
    pytest.importorskip("torch")
    from cct2_torch import Cct2, sgd

    text, model = training_graph("cct2", loss="cross-entropy", recipe="blocks:1")
    bias = np.linspace(-300, 300, 10).astype(np.float32)
    parameters = {**model.parameters, "classifier.fc.bias": bias}
    trained = re.findall(r"train\.parameter @(\S+) trainable", text)
    data = [(batches(1, 1)[0][0], np.array([0]))]
    expected, losses = sgd(Cct2(), parameters, trained, data, float(LR))
    found, found_losses = host_run(text, parameters, data)
    assert losses[0] > 500
    assert loss_deviation(found_losses, losses) <= 1
    assert worst(parameters, found, {n: expected[n] for n in trained}, 1) <= 1


@pytest.mark.parametrize("recipe", ["full", "last:2"])
def test_resnet8(recipe):
    torch = pytest.importorskip("torch")
    from cct2_torch import ResNet8, sgd

    module = ResNet8()
    data = batches(2, 2)
    text, model = training_graph("resnet8", loss="cross-entropy", recipe=recipe, batch_size=2)
    trained = re.findall(r"train\.parameter @(\S+) trainable", text)
    assert len(trained) == {"full": 34, "last:2": 4}[recipe]
    expected, losses = sgd(module, model.parameters, trained, data, float(LR))
    found, found_losses = host_run(text, model.parameters, data)
    assert loss_deviation(found_losses, losses) <= 1
    assert worst(model.parameters, found, {n: expected[n] for n in trained}, 2, 1e-3) <= 1
    from_torch, imported = training_graph(
        module, (torch.zeros(2, 3, 32, 32),), loss="cross-entropy", recipe=recipe
    )
    again, _ = host_run(from_torch, imported.parameters, data)
    assert worst(model.parameters, again, {n: expected[n] for n in trained}, 2, 1e-3) <= 1
    assert flop(text) == flop(from_torch)


# Reference vectors of the public project, LP/ and LoRA2/: beside this repository, or where the variable says.
BESIDE = Path(__file__).parents[3] / "shared" / "refs" / "cct2"
VECTORS = Path(os.environ.get("TRAINDEEPLOY_CCT2_VECTORS", BESIDE))


def vectors(strategy):
    folder = VECTORS / strategy
    if not folder.is_dir():
        pytest.skip("no reference vectors (TRAINDEEPLOY_CCT2_VECTORS names their folder)")
    inputs = dict(np.load(folder / "inputs.npz"))
    updated = {n.removesuffix("_updated"): v for n, v in np.load(folder / "outputs.npz").items()}
    return str(folder / "network_infer.onnx"), inputs, updated


@pytest.mark.parametrize("strategy, loss, mflop", [("LP", 2.251476143, 70.7), ("LoRA2", 2.119228436, 102.5)])
def test_reference_vectors(strategy, loss, mflop):
    path, inputs, updated = vectors(strategy)
    text, model = training_graph(path, loss="cross-entropy", trainable=list(updated))
    assert flop(text) / 1e6 == pytest.approx(mflop, abs=0.06)
    found, losses = host_run(text, model.parameters, [(inputs["input"], inputs["labels"])])
    assert loss_deviation(losses, [loss]) <= 1
    assert worst(model.parameters, found, updated, 1) <= 1


def test_composites_of_a_file_in_primitives():
    path, _, _ = vectors("LP")
    text = load_model(path).module_text
    assert "train.sqrt" in text and "train.normalize" not in text
    with host.make_context():
        from mlir.ir import Module

        module = Module.parse(text)
        host.run_pipeline(module, "func.func(td-recognize-composites,td-move-permutes,canonicalize)")
        forward = str(module)
    assert forward.count("train.normalize") == 5
    assert forward.count("train.gelu") == 2 and forward.count("train.softmax") == 3
    assert not re.search(r"train\.(sqrt|div|pow|sub|sum) ", forward)


def graph_with(path, trainable, change, loss="cross-entropy"):
    """The training graph of a model whose text is changed after differentiation."""
    from mlir.ir import Location, Module

    model = load_model(path)
    _, names = apply_recipe(model, trainable=trainable)
    with host.make_context(), Location.unknown():
        module = Module.parse(model.module_text)
        host.run_pipeline(
            module,
            f"td-attach-loss{{loss={loss}}},"
            f"td-apply-recipe{{trainable={','.join(names)}}},"
            "func.func(td-recognize-composites,td-move-permutes),td-differentiate",
        )
        module = Module.parse(change(str(module)))
        attach(module, SGD())
        host.run_pipeline(
            module,
            "td-assign-layouts,func.func(td-move-permutes),td-insert-updates,"
            "func.func(td-decompose,cse,canonicalize,td-fuse-elementwise,canonicalize,cse)",
        )
        return str(module), model


def attention_unscaled(text):
    changed = re.sub(r"dense<1\.250000e-01>", "dense<1.000000e+00>", text)
    assert changed != text
    return changed


def gelu_without_bias(text):
    """GELU's derivative at the product, not at the product with its bias."""
    changed = text
    for value in set(re.findall(r"train\.gelu_vjp (%\S+),", text)):
        source = re.search(rf"{re.escape(value)} = train\.add (%\S+), (%\S+) : tensor<1x64x128xf32>", text)
        changed = changed.replace(f"train.gelu_vjp {value},", f"train.gelu_vjp {source[1]},")
    assert changed != text
    return changed


def deviation_constant(text):
    """d/dx of (x - mean) / deviation with the deviation held constant: g - mean(g), over the deviation."""
    changed = re.sub(r"(train\.normalize_vjp[^\n]*axes = array<i64: 2>)", r"\1, rms", text)
    assert changed != text
    return changed


def bias_dropped(text):
    changed = re.sub(r" *train\.gradient %\S+ of @classifier_fc_bias[^\n]*\n", "", text)
    assert changed != text
    return changed


def sigmoid_approximation(text):
    """The derivative of x sigmoid(1.702 x) in place of GELU's."""
    numbers = itertools.count()

    def replace(match):
        result, x, cotangent, kind = match.groups()
        p = f"%mutant{next(numbers)}_"
        return "\n".join(
            [
                f"{p}k = arith.constant dense<1.702> : {kind}",
                f"{p}one = arith.constant dense<1.0> : {kind}",
                f"{p}kx = train.mul {x}, {p}k : {kind}, {kind} -> {kind}",
                f"{p}s = train.sigmoid {p}kx : {kind}",
                f"{p}rest = train.sub {p}one, {p}s : {kind}, {kind} -> {kind}",
                f"{p}slope = train.mul {p}kx, {p}rest : {kind}, {kind} -> {kind}",
                f"{p}inner = train.add {p}one, {p}slope : {kind}, {kind} -> {kind}",
                f"{p}d = train.mul {p}s, {p}inner : {kind}, {kind} -> {kind}",
                f"{result} = train.mul {cotangent}, {p}d : {kind}, {kind} -> {kind}",
            ]
        )

    changed, count = re.subn(r"(%\S+) = train\.gelu_vjp (%\S+), (%\S+) : (tensor<\S+>)", replace, text)
    assert count
    return changed


@pytest.mark.parametrize(
    "change",
    [gelu_without_bias, sigmoid_approximation, deviation_constant, bias_dropped],
    ids=lambda f: f.__name__,
)
def test_mutations_fail(change):
    path, inputs, updated = vectors("LoRA2")
    text, model = graph_with(path, list(updated), change)
    found, _ = host_run(text, model.parameters, [(inputs["input"], inputs["labels"])])
    assert worst(model.parameters, found, updated, 1) > 1


def test_unscaled_attention_fails():
    trained = ["classifier.blocks.1.linear1.weight", "classifier.blocks.1.self_attn.q_proj.weight"]
    results = []
    for change in (lambda text: text, attention_unscaled):
        text, model = graph_with("cct2", trained, change)
        results.append(host_run(text, model.parameters, batches(1, 1))[0])
    right, wrong = results
    assert worst(model.parameters, wrong, {n: right[n] for n in trained}, 1) > 1


def operands_in_fp16(text):
    """A decomposed step whose products (GEMM, convolution, attention) take their operands rounded to FP16."""
    numbers = itertools.count()

    def rounded(value, kind):
        name = f"%half{next(numbers)}"
        half = kind.replace("f32", "f16")
        return name, (
            f"{name}_ = arith.truncf {value} : {kind} to {half}\n"
            f"{name} = arith.extf {name}_ : {half} to {kind}\n"
        )

    def in_body(match):
        (a, round_a), (b, round_b) = rounded(match[2], "f32"), rounded(match[3], "f32")
        return f"{round_a}{round_b}{match[1]} = arith.mulf {a}, {b} : f32{match[4]}"

    def of_matmul(match):
        (a, round_a), (b, round_b) = rounded(match[2], match[4]), rounded(match[3], match[5])
        return f"{round_a}{round_b}{match[1]} ins({a}, {b} : {match[4]}, {match[5]})"

    changed, products = re.subn(
        r"(%\S+) = arith\.mulf (%in\S*), (%in\S*) : f32(\n\s*%\S+ = arith\.addf %out, \1 )", in_body, text
    )
    changed, matmuls = re.subn(
        r"(%\S+ = linalg\.matmul.*?) ins\((\S+), (\S+) : (\S+), (\S+)\)", of_matmul, changed
    )
    assert products and matmuls
    with host.make_context():
        from mlir.ir import Module

        module = Module.parse(changed)
        host.run_pipeline(module, "func.func(convert-elementwise-to-linalg)")
        return str(module)


def test_wrong_rates_and_operands_in_fp16_fail():
    path, inputs, updated = vectors("LoRA2")
    text, model = graph_with(path, list(updated), lambda text: text)
    data = {"input": inputs["input"], "labels": inputs["labels"]}
    for change, lr, right in (
        (None, 0.01, True),
        (None, 0.0101, False),
        (None, 0.0, False),
        (operands_in_fp16, 0.01, False),
    ):
        if change or lr == 0.01:
            step = host.HostStep(change(text) if change else text)
        _, found = step(model.parameters, {**data, "lr": np.asarray(lr)})
        assert (worst(model.parameters, found, updated, 1) <= 1) == right


def test_the_derivative_of_gelu_is_exact(tmp_path):
    """On the operator alone, over [-4, 4]: that of the approximation by tanh is seen."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    torch = pytest.importorskip("torch")
    start = np.linspace(-4, 4, 257, dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["one", "w"], ["x"]),
            helper.make_node("Gelu", ["x"], ["y"]),
        ],
        "gelu",
        [helper.make_tensor_value_info("one", TensorProto.FLOAT, [1, 257])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 257])],
        [numpy_helper.from_array(start, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    checker.check_model(proto)
    save(proto, tmp_path / "gelu.onnx")
    w = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.mse_loss(torch.nn.functional.gelu(w), torch.ones_like(w)).backward()
    expected = {"w": start - w.grad.numpy()}

    def with_tanh(text):
        changed, count = re.subn(r"(train\.gelu_vjp [^:]*) :", r"\1 {tanh} :", text)
        assert count == 1
        return changed

    sample = {"one": np.ones((1, 257), np.float32), "target": np.ones((1, 257), np.float32)}
    for change, right in ((lambda text: text, True), (with_tanh, False)):
        text, model = graph_with(str(tmp_path / "gelu.onnx"), ["w"], change, "mse")
        found, _ = host.run_on_host(text, model.parameters, [sample], 1.0)
        assert (worst(model.parameters, found, expected, 1) <= 1) == right


def test_lora_errors():
    model = load_model("cct2")

    def refused(recipe, **options):
        with pytest.raises(RecipeError) as error:
            apply_recipe(model, recipe, lora=LoraOptions(**options) if options else None)
        return str(error.value)

    assert refused("lora:x") == "recipe 'lora:x' is not lora:N with a number"
    assert refused("lora:3") == "recipe 'lora:3' needs a number from 1 to 2, the blocks that cct2 has"
    assert refused("lora:0").startswith("recipe 'lora:0' needs a number from 1 to 2")
    assert "larger than every weight" in refused("lora", rank=129)
    assert refused("lora", rank=0) == "a rank of 0: at least 1 is needed"
    assert "no parameter matches 'nothing'" in refused("lora", targets=["nothing"])
    assert "match no weight that recipe 'lora' adapts" in refused("lora", targets=["classifier.norm.bias"])
    block_0 = ["classifier.blocks.0.linear1.weight"]
    assert "match no weight that recipe 'lora:1' adapts" in refused("lora:1", targets=block_0)
    assert refused("full", alpha=1.0) == "options of LoRA need the recipe lora or lora:N"


def test_lora_without_blocks():
    model = load_model("deep-ae")
    _, names = apply_recipe(model, "lora:2", lora=LoraOptions(rank=2))
    layers = [layer.parameters[0].removesuffix(".weight") for layer in model.layers]
    adapters = [f"{layer}.lora_{part}.weight" for layer in layers[-3:-1] for part in "AB"]
    assert names == [*adapters, f"{layers[-1]}.weight", f"{layers[-1]}.bias"]
    with pytest.raises(RecipeError, match="needs a number from 1 to 9: deep-ae has no blocks, and 9 linear"):
        apply_recipe(model, "lora:10")


def test_lora_targets():
    model = load_model("cct2")
    options = LoraOptions(rank=2, alpha=8.0, targets=["*q_proj.weight"], seed=3)
    adapted, names = apply_recipe(model, "lora", lora=options)
    adapters = [f"classifier.blocks.{i}.self_attn.q_proj.lora_{part}.weight" for i in (0, 1) for part in "AB"]
    behind = [
        f"classifier.{layer}.{part}" for layer in ("attention_pool", "fc") for part in ("weight", "bias")
    ]
    assert names == [*adapters, *behind]
    a, b = adapted.parameters[names[0]], adapted.parameters[names[1]]
    assert a.shape == (2, 128) and not b.any()
    assert 0.9 / np.sqrt(128) < np.abs(a).max() <= 1 / np.sqrt(128)
    assert adapted.module_text.count("dense<4.000000e+00>") >= 1
    again, _ = apply_recipe(model, "lora", lora=options)
    assert again.module_text == adapted.module_text
    assert all(np.array_equal(again.parameters[n], v) for n, v in adapted.parameters.items())
