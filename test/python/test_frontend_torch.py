"""PyTorch to the training graph: structure, values against PyTorch, and what is refused in words."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from level2 import evaluate, forward_ops, ops
from traindeeploy.driver import training_graph
from traindeeploy.errors import TrainDeeployError
from traindeeploy.frontend import BatchSizeError, ModelError, UnsupportedOperator, import_model
from traindeeploy.host import HostStep
from traindeeploy.models.deep_ae import deep_ae_parameters
from traindeeploy.recipes import resolve_recipe


class Functional(nn.Module):
    """A module around a function of its parameters and inputs."""

    def __init__(self, function, **parameters):
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            setattr(self, name, nn.Parameter(value) if isinstance(value, torch.Tensor) else value)

    def forward(self, x):
        return self.function(self, x)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def check(module, *inputs, batch_size=None):
    """Import, and compare @forward with the module in float64."""
    imported = import_model(module, inputs, batch_size)
    if batch_size is not None:
        inputs = tuple(normal(batch_size, *x.shape[1:]) for x in inputs)
    with torch.no_grad():
        module.eval()
        double = {key: value.double() for key, value in module.state_dict().items()}
        expected = torch.func.functional_call(
            module, double, tuple(x.double() for x in inputs), tie_weights=False
        )
    found = evaluate(imported, *(x.numpy() for x in inputs))
    assert found.shape == tuple(expected.shape) == imported.output.shape
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6, atol=1e-6)
    return imported


def refused(module, *inputs, kind=ModelError, batch_size=None):
    """The one line that refuses the module."""
    with pytest.raises(TrainDeeployError) as error:
        import_model(module, inputs, batch_size)
    assert isinstance(error.value, kind), error.value
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(17, 31, 1, 13), (1, 1), (5, 7), (640, 8, 3)])
def test_sequential(sizes, bias):
    layers = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out, bias=bias), nn.ReLU()]
    imported = check(nn.Sequential(*layers), normal(3, sizes[0]))
    assert ops(imported) == ["linear", "relu"] * (len(sizes) - 1)
    assert forward_ops(imported)[0][1] == "0 (Linear)"
    names = [
        f"{i}.{kind}"
        for i in range(0, len(layers), 2)
        for kind in (("weight", "bias") if bias else ("weight",))
    ]
    assert list(imported.parameters) == names == resolve_recipe(imported, "full")
    assert imported.inputs[0].name == "input"
    assert imported.batch_size == 3


def test_places_in_the_model():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return torch.relu(self.fc(x)) + x

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Block(), Block()])

        def forward(self, features):
            for block in self.blocks:
                features = block(features)
            return features * 2

    imported = check(Net(), normal(2, 4))
    assert [place for _, place in forward_ops(imported)] == [
        "blocks.0.fc (Linear)",
        "blocks.0 (Block): relu",
        "blocks.0 (Block): add",
        "blocks.1.fc (Linear)",
        "blocks.1 (Block): relu_1",
        "blocks.1 (Block): add_1",
        "Net: mul",
    ]
    assert imported.inputs[0].name == "features"
    assert imported.name == "Net"


FUNCTIONS = {
    "addmm": lambda m, x: torch.addmm(m.b, x, m.w.t()),
    "addmm scaled": lambda m, x: torch.addmm(m.b, x, m.w.t(), beta=0.5, alpha=3),
    "addmm without bias": lambda m, x: torch.addmm(m.b, x, m.w.t(), beta=0),
    "matmul of a transpose": lambda m, x: x @ m.w.T + m.b,
    "bias first": lambda m, x: m.b + x @ m.w.transpose(0, 1),
    "matmul": lambda m, x: F.linear(x, m.w) @ m.w,
    "mm": lambda m, x: torch.mm(x, m.w.permute(1, 0)),
    "left transposed": lambda m, x: (m.w @ x.t()).t() @ m.w,
    "both transposed": lambda m, x: (m.w.t() @ F.linear(x, m.w).t()).t() @ m.w.t(),
    "three dimensions": lambda m, x: x.view(3, 1, 5) @ m.w.t() + m.b,
    "three dimensions, plain": lambda m, x: (F.linear(x, m.w).view(3, 1, 7) @ m.w).squeeze(1),
    "a vector of weights": lambda m, x: F.linear(x, m.w) @ m.b,
    "linear to a number": lambda m, x: F.linear(F.linear(x, m.w), m.b),
    "activations": lambda m, x: torch.tanh(torch.sigmoid(F.relu(F.linear(x, m.w)))),
    "in place": lambda m, x: add_in_place(F.linear(x, m.w, m.b)),
    "residual": lambda m, x: F.linear(F.linear(x, m.w), m.w.t()) + x,
    "alpha": lambda m, x: torch.add(torch.sub(F.linear(x, m.w), m.b, alpha=2), m.b, alpha=-0.25),
    "numbers": lambda m, x: 1 - (2 * F.linear(x, m.w) + 1.5 - 3) * 0.1,
    "rsub": lambda m, x: torch.rsub(F.linear(x, m.w), 2, alpha=3),
    "parameter scale": lambda m, x: F.linear(x, m.w) * m.b,
    "broadcast of a column": lambda m, x: F.linear(x, m.w) * (x @ m.w.t() @ m.b).unsqueeze(1),
    "broadcast of a matrix": lambda m, x: (
        F.linear(x, m.w).unsqueeze(1) + m.w[None, :, :].flatten(1).view(5, 7)
    ),
    "a tensor of one number": lambda m, x: F.linear(x, m.w) + torch.tensor(3.0),
    "shapes": lambda m, x: (
        F.linear(x, m.w, m.b).unflatten(1, (7, 1)).flatten(0).reshape(3, -1, 1).squeeze(-1)
    ),
    "nothing": lambda m, x: F.dropout(F.linear(x.clone(), m.w).contiguous(), 0.5, False).to(torch.float32),
    "detached input": lambda m, x: F.linear(x.detach(), m.w),
    "bias of another shape": lambda m, x: F.linear(x, m.w) + m.b.view(1, 7),
}


def add_in_place(x):
    y = F.relu_(x)
    y += 1
    return x + y


@pytest.mark.parametrize("name", FUNCTIONS)
def test_forms(name):
    check(Functional(FUNCTIONS[name], w=normal(7, 5), b=normal(7, seed=1)), normal(3, 5, seed=2))


@pytest.mark.parametrize("name", ["addmm", "matmul of a transpose", "bias first", "three dimensions"])
def test_a_bias_becomes_part_of_the_linear(name):
    imported = check(Functional(FUNCTIONS[name], w=normal(7, 5), b=normal(7)), normal(3, 5))
    assert [op for op in ops(imported) if op != "reshape"] == ["linear"]
    assert [layer.parameters for layer in imported.layers] == [("w", "b")]


def test_a_shared_bias_sum_stays_a_sum():
    # The product is read twice, so its bias cannot move into it.
    module = Functional(lambda m, x: (y := F.linear(x, m.w)) * (y + m.b), w=normal(7, 5), b=normal(7))
    assert ops(check(module, normal(3, 5))) == ["linear", "add", "mul"]


def test_flatten_of_images():
    imported = check(nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 5, 4)), normal(2, 2, 3, 5))
    assert ops(imported) == ["reshape", "linear"]


def test_one_linear_used_three_times():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 4)
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            x = self.first(x)
            return self.fc(torch.relu(self.fc(torch.relu(self.fc(x)))))

    imported = check(Net(), normal(3, 6))
    assert list(imported.parameters) == ["first.weight", "first.bias", "fc.weight", "fc.bias"]
    assert imported.module_text.count("train.read @fc.weight") == 1
    assert resolve_recipe(imported, "linear-probe") == ["fc.weight", "fc.bias"]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(6, 4)
        self.middle = nn.Linear(4, 6)
        self.decoder = nn.Linear(6, 4, bias=False)
        self.decoder.weight = self.encoder.weight

    def forward(self, x):
        return self.decoder(self.middle(self.encoder(x)))


def test_tied_weights_are_one_parameter():
    imported = check(Tied(), normal(3, 6))
    assert list(imported.parameters) == ["encoder.weight", "encoder.bias", "middle.weight", "middle.bias"]
    assert imported.aliases == {"decoder.weight": "encoder.weight"}
    assert resolve_recipe(imported, trainable=["decoder.*"]) == ["encoder.weight"]
    # The layer that holds the tied weight is the last one in use.
    assert resolve_recipe(imported, "linear-probe") == ["encoder.weight", "encoder.bias"]


def test_buffers_are_constants_and_unused_parameters_are_left_out():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)
            self.unused = nn.Linear(2, 2)
            self.register_buffer("mean", torch.arange(4.0))
            self.register_buffer("ones", torch.ones(3))
            self.scale = torch.arange(3.0) + 1

        def forward(self, x):
            return self.fc(x - self.mean) * self.scale + self.ones

    imported = import_model(Net(), normal(2, 4))
    assert list(imported.parameters) == ["fc.weight", "fc.bias", "mean", "scale"]
    assert imported.constants == {"mean", "scale"}
    assert "dense<1.000000e+00> : tensor<3xf32>" in imported.module_text
    assert imported.unused == ("unused.weight", "unused.bias")
    assert imported.notes == ("unused.weight, unused.bias are not used by the forward; they are left out",)
    assert resolve_recipe(imported, "full") == ["fc.weight", "fc.bias"]


def test_rank_0_parameter():
    imported = check(
        Functional(lambda m, x: F.linear(x, m.w) * m.s, w=normal(3, 4), s=torch.tensor(0.5)), normal(2, 4)
    )
    assert imported.parameters["s"].shape == ()


def test_what_requires_no_gradient_is_frozen():
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    module[1].weight.requires_grad_(False)
    imported = import_model(module, normal(2, 3))
    assert resolve_recipe(imported, "full") == ["0.weight", "0.bias", "1.bias"]
    assert resolve_recipe(imported, trainable=["1.*"]) == ["1.weight", "1.bias"]


def test_training_mode_is_left_and_restored():
    module = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 5), nn.Dropout(0.0))
    module[2].eval()
    imported = import_model(module, normal(2, 3))
    assert ops(imported) == ["linear", "linear"]
    assert imported.notes == ("the model, in training mode, is imported in evaluation mode; that changes 1",)
    assert [m.training for m in module] == [True, True, False, True]
    assert import_model(module.eval(), normal(2, 3)).notes == ()


def test_names_that_mlir_must_quote():
    module = nn.Module()
    module.add_module("a b", nn.Linear(3, 4))
    module.add_module("ü", nn.Linear(4, 2))
    module.forward = lambda x: module.get_submodule("ü")(module.get_submodule("a b")(x))
    imported = import_model(module, normal(2, 3))
    assert 'train.parameter @"a b.weight"' in imported.module_text
    assert list(imported.parameters) == ["a b.weight", "a b.bias", "ü.weight", "ü.bias"]
    assert evaluate(imported, np.ones((2, 3))).shape == (2, 2)


def test_inputs_by_name_and_several_inputs():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, left, *, right, unused=None):
            return self.fc(left) + right

    imported = import_model(Net(), {"left": normal(2, 4), "right": normal(2, 3)})
    assert [spec.name for spec in imported.inputs] == ["left", "right"]
    imported = import_model(
        Net(), {"left": normal(2, 4), "right": normal(2, 3), "unused": torch.zeros(2).long()}
    )
    assert [spec.name for spec in imported.inputs] == ["left", "right"]


def test_exported_program():
    module = Tied()
    program = torch.export.export(module, (normal(3, 6),))
    imported = import_model(program)
    assert imported.module_text.count("train.linear") == 3
    np.testing.assert_allclose(
        evaluate(imported, normal(3, 6).numpy()), module(normal(3, 6)).detach().numpy(), rtol=1e-5, atol=1e-5
    )
    assert import_model(program, None, 4).output.shape[0] == 4


def test_one_tensor_in_a_container_is_an_output():
    assert import_model(
        Functional(lambda m, x: {"y": x @ m.w}, w=normal(4, 3)), normal(2, 4)
    ).output.shape == (2, 3)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_batch_size(batch_size):
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    imported = check(module, normal(2, 2, 3), batch_size=batch_size)
    assert imported.batch_size == batch_size


def test_both_routes_give_the_same_deep_ae():
    from examples_path import example

    module, inputs = example("deep_ae").model()
    module.load_state_dict({name: torch.from_numpy(value) for name, value in deep_ae_parameters().items()})
    from_torch = import_model(module, inputs, 5)
    from_onnx = import_model("deep-ae", None, 5)
    assert list(from_torch.parameters) == list(from_onnx.parameters)
    assert from_torch.layers == from_onnx.layers
    assert from_torch.inputs == from_onnx.inputs
    assert ops(from_torch) == ops(from_onnx)
    x = normal(5, 640)
    expected = module(x).detach().numpy()
    np.testing.assert_allclose(evaluate(from_torch, x.numpy()), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(evaluate(from_onnx, x.numpy()), expected, rtol=1e-5, atol=1e-6)


# What is refused.


def test_unsupported_operator():
    class Arctangent(nn.Module):
        def forward(self, x):
            return torch.atan(x)

    module = nn.Sequential(nn.Linear(3, 4), nn.Softplus(), Arctangent())
    message = refused(module, normal(2, 3), kind=UnsupportedOperator)
    assert message.startswith("operator aten.atan at '2 (Arctangent): atan' is not supported; ")


@pytest.mark.parametrize(
    ("forward", "says"),
    [
        (lambda m, x: F.softplus(x @ m.w, threshold=3), "thresholds from 20 on are supported"),
        (lambda m, x: (x @ m.w).norm(p=3, dim=-1), "is a norm of order 3; there are 1, 2 and infinity"),
        (lambda m, x: (-2) ** (x @ m.w), "has the base -2; positive ones are supported"),
        (lambda m, x: F.pad(x @ m.w, (0, 0, 1, 0), value=2.0), "pads axis 0 with 2"),
        (lambda m, x: F.pad(F.pad(x @ m.w, (-2, -2)), (1, 1)), "leaves nothing of its input"),
        (
            lambda m, x: (x @ m.w)[:, :0].sum() + x,
            "aten.sum at 'Functional: sum_1' has an operand without elem",
        ),
        # Not the operator that PyTorch could express by others, einsum.
        (
            lambda m, x: F.softplus(torch.einsum("ij,jk->ik", x, m.w), threshold=3),
            "operator aten.softplus at",
        ),
        (
            lambda m, x: attend((x @ m.w)[None], torch.tensor([[True, True], [False, False]])),
            "hides every key",
        ),
        (lambda m, x: attend((x @ m.w)[None], torch.full((2, 2), -torch.inf)), "hides every key"),
    ],
)
def test_forms_that_are_not_supported(forward, says):
    assert says in refused(Functional(forward, w=normal(3, 4)), normal(2, 3), kind=UnsupportedOperator)


def test_a_constant_of_one_number_beside_others():
    """Masks that hide nothing, and those that do; and a parameter that has their name."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.constant = nn.ParameterList([normal(3, 3), normal(3, 3, seed=2)])
            self.register_buffer("seen", torch.ones(1, 2, dtype=torch.bool))

        def forward(self, x):
            a = x @ self.constant[0]
            y = F.scaled_dot_product_attention(a[None, -1:], a[None], a[None], attn_mask=self.seen)
            y = y + F.scaled_dot_product_attention(a[None], a[None], a[None], is_causal=True)
            return (y @ self.constant[1])[0]

    module, x = Masked(), normal(2, 3, seed=3)
    text, imported = training_graph(module, x, loss="mse")
    target = np.zeros((2, 3), np.float32)
    feed = {"x": x.numpy(), "target": target, "lr": np.float32(0)}
    loss, _ = HostStep(text)(imported.parameters, feed)
    assert loss == pytest.approx(module(x).square().mean().item(), rel=2e-6)


def attend(x, mask):
    return F.scaled_dot_product_attention(x, x, x, attn_mask=mask)[0]


def test_unsupported_operator_that_torch_mlir_does_not_know():
    module = Functional(lambda m, x: torch.special.i0e(x @ m.w), w=normal(3, 4))
    message = refused(module, normal(2, 3), kind=UnsupportedOperator)
    assert message.startswith("operator aten.special_i0e at 'Functional: special_i0e' is not supported; ")


def test_higher_order_operator():
    class Net(nn.Linear):
        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y * 2, (super().forward(x),))

    message = refused(Net(3, 4), normal(2, 3), kind=UnsupportedOperator)
    assert message.startswith("operator cond at 'Net: cond' is not supported: ")


def test_gradients_that_would_be_lost():
    class Reversed(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x * 1

        @staticmethod
        def backward(context, gradient):
            return -gradient

    message = refused(Functional(lambda m, x: Reversed.apply(x @ m.w), w=normal(3, 4)), normal(2, 3))
    assert message.startswith("the forward uses the torch.autograd.Function 'Reversed', whose own backward ")
    assert Reversed.apply(torch.ones(1)) == 1


def test_unsupported_code_that_does_nothing_is_ignored():
    module = Functional(lambda m, x: (torch.special.i0e(x), x @ m.w)[1], w=normal(3, 4))
    assert ops(import_model(module, normal(2, 3))) == ["matmul"]


@pytest.mark.parametrize(
    "function, operator",
    [
        (lambda m, x: F.mse_loss(x @ m.w, x), "aten.mse_loss"),
        (lambda m, x: F.cross_entropy(x @ m.w, torch.tensor([0, 1])), "aten.cross_entropy_loss"),
        (lambda m, x: F.nll_loss(x @ m.w, torch.tensor([0, 1])), "aten.nll_loss"),
    ],
)
def test_a_model_that_computes_its_loss(function, operator):
    message = refused(Functional(function, w=normal(3, 3)), normal(2, 3))
    assert message.startswith(f"the model computes its own loss (operator {operator}")
    assert "return the prediction instead" in message


def test_active_dropout():
    message = refused(Functional(lambda m, x: F.dropout(x @ m.w, 0.5, True), w=normal(3, 3)), normal(2, 3))
    assert message.startswith(
        "operator aten.native_dropout at 'Functional: native_dropout' is active (training mode)"
    )


def test_batch_norm_in_a_program_of_training_mode():
    program = torch.export.export(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).train(), (normal(2, 3),))
    message = refused(program)
    assert message.startswith(
        "the forward changes the buffer '1.running_mean', as batch norm does in training mode"
    )


@pytest.mark.parametrize(
    "forward, weight, x",
    [
        (lambda m, x: torch.relu((x @ m.w).t()), (3, 4), (2, 3)),
        (lambda m, x: (x @ m.w).t(), (3, 4), (2, 3)),
        (lambda m, x: (x @ m.w).permute(2, 1, 0), (3, 4), (2, 5, 3)),
        (lambda m, x: (x @ m.w) @ x, (3, 3), (3, 3, 3)),
        (lambda m, x: (x @ m.w) @ x.transpose(1, 2), (3, 3), (2, 5, 3)),
    ],
)
def test_permutes_and_batches_of_products(forward, weight, x):
    check(Functional(forward, w=normal(*weight)), normal(*x))


@pytest.mark.parametrize("dtype, name", [(torch.float64, "float64"), (torch.float16, "float16")])
def test_parameters_of_another_type(dtype, name):
    message = refused(nn.Linear(3, 4, dtype=dtype), normal(2, 3))
    assert message == f"parameter 'weight' is {name}; only float32 is supported (model.float() converts)"


def test_values_of_another_type():
    module = Functional(lambda m, x: (x.double() @ m.w.double()).float(), w=normal(3, 3))
    assert "is float64; only float32 is supported" in refused(module, normal(2, 3))
    message = refused(
        Functional(lambda m, x: (x + x) * m.w, w=normal(3)), torch.ones(2, 3, dtype=torch.int64)
    )
    assert message.startswith(
        "operator aten.add.Tensor at 'Functional: add' has an operand that is not a tensor of float32"
    )
    whole = Functional(lambda m, x: x + m.w, w=normal(3))
    assert ops(import_model(whole, torch.ones(2, 3, dtype=torch.int64))) == ["from_integers", "add"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(bad):
    module = nn.Linear(3, 4)
    with torch.no_grad():
        module.weight[1, 2] = bad
    assert refused(module, normal(2, 3)) == "parameter 'weight' holds NaN or infinity in 1 of 12 values"


def test_a_module_that_is_lazy():
    message = refused(nn.Sequential(nn.LazyLinear(3)), normal(2, 5))
    assert message == "parameter '0.weight' has no shape yet; call the lazy module once before"


def test_parameters_that_share_memory():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = nn.Parameter(module[0].weight.data)
    assert refused(module, normal(2, 3)).startswith("parameters '0.weight' and '1.weight' share memory")


def test_models_without_something_to_train():
    assert (
        refused(nn.ReLU(), normal(2, 3)) == "the model ReLU has no parameters, so there is nothing to train"
    )
    message = refused(Functional(lambda m, x: x + 1, w=normal(3)), normal(2, 3))
    assert message == "the model has no parameter that its output depends on, so there is nothing to train"


def test_outputs_that_cannot_be_trained():
    two = Functional(lambda m, x: (x @ m.w, x), w=normal(3, 4))
    message = refused(two, normal(2, 3))
    assert message == "the model has 2 outputs (0, 1); say which one trains it: --output NAME"
    nothing = Functional(lambda m, x: None, w=normal(3, 4))
    assert "return" in refused(nothing, normal(2, 3))
    constant = Functional(lambda m, x: m.w * 2, w=normal(3, 4))
    assert refused(constant, normal(2, 3)) == "the output of the model depends on none of its inputs"
    parameter = Functional(lambda m, x: m.w, w=normal(3, 4))
    assert "depends on none of its inputs" in refused(parameter, normal(2, 3))


def test_forward_that_raises():
    message = refused(nn.Linear(3, 4), normal(2, 5))
    assert message.startswith("torch.export fails on Linear: ")
    assert "5" in message


def test_forward_that_depends_on_values():
    module = Functional(lambda m, x: x @ m.w if x.sum() > 0 else x, w=normal(3, 3))
    assert refused(module, normal(2, 3)).startswith("torch.export fails on Functional: ")


def test_example_inputs():
    module = nn.Linear(3, 4)
    assert "needs example inputs" in refused(module)
    with pytest.raises(ModelError, match="example inputs must be tensors"):
        import_model(module, ("x",))
    with pytest.raises(ModelError, match=r"expected a torch.nn.Module, got int"):
        import_model(3)
    assert "has no element" in refused(module, torch.zeros(0, 3))


def test_batch_sizes_that_the_model_does_not_allow():
    what = "the model cannot be changed from batch size 2 to 4"
    fixed = Functional(lambda m, x: (x @ m.w).view(2, 4), w=normal(3, 4))
    assert refused(fixed, normal(2, 3), batch_size=4, kind=BatchSizeError).startswith(
        f"{what}: torch.export fails"
    )
    flat = Functional(lambda m, x: (x @ m.w).view(2, -1), w=normal(3, 4))
    message = refused(flat, normal(2, 3), batch_size=4, kind=BatchSizeError)
    assert message == f"{what}: 'Functional: view' mixes the samples of a batch"
    mixed = Functional(lambda m, x: x.view(1, -1) @ m.w, w=normal(6, 4))
    assert refused(mixed, normal(2, 3), batch_size=4, kind=BatchSizeError).startswith(what)
    per_sample = Functional(lambda m, x: x @ m.w + m.b, w=normal(3, 4), b=normal(2, 4))
    assert refused(per_sample, normal(2, 3), batch_size=4, kind=BatchSizeError).startswith(what)
    depends = Functional(lambda m, x: x @ m.w if x.shape[0] == 2 else x @ m.w + 1, w=normal(3, 4))
    message = refused(depends, normal(2, 3), batch_size=4, kind=BatchSizeError)
    assert message == f"{what}: it computes something else then, from 'Functional: add' on"


def test_dynamic_shapes():
    program = torch.export.export(
        nn.Linear(3, 4), (normal(2, 3),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    assert "dynamic shape" in refused(program)
