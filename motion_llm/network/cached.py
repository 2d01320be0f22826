"""The network's forward pass for decoding: a base's own arithmetic, with keys and values in a cache laid out once.

`model.generate` copies the whole cache at every token, and its layers are some forty small steps each. Here a layer is
seventeen: the products of query, key and value are one, as are those of gate and up; on a CPU with bfloat16 the weights
are laid out for the processor beforehand (oneDNN), and what lies between the products is float32, which is faster there
than bfloat16 as well as more exact. Tests hold every kind of base to what transformers computes.
"""

import logging
from dataclasses import dataclass

import torch
from torch.nn import functional

from motion_llm.network.folder import ModelError

log = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}  # relative, of the check at the start

# How the layers of a base are built; others are refused by name.
PLAIN = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer", "GraniteDecoderLayer")
FOUR_NORMS = ("Gemma2DecoderLayer", "Gemma3DecoderLayer")  # one before and one after attention, and the MLP
PARALLEL = ("CohereDecoderLayer",)  # attention and MLP read the same input
KNOWN = PLAIN + FOUR_NORMS + PARALLEL
PACKED_FOR = 32  # rows that oneDNN lays the weights out for; other numbers of rows work as well


def packs_bfloat16() -> bool:
    """Whether oneDNN can lay out bfloat16 weights on this processor; it refuses one without AVX-512."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


class Product:
    """x W^T + b of linear layers that read the same x, as one; x (N, I) -> (N, O) in float32 or W's precision."""

    def __init__(self, *layers):
        weight = torch.cat([layer.weight for layer in layers]) if len(layers) > 1 else layers[0].weight
        biases = [layer.bias for layer in layers]
        self.bias = None if biases[0] is None else torch.cat(biases)
        self.dtype = weight.dtype
        packable = weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and packs_bfloat16()
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
    or Cohere's, which takes the mean off first."""

    def __init__(self, norm):
        name = type(norm).__name__
        self.eps = getattr(norm, "variance_epsilon", None) or getattr(norm, "eps", None)
        self.weight = norm.weight.float() + (1 if name.startswith("Gemma") else 0)
        self.centred = name == "CohereLayerNorm"
        if not (name.endswith("RMSNorm") or self.centred) or self.eps is None:
            raise ModelError(f"the base's norm {name} is unknown")

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not self.centred:
            return functional.rms_norm(x.float(), self.weight.shape, self.weight, self.eps).to(x.dtype)
        wide = x.float()
        wide = wide - wide.mean(-1, keepdim=True)
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * self.weight).to(x.dtype)


class Rotation:
    """Rotary positions (Su et al. 2021) for all query and key heads at once.

    cosines and signed sines (P, H + G, d), the query heads' times the attention's scale. interleaved: pairs lie side by
    side (Cohere), not half a head apart.
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

    def turned(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """x, cos, sin (N, H + G, d)."""
        if self.interleaved:
            other = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
        else:
            other = x.roll(x.shape[-1] // 2, -1)
        return torch.addcmul(x * cos, other, sin)


@dataclass
class Places:
    """What all layers of one pass share. rows, positions (B * T,): where each token's key and value go; count: rows;
    seen: cached positions that can be read; masks: window or None -> additive (B, 1, 1, T, seen), or None."""

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
        attention, mlp, kind = layer.self_attn, layer.mlp, type(layer).__name__
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.width = attention.head_dim
        self.rotation = rotation
        # Mistral's attention leaves its window to the configuration.
        of_all = config.sliding_window if kind == "MistralDecoderLayer" else None
        self.window = getattr(attention, "sliding_window", of_all)
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
        named = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        self.query_norm, self.key_norm = (None if norm is None else Norm(norm) for norm in named)
        self.query_key_value = Product(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = Product(attention.o_proj)
        self.gate_up = Product(mlp.gate_proj, mlp.up_proj)
        self.down = Product(mlp.down_proj)
        self.products = (self.query_key_value, self.out, self.gate_up, self.down)
        self.activation = mlp.act_fn

    def __call__(self, x: torch.Tensor, cache: torch.Tensor, places: Places, rotation: Rotation) -> torch.Tensor:
        """x (N, D), N = B * T; cache (2, slots, G, P, d), written and read."""
        normed = self.before_attention(x)
        attended = self._attention(normed, cache, places, rotation)
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

    def _attention(self, x: torch.Tensor, cache: torch.Tensor, places: Places, rotation: Rotation) -> torch.Tensor:
        both = self.heads + self.groups
        states = self.query_key_value(x).to(cache.dtype).view(len(x), both + self.groups, self.width)
        turning = states[:, :both]  # queries and keys
        if self.query_norm is not None:
            turning = torch.cat([self.query_norm(turning[:, :self.heads]), self.key_norm(turning[:, self.heads:])], 1)
        turning = rotation.turned(turning, *places.turns[self.rotation])
        # Keys, then values; a token behind a row's last one writes where the next pass writes again, and none reads.
        new = torch.stack([turning[:, self.heads:], states[:, both:]], 1)  # (N, 2, G, d)
        cache[:, places.rows, :, places.positions] = new
        keys, values = cache[:, :places.count, :, :places.seen].unbind(0)  # (B, G, S, d)
        query = turning[:, :self.heads].view(places.count, places.length, self.groups, -1, self.width)
        query = query.permute(0, 2, 3, 1, 4).reshape(places.count, self.groups, -1, self.width)  # (B, G, H/G * T, d)
        scores = query @ keys.transpose(-1, -2)  # (B, G, H/G * T, S)
        if self.softcap:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        mask = places.masks[self.window]
        if mask is not None:
            scores.view(places.count, self.groups, -1, places.length, places.seen).add_(mask)
        mixed = torch.softmax(scores, -1) @ values
        mixed = mixed.view(places.count, self.groups, -1, places.length, self.width).permute(0, 3, 1, 2, 4)
        return self.out(mixed.reshape(len(x), -1)).to(x.dtype)


class CachedNetwork:
    """A merged transformers network, read into layers that decode fast. The weights move here: the network given is of
    no more use. Raises ModelError for a base whose layers are unknown.

    positions: the longest sequence. The cache is made for a number of rows by `reserve`.
    """

    @torch.no_grad()
    def __init__(self, network, positions: int):
        decoder, config = network.get_decoder(), network.config.get_text_config()
        if odd := {type(layer).__name__ for layer in decoder.layers} - set(KNOWN):
            raise ModelError(f"the base's layers, {', '.join(sorted(odd))}, are unknown; known are {', '.join(KNOWN)}")
        self.device, self.positions = decoder.embed_tokens.weight.device, positions
        self.dtype = torch.float32 if self.device.type == "cpu" else decoder.embed_tokens.weight.dtype
        self.embed = decoder.embed_tokens
        self.embedding_scale = getattr(decoder, "embedding_multiplier", 1.0)
        self.groups, self.width = config.num_key_value_heads, decoder.layers[0].self_attn.head_dim
        self.rotations = self._rotations(decoder, config)
        self.layers = []
        for place, layer in enumerate(decoder.layers):
            kind = config.layer_types[place] if len(self.rotations) > 1 else next(iter(self.rotations))
            self.layers.append(Layer(layer, config, kind))
            layer.to("meta")  # so that a large base is not in memory twice
        self.norm = Norm(decoder.norm)
        self.cache = None

    def _rotations(self, decoder, config) -> dict[str, Rotation]:
        """One for all layers, or one for each kind of them (Gemma 3)."""
        attention = decoder.layers[0].self_attn
        dummy, positions = torch.zeros(1, device=self.device), torch.arange(self.positions, device=self.device)[None]
        several = isinstance(getattr(decoder.rotary_emb, "rope_type", None), dict)
        kinds = sorted(set(config.layer_types)) if several else ["all"]
        found = {}
        for kind in kinds:
            cos, sin = decoder.rotary_emb(dummy, positions, kind) if several else decoder.rotary_emb(dummy, positions)
            found[kind] = Rotation(cos[0].cpu(), sin[0].cpu(), config.num_attention_heads, self.groups,
                                   attention.scaling, type(decoder.layers[0]).__name__ in PARALLEL)
            found[kind].cos, found[kind].sin = found[kind].cos.to(self.device), found[kind].sin.to(self.device)
        return found

    def reserve(self, slots: int, positions: int) -> None:
        """Room for so many rows of so many positions; what was cached is lost."""
        shape = (len(self.layers), 2, slots, self.groups, positions, self.width)
        if self.cache is None or self.cache.shape[2] < slots or self.cache.shape[4] < positions:
            self.cache = torch.zeros(shape, dtype=self.dtype, device=self.device)

    def copy_row(self, source: int, target: int, positions: int) -> None:
        """The first `positions` cached keys and values of a row become another's."""
        self.cache[:, :, target, :, :positions] = self.cache[:, :, source, :, :positions]

    @torch.no_grad()
    def __call__(self, ids: torch.Tensor, past: torch.Tensor, first: int = 0) -> torch.Tensor:
        """ids (B, T), read after past (B,) cached positions of the rows from slot `first` on -> hidden (B, T, D).

        A row shorter than T is padded on the right; what is computed there means nothing.
        """
        count, length = ids.shape
        places = self._places(past, count, length)
        x = self.embed(ids.reshape(-1)).to(self.dtype)
        if self.embedding_scale != 1:
            x = x * self.embedding_scale
        for layer, cache in zip(self.layers, self.cache[:, :, first:first + count].unbind(0), strict=True):
            x = layer(x, cache, places, self.rotations[layer.rotation])
        return self.norm(x).view(count, length, -1)

    def _places(self, past: torch.Tensor, count: int, length: int) -> Places:
        positions = (past[:, None] + torch.arange(length, device=self.device)).reshape(-1)  # (N,)
        rows = torch.arange(count, device=self.device).repeat_interleave(length)
        seen = int(past.max()) + length
        every = length == 1 and int(past.min()) + 1 == seen  # each row reads all that is there
        masks = {}
        for window in {layer.window for layer in self.layers}:
            inside = window is None or seen <= window
            masks[window] = None if every and inside else self._mask(positions, count, length, seen, window)
        turns = {kind: rotation.at(positions, self.dtype) for kind, rotation in self.rotations.items()}
        return Places(rows, positions, count, length, seen, masks, turns)

    def _mask(self, positions, count: int, length: int, seen: int, window: int | None) -> torch.Tensor:
        at, there = positions.view(count, 1, 1, length, 1), torch.arange(seen, device=self.device)
        hidden = there > at
        if window is not None:
            hidden |= there <= at - window
        return torch.zeros(hidden.shape, dtype=self.dtype, device=self.device).masked_fill_(hidden, -torch.inf)


class PlainNetwork:
    """What `CachedNetwork` does, for any base and without a cache: all that a row has is read again for every token."""

    def __init__(self, network, positions: int):
        self.network, self.positions = network, positions
        self.device = network.get_input_embeddings().weight.device
        self.ids = None

    def reserve(self, slots: int, positions: int) -> None:
        self.ids = torch.zeros(slots, positions, dtype=torch.long, device=self.device)

    def copy_row(self, source: int, target: int, positions: int) -> None:
        self.ids[target, :positions] = self.ids[source, :positions]

    @torch.no_grad()
    def __call__(self, ids: torch.Tensor, past: torch.Tensor, first: int = 0) -> torch.Tensor:
        count, length = ids.shape
        places = past[:, None] + torch.arange(length, device=self.device)  # (B, T)
        rows = self.ids[first:first + count]
        rows.scatter_(1, places, ids)
        hidden = self.network.get_decoder()(input_ids=rows[:, :int(places.max()) + 1], use_cache=False)
        hidden = hidden.last_hidden_state
        return hidden.gather(1, places[:, :, None].expand(-1, -1, hidden.shape[2]))


@torch.no_grad()
def decoding_network(network, positions: int) -> CachedNetwork | PlainNetwork:
    """The fast network where the base is known, else the plain one, with a warning.

    Raises ModelError where the fast one does not compute what the base does, which would be a defect of this module.
    """
    unknown = {type(layer).__name__ for layer in network.get_decoder().layers} - set(KNOWN)
    if unknown:
        log.warning("the base's layers (%s) are unknown to the fast decoding: every token is computed from the start, "
                    "which is slow", ", ".join(sorted(unknown)))
        return PlainNetwork(network, positions)
    count = min(positions, 24)
    ids = torch.randint(network.get_input_embeddings().weight.shape[0], (1, count), device=network.device,
                        generator=torch.Generator(network.device).manual_seed(0))
    expected = network.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state.float()
    cached = CachedNetwork(network, positions)
    cached.reserve(1, count)
    nothing = torch.zeros(1, dtype=torch.long, device=network.device)
    found = torch.cat([cached(ids[:, :count // 2], nothing), cached(ids[:, count // 2:], nothing + count // 2)], dim=1)
    error = float((found.float() - expected).norm() / expected.norm())
    if not error <= TOLERANCE[network.dtype]:
        raise ModelError(f"the fast decoding's hidden states differ from the base's by {error:.1%}: a defect, please "
                         "report the base's name")
    return cached
