"""The network's forward pass for decoding: the base's own arithmetic, with a preallocated cache of keys and values.

`model.generate` copies the whole cache at every token, and its layers take more and smaller operations than those of
cached_layers.py. On a CPU activations are float32 beside bfloat16 weights too, which is faster there than bfloat16 and
more exact. The tests compare every kind of base with transformers.
"""

import contextlib
import copy
import logging
from collections import deque
from collections.abc import Iterator, Sequence

import torch

from motion_llm.network.cached_layers import KNOWN, PARALLEL, Layer, Norm, PassLayout, Rotation, kind_of
from motion_llm.network.folder import ModelError
from motion_llm.network.graphs import StepGraphs
from motion_llm.network.merged import MergedNetwork

log = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}  # relative error in `decoding_network`

ROWS_ON_CPU, ROWS_ON_GPU = 32, 128  # decoded at a time; more keep a GPU busier
CACHES = 0.25  # of a GPU's free memory that their caches may take


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
