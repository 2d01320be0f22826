"""Replaces forward methods of a PEFT network by the functions of fused.py, for training on a CPU, and restores them. On
a GPU Unsloth's own stay, but for the embedding's."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional

from motion_llm.network.fused import AttentionBlock, Joined, LoraLinear, MlpBlock, RmsNorm, grouped_attention

ATTENTION = "motion_grouped"  # the name under which transformers knows `grouped_attention`
PLAIN_NORMS = ("LlamaRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "MistralRMSNorm", "GraniteRMSNorm")
PLAIN_LAYERS = ("LlamaDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer", "MistralDecoderLayer")
PLAIN_ATTENTION = ("LlamaAttention", "Qwen2Attention", "MistralAttention")  # q and k are rotated, nothing else
SILU = ("SiLU", "SiLUActivation")


def _linear_forward(joined, x):
    return LoraLinear.apply(x, joined, *joined.masters)


def _norm_forward(norm, x):
    return RmsNorm.apply(x, norm.weight, norm.variance_epsilon)


def _layer_forward(layer, attention, mlp, hidden_states, attention_mask=None, position_embeddings=None, **kwargs):
    """A decoder layer. attention: [q, k and v; o], or None where the layer's own attention module is called;
    mlp: [gate and up; down]."""
    if kwargs.get("past_key_values") is not None:  # training has no cache; the blocks would ignore it
        return type(layer).forward(layer, hidden_states, attention_mask, position_embeddings=position_embeddings,
                                   **kwargs)
    x, norm = hidden_states, layer.input_layernorm
    if attention is None:
        x = x + layer.self_attn(hidden_states=norm(x), attention_mask=attention_mask,
                                position_embeddings=position_embeddings, **kwargs)[0]
    else:
        x = AttentionBlock.apply(x, norm.weight, norm.variance_epsilon, *position_embeddings, attention_mask,
                                 layer.self_attn.scaling, *attention, *_masters(attention))
    norm = layer.post_attention_layernorm
    return MlpBlock.apply(x, norm.weight, norm.variance_epsilon, *mlp, *_masters(mlp))


def _masters(joined) -> list:
    return [matrix for block in joined for matrix in block.masters]


def _new_rows_forward(layer, name, first_new_id, ids):
    """An embedding whose rows from `first_new_id` on are trained: two look-ups instead of PEFT's copy of all rows."""
    rows = layer.trainable_tokens_delta[name]
    old = functional.embedding(ids.clamp(max=first_new_id - 1), layer.base_layer.weight)
    new = functional.embedding((ids - first_new_id).clamp(min=0), rows).to(old.dtype)
    return torch.where((ids >= first_new_id)[..., None], new, old)


def look_up_new_rows(network, first_new_id: int, adapter: str = "default") -> None:
    """Give the embedding, whose rows from first_new_id on are trained, the forward of _new_rows_forward()."""
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    for module in network.modules():
        if isinstance(module, TrainableTokensLayer) and type(module.base_layer) is nn.Embedding:
            module.forward = partial(_new_rows_forward, module, adapter, first_new_id)


def _plain_lora(*layers) -> bool:
    """Whether all layers are PEFT's LoRA on a torch Linear, not on a quantised or other layer."""
    from peft.tuners.lora import Linear as LoraLayer

    return all(type(layer) is LoraLayer and type(layer.base_layer) is nn.Linear for layer in layers)


def _join(module, adapter: str, *groups) -> list[Joined] | None:
    """A `Joined` for each group of the module's layers, or None where one layer is not plain."""
    layers = [[getattr(module, name, None) for name in names] for names in groups]
    return [Joined(group, adapter) for group in layers] if _plain_lora(*sum(layers, [])) else None


def fuse(network, first_new_id: int, adapter: str = "default") -> None:
    """Replace forward in all modules that compute exactly what a fused function does; others keep their own.

    first_new_id: the embedding's rows from this id on are trainable.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    config = network.config.get_text_config()
    plain_scores = not getattr(config, "attn_logit_softcapping", None) and not getattr(config, "attention_dropout", 0)
    for parameter in network.parameters():  # else the base's file stays in memory beside the joined weights
        parameter.data = parameter.data.clone()
    in_blocks = set()  # linear layers that are part of a fused block
    for module in network.modules():
        kind = type(module).__name__
        if kind in PLAIN_LAYERS and type(module.mlp.act_fn).__name__ in SILU:
            if (mlp := _join(module.mlp, adapter, ("gate_proj", "up_proj"), ("down_proj",))) is None:
                continue
            attention = None
            if plain_scores and type(module.self_attn).__name__ in PLAIN_ATTENTION:
                attention = _join(module.self_attn, adapter, ("q_proj", "k_proj", "v_proj"), ("o_proj",))
            module.forward = partial(_layer_forward, module, attention, mlp)
            in_blocks.update(layer for joined in (*mlp, *(attention or ())) for layer in joined.layers)
        elif kind in PLAIN_NORMS:
            module.forward = partial(_norm_forward, module)
        elif _plain_lora(module) and module.base_layer not in in_blocks:
            module.forward = partial(_linear_forward, Joined([module], adapter))
    look_up_new_rows(network, first_new_id, adapter)
    if plain_scores:
        AttentionInterface.register(ATTENTION, grouped_attention)
        AttentionMaskInterface.register(ATTENTION, eager_mask)
        network.set_attn_implementation(ATTENTION)


def unfuse(network) -> None:
    """Give every module its own forward, and every layer a weight of its own, again."""
    for module in network.modules():
        forward = module.__dict__.get("forward")
        if isinstance(forward, partial):
            del module.forward
            for arg in forward.args:
                for joined in arg if isinstance(arg, list) else [arg]:
                    if isinstance(joined, Joined):
                        joined.separate()
    if network.config.get_text_config()._attn_implementation == ATTENTION:
        network.set_attn_implementation("eager")
