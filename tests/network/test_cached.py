"""cached_network.py: the hidden states of transformers, for every kind of base and however they are asked for."""

import pytest
import torch

SHAPE = dict(vocab_size=90, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, max_position_embeddings=128)
KINDS = {
    "Llama": {}, "Llama with biases": {"attention_bias": True, "mlp_bias": True}, "Qwen2": {}, "Qwen3": {},
    "Mistral": {"sliding_window": 6}, "Gemma2": {"sliding_window": 6}, "Gemma3Text": {"sliding_window": 6},
    "Granite": {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2},
    "Cohere": {}, "Cohere with norms": {"use_qk_norm": True}, "Llama with groups of one": {"num_key_value_heads": 4},
}
BETWEEN = [3, 7, 5]  # positions of each row before the pass that is looked at
IDS = torch.randint(90, (3, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=KINDS)
def network(request, unsloth):
    return lambda **options: made(request.param, **options)


def made(kind: str, dtype=torch.float32):
    """A random network whose norms and biases matter, which fresh ones do not."""
    import transformers

    config = getattr(transformers, f"{kind.split()[0]}Config")(**SHAPE | KINDS[kind], attn_implementation="eager")
    torch.manual_seed(0)
    found = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if parameter.dim() == 1 or "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.mul_(3)
    return found


@torch.no_grad()
def expected(found, ids=IDS):
    return found.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state.float()


def in_parts(cached, first: int = 0):
    """Hidden states (3, 24, D) of IDS: a padded start of unequal length, a pass of two tokens, then one by one."""
    cached.reserve(first + 3, 24)
    hidden = torch.zeros(3, 24, cached(IDS[:, :1], torch.zeros(3, dtype=torch.long), first).shape[-1])
    start = IDS[:, :max(BETWEEN)].clone()
    for row, length in enumerate(BETWEEN):
        start[row, length:] = 0  # padding
    found = cached(start, torch.zeros(3, dtype=torch.long), first)
    for row, length in enumerate(BETWEEN):
        hidden[row, :length] = found[row, :length]
    past = torch.tensor(BETWEEN)
    for width in (2, *[1] * 14):
        ids = torch.stack([IDS[row, at:at + width] for row, at in enumerate(past.tolist())])
        found = cached(ids, past, first)
        for row, at in enumerate(past.tolist()):
            hidden[row, at:at + width] = found[row]
        past += width
    return hidden, past


def test_hidden_states_are_those_of_transformers_however_rows_are_read(network):
    from motion_llm.network.cached import CachedNetwork

    found = network()
    want = expected(found)
    assert not torch.allclose(want[:, -1], want[:, -2], atol=0.1)
    hidden, read = in_parts(CachedNetwork(found, 64), first=2)
    for row, length in enumerate(read.tolist()):
        torch.testing.assert_close(hidden[row, :length], want[row, :length], atol=1e-4, rtol=1e-4)


def test_in_bfloat16_they_differ_by_less_than_transformers_own_rounding(network):
    from motion_llm.network.cached import CachedNetwork

    exact = expected(made_exact := network(dtype=torch.bfloat16).float())
    del made_exact
    rounded = network(dtype=torch.bfloat16)
    theirs = expected(rounded)
    hidden, read = in_parts(CachedNetwork(rounded, 64))
    kept = [(row, slice(length)) for row, length in enumerate(read.tolist())]

    def error(found):
        return float(sum((found[place] - exact[place]).norm() ** 2 for place in kept)
                     / sum(exact[place].norm() ** 2 for place in kept)) ** 0.5

    assert error(hidden) < max(0.01, 1.2 * error(theirs)) < 0.1


def test_without_a_cache_the_same(network):
    from motion_llm.network.cached import PlainNetwork

    found = network()
    want = expected(found)
    hidden, read = in_parts(PlainNetwork(found, 64), first=1)
    for row, length in enumerate(read.tolist()):
        torch.testing.assert_close(hidden[row, :length], want[row, :length], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["cached", "plain"])
def test_a_copied_row_goes_on_as_its_source_does(unsloth, kind):
    from motion_llm.network import cached as cached_network

    found = made("Llama")
    want = expected(found)
    cached = {"cached": cached_network.CachedNetwork, "plain": cached_network.PlainNetwork}[kind](found, 64)
    cached.reserve(4, 24)
    cached(IDS[:2, :9], torch.zeros(2, dtype=torch.long))
    cached.copy_row(1, 3, 9)
    hidden = cached(IDS[1:2, 9:10], torch.tensor([9]), 3)
    torch.testing.assert_close(hidden[0, 0], want[1, 9], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("packs", [True, False])
def test_the_weights_are_not_kept_twice(unsloth, monkeypatch, packs):
    """With oneDNN's own layout of them where the processor has it, and without."""
    from motion_llm.network import cached

    if packs and not cached.packs_bfloat16():
        pytest.skip("oneDNN packs no bfloat16 weights on this processor")
    monkeypatch.setattr(cached, "packs_bfloat16", lambda: packs)
    network = made("Llama", dtype=torch.bfloat16)
    cached.CachedNetwork(network, 64)
    assert all(parameter.is_meta for parameter in network.get_decoder().layers.parameters())


def test_an_unknown_base_is_decoded_without_a_cache_and_that_is_said(unsloth, caplog):
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    from motion_llm.network import cached as cached_network

    class StrangeDecoderLayer(LlamaDecoderLayer):
        pass

    found = made("Llama")
    assert isinstance(cached_network.decoding_network(found, 64), cached_network.CachedNetwork)
    found = made("Llama")
    for layer in found.get_decoder().layers:
        layer.__class__ = StrangeDecoderLayer
    assert isinstance(cached_network.decoding_network(found, 64), cached_network.PlainNetwork)
    assert "StrangeDecoderLayer" in caplog.text and "slow" in caplog.text


def test_a_network_that_computes_something_else_is_refused(unsloth, monkeypatch):
    from motion_llm.network import cached as cached_network
    from motion_llm.network.folder import ModelError

    monkeypatch.setattr(cached_network, "FOUR_NORMS", ())
    monkeypatch.setattr(cached_network, "PLAIN", (*cached_network.PLAIN, "Gemma2DecoderLayer"))
    with pytest.raises(ModelError, match="differ from the base's by"):
        cached_network.decoding_network(made("Gemma2"), 64)
