"""The network's own arithmetic with fewer steps, for training on a CPU.

Autograd as PEFT and transformers leave it keeps about 58 kB a token and layer of SmolLM2-135M for the backward pass,
and reads and writes it all. These functions keep what the derivative needs (about a third) and join what can be one
operation. The values are those of the modules they replace, up to rounding; the tests hold both to it. On a GPU
Unsloth's own kernels do this work.
"""

from functools import partial

import torch
from torch import nn
from torch.autograd import Function
from torch.nn import functional

ATTENTION = "motion_grouped"  # the name under which transformers knows `grouped_attention`
PLAIN_NORMS = ("LlamaRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "MistralRMSNorm", "GraniteRMSNorm")
SILU = ("SiLU", "SiLUActivation")


class LoraLinear(Function):
    """y = x W^T + b + s (x A^T) B^T (Hu et al. 2021, LoRA), with W and b frozen.

    x (..., I), weight (O, I), a (R, I), b (O, R). The two products share x, which is kept once, and the update is added
    in place. A and B are masters in float32; they are multiplied in the precision of W.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scale):
        flat = x.reshape(-1, x.shape[-1]).to(weight.dtype)  # (N, I)
        inner = flat @ a.to(weight.dtype).T  # (N, R)
        y = functional.linear(flat, weight, bias)
        y.addmm_(inner, b.to(weight.dtype).T, alpha=scale)
        ctx.save_for_backward(flat, inner, weight, a, b)
        ctx.scale, ctx.shape, ctx.dtype = scale, x.shape, x.dtype
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, dy):
        flat, inner, weight, a, b = ctx.saved_tensors
        dy = dy.reshape(-1, dy.shape[-1]).to(weight.dtype)  # (N, O)
        d_inner = (dy @ b.to(weight.dtype)).mul_(ctx.scale)  # (N, R)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = dy @ weight
            dx.addmm_(d_inner, a.to(weight.dtype))
            dx = dx.view(ctx.shape).to(ctx.dtype)
        da = (d_inner.T @ flat).to(a.dtype)
        db = (dy.T @ inner).mul_(ctx.scale).to(b.dtype)
        return dx, None, None, da, db, None


class RmsNorm(Function):
    """y = w x / sqrt(mean(x^2) + eps) (Zhang and Sennrich 2019), w frozen; the mean in float32. x (..., D)."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, scale)
        return weight * (wide * scale).to(x.dtype)

    @staticmethod
    def backward(ctx, dy):
        x, weight, scale = ctx.saved_tensors
        normed = x.float() * scale
        d_normed = (dy * weight).float()
        along = (d_normed * normed).mean(-1, keepdim=True)
        return ((d_normed - normed * along) * scale).to(x.dtype), None, None


class SwiGlu(Function):
    """silu(gate) * up (Shazeer 2020), both (..., I); silu is computed again in the backward pass instead of kept."""

    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, dy):
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(dy * up, gate), functional.silu(gate).mul_(dy)


class GroupedAttention(Function):
    """softmax(s q k^T + mask) v with the query heads of a key-value head in one product (Ainslie et al. 2023).

    q (B, G, H * T, D), k and v (B, G, S, D), mask (B, G, H * T, S) additive or None.
    """

    @staticmethod
    def forward(ctx, q, k, v, mask, scale):
        scores = (q @ k.transpose(-1, -2)).mul_(scale)
        if mask is not None:
            groups = scores.shape[2] // mask.shape[2]
            scores.view(*scores.shape[:2], groups, *mask.shape[2:]).add_(mask[:, :, None])
        weights = torch.softmax(scores, -1)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale = scale
        return weights @ v

    @staticmethod
    def backward(ctx, dy):
        q, k, v, weights = ctx.saved_tensors
        dv = weights.transpose(-1, -2) @ dy
        d_weights = dy @ v.transpose(-1, -2)
        d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype).mul_(ctx.scale)
        return d_scores @ k, d_scores.transpose(-1, -2) @ q, dv, None, None


def grouped_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """`GroupedAttention` as transformers calls it: query (B, H, T, D), key and value (B, G, S, D) -> (B, T, H, D)."""
    batch, heads, length, width = query.shape
    groups = key.shape[1]
    q = query.reshape(batch, groups, heads // groups * length, width)
    mask = None if attention_mask is None else attention_mask[:, :, :, :key.shape[2]]
    y = GroupedAttention.apply(q, key, value, mask, scaling)
    return y.view(batch, heads, length, width).transpose(1, 2).contiguous(), None


def _lora_forward(layer, name, x):
    base = layer.base_layer
    return LoraLinear.apply(x, base.weight, base.bias, layer.lora_A[name].weight, layer.lora_B[name].weight,
                            layer.scaling[name])


def _norm_forward(norm, x):
    return RmsNorm.apply(x, norm.weight, norm.variance_epsilon)


def _gated_forward(mlp, x):
    return mlp.down_proj(SwiGlu.apply(mlp.gate_proj(x), mlp.up_proj(x)))


def _new_rows_forward(layer, name, first_new_id, ids):
    """An embedding whose rows from `first_new_id` on are trained: two look-ups instead of a copy of all rows."""
    rows = layer.trainable_tokens_delta[name]
    old = functional.embedding(ids.clamp(max=first_new_id - 1), layer.base_layer.weight)
    new = functional.embedding((ids - first_new_id).clamp(min=0), rows).to(old.dtype)
    return torch.where((ids >= first_new_id)[..., None], new, old)


def fuse(network, first_new_id: int, adapter: str = "default") -> None:
    """Put these functions into a PEFT network, where its modules compute just that; others keep their own forward.

    first_new_id: the trainable rows of the embedding are all those from this id on.
    """
    from peft.tuners.lora import Linear as LoraLayer
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    for module in network.modules():
        if type(module) is LoraLayer and type(module.base_layer) is nn.Linear:
            module.forward = partial(_lora_forward, module, adapter)
        elif type(module).__name__ in PLAIN_NORMS:
            module.forward = partial(_norm_forward, module)
        elif hasattr(module, "gate_proj") and type(getattr(module, "act_fn", None)).__name__ in SILU:
            module.forward = partial(_gated_forward, module)
        elif isinstance(module, TrainableTokensLayer) and type(module.base_layer) is nn.Embedding:
            module.forward = partial(_new_rows_forward, module, adapter, first_new_id)
    config = network.config.get_text_config()
    if not getattr(config, "attn_logit_softcapping", None) and not getattr(config, "attention_dropout", 0):
        _register_attention()
        network.set_attn_implementation(ATTENTION)


def unfuse(network) -> None:
    """Give every module its own forward back."""
    for module in network.modules():
        if isinstance(module.__dict__.get("forward"), partial):
            del module.forward
    network.set_attn_implementation("eager")


def _register_attention() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register(ATTENTION, grouped_attention)
    AttentionMaskInterface.register(ATTENTION, eager_mask)
