"""Models of Hugging Face as they come, small and with random weights, against PyTorch in float64."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import traindeeploy
from traindeeploy.acceptance import deviations, loss_deviation
from traindeeploy.frontend import import_model, training_mode
from traindeeploy.recipes import LoraOptions, apply_recipe

transformers = pytest.importorskip("transformers", reason="needs the extra huggingface")

LR, STEPS, TOKENS, WORDS = 0.05, 2, 6, 19
TEXT = {
    "vocab_size": WORDS,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "intermediate_size": 12,
    "max_position_embeddings": 8,
}
MODELS: dict[str, Any] = {
    "bert": lambda: transformers.BertForSequenceClassification(
        transformers.BertConfig(num_attention_heads=2, num_labels=3, **TEXT)
    ),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=WORDS, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    ),
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, **TEXT
        )
    ),
    "vit": lambda: transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12,
            image_size=8, patch_size=4, num_labels=3,
        )
    ),
}  # fmt: skip


def made(name: str, samples: int) -> tuple[torch.nn.Module, dict[str, np.ndarray]]:
    """The module, and samples with labels: of padded texts, of each next token, of images."""
    torch.manual_seed(0)
    module = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in module.parameters():  # biases are zeros, norms the identity
            parameter += 0.1 * torch.randn_like(parameter)
    random = np.random.default_rng(0)
    if name == "vit":
        images = random.standard_normal((samples, 3, 8, 8)).astype(np.float32)
        return module, {"pixel_values": images, "labels": random.integers(0, 3, samples)}
    words = random.integers(1, WORDS, (samples, TOKENS))
    if name == "bert":
        lengths = random.integers(2, TOKENS + 1, (samples, 1))
        mask = (np.arange(TOKENS) < lengths).astype(np.int64)
        return module, {
            "input_ids": words * mask,
            "attention_mask": mask,
            "labels": random.integers(0, 3, samples),
        }
    following = np.concatenate([words[:, 1:], np.full((samples, 1), -100)], 1)
    return module, {"input_ids": words, "labels": following}


def loss_of(module: torch.nn.Module, batch: dict[str, np.ndarray]) -> torch.Tensor:
    given = {name: torch.from_numpy(value) for name, value in batch.items()}
    labels = given.pop("labels")
    given = {name: x.to(module.dtype) if x.is_floating_point() else x for name, x in given.items()}
    return F.cross_entropy(module(**given).logits.flatten(0, -2), labels.flatten())


@pytest.mark.parametrize(
    ("name", "recipe", "targets", "batch"),
    [
        ("bert", "full", (), 3),
        ("gpt2", "lora", ("c_attn",), 2),
        ("vit", "last:1", (), 4),
    ],
)
def test_training(name: str, recipe: str, targets: tuple[str, ...], batch: int) -> None:
    """Two steps at another batch size than that of the example, on the simulator."""
    module, data = made(name, batch * STEPS)
    example = {key: torch.from_numpy(value[:2]) for key, value in data.items() if key != "labels"}
    lora = LoraOptions(rank=2, alpha=4.0, targets=targets) if targets else None
    program = traindeeploy.compile(
        module, example, loss="cross-entropy", output="logits", batch_size=batch, recipe=recipe, lora=lora
    )
    result = program.run(data, steps=STEPS, lr=LR, check=True)
    if lora is not None:  # the trained model is the merged one
        following = program.run(data, steps=1, lr=0.0, init=result.params).losses
        assert {
            key.rpartition(".lora_")[0].rpartition(".")[2] for key in result.params if ".lora_" in key
        } == {"c_attn"}
        merged = copy.deepcopy(module)
        program.load_into(merged, result.params)
        first = {key: value[:batch] for key, value in data.items()}
        assert loss_deviation(following, [loss_of(merged.double(), first).item()]) <= 1
        assert loss_of(module.double(), first).item() > following[0]
        return
    reference = copy.deepcopy(module).double()
    own = dict(reference.named_parameters())
    trained = [key for key in result.params if key in own]
    assert len(trained) == (2 if recipe == "last:1" else len(own))
    losses = []
    for step in range(STEPS):
        rows = slice(step * batch, (step + 1) * batch)
        loss = loss_of(reference, {key: value[rows] for key, value in data.items()})
        gradients = torch.autograd.grad(loss, [own[key] for key in trained])
        with torch.no_grad():
            for key, gradient in zip(trained, gradients, strict=True):
                own[key] -= float(np.float32(LR)) * gradient
        losses.append(loss.item())
    assert loss_deviation(result.losses, losses) <= 1
    before = {key: value.detach().numpy() for key, value in module.named_parameters()}
    expected = {key: own[key].detach().numpy() for key in trained}
    for item in deviations(before, result.params, expected, steps=STEPS):
        assert item.worst <= 1, item


def test_adapters_by_the_names_of_peft() -> None:
    """Rotary positions, heads that share keys, a cache that the forward returns, a tied head."""
    module, data = made("llama", 2)
    example = {"input_ids": torch.from_numpy(data["input_ids"])}
    imported = import_model(module, example, None, training_mode(outputs=("logits",)))
    assert imported.output.shape == (2, TOKENS, WORDS)
    adapted, _ = apply_recipe(imported, "lora", lora=LoraOptions(rank=2, targets=("q_proj", "v_proj")))
    assert {adapter.weight for adapter in adapted.adapters} == {
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.v_proj.weight",
    }
