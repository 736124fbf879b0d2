"""Blocks and layers of models: by names of parameters, by names of operators, and by repeated structure."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from traindeeploy.frontend import import_model, load_model
from traindeeploy.models import BUILT_IN
from traindeeploy.recipes import LoraOptions, RecipeError, apply_recipe
from traindeeploy.recipes.blocks import BY_NAMES, BY_OPERATORS, BY_STRUCTURE, find_blocks

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from onnx_export import exported  # noqa: E402

F = nn.functional


def renamed(model, nodes="kept", shuffled=False):
    """A model whose initializers and values are called val_N, with nodes as they were, without names, or as
    dynamo writes them.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    names = {tensor.name: f"val_{i}" for i, tensor in enumerate(graph.initializer)}
    ends = {value.name for value in (*graph.input, *graph.output)}
    for node in graph.node:
        names |= {name: f"val_{len(names)}" for name in node.output if name not in ends}
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    for number, node in enumerate(graph.node):
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        if nodes == "dynamo":
            scopes = ["", *node.name.strip("/").replace("/", ".").split(".")]
            paths = [".".join(scopes[1 : i + 1]) for i in range(len(scopes))]
            entry = onnx.StringStringEntryProto(key="pkg.torch.onnx.name_scopes", value=repr(paths))
            node.metadata_props.append(entry)
        if nodes != "kept":
            node.name = "" if nodes == "none" else f"node_{number}"
    if shuffled:
        last_first = in_another_order(list(graph.node))
        del graph.node[:]
        graph.node.extend(last_first)
    return result


def in_another_order(nodes):
    """The nodes in a valid order in which what is needed late comes early: by depth, not by module."""
    made = {name: node for node in nodes for name in node.output}
    depth = {}
    for node in nodes:
        depth[node.output[0]] = 1 + max(
            (depth[made[n].output[0]] for n in node.input if n in made), default=0
        )
    return sorted(nodes, key=lambda node: (depth[node.output[0]], node.op_type))


def weights(model, blocks):
    return [[n for n in block if model.parameters[n].ndim > 1] for block in blocks.members]


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize(
    ("nodes", "found_by"), [("kept", BY_OPERATORS), ("dynamo", BY_OPERATORS), ("none", BY_STRUCTURE)]
)
def test_cct2_without_names_trains_the_same_matrices(nodes, found_by, shuffled):
    named = load_model("cct2")
    model = import_model(renamed(BUILT_IN["cct2"](1), nodes, shuffled))
    assert find_blocks(named).found_by == BY_NAMES
    assert find_blocks(model).found_by == found_by
    name_of = dict(zip(model.parameters, named.parameters, strict=True))
    for recipe in ("blocks:1", "blocks:2", "linear-probe"):
        _, wanted = apply_recipe(named, recipe)
        adapted, names = apply_recipe(model, recipe)
        assert [name_of[name] for name in names] == wanted
        assert recipe == "linear-probe" or adapted.notes[-1] == f"2 blocks are found by {found_by}"
    for recipe in ("lora", "lora:1"):
        wanted, heads = apply_recipe(named, recipe)
        adapted, names = apply_recipe(model, recipe)
        assert [name_of[a.weight] for a in adapted.adapters] == [a.weight for a in wanted.adapters]
        assert [name_of[n] for n in names if n in name_of] == [n for n in heads if n in named.parameters]


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (
            f(x).view(b, t, self.heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value)
        )
        scores = torch.softmax(q @ k.transpose(-1, -2) / (d // self.heads) ** 0.5, -1)
        return self.out((scores @ v).transpose(1, 2).reshape(b, t, d))


class Block(nn.Module):
    def __init__(self, width, heads, post):
        super().__init__()
        self.post = post
        self.attention = Attention(width, heads)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        if self.post:
            x = self.norm1(x + self.attention(x))
            return self.norm2(x + self.mlp(x))
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    def __init__(self, post=False, depth=2):
        super().__init__()
        self.patch, self.position = nn.Conv2d(3, 12, 4, 4), nn.Parameter(torch.randn(1, 4, 12))
        self.blocks = nn.ModuleList(Block(12, 2, post) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        x = self.norm(x) if self.blocks[0].post else x
        for block in self.blocks:
            x = block(x)
        return self.head((x if self.blocks[0].post else self.norm(x)).mean(1))


def perturbed(module):
    """Parameters that differ, so that an exporter merges none."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


@pytest.mark.parametrize(("post", "opset"), [(False, 11), (False, 17), (True, 17)])
def test_exported_transformers(post, opset):
    """PyTorch's exporter transposes weights and forgets their names; in old opsets norms are primitives."""
    module = perturbed(Vit(post))
    file = exported(module, torch.zeros(2, 3, 8, 8), opset, folding=True)
    assert any(tensor.name.startswith("onnx::MatMul") for tensor in file.graph.initializer)
    kinds = ("query", "key", "value", "out", "0", "2")
    wanted = [[p for n, p in block.named_parameters() if p.ndim > 1] for block in module.blocks]
    for model, found_by in (
        (import_model(module, (torch.zeros(2, 3, 8, 8),)), BY_NAMES),
        (import_model(file), BY_NAMES),
        (import_model(renamed(file, "dynamo")), BY_OPERATORS),
        (import_model(renamed(file, "none")), BY_STRUCTURE),
        (import_model(renamed(file, "none", shuffled=True)), BY_STRUCTURE),
    ):
        blocks = find_blocks(model)
        assert blocks is not None and blocks.found_by == found_by
        for names, parameters in zip(weights(model, blocks), wanted, strict=True):
            assert len(names) == len(kinds)
            values = [p.detach().numpy() for p in parameters]
            for name in names:
                value = model.parameters[name]
                assert any(v.shape == s.shape and (v == s).all() for v in (value, value.T) for s in values)
        _, names = apply_recipe(model, "blocks:1")
        assert len(names) == len(kinds) + 2
        adapted, _ = apply_recipe(model, "lora:2", lora=LoraOptions(rank=2))
        assert len(adapted.adapters) == 2 * len(kinds)


def test_peft_targets_on_lost_names():
    file = exported(perturbed(Vit()), torch.zeros(1, 3, 8, 8), 17, folding=True)

    def adapted(model, *targets):
        return len(apply_recipe(model, "lora", lora=LoraOptions(rank=2, targets=targets))[0].adapters)

    for model in (
        import_model(file),
        import_model(renamed(file, "dynamo")),
        import_model(Vit(), (torch.zeros(1, 3, 8, 8),)),
    ):
        assert adapted(model, "query,value") == adapted(model, "query", "value") == 4
        assert adapted(model, "attention.out") == 2
        assert adapted(model, "blocks.1.attention.query") == 1
        assert adapted(model, "mlp.*") == 4
        assert adapted(model, "all-linear") == 12
        with pytest.raises(RecipeError, match="no parameter matches 'q_proj'; near: "):
            adapted(model, "query,q_proj")
        # PEFT matches whole parts of names.
        with pytest.raises(RecipeError, match="no parameter matches 'uery'"):
            adapted(model, "uery")


class Steps(nn.Module):
    """A recurrence: the same weights again and again are no blocks."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        for _ in range(4):
            x = x + self.b(torch.tanh(self.a(x)))
        return self.head(x)


class Chain(nn.Sequential):
    """Layers that repeat without a connection around them are layers, not blocks."""

    def __init__(self):
        pairs = ((nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 6), nn.ReLU()) for _ in range(3))
        super().__init__(*(layer for pair in pairs for layer in pair), nn.Linear(6, 2))


class Stem(nn.Module):
    """A few residual blocks in front of most of the model."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(6, 6) for _ in range(4))
        self.rest = nn.ModuleList(nn.Linear(6 + i, 7 + i) for i in range(5))

    def forward(self, x):
        x = x + self.b(torch.tanh(self.a(x)))
        x = x + self.d(torch.tanh(self.c(x)))
        for layer in self.rest:
            x = torch.tanh(layer(x))
        return x


@pytest.mark.parametrize("kind", [Steps, Chain, Stem])
def test_what_is_no_block(kind):
    model = import_model(renamed(exported(perturbed(kind()), torch.zeros(2, 6), 17), "none"))
    assert find_blocks(model) is None
    with pytest.raises(RecipeError, match=r"has no blocks .*; last:N counts layers"):
        apply_recipe(model, "blocks:1")


def test_a_convolutional_network_gets_words_that_can_be_followed():
    for model in (load_model("resnet8"), import_model(renamed(BUILT_IN["resnet8"](1), "none"), None)):
        with pytest.raises(RecipeError) as error:
            apply_recipe(model, "lora:1")
        said = str(error.value)
        assert "no linear layer before the last one" in said and "9 convolutions" in said
        recipe = said.partition("--recipe ")[2].partition(" ")[0]
        _, names = apply_recipe(model, recipe)
        assert len(names) > 2


def test_narrow_weights_are_skipped_and_said():
    module = nn.Sequential(
        nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 2)
    )
    model = import_model(module, (torch.zeros(1, 8),))
    adapted, _ = apply_recipe(model, "lora")
    assert [adapter.weight for adapter in adapted.adapters] == ["4.weight"]
    assert adapted.notes == ("0.weight, 2.weight are narrower than the rank 4 and get no adapters",)
    with pytest.raises(
        RecipeError, match=r"a rank of 9 is larger than every weight .* '4.weight' of 8x8 takes up to 8"
    ):
        apply_recipe(model, "lora", lora=LoraOptions(rank=9))


def test_a_name_that_is_taken_is_said():
    module = nn.ModuleDict({"fc": nn.Linear(8, 8), "head": nn.Linear(8, 2)})
    module["fc"].lora_A = nn.Linear(8, 8)
    module.forward = lambda x: module["head"](module["fc"].lora_A(module["fc"](x)))
    model = import_model(module, (torch.zeros(1, 8),))
    adapted, _ = apply_recipe(model, "lora")
    assert [adapter.weight for adapter in adapted.adapters] == ["fc.lora_A.weight"]
    assert "fc.weight get no adapters: the model has parameters fc.lora_A.weight" in adapted.notes[0]


def test_layers_of_weights_that_lost_their_names():
    """A bias keeps the name of its layer, and its weight belongs to it all the same."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3, 4]) for n in "xy")
    nodes, initializers, value = [], [], "x"
    for i in range(3):
        weight, bias, result = f"onnx::MatMul_{40 + i}", f"fc{i}.bias", "y" if i == 2 else f"v{i}"
        nodes.append(helper.make_node("MatMul", [value, weight], [f"p{i}"]))
        nodes.append(helper.make_node("Add", [bias, f"p{i}"], [result]))
        for name, shape in ((weight, (4, 4)), (bias, (4,))):
            initializers.append(onnx.numpy_helper.from_array(np.full(shape, 0.1 + i, np.float32), name))
        value = result
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    model = import_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert [(layer.name, set(layer.parameters)) for layer in model.layers] == [
        (f"fc{i}", {f"onnx::MatMul_{40 + i}", f"fc{i}.bias"}) for i in range(3)
    ]
    assert apply_recipe(model, "last:1")[1] == ["onnx::MatMul_42", "fc2.bias"]
