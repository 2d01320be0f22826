"""The network's own arithmetic with fewer steps, for training on a CPU.

Autograd as PEFT and transformers leave it keeps about 58 kB a token and layer of SmolLM2-135M for the backward pass,
and reads and writes it all. These functions keep about a quarter of that, compute the rest again, and join what can be
one operation. The values are those of the modules they replace, up to rounding; the tests hold both to it. On a GPU
Unsloth's own kernels do this work.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.autograd import Function
from torch.nn import functional

ATTENTION = "motion_grouped"  # the name under which transformers knows `grouped_attention`
PLAIN_NORMS = ("LlamaRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "MistralRMSNorm", "GraniteRMSNorm")
PLAIN_ATTENTION = ("LlamaAttention", "GraniteAttention")  # queries and keys are turned, and nothing else
SILU = ("SiLU", "SiLUActivation")


class Adapted(NamedTuple):
    """Linear layers with LoRA that share their input, y = x W^T + bias + (x A^T) B^T each (Hu et al. 2021; A with its
    scale), in the precision of W.

    weights W (O, I) and biases (O,) or None, b (O, R), scales: of each layer. a (R + R + ..., I): of all.
    """

    weights: list[torch.Tensor]
    biases: list[torch.Tensor | None]
    a: torch.Tensor
    b: list[torch.Tensor]
    scales: list[float]

    def forward(self, x):
        """x (N, I) to a y (N, O) for each layer; and x A^T (N, R + R + ...), which `backward` asks for."""
        inner = x @ self.a.T
        y = [functional.linear(x, weight, bias) for weight, bias in zip(self.weights, self.biases, strict=True)]
        for out, part, b in zip(y, self._parts(inner, 1), self.b, strict=True):
            out.addmm_(part, b.T)
        return y, inner

    def backward(self, dy, x, inner):
        """The derivatives by x (N, I), and by the masters of A and B, layer by layer."""
        d_inner = torch.cat([d @ b for d, b in zip(dy, self.b, strict=True)], 1)
        dx = dy[0] @ self.weights[0]
        for d, weight in zip(dy[1:], self.weights[1:], strict=True):
            dx.addmm_(d, weight)
        dx.addmm_(d_inner, self.a)
        masters = []
        for d, part, d_a, scale in zip(dy, self._parts(inner, 1), self._parts(d_inner.T @ x, 0), self.scales,
                                       strict=True):
            masters += [d_a.float().mul_(scale), (d.T @ part).float()]
        return dx, masters

    def _parts(self, joint, dim: int):
        return joint.split([b.shape[1] for b in self.b], dim)


def _adapted(layers, adapter: str) -> Adapted:
    """PEFT layers' parts. A and B are masters in float32 and cast each time: a fused AdamW leaves no trace of an update
    by which a kept cast could tell that it is old."""
    weights = [layer.base_layer.weight for layer in layers]
    masters, scales, dtype = _masters(layers, adapter), [layer.scaling[adapter] for layer in layers], weights[0].dtype
    with torch.no_grad():
        a = torch.cat([scale * matrix for scale, matrix in zip(scales, masters[::2], strict=True)]).to(dtype)
        return Adapted(weights, [layer.base_layer.bias for layer in layers], a,
                       [matrix.to(dtype) for matrix in masters[1::2]], scales)


def _masters(layers, adapter: str) -> list:
    """A and B of each layer: what the functions below take beside the casts, for autograd to give derivatives to."""
    return [matrix for layer in layers
            for matrix in (layer.lora_A[adapter].weight, layer.lora_B[adapter].weight)]


def _rows(x, dtype):
    """(..., D) as (N, D)."""
    return x.reshape(-1, x.shape[-1]).to(dtype)


class LoraLinear(Function):
    """A linear layer with LoRA: x (..., I) to (..., O)."""

    @staticmethod
    def forward(ctx, x, layer, *masters):
        flat = _rows(x, layer.a.dtype)
        (y,), inner = layer.forward(flat)
        ctx.save_for_backward(flat, inner)
        ctx.layer, ctx.shape, ctx.dtype = layer, x.shape, x.dtype
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, dy):
        flat, inner = ctx.saved_tensors
        dx, d_masters = ctx.layer.backward([_rows(dy, flat.dtype)], flat, inner)
        return dx.view(ctx.shape).to(ctx.dtype), None, *d_masters


class GatedMlp(Function):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020) with LoRA on all three; what goes into `down` is computed again in
    the backward pass. x (..., D), entry: gate and up, last: down."""

    @staticmethod
    def forward(ctx, x, entry, last, *masters):
        flat = _rows(x, entry.a.dtype)
        (gate, up), inner = entry.forward(flat)
        (y,), last_inner = last.forward(functional.silu(gate).mul_(up))
        ctx.save_for_backward(flat, gate, up, inner, last_inner)
        ctx.entry, ctx.last, ctx.shape, ctx.dtype = entry, last, x.shape, x.dtype
        return y.view(x.shape)

    @staticmethod
    def backward(ctx, dy):
        flat, gate, up, inner, last_inner = ctx.saved_tensors
        opened = functional.silu(gate)
        d_product, d_last = ctx.last.backward([_rows(dy, flat.dtype)], opened * up, last_inner)
        d_up = opened.mul_(d_product)
        d_gate = torch.ops.aten.silu_backward(d_product.mul_(up), gate)
        dx, d_entry = ctx.entry.backward([d_gate, d_up], flat, inner)
        return dx.view(ctx.shape).to(ctx.dtype), None, None, *d_entry, *d_last


def _turned(x, cos, sin, back: bool = False):
    """Rotary positions (Su et al. 2021), or their derivative: x (B, P, Q, D) to (B, Q, P, D); cos and sin broadcast to
    the latter and have the same halves."""
    x, half = x.transpose(1, 2), x.shape[-1] // 2
    y = torch.empty(x.shape, dtype=x.dtype)
    torch.mul(x, cos, out=y)
    y[..., :half].addcmul_(x[..., half:], sin[..., :half], value=1 if back else -1)
    y[..., half:].addcmul_(x[..., :half], sin[..., :half], value=-1 if back else 1)
    return y


def _attend(q, k, v, mask, scale):
    """softmax(scale q k^T + mask) v with the query heads of a key-value head in one product (Ainslie et al. 2023), and
    the softmax.

    q (B, G, H * T, D), k and v (B, G, S, D), mask (B, G, T, S) additive or None.
    """
    scores = (q @ k.transpose(-1, -2)).mul_(scale)
    if mask is not None:
        groups = scores.shape[2] // mask.shape[2]
        scores.view(*scores.shape[:2], groups, *mask.shape[2:]).add_(mask[:, :, None])
    weights = torch.softmax(scores, -1)
    return weights @ v, weights


def _attend_backward(dy, q, k, v, weights, scale):
    """The derivatives by q, k and v, shaped as they are; dy as q."""
    d_weights = dy @ v.transpose(-1, -2)
    d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype).mul_(scale)
    return d_scores @ k, d_scores.transpose(-1, -2) @ q, weights.transpose(-1, -2) @ dy


class SelfAttention(Function):
    """A whole attention module with LoRA. x (B, T, I), cos and sin (1 or B, T, D), mask (B, 1, T, T) or None, width: D
    of a head, entry: q, k and v, last: o."""

    @staticmethod
    def forward(ctx, x, cos, sin, mask, width, scale, entry, last, *masters):
        batch, length, _ = x.shape
        flat = _rows(x, entry.a.dtype)
        made, inner = entry.forward(flat)
        q, k, v = (y.view(batch, length, -1, width) for y in made)
        ctx.heads, groups = q.shape[2], k.shape[2]
        q, k = (_turned(y, cos[:, None], sin[:, None]) for y in (q, k))
        q, v = q.view(batch, groups, -1, width), v.transpose(1, 2).contiguous()
        mixed, weights = _attend(q, k, v, mask, scale)
        mixed = mixed.view(batch, ctx.heads, length, width).transpose(1, 2).reshape(batch * length, -1)
        (y,), last_inner = last.forward(mixed)
        ctx.save_for_backward(flat, q, k, v, weights, mixed, inner, last_inner, cos, sin)
        ctx.entry, ctx.last, ctx.scale, ctx.shape, ctx.dtype = entry, last, scale, x.shape, x.dtype
        return y.view(batch, length, -1)

    @staticmethod
    def backward(ctx, dy):
        flat, q, k, v, weights, mixed, inner, last_inner, cos, sin = ctx.saved_tensors
        batch, length, _ = ctx.shape
        dy, d_last = ctx.last.backward([_rows(dy, flat.dtype)], mixed, last_inner)
        dy = dy.view(batch, length, ctx.heads, -1).transpose(1, 2).reshape(q.shape)
        dq, dk, dv = _attend_backward(dy, q, k, v, weights, ctx.scale)
        dq, dk = (_turned(d.view(batch, -1, length, k.shape[-1]), cos[:, :, None], sin[:, :, None], back=True)
                  for d in (dq, dk))
        made = [d.reshape(batch * length, -1) for d in (dq, dk, dv.transpose(1, 2))]
        dx, d_entry = ctx.entry.backward(made, flat, inner)
        return dx.view(ctx.shape).to(ctx.dtype), *[None] * 7, *d_entry, *d_last


class GroupedAttention(Function):
    """`_attend` for attention modules that do something else before; shapes as there."""

    @staticmethod
    def forward(ctx, q, k, v, mask, scale):
        y, weights = _attend(q, k, v, mask, scale)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx, dy):
        return *_attend_backward(dy, *ctx.saved_tensors, ctx.scale), None, None


def grouped_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """`GroupedAttention` as transformers calls it: query (B, H, T, D), key and value (B, G, S, D) -> (B, T, H, D)."""
    batch, heads, length, width = query.shape
    groups = key.shape[1]
    q = query.reshape(batch, groups, heads // groups * length, width)
    mask = None if attention_mask is None else attention_mask[:, :, :, :key.shape[2]]
    y = GroupedAttention.apply(q, key, value, mask, scaling)
    return y.view(batch, heads, length, width).transpose(1, 2).contiguous(), None


class RmsNorm(Function):
    """y = w x / sqrt(mean(x^2) + eps) (Zhang and Sennrich 2019), w frozen; the mean in float32. x (..., D)."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.rsqrt(length.square_().div_(x.shape[-1]).add_(eps))
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx, dy):
        x, weight, scale = ctx.saved_tensors
        d = dy * weight
        along = (d * x).sum(-1, keepdim=True, dtype=torch.float32) * scale**3 / -x.shape[-1]
        return d.mul_(scale.to(d.dtype)).addcmul_(x, along.to(d.dtype)), None, None


def _lora_forward(layer, name, x):
    return LoraLinear.apply(x, _adapted([layer], name), *_masters([layer], name))


def _mlp_forward(mlp, name, x):
    entry, last = (mlp.gate_proj, mlp.up_proj), (mlp.down_proj,)
    return GatedMlp.apply(x, _adapted(entry, name), _adapted(last, name), *_masters(entry + last, name))


def _attention_forward(attention, name, hidden_states, position_embeddings, attention_mask=None, past_key_values=None,
                       **kwargs):
    if past_key_values is not None:  # training has no cache
        return type(attention).forward(attention, hidden_states, position_embeddings, attention_mask, past_key_values,
                                       **kwargs)
    entry, last = (attention.q_proj, attention.k_proj, attention.v_proj), (attention.o_proj,)
    y = SelfAttention.apply(hidden_states, *position_embeddings, attention_mask, attention.head_dim, attention.scaling,
                            _adapted(entry, name), _adapted(last, name), *_masters(entry + last, name))
    return y, None


def _norm_forward(norm, x):
    return RmsNorm.apply(x, norm.weight, norm.variance_epsilon)


def _new_rows_forward(layer, name, first_new_id, ids):
    """An embedding whose rows from `first_new_id` on are trained: two look-ups instead of a copy of all rows."""
    rows = layer.trainable_tokens_delta[name]
    old = functional.embedding(ids.clamp(max=first_new_id - 1), layer.base_layer.weight)
    new = functional.embedding((ids - first_new_id).clamp(min=0), rows).to(old.dtype)
    return torch.where((ids >= first_new_id)[..., None], new, old)


def _plain_lora(*layers) -> bool:
    """Whether all are PEFT's LoRA on a torch Linear, not on a quantised or another one."""
    from peft.tuners.lora import Linear as LoraLayer

    return all(type(layer) is LoraLayer and type(layer.base_layer) is nn.Linear for layer in layers)


def fuse(network, first_new_id: int, adapter: str = "default") -> None:
    """Put these functions into a PEFT network, where its modules compute just that; others keep their own forward.

    first_new_id: the trainable rows of the embedding are all those from this id on.
    """
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    config = network.config.get_text_config()
    plain_scores = not getattr(config, "attn_logit_softcapping", None) and not getattr(config, "attention_dropout", 0)
    for module in network.modules():
        kind = type(module).__name__
        if _plain_lora(module):
            module.forward = partial(_lora_forward, module, adapter)
        elif kind in PLAIN_NORMS:
            module.forward = partial(_norm_forward, module)
        elif type(getattr(module, "act_fn", None)).__name__ in SILU and _plain_lora(
                *(getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj"))):
            module.forward = partial(_mlp_forward, module, adapter)
        elif kind in PLAIN_ATTENTION and plain_scores and _plain_lora(
                module.q_proj, module.k_proj, module.v_proj, module.o_proj):
            module.forward = partial(_attention_forward, module, adapter)
        elif isinstance(module, TrainableTokensLayer) and type(module.base_layer) is nn.Embedding:
            module.forward = partial(_new_rows_forward, module, adapter, first_new_id)
    if plain_scores:
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
