"""A trained model's merged weights for decoding on a CPU, read without Unsloth, PEFT and transformers.

Importing those and building the network to train takes over ten seconds. Here the base's weights are memory-mapped, and
each weight is merged when network/cached.py asks for it: W + B A * alpha / r, added in float32 and rounded to the dtype
of today's loading. MergedNetwork has the parts that cached.py reads from a network of transformers, under the same
names; the tests compare both bit by bit for every kind of base.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors import safe_open
from torch.nn import functional

from motion_llm.json_files import read_json
from motion_llm.network.base import (
    ModelConfig,
    base_source,
    broken_weights_as_model_error,
    read_weights,
    weights_dtype,
)
from motion_llm.network.folder import ModelError
from motion_llm.network.known_bases import ATTENTION, MLP, BaseConfig, UnknownToFastLoading

PREFIX = "base_model.model."  # what PEFT puts before the names of the base's modules
NEW_ROWS = ".token_adapter.trainable_tokens_delta"


def base_folder(model_name: str) -> Path:
    """The folder with the base's files: the bundled model's, the user's, or the snapshot of a hub id in its cache."""
    source = base_source(model_name)
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import try_to_load_from_cache  # here, as local bases do not need it

    config = try_to_load_from_cache(source, "config.json")
    if not isinstance(config, str):
        raise UnknownToFastLoading(f"{source} is not in the hub's cache yet")
    return Path(config).parent


def dtype_of(config: ModelConfig, base: BaseConfig) -> torch.dtype:
    """The dtype that load_base() gives the weights."""
    if os.environ.get("UNSLOTH_CPU_FROZEN_BF16"):
        raise UnknownToFastLoading("Unsloth's setting UNSLOTH_CPU_FROZEN_BF16 in the environment")
    return weights_dtype(config.dtype, base.hidden_size, base["intermediate_size"], on_cpu=True)


class Tensors:
    """The tensors of safetensors files, memory-mapped. Raises ModelError naming a broken file."""

    def __init__(self, paths: Sequence[Path]):
        self._files = {}  # name of a tensor -> (its file's path, the open file)
        for path in paths:
            with broken_weights_as_model_error(path):
                file = safe_open(path, framework="pt")
            self._files |= dict.fromkeys(file.keys(), (path, file))

    @classmethod
    def of_base(cls, folder: Path) -> "Tensors":
        """Of model.safetensors, or of the files that its index lists."""
        paths = [folder / "model.safetensors"]
        if (index := folder / "model.safetensors.index.json").is_file():
            paths = [folder / name for name in sorted(set(read_json(index, ModelError)["weight_map"].values()))]
        if missing := [path for path in paths if not path.is_file()]:
            raise UnknownToFastLoading(f"a base without {missing[0]}")
        return cls(paths)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(file.get_slice(name).get_shape()) for name, (_, file) in self._files.items()}

    def __getitem__(self, name: str) -> torch.Tensor:
        path, file = self._files[name]
        with broken_weights_as_model_error(path):
            return file.get_tensor(name)


class Merger:
    """Merges one weight at a time. adapter: name -> trained values; scale: alpha / r; new_ids: the ids of the new
    rows."""

    def __init__(self, base: Tensors, adapter: Mapping[str, torch.Tensor], scale: float, dtype: torch.dtype,
                 new_ids: range):
        self.base, self.adapter, self.scale, self.dtype, self.new_ids = base, adapter, scale, dtype, new_ids
        self._buffer = torch.empty(0)  # for B A: memory that is new for every weight would take longer than the product

    def plain(self, name: str) -> torch.Tensor:
        return self.base[name].to(self.dtype)

    def linear(self, name: str) -> torch.Tensor:
        """The weight (O, I) of the linear layer `name`, with LoRA."""
        a, b = (self.adapter[f"{PREFIX}{name}.lora_{matrix}.weight"].float() for matrix in "AB")
        weight = self.base[f"{name}.weight"].to(self.dtype, copy=True)  # not into the mapped file
        if self._buffer.numel() < weight.numel():
            self._buffer = torch.empty(weight.numel())
        delta = torch.mm(b, a, out=self._buffer[:weight.numel()].view(weight.shape))
        return weight.add_(delta.mul_(self.scale))

    def rows(self, name: str, count: int) -> torch.Tensor:
        """The matrix (count, D) of the embedding or the head `name`, with the new rows."""
        old, new = self.base[f"{name}.weight"], self.adapter[f"{PREFIX}{name}{NEW_ROWS}"]
        rows = torch.empty(count, old.shape[1], dtype=self.dtype)
        rows[:len(old)] = old
        rows[len(old):] = 0  # a tokenizer may have more tokens than its base has rows: those of neither are untrained
        rows[self.new_ids.start:self.new_ids.stop] = new
        return rows


class Unmerged(Merger):
    """The base's weights as they come."""

    def __init__(self, base: Tensors, dtype: torch.dtype):
        super().__init__(base, {}, 0.0, dtype, range(0))

    def linear(self, name: str) -> torch.Tensor:
        return self.plain(f"{name}.weight")

    def rows(self, name: str, count: int) -> torch.Tensor:
        return self.plain(f"{name}.weight")


class Linear:
    """A linear layer whose merged weight is made when it is read, and not kept."""

    def __init__(self, merger: Merger, name: str, has_bias: bool):
        self._merger, self._name, self._has_bias = merger, name, has_bias

    @property
    def weight(self) -> torch.Tensor:
        return self._merger.linear(self._name)

    @property
    def bias(self) -> torch.Tensor | None:
        return self._merger.plain(f"{self._name}.bias") if self._has_bias else None


@dataclass
class Rows:
    """The embedding or the head: weight (V, D). scale: of embeddings (Gemma)."""

    weight: torch.Tensor
    scale: torch.Tensor | None = None
    bias: None = None

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        x = functional.embedding(ids, self.weight)
        return x if self.scale is None else x * self.scale.to(x.dtype)


class Rotary:
    """Cosines and sines (1, T, d) of rotary positions (Su et al. 2021), as transformers computes them.

    parameters: kind of layer -> settings ("all": one for all layers). interleaved: as in Cohere.
    """

    def __init__(self, parameters: dict[str, dict], width: int, interleaved: bool):
        self.frequencies = {kind: frequencies(settings, width) for kind, settings in parameters.items()}
        self.rope_type = None if "all" in parameters else parameters
        self.interleaved = interleaved

    def __call__(self, x: torch.Tensor, positions: torch.Tensor, kind: str = "all"):
        angles = positions[:, :, None].float() * self.frequencies[kind]
        angles = angles.repeat_interleave(2, dim=-1) if self.interleaved else torch.cat([angles, angles], dim=-1)
        return angles.cos(), angles.sin()


def frequencies(settings: dict, width: int) -> torch.Tensor:
    """(d / 2,) in radians a position. Raises UnknownToFastLoading for a scaling that is not listed."""
    settings = dict(settings)
    kind, theta = settings.pop("rope_type", settings.pop("type", "default")), settings.pop("rope_theta")
    settings.pop("type", None)
    inverse = 1.0 / (theta ** (torch.arange(0, width, 2, dtype=torch.int64).float() / width))
    if kind == "llama3" and settings.keys() == {"factor", "low_freq_factor", "high_freq_factor",
                                                "original_max_position_embeddings"}:
        factor, low, high = settings["factor"], settings["low_freq_factor"], settings["high_freq_factor"]
        context = settings["original_max_position_embeddings"]
        lengths = 2 * math.pi / inverse
        scaled = torch.where(lengths > context / low, inverse / factor, inverse)
        smooth = (context / lengths - low) / (high - low)
        between = ~(lengths < context / high) & ~(lengths > context / low)
        return torch.where(between, (1 - smooth) * scaled / factor + smooth * scaled, scaled)
    if kind == "linear" and settings.keys() == {"factor"}:
        return inverse / settings["factor"]
    if kind != "default" or settings:
        raise UnknownToFastLoading(f"rotary positions of the type {kind!r} with {', '.join(settings) or 'no'} settings")
    return inverse


class MergedNetwork:
    """The parts of a merged base that CachedNetwork and the alphabets of decoding read."""

    def __init__(self, config: BaseConfig, merger: Merger, rows: int):
        self.config, self.device = config, torch.device("cpu")
        scale = torch.tensor(config.hidden_size**0.5) if config.is_gemma else None
        embedding = merger.rows("model.embed_tokens", rows)
        self._head = Rows(embedding if config.tied else merger.rows("lm_head", rows))
        self._decoder = SimpleNamespace(
            embed_tokens=Rows(embedding, scale), rotary_emb=Rotary(config.rope(), config.head_dim, config.is_cohere),
            layers=[_layer(config, merger, index) for index in range(config.layers)],
            norm=_norm(config, merger, "model.norm"))
        if config.model_type == "granite":
            self._decoder.embedding_multiplier = config["embedding_multiplier"]

    def get_decoder(self) -> SimpleNamespace:
        return self._decoder

    def get_output_embeddings(self) -> Rows:
        return self._head


def _norm(config: BaseConfig, merger: Merger, name: str) -> SimpleNamespace:
    return SimpleNamespace(kind=config.kind.norm, eps=config.eps, weight=merger.plain(f"{name}.weight"))


def _layer(config: BaseConfig, merger: Merger, index: int) -> SimpleNamespace:
    prefix = f"model.layers.{index}"
    attention, mlp = ({name: Linear(merger, f"{prefix}.{module}.{name}", config.has_bias(name)) for name in names}
                      for module, names in (("self_attn", ATTENTION), ("mlp", MLP)))
    if config.has_head_norms:
        attention |= {name: _norm(config, merger, f"{prefix}.self_attn.{name}") for name in ("q_norm", "k_norm")}
    layer = SimpleNamespace(
        kind=config.kind.layer,
        self_attn=SimpleNamespace(**attention, head_dim=config.head_dim, scaling=config.scale,
                                  sliding_window=config.window(index),
                                  attn_logit_softcapping=config.attn_logit_softcapping),
        mlp=SimpleNamespace(**mlp, act_fn=config.activation),
        **{name: _norm(config, merger, f"{prefix}.{name}") for name in config.norms})
    if config.model_type == "granite":
        layer.residual_multiplier = config["residual_multiplier"]
    return layer


def merged_network(config: ModelConfig, folder: Path, adapter_path: Path, new_ids: range,
                   tokens: int) -> MergedNetwork:
    """The base in `folder` merged with the trained values in `adapter_path`. tokens: of the tokenizer.

    Raises UnknownToFastLoading for what is not known here, ModelError for trained values that do not fit the base and
    for broken files.
    """
    if config.load_in_4bit or (folder / "adapter_config.json").is_file():
        raise UnknownToFastLoading("a base in 4 bits, or one that is an adapter itself")
    base_config, base = BaseConfig(folder), Tensors.of_base(folder)
    if base_config.max_position_embeddings < config.max_seq_len:
        raise UnknownToFastLoading(f"fewer positions than {config.max_seq_len}")
    shapes, base_rows = _checked_shapes(base_config, base)
    width = base_config.hidden_size
    adapter = read_weights(adapter_path, _adapter_shapes(shapes, config.lora_r, len(new_ids), width))
    merger = Merger(base, adapter, config.lora_alpha / config.lora_r, dtype_of(config, base_config), new_ids)
    return MergedNetwork(base_config, merger, max(tokens, base_rows))


def untrained_network(config: ModelConfig, folder: Path) -> MergedNetwork:
    """The base in `folder` as it comes, without what was trained. Raises as merged_network()."""
    if config.load_in_4bit or (folder / "adapter_config.json").is_file():
        raise UnknownToFastLoading("a base in 4 bits, or one that is an adapter itself")
    base_config, base = BaseConfig(folder), Tensors.of_base(folder)
    _, base_rows = _checked_shapes(base_config, base)
    return MergedNetwork(base_config, Unmerged(base, dtype_of(config, base_config)), base_rows)


def _checked_shapes(config: BaseConfig, base: Tensors) -> tuple[dict[str, tuple[int, ...]], int]:
    """The shapes of a base's tensors, and the rows of its embedding. Raises UnknownToFastLoading for other tensors."""
    shapes = base.shapes()
    rows = shapes.get("model.embed_tokens.weight", (0,))[0]
    if shapes != config.shapes(rows):
        differing = sorted(name for name, _ in shapes.items() ^ config.shapes(rows).items())
        raise UnknownToFastLoading(f"a {config.model_type} base with other tensors, such as {differing[0]}")
    return shapes, rows


def _adapter_shapes(shapes: dict[str, tuple[int, ...]], rank: int, rows: int, width: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the trained values for a base with tensors of these shapes."""
    expected = {f"{PREFIX}{name}{NEW_ROWS}": (rows, width) for name in ("model.embed_tokens", "lm_head")
                if f"{name}.weight" in shapes}
    for name, shape in shapes.items():
        name = name.removesuffix(".weight")
        if name.endswith(ATTENTION + MLP):
            expected[f"{PREFIX}{name}.lora_A.weight"] = (rank, shape[1])
            expected[f"{PREFIX}{name}.lora_B.weight"] = (shape[0], rank)
    return expected
