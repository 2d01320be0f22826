"""What the forward pass of a base needs from its config.json, for some kinds of bases, without transformers.

transformers knows hundreds of kinds, and fills in what a file leaves out. This module takes only a file that says
everything: another kind of base, a setting that is not listed here, or one that is missing raises UnknownToFastLoading.
The tests compare its values with those of transformers for every kind.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch.nn import functional

from motion_llm.json_files import check_form, read_json
from motion_llm.network.folder import ModelError


class UnknownToFastLoading(Exception):
    """Something that loading without Unsloth and transformers does not know; the message says what."""


ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
SILU = {"silu": functional.silu, "swish": functional.silu}
GELU = {"gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh")}


@dataclass(frozen=True)
class Kind:
    """A kind of base. layer, norm: names of its classes in transformers. biases: which layers have one; "settings": as
    attention_bias and mlp_bias say. tied, theta: what a config.json without these settings means."""

    layer: str
    norm: str
    settings: tuple[str, ...] = ()  # of config.json, beside SETTINGS
    biases: str = "settings"
    head_norms: bool = False  # of queries and keys
    four_norms: bool = False
    head_dim: bool = False  # whether config.json must have it; it is hidden_size / heads elsewhere
    tied: bool = False
    theta: float = 10_000.0


GEMMA = ("hidden_activation", "query_pre_attn_scalar", "sliding_window", "layer_types", "attention_bias",
         "final_logit_softcapping", "attn_logit_softcapping", "use_bidirectional_attention")
QWEN = ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types")
KINDS = {
    "llama": Kind("LlamaDecoderLayer", "LlamaRMSNorm", ("attention_bias", "mlp_bias")),
    "mistral": Kind("MistralDecoderLayer", "MistralRMSNorm", ("sliding_window",), biases="none"),
    "qwen2": Kind("Qwen2DecoderLayer", "Qwen2RMSNorm", QWEN, biases="qkv"),
    "qwen3": Kind("Qwen3DecoderLayer", "Qwen3RMSNorm", ("attention_bias", *QWEN), head_norms=True, head_dim=True),
    "granite": Kind("GraniteDecoderLayer", "GraniteRMSNorm", (
        "attention_bias", "mlp_bias", "embedding_multiplier", "logits_scaling", "residual_multiplier",
        "attention_multiplier")),
    "gemma2": Kind("Gemma2DecoderLayer", "Gemma2RMSNorm", GEMMA, four_norms=True, head_dim=True, tied=True),
    "gemma3_text": Kind("Gemma3DecoderLayer", "Gemma3RMSNorm", (*GEMMA, "_sliding_window_pattern"), head_norms=True,
                        four_norms=True, head_dim=True, tied=True),
    "cohere": Kind("CohereDecoderLayer", "CohereLayerNorm", (
        "attention_bias", "logit_scale", "layer_norm_eps", "use_qk_norm"), tied=True, theta=500_000.0),
}
SETTINGS = {"model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps",
            "tie_word_embeddings", "vocab_size", "rope_parameters", "rope_theta", "rope_scaling"}
# What training, generation and the saving of a base set, and what its forward pass does not read.
WITHOUT_EFFECT = {"_model_name_or_path", "_name_or_path", "architectures", "attention_dropout", "bos_token_id",
                  "cache_implementation", "dtype", "eos_token_id", "initializer_range", "is_llama_config",
                  "pad_token_id", "pretraining_tp", "torch_dtype", "transformers.js_config", "transformers_version",
                  "unk_token_id", "unsloth_fixed", "unsloth_version", "use_cache"}


SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
         "head_dim", "max_position_embeddings", "sliding_window", "vocab_size")
SMALL = ("rms_norm_eps", "layer_norm_eps")  # added to a variance
FACTORS = ("rope_theta", "query_pre_attn_scalar", "final_logit_softcapping", "attn_logit_softcapping", "logit_scale",
           "logits_scaling", "embedding_multiplier", "residual_multiplier", "attention_multiplier")
SWITCHES = ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window", "use_qk_norm",
            "use_bidirectional_attention")
FORM = {f"{name}?": form for names, form in ((SIZES, range(1, 2**31)), (SMALL, slice(0, 1)), (FACTORS, float),
                                             (SWITCHES, bool)) for name in names}


def read_base_config(path: Path) -> dict:
    """A base's config.json. Raises ModelError for values that no forward pass can take: libraries say of them what went
    wrong in a layer, not where it is written."""
    values = read_json(path, ModelError)
    # null is what a setting that is left out means
    check_form({name: value for name, value in values.items() if value is not None}, FORM,
               f"{path} is damaged, or of a kind that is not known:", ModelError)
    return values


class BaseConfig:
    """config.json of a base in `folder`, as far as its forward pass needs it. Raises UnknownToFastLoading, ModelError
    for a broken file."""

    def __init__(self, folder: Path):
        values = read_base_config(folder / "config.json")
        self.model_type = values.get("model_type")
        if self.model_type not in KINDS:
            raise UnknownToFastLoading(f"a base of the type {self.model_type!r}")
        self.kind = kind = KINDS[self.model_type]
        values = {name: value for name, value in values.items() if name not in WITHOUT_EFFECT}
        if unknown := sorted(values.keys() - SETTINGS - set(kind.settings)):
            raise UnknownToFastLoading(f"the setting {unknown[0]!r} in {folder / 'config.json'}")
        self.values = values
        self.heads, self.groups = self["num_attention_heads"], self["num_key_value_heads"]
        self.hidden_size, self.layers = self["hidden_size"], self["num_hidden_layers"]
        head_dim = self["head_dim"] if kind.head_dim else values.get("head_dim")
        self.head_dim = head_dim or self.hidden_size // self.heads
        self.tied = values.get("tie_word_embeddings", kind.tied)
        self.max_position_embeddings = self["max_position_embeddings"]
        self.eps = self["layer_norm_eps" if self.is_cohere else "rms_norm_eps"]
        activations = SILU if not self.is_gemma else GELU
        name = self["hidden_activation" if self.is_gemma else "hidden_act"]
        if name not in activations or values.get("use_bidirectional_attention"):
            raise UnknownToFastLoading(f"{self.model_type} with the activation {name!r} or attention both ways")
        self.activation = activations[name]
        self.sliding_window = values.get("sliding_window")
        if self.model_type.startswith("qwen") and not values.get("use_sliding_window"):
            self.sliding_window = None
        self.layer_types = values.get("layer_types")
        if self.layer_types is None and self.sliding_window is not None and self.model_type != "mistral":
            raise UnknownToFastLoading(f"{self.model_type} with a sliding window, but without layer_types")
        # The names that cached.py and model.scale_logits read.
        self.num_attention_heads, self.num_key_value_heads = self.heads, self.groups
        # Those of a kind without a setting are None; a kind with it must say it, as its default is not 1 or None.
        for setting in ("logit_scale", "logits_scaling", "final_logit_softcapping", "attn_logit_softcapping"):
            setattr(self, setting, self[setting] if setting in kind.settings else None)

    def __getitem__(self, name: str):
        """Raises UnknownToFastLoading for a setting that config.json leaves to transformers."""
        if name not in self.values:
            raise UnknownToFastLoading(f"a {self.model_type} base whose config.json does not say {name}")
        return self.values[name]

    @property
    def is_gemma(self) -> bool:
        return self.model_type.startswith("gemma")

    @property
    def is_cohere(self) -> bool:
        return self.model_type == "cohere"

    def get_text_config(self) -> "BaseConfig":
        return self

    @property
    def scale(self) -> float:
        """Of the attention's scores."""
        if self.model_type == "granite":
            return self["attention_multiplier"]
        return (self["query_pre_attn_scalar"] if self.is_gemma else self.head_dim) ** -0.5

    def window(self, layer: int) -> int | None:
        if self.model_type == "mistral":
            return self.sliding_window
        return self.sliding_window if self.layer_types and self.layer_types[layer] == "sliding_attention" else None

    def has_bias(self, name: str) -> bool:
        if self.kind.biases == "settings":
            return bool(self.values.get("attention_bias" if name in ATTENTION else "mlp_bias"))
        return self.kind.biases == "qkv" and name in ATTENTION[:3]

    def rope(self) -> dict[str, dict]:
        """Kind of layer -> parameters of its rotary positions; the key "all" where all layers have the same."""
        parameters, scaling = self.values.get("rope_parameters"), self.values.get("rope_scaling")
        if self.model_type == "gemma3_text":
            if parameters is None or scaling is not None or set(parameters) != {"sliding_attention", "full_attention"}:
                raise UnknownToFastLoading("rotary positions of an older config.json of Gemma 3")
            return parameters
        if parameters is None:
            parameters = {"rope_type": "default", "rope_theta": self.values.get("rope_theta", self.kind.theta)}
            parameters |= scaling or {}
        elif scaling is not None or "rope_theta" in self.values:
            raise UnknownToFastLoading("rope_parameters beside settings of older versions")
        return {"all": parameters}

    def shapes(self, rows: int) -> dict[str, tuple[int, ...]]:
        """Name -> shape of all tensors of the base. rows: of its embedding."""
        width, inner = self.hidden_size, self["intermediate_size"]
        query, key = self.heads * self.head_dim, self.groups * self.head_dim
        outputs = {"q_proj": (query, width), "k_proj": (key, width), "v_proj": (key, width), "o_proj": (width, query),
                   "gate_proj": (inner, width), "up_proj": (inner, width), "down_proj": (width, inner)}
        of_layer = {f"{'self_attn' if name in ATTENTION else 'mlp'}.{name}": shape for name, shape in outputs.items()}
        biases = {f"{path}.bias": shape[:1] for path, shape in of_layer.items()
                  if self.has_bias(path.rpartition(".")[2])}
        of_layer = {f"{path}.weight": shape for path, shape in of_layer.items()} | biases
        of_layer |= {f"{name}.weight": (width,) for name in self.norms}
        if self.has_head_norms:
            for name, count in (("q_norm", self.heads), ("k_norm", self.groups)):
                shape = (count, self.head_dim) if self.is_cohere else (self.head_dim,)
                of_layer[f"self_attn.{name}.weight"] = shape
        shapes = {f"model.layers.{index}.{name}": shape for index in range(self.layers)
                  for name, shape in of_layer.items()}
        shapes |= {"model.embed_tokens.weight": (rows, width), "model.norm.weight": (width,)}
        return shapes if self.tied else shapes | {"lm_head.weight": (rows, width)}

    @property
    def norms(self) -> tuple[str, ...]:
        names = ["input_layernorm"]
        if not self.is_cohere:
            names.append("post_attention_layernorm")
        if self.kind.four_norms:
            names += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        return tuple(names)

    @property
    def has_head_norms(self) -> bool:
        return self.kind.head_norms or bool(self.values.get("use_qk_norm"))
