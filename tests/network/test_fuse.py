"""fuse.py: the values and gradients of the modules that it replaces, with less memory for the backward pass."""

import gc
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from collators import collate
from model import ModelConfig, build
from motion_llm.network.fuse import ATTENTION, unfuse
from motion_llm.training.memory import saved_bytes

KINDS = ["llama", "llama_untied", "llama_padded", "llama_biased", "mistral", "qwen2", "qwen3", "gemma2", "gemma3",
         "granite", "cohere"]


@pytest.fixture
def perturbed(tiny_base):
    """kind -> a tiny model whose LoRA matrices, norms and biases differ from their initial values."""
    def make(kind: str):
        model = build(ModelConfig(tiny_base(kind), 128, 4, 8, "float32"), 16, ["a"])
        torch.manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.network.named_parameters():
                if parameter.requires_grad:
                    parameter.normal_(0, 0.1)
                elif "norm" in name or "bias" in name:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        return model

    return make


def fused_modules(network) -> list:
    return [module for module in network.modules() if isinstance(vars(module).get("forward"), partial)]


def batch_of(model) -> dict:
    examples = [model.template.render("t2m", text="a person walks", codes=[1, 2, 3] * n) for n in (1, 3, 5)]
    examples.append(model.template.render("m2t", text="a person walks", codes=[1, 2, 3]))
    return collate(examples, model.pad_id)


def loss_and_gradients(model, batch) -> tuple[float, dict]:
    loss = model(**batch)["loss"]
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.network.named_parameters() if p.requires_grad}
    model.zero_grad()
    return loss.item(), gradients


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_the_plain_modules(perturbed, kind):
    model = perturbed(kind)
    batch = batch_of(model)
    fused_loss, fused = loss_and_gradients(model, batch)
    unfuse(model.network)
    assert not fused_modules(model.network)
    loss, plain = loss_and_gradients(model, batch)
    assert fused_loss == pytest.approx(loss, rel=1e-6)
    for name, gradient in plain.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(fused[name], gradient, rtol=1e-4, atol=1e-6 * gradient.abs().max().item(), msg=name)


def test_a_llama_is_fused_from_its_embedding_to_its_attention(perturbed):
    network = perturbed("llama").network
    assert {type(module).__name__ for module in fused_modules(network)} == {
        "LlamaDecoderLayer", "LlamaRMSNorm", "TrainableTokensLayer"}
    assert network.config._attn_implementation == ATTENTION


def test_the_backward_pass_needs_less_memory(perturbed):
    model = perturbed("llama")
    fused = saved_bytes(model, 64)
    unfuse(model.network)
    assert fused < 0.8 * saved_bytes(model, 64)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_bases_file_does_not_stay_in_memory(tiny_base, tmp_path):
    base = shutil.copytree(tiny_base("llama"), tmp_path / "base")
    model = build(ModelConfig(str(base), 128, 4, 8, "float32"), 16, ["a"])
    gc.collect()
    assert len(fused_modules(model.network)) > 2
    assert str(base) not in Path("/proc/self/maps").read_text()


def test_each_layer_has_a_weight_of_its_own_again(perturbed):
    network = perturbed("llama_biased").network
    weights = {name: p.detach().clone() for name, p in network.named_parameters()}
    unfuse(network)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, weights[name]), name
        assert parameter.is_contiguous() and parameter.untyped_storage().nbytes() == parameter.nbytes, name


def test_padding_and_the_future_are_not_attended_to(perturbed):
    model = perturbed("llama")
    batch = batch_of(model)
    with torch.no_grad():
        before = model.hidden_states(batch["input_ids"], batch["attention_mask"])
        changed_ids = batch["input_ids"].clone()
        changed_ids[batch["attention_mask"] == 0] = 3
        changed_ids[2, -1] = 3  # the longest example's last token
        after = model.hidden_states(changed_ids, batch["attention_mask"])
    unchanged = batch["attention_mask"].bool()
    unchanged[2, -1] = False
    torch.testing.assert_close(after[unchanged], before[unchanged])
    assert not torch.allclose(after[2, -1], before[2, -1])


@pytest.mark.parametrize("kind", ["llama_biased", "qwen2", "qwen3"])
def test_a_cache_is_used_where_one_is_given(perturbed, kind):
    network, ids = perturbed(kind).network, torch.tensor([[5, 9, 3, 7, 4, 8]])
    with torch.no_grad():
        expected = network(ids, use_cache=False).logits
        start = network(ids[:, :4], use_cache=True)
        rest = network(ids[:, 4:], past_key_values=start.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat([start.logits, rest.logits], 1), expected, atol=1e-5, rtol=1e-4)


def test_an_update_and_loaded_values_take_effect_at_once(perturbed):
    model = perturbed("llama")
    batch = batch_of(model)
    before = {name: tensor.clone() for name, tensor in model.trainable_state().items()}
    parameters = [p for p in model.network.parameters() if p.requires_grad]
    first = model(**batch)["loss"]
    first.backward()
    torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.0, fused=True).step()
    updated = model(**batch)["loss"].item()
    assert updated != pytest.approx(first.item(), rel=1e-3)
    model.load_trainable_state(before)
    assert model(**batch)["loss"].item() == first.item()
    torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.0, fused=True).step()
    unfuse(model.network)
    assert model(**batch)["loss"].item() == pytest.approx(updated, rel=1e-5)
