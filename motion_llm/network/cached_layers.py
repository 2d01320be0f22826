"""One layer of a base in the forward pass for decoding: its norms, rotations and products.

A layer takes seventeen operations, where transformers takes some forty: query, key and value are one product, and so
are gate and up. On a CPU the weights are packed for the processor beforehand (oneDNN).
"""

import platform
from dataclasses import dataclass

import torch
from torch.nn import functional

from motion_llm.network.folder import ModelError

# Kinds of layers that Layer computes; CachedNetwork refuses others.
PLAIN = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer", "GraniteDecoderLayer")
FOUR_NORMS = ("Gemma2DecoderLayer", "Gemma3DecoderLayer")  # norms before and after both attention and MLP
PARALLEL = ("CohereDecoderLayer",)  # attention and MLP read the same input
KNOWN = PLAIN + FOUR_NORMS + PARALLEL
PACKED_FOR = 32  # rows of x that oneDNN packs the weights for; other numbers of rows work as well


def packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN packs weights for this processor: bfloat16 needs AVX-512; float32 was measured on x86 alone, where
    2 to 16 rows of x take two thirds of the time (docs/log.md)."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.float32:
        return platform.machine().lower() in ("x86_64", "amd64")
    return dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def kind_of(module) -> str:
    """The name of a module's class in transformers, which the parts of merged.py carry as `kind`."""
    return getattr(module, "kind", None) or type(module).__name__


class Product:
    """x W^T + b of linear layers with the same input x, in one product: x (N, I) -> (N, O) in float32 or W's dtype.
    kept: the layers keep their weights, so packing takes more memory; float32 is then not packed."""

    def __init__(self, *layers, kept: bool = False):
        weight = torch.cat([layer.weight for layer in layers]) if len(layers) > 1 else layers[0].weight
        biases = [layer.bias for layer in layers]
        self.bias = None if biases[0] is None else torch.cat(biases)
        self.dtype = weight.dtype
        packable = weight.device.type == "cpu" and packs(self.dtype) and not (kept and self.dtype == torch.float32)
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_FOR) if packable else None
        self.weight = None if packable else weight
        self.values, self.bytes = weight.numel(), weight.numel() * weight.element_size()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.dtype)
        if self.packed is not None:
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return functional.linear(x, self.weight, self.bias)


class Norm:
    """A base's own norm, over the last dimension: RMS (Zhang and Sennrich 2019), Gemma's, which adds 1 to its weights,
    or Cohere's, which subtracts the mean first."""

    def __init__(self, norm):
        name = kind_of(norm)
        self.eps = getattr(norm, "variance_epsilon", None) or getattr(norm, "eps", None)
        self.weight = norm.weight.float() + (1 if name.startswith("Gemma") else 0)
        # In the network's own precision the norm is one kernel on a GPU, which adds up in float32 all the same.
        self.narrow = None if name.startswith("Gemma") else norm.weight
        self.centred = name == "CohereLayerNorm"
        if not (name.endswith("RMSNorm") or self.centred) or self.eps is None:
            raise ModelError(f"the base's norm {name} is unknown")

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not self.centred and self.narrow is not None and self.narrow.dtype == x.dtype:
            return functional.rms_norm(x, self.weight.shape, self.narrow, self.eps)
        if not self.centred:
            return functional.rms_norm(x.float(), self.weight.shape, self.weight, self.eps).to(x.dtype)
        wide = x.float()
        wide = wide - wide.mean(-1, keepdim=True)
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * self.weight).to(x.dtype)


class Rotation:
    """Rotary positions (Su et al. 2021) for all query and key heads at once.

    cosines and signed sines (P, H + G, d), those of the query heads multiplied by the attention's scale. interleaved:
    the two dimensions of a pair are adjacent (Cohere), not half a head apart.
    """

    def __init__(self, cos: torch.Tensor, sin: torch.Tensor, heads: int, groups: int, scale: float, interleaved: bool):
        width = cos.shape[-1]
        sign = torch.ones(width)
        if interleaved:
            sign[0::2] = -1
        else:
            sign[:width // 2] = -1
        scales = torch.tensor([scale] * heads + [1.0] * groups)[None, :, None]
        self.cos = (cos.float()[:, None] * scales).contiguous()
        self.sin = (sin.float()[:, None] * sign * scales).contiguous()
        self.interleaved = interleaved

    def at(self, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        return self.cos[positions].to(dtype), self.sin[positions].to(dtype)

    def rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """x, cos, sin (N, H + G, d)."""
        if self.interleaved:
            swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
        else:
            swapped = x.roll(x.shape[-1] // 2, -1)
        return torch.addcmul(x * cos, swapped, sin)


@dataclass
class PassLayout:
    """What all layers of one pass share. rows, positions (B * T,): where each token's key and value are cached;
    count: B; length: T; seen: cached positions that can be read; masks: window or None -> additive (B, 1, 1, T, seen),
    or None; turns: kind of layer -> cosines and sines."""

    rows: torch.Tensor
    positions: torch.Tensor
    count: int
    length: int
    seen: int
    masks: dict
    turns: dict


class Layer:
    """One layer of a base."""

    def __init__(self, layer, config, rotation: str):
        attention, mlp, kind = layer.self_attn, layer.mlp, kind_of(layer)
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.width = attention.head_dim
        self.rotation = rotation
        # Mistral's window is in the configuration only.
        window = config.sliding_window if kind == "MistralDecoderLayer" else None
        self.window = getattr(attention, "sliding_window", window)
        self.softcap = getattr(attention, "attn_logit_softcapping", None)
        self.parallel = kind in PARALLEL
        self.residual = getattr(layer, "residual_multiplier", 1.0)
        self.before_attention = Norm(layer.input_layernorm)
        self.after_attention = self.after_mlp = self.before_mlp = None
        if kind in FOUR_NORMS:
            self.after_attention = Norm(layer.post_attention_layernorm)
            self.before_mlp = Norm(layer.pre_feedforward_layernorm)
            self.after_mlp = Norm(layer.post_feedforward_layernorm)
        elif not self.parallel:
            self.before_mlp = Norm(layer.post_attention_layernorm)
        norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        self.query_norm, self.key_norm = (None if norm is None else Norm(norm) for norm in norms)
        self.query_key_value = Product(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = Product(attention.o_proj)
        self.gate_up = Product(mlp.gate_proj, mlp.up_proj)
        self.down = Product(mlp.down_proj)
        self.products = (self.query_key_value, self.out, self.gate_up, self.down)
        self.activation = mlp.act_fn

    def __call__(self, x: torch.Tensor, cache: torch.Tensor, layout: PassLayout, rotation: Rotation) -> torch.Tensor:
        """x (N, D), N = B * T; cache (2, slots, G, P, d), written and read."""
        normed = self.before_attention(x)
        attended = self._attention(normed, cache, layout, rotation)
        if self.parallel:
            return x + attended + self._mlp(normed)
        if self.after_attention is not None:
            attended = self.after_attention(attended)
        x = x + (attended if self.residual == 1 else attended * self.residual)
        y = self._mlp(self.before_mlp(x))
        if self.after_mlp is not None:
            y = self.after_mlp(y)
        return x + (y if self.residual == 1 else y * self.residual)

    def _mlp(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(self.activation(gate).mul_(up)).to(x.dtype)

    def _attention(self, x: torch.Tensor, cache: torch.Tensor, layout: PassLayout, rotation: Rotation) -> torch.Tensor:
        first_value = self.heads + self.groups
        states = self.query_key_value(x).to(cache.dtype).view(len(x), first_value + self.groups, self.width)
        rotated = states[:, :first_value]  # queries and keys
        if self.query_norm is not None:
            rotated = torch.cat([self.query_norm(rotated[:, :self.heads]), self.key_norm(rotated[:, self.heads:])], 1)
        rotated = rotation.rotate(rotated, *layout.turns[self.rotation])
        # Keys, then values. Padding after a row's last token is cached too, but the next pass overwrites it unread.
        new = torch.stack([rotated[:, self.heads:], states[:, first_value:]], 1)  # (N, 2, G, d)
        cache[:, layout.rows, :, layout.positions] = new
        keys, values = cache[:, :layout.count, :, :layout.seen].unbind(0)  # (B, G, S, d)
        query = rotated[:, :self.heads].view(layout.count, layout.length, self.groups, -1, self.width)
        query = query.permute(0, 2, 3, 1, 4).reshape(layout.count, self.groups, -1, self.width)  # (B, G, H/G * T, d)
        scores = query @ keys.transpose(-1, -2)  # (B, G, H/G * T, S)
        if self.softcap:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        mask = layout.masks[self.window]
        if mask is not None:
            scores.view(layout.count, self.groups, -1, layout.length, layout.seen).add_(mask)
        mixed = torch.softmax(scores, -1) @ values
        mixed = mixed.view(layout.count, self.groups, -1, layout.length, self.width).permute(0, 3, 1, 2, 4)
        return self.out(mixed.reshape(len(x), -1)).to(x.dtype)
