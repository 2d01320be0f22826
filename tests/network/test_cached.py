"""cached.py: the hidden states of transformers, for every kind of base and however rows are split into passes."""

import pytest
import torch

from motion_llm.network import cached_layers
from motion_llm.network.cached import CachedNetwork, PlainNetwork, decoding_network
from motion_llm.network.cached_layers import Norm
from motion_llm.network.folder import ModelError

SHAPE = dict(vocab_size=90, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, max_position_embeddings=128)
KINDS = {
    "Llama": {}, "Llama with biases": {"attention_bias": True, "mlp_bias": True}, "Qwen2": {}, "Qwen3": {},
    "Mistral": {"sliding_window": 6}, "Gemma2": {"sliding_window": 6}, "Gemma3Text": {"sliding_window": 6},
    "Granite": {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2},
    "Cohere": {}, "Cohere with norms": {"use_qk_norm": True}, "Llama with groups of one": {"num_key_value_heads": 4},
}
STARTS = [3, 7, 5]  # tokens of each row in the first pass
IDS = torch.randint(90, (3, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=KINDS)
def make_network(request, unsloth):
    return lambda **options: random_network(request.param, **options)


def random_network(kind: str, dtype=torch.float32):
    """A random network in which norms and biases have an effect, unlike in a newly initialised one."""
    import transformers

    config = getattr(transformers, f"{kind.split()[0]}Config")(**SHAPE | KINDS[kind], attn_implementation="eager")
    torch.manual_seed(0)
    network = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() == 1 or "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.mul_(3)
    return network


@torch.no_grad()
def reference(network):
    return network.get_decoder()(input_ids=IDS, use_cache=False).last_hidden_state.float()


def in_parts(cached, first: int = 0):
    """Hidden states (3, 24, D) of IDS, and how many of each row were computed: a first pass of rows of unequal length,
    padded, a pass of two tokens, then single tokens."""
    cached.reserve(first + 3, 24)
    hidden = torch.zeros(3, 24, cached(IDS[:, :1], torch.zeros(3, dtype=torch.long), first).shape[-1])
    start = IDS[:, :max(STARTS)].clone()
    for row, length in enumerate(STARTS):
        start[row, length:] = 0  # padding
    result = cached(start, torch.zeros(3, dtype=torch.long), first)
    for row, length in enumerate(STARTS):
        hidden[row, :length] = result[row, :length]
    past = torch.tensor(STARTS)
    for width in (2, *[1] * 14):
        ids = torch.stack([IDS[row, i:i + width] for row, i in enumerate(past.tolist())])
        result = cached(ids, past, first)
        for row, i in enumerate(past.tolist()):
            hidden[row, i:i + width] = result[row]
        past += width
    return hidden, past


def test_hidden_states_are_those_of_transformers_however_rows_are_split_into_passes(make_network):
    network = make_network()
    expected = reference(network)
    assert not torch.allclose(expected[:, -1], expected[:, -2], atol=0.1)
    hidden, lengths = in_parts(CachedNetwork(network, 64), first=2)
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(hidden[row, :length], expected[row, :length], atol=1e-4, rtol=1e-4)


def test_in_bfloat16_they_differ_by_less_than_transformers_own_rounding(make_network):
    exact = reference(make_network(dtype=torch.bfloat16).float())
    rounded = make_network(dtype=torch.bfloat16)
    transformers_hidden = reference(rounded)
    hidden, lengths = in_parts(CachedNetwork(rounded, 64))
    computed = [(row, slice(length)) for row, length in enumerate(lengths.tolist())]

    def error(result):
        return float(sum((result[index] - exact[index]).norm() ** 2 for index in computed)
                     / sum(exact[index].norm() ** 2 for index in computed)) ** 0.5

    assert error(hidden) < max(0.01, 1.2 * error(transformers_hidden)) < 0.1


def test_without_a_cache_the_same(make_network):
    network = make_network()
    expected = reference(network)
    hidden, lengths = in_parts(PlainNetwork(network, 64), first=1)
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(hidden[row, :length], expected[row, :length], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("network_class", [CachedNetwork, PlainNetwork])
def test_a_copied_row_continues_like_its_source(unsloth, network_class):
    network = random_network("Llama")
    expected = reference(network)
    cached = network_class(network, 64)
    cached.reserve(4, 24)
    cached(IDS[:2, :9], torch.zeros(2, dtype=torch.long))
    cached.copy_row(1, 3, 9)
    hidden = cached(IDS[1:2, 9:10], torch.tensor([9]), 3)
    torch.testing.assert_close(hidden[0, 0], expected[1, 9], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("packs", [True, False])
def test_the_weights_are_not_kept_twice(unsloth, monkeypatch, packs, dtype):
    """With weights packed by oneDNN, where the processor supports it, and without."""
    if packs and not cached_layers.packs(dtype):
        pytest.skip(f"oneDNN packs no {dtype} weights on this processor")
    monkeypatch.setattr(cached_layers, "packs", lambda _: packs)
    network = random_network("Llama", dtype=dtype)
    products = [product for layer in CachedNetwork(network, 64).layers for product in layer.products]
    assert all((product.packed is not None, product.weight is None) == (packs, packs) for product in products)
    assert all(parameter.is_meta for parameter in network.get_decoder().layers.parameters())


def test_an_unknown_base_is_decoded_without_a_cache_with_a_warning(unsloth, caplog):
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    class StrangeDecoderLayer(LlamaDecoderLayer):
        pass

    network = random_network("Llama")
    assert isinstance(decoding_network(network, 64), CachedNetwork)
    network = random_network("Llama")
    for layer in network.get_decoder().layers:
        layer.__class__ = StrangeDecoderLayer
    assert isinstance(decoding_network(network, 64), PlainNetwork)
    assert "StrangeDecoderLayer" in caplog.text and "slow" in caplog.text


def test_a_network_that_computes_something_else_is_refused(unsloth, monkeypatch):
    monkeypatch.setattr(cached_layers, "FOUR_NORMS", ())
    monkeypatch.setattr(cached_layers, "PLAIN", (*cached_layers.PLAIN, "Gemma2DecoderLayer"))
    with pytest.raises(ModelError, match="differ from the base's by"):
        decoding_network(random_network("Gemma2"), 64)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_a_norm_in_the_networks_own_precision_is_that_of_float32(tiny_base, kind):
    from transformers import AutoModelForCausalLM

    layer = AutoModelForCausalLM.from_pretrained(tiny_base(kind), dtype=torch.bfloat16).get_decoder().layers[0]
    with torch.no_grad():
        layer.input_layernorm.weight.normal_(1, 0.2)
        norm, x = Norm(layer.input_layernorm), torch.randn(5, 32).mul(30).bfloat16()
        exact, narrow = norm(x.float()), norm(x)
    assert narrow.dtype == torch.bfloat16
    assert (narrow.float() - exact).norm() < 4e-3 * exact.norm()  # one rounding to 8 bits
