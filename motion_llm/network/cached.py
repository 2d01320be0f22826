"""The network's forward pass for decoding: the base's own arithmetic, with a preallocated cache of keys and values.

`model.generate` copies the whole cache at every token, and each of its layers takes some forty small operations. Here a
layer takes seventeen: query, key and value are one product, and so are gate and up. On a CPU the weights are packed for
the processor beforehand (oneDNN); beside bfloat16 weights activations are float32, which is faster there than bfloat16
and more exact. The tests compare every kind of base with transformers.
"""

import contextlib
import copy
import logging
import platform
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from motion_llm.network.folder import ModelError
from motion_llm.network.graphs import StepGraphs
from motion_llm.network.merged import MergedNetwork

log = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}  # relative error in `decoding_network`

# Kinds of layers that CachedNetwork computes; it refuses others.
PLAIN = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer", "GraniteDecoderLayer")
FOUR_NORMS = ("Gemma2DecoderLayer", "Gemma3DecoderLayer")  # norms before and after both attention and MLP
PARALLEL = ("CohereDecoderLayer",)  # attention and MLP read the same input
KNOWN = PLAIN + FOUR_NORMS + PARALLEL
ROWS_ON_CPU, ROWS_ON_GPU = 32, 128  # decoded at a time; more keep a GPU busier
CACHES = 0.25  # of a GPU's free memory that their caches may take
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


class CachedNetwork:
    """A merged network of transformers or of merged.py, converted into layers that decode fast. It takes the weights:
    the network cannot be used afterwards. Raises ModelError for a base whose layers are unknown.

    positions: of the longest sequence. A decoding in progress takes the network from `borrow`, with a cache that no
    other has, so that threads and streams may decode at the same time.
    """

    @torch.no_grad()
    def __init__(self, network, positions: int):
        decoder, config = network.get_decoder(), network.config.get_text_config()
        if unknown := {kind_of(layer) for layer in decoder.layers} - set(KNOWN):
            raise ModelError(f"the base's layers, {', '.join(sorted(unknown))}, are unknown; known are "
                             f"{', '.join(KNOWN)}")
        self.device, self.positions = decoder.embed_tokens.weight.device, positions
        self.dtype = torch.float32 if self.device.type == "cpu" else decoder.embed_tokens.weight.dtype
        self.embed = decoder.embed_tokens
        self.embedding_scale = getattr(decoder, "embedding_multiplier", 1.0)
        self.groups, self.width = config.num_key_value_heads, decoder.layers[0].self_attn.head_dim
        self.rotations = self._rotations(decoder, config)
        self.layers = []
        for i, layer in enumerate(decoder.layers):
            kind = config.layer_types[i] if len(self.rotations) > 1 else next(iter(self.rotations))
            self.layers.append(Layer(layer, config, kind))
            if isinstance(layer, torch.nn.Module):
                layer.to("meta")  # so that a base is not in memory twice
        self.norm = Norm(decoder.norm)
        self.cache, self.graphs = None, None
        self.graphed = self.device.type == "cuda"  # whether steps are CUDA graphs
        # Of finished decodings, at most one, with its graphs; every borrowed copy has this list.
        self._caches: list[tuple[torch.Tensor, StepGraphs | None]] = []

    def _rotations(self, decoder, config) -> dict[str, Rotation]:
        """One for all layers, or one for each kind of layer (Gemma 3)."""
        attention = decoder.layers[0].self_attn
        dummy, positions = torch.zeros(1, device=self.device), torch.arange(self.positions, device=self.device)[None]
        several = isinstance(getattr(decoder.rotary_emb, "rope_type", None), dict)
        kinds = sorted(set(config.layer_types)) if several else ["all"]
        rotations = {}
        for kind in kinds:
            cos, sin = decoder.rotary_emb(dummy, positions, kind) if several else decoder.rotary_emb(dummy, positions)
            rotation = Rotation(cos[0].cpu(), sin[0].cpu(), config.num_attention_heads, self.groups,
                                attention.scaling, kind_of(decoder.layers[0]) in PARALLEL)
            rotation.cos, rotation.sin = rotation.cos.to(self.device), rotation.sin.to(self.device)
            rotations[kind] = rotation
        return rotations

    @property
    def row_bytes(self) -> int:
        """Of the cache of a row."""
        return len(self.layers) * 2 * self.groups * self.positions * self.width * self.dtype.itemsize

    @contextlib.contextmanager
    def borrow(self, slots: int, positions: int) -> Iterator["CachedNetwork"]:
        """The same weights with a cache for `slots` rows of `positions` positions, which is this borrower's alone."""
        network = copy.copy(self)
        try:
            network.cache, network.graphs = self._caches.pop()  # atomic: two threads cannot have the same one
        except IndexError:
            network.cache = network.graphs = None
        network.reserve(slots, positions)
        try:
            yield network
        finally:
            self._caches[:] = [(network.cache, network.graphs)]

    def reserve(self, slots: int, positions: int) -> None:
        """Allocate the cache for `slots` rows of `positions` positions; cached values may be lost."""
        shape = (len(self.layers), 2, slots, self.groups, positions, self.width)
        if self.cache is None or self.cache.shape[2] < slots or self.cache.shape[4] < positions:
            self.cache = torch.zeros(shape, dtype=self.dtype, device=self.device)
            self.graphs = StepGraphs(self._step, self.cache) if self.graphed else None

    def copy_row(self, source: int, target: int, positions: int) -> None:
        """Copy the first `positions` cached keys and values of row `source` to row `target`."""
        self.cache[:, :, target, :, :positions] = self.cache[:, :, source, :, :positions]

    @torch.no_grad()
    def __call__(self, ids: torch.Tensor, past: torch.Tensor, first: int = 0, span: tuple[int, int] | None = None
                 ) -> torch.Tensor:
        """ids (B, T) after past (B,) cached positions, of the rows from slot `first` on -> hidden states (B, T, D).

        A row shorter than T is padded on the right; its hidden states there mean nothing. span: the lowest and the
        highest of past, where it is known: to read it from a GPU takes as long as waiting for all that is queued there.
        The slots behind those of a single token (T = 1) must be free.
        """
        lowest, highest = span or (int(past.min()), int(past.max()))
        if ids.shape[1] == 1 and not first and self.graphs is not None:
            last = self.graphs(ids, past, highest + 1)
        else:
            (last,) = deque(self._states(ids, past, first, (lowest, highest)), maxlen=1)
        return self.norm(last).view(*ids.shape, -1)

    def _step(self, ids: torch.Tensor, past: torch.Tensor, seen: int) -> torch.Tensor:
        """The states (B, D) of one more token (B, 1), of shapes that do not depend on past. For StepGraphs."""
        (last,) = deque(self._states(ids, past, 0, (-1, seen - 1)), maxlen=1)
        return last

    @torch.no_grad()
    def states(self, ids: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
        """ids (B, T), from the first position on -> hidden states (B, T, D) after each of so many layers, ascending."""
        self.reserve(*ids.shape)
        after = self._states(ids, torch.zeros(len(ids), dtype=torch.long, device=self.device), 0, (0, 0))
        return [x.view(*ids.shape, -1) for count, x in zip(range(1, layers[-1] + 1), after, strict=False)
                if count in layers]

    def _states(self, ids: torch.Tensor, past: torch.Tensor, first: int, span: tuple[int, int]
                ) -> Iterator[torch.Tensor]:
        """The hidden states (B * T, D) after each layer. span: at most the lowest and at least the highest of past."""
        count, length = ids.shape
        layout = self._layout(past, count, length, span)
        x = self.embed(ids.reshape(-1)).to(self.dtype)
        if self.embedding_scale != 1:
            x = x * self.embedding_scale
        for layer, cache in zip(self.layers, self.cache[:, :, first:first + count].unbind(0), strict=True):
            x = layer(x, cache, layout, self.rotations[layer.rotation])
            yield x

    def _layout(self, past: torch.Tensor, count: int, length: int, span: tuple[int, int]) -> PassLayout:
        positions = (past[:, None] + torch.arange(length, device=self.device)).reshape(-1)  # (N,)
        rows = torch.arange(count, device=self.device).repeat_interleave(length)
        seen = span[1] + length
        reads_all = length == 1 and span[0] + 1 == seen  # every token reads all cached positions
        masks = {}
        for window in {layer.window for layer in self.layers}:
            inside = window is None or seen <= window
            masks[window] = None if reads_all and inside else self._mask(positions, count, length, seen, window)
        turns = {kind: rotation.at(positions, self.dtype) for kind, rotation in self.rotations.items()}
        return PassLayout(rows, positions, count, length, seen, masks, turns)

    def _mask(self, positions, count: int, length: int, seen: int, window: int | None) -> torch.Tensor:
        queries, keys = positions.view(count, 1, 1, length, 1), torch.arange(seen, device=self.device)
        masked = keys > queries
        if window is not None:
            masked |= keys <= queries - window
        return torch.zeros(masked.shape, dtype=self.dtype, device=self.device).masked_fill_(masked, -torch.inf)


class PlainNetwork:
    """`CachedNetwork` for any base, without a cache: every token computes its whole row again."""

    def __init__(self, network, positions: int):
        self.network, self.positions = network, positions
        self.device = network.get_input_embeddings().weight.device
        self.row_bytes = positions * torch.long.itemsize
        self.ids = None

    @contextlib.contextmanager
    def borrow(self, slots: int, positions: int) -> Iterator["PlainNetwork"]:
        """As CachedNetwork.borrow."""
        network = copy.copy(self)
        network.reserve(slots, positions)
        yield network

    def reserve(self, slots: int, positions: int) -> None:
        self.ids = torch.zeros(slots, positions, dtype=torch.long, device=self.device)

    def copy_row(self, source: int, target: int, positions: int) -> None:
        self.ids[target, :positions] = self.ids[source, :positions]

    @torch.no_grad()
    def __call__(self, ids: torch.Tensor, past: torch.Tensor, first: int = 0, span: tuple[int, int] | None = None
                 ) -> torch.Tensor:
        count, length = ids.shape
        positions = past[:, None] + torch.arange(length, device=self.device)  # (B, T)
        rows = self.ids[first:first + count]
        rows.scatter_(1, positions, ids)
        hidden = self.network.get_decoder()(input_ids=rows[:, :int(positions.max()) + 1], use_cache=False)
        hidden = hidden.last_hidden_state
        return hidden.gather(1, positions[:, :, None].expand(-1, -1, hidden.shape[2]))


def rows_at_once(network: CachedNetwork | PlainNetwork) -> int:
    """To decode, where EVAL_BATCH does not say."""
    if network.device.type == "cpu":
        return ROWS_ON_CPU
    rows, room = ROWS_ON_GPU, CACHES * torch.cuda.mem_get_info(network.device)[0]
    while rows > 1 and rows * network.row_bytes > room:
        rows //= 2
    return rows


def _single_step(cached: CachedNetwork, ids: torch.Tensor, past: torch.Tensor) -> torch.Tensor:
    """One token, by a CUDA graph on a GPU; where that cannot be captured, graphs are switched off, with a warning."""
    try:
        return cached(ids, past)
    except RuntimeError as error:
        if cached.graphs is None:
            raise
        log.warning("decoding without CUDA graphs, which makes it several times slower for few clips: %s", error)
        cached.graphed, cached.graphs = False, None
        return cached(ids, past)


@torch.no_grad()
def decoding_network(network, positions: int) -> CachedNetwork | PlainNetwork:
    """A CachedNetwork where the base is known, else a PlainNetwork, with a warning.

    network: of transformers, or a MergedNetwork, which can only become a CachedNetwork.
    Raises ModelError where CachedNetwork does not compute the same as the base, which would be a bug in this module.
    """
    if isinstance(network, MergedNetwork):
        return CachedNetwork(network, positions)
    unknown = {kind_of(layer) for layer in network.get_decoder().layers} - set(KNOWN)
    if unknown:
        log.warning("the base's layers (%s) are unknown to the fast decoding: every token computes its whole sequence "
                    "again, which is slow", ", ".join(sorted(unknown)))
        return PlainNetwork(network, positions)
    count = min(positions, 24)
    ids = torch.randint(network.get_input_embeddings().weight.shape[0], (1, count), device=network.device,
                        generator=torch.Generator(network.device).manual_seed(0))
    expected = network.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state.float()
    cached = CachedNetwork(network, positions)
    cached.reserve(1, count)
    start, half = torch.zeros(1, dtype=torch.long, device=network.device), count // 2
    result = torch.cat([cached(ids[:, :half], start), cached(ids[:, half:-1], start + half),
                        _single_step(cached, ids[:, -1:], start + count - 1)], dim=1)
    error = float((result.float() - expected).norm() / expected.norm())
    if not error <= TOLERANCE[network.dtype]:
        raise ModelError(f"the fast decoding's hidden states differ from the base's by {error:.1%}: a bug, please "
                         "report the base's name")
    return cached
