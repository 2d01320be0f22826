"""The motion language model: a base with LoRA and new token rows, the answer loss, saving and loading."""

import contextlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from collators import IGNORED, collate
from motion_llm.digests import check_digests, digests_of, say_unchecked
from motion_llm.json_files import read_json, write_json
from motion_llm.network.base import (
    PROJECTIONS,
    ModelConfig,
    load_base,
    load_tokenizer,
    quieten_libraries,
    read_weights,
    shapes_of,
    start_unsloth,
)
from motion_llm.network.code_vectors import as_rows
from motion_llm.network.folder import MOTION_CONFIG, ModelError, read_motion_config
from motion_llm.network.folder_tokenizer import FolderTokenizer, count_tokens
from motion_llm.network.fuse import fuse, look_up_new_rows, unfuse
from motion_llm.network.known_bases import UnknownToFastLoading
from motion_llm.network.merged import MergedNetwork, base_folder, merged_network
from motion_llm.saving import saving_folder
from motion_llm.streams import Streams
from templates import MotionTemplate, MotionVocabulary, new_tokens

log = logging.getLogger(__name__)

__all__ = ["ModelConfig", "ModelError", "MotionLanguageModel", "MergedModel", "add_motion_tokens", "build", "load",
           "load_for_decoding", "load_tokenizer", "scale_logits", "start_unsloth", "sum_nll"]

ADAPTER_WEIGHTS = "adapter_model.safetensors"


def add_motion_tokens(tokenizer, codebook: Streams | int, participants: Sequence[str]) -> MotionVocabulary:
    """Append the new tokens to the tokenizer. codebook: the streams, or the codes of one. Raises ModelError where it
    already has one of them."""
    from tokenizers import AddedToken

    streams = Streams.one(codebook) if isinstance(codebook, int) else codebook
    spellings = new_tokens(streams, participants)
    vocabulary = MotionVocabulary(len(tokenizer), streams.size, tuple(participants), streams)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in spellings])
    ids = tokenizer.convert_tokens_to_ids(spellings)
    if ids != list(vocabulary.new_ids):
        duplicate = next(token for token, token_id, new_id in zip(spellings, ids, vocabulary.new_ids, strict=True)
                         if token_id != new_id)
        raise ModelError(f"the base's tokenizer knows {duplicate!r} already: use a base without motion tokens")
    return vocabulary


def start_rows(weight, new_ids: range, seed: int, code_vectors=None) -> None:
    """Initialise the new rows of weight (V, D), in place, with the mean and spread of the old rows in each dimension.

    The codes' rows, which come first, have the angles of code_vectors (K, d). Other rows, and without code_vectors all
    rows, are drawn at random.
    """
    generator = torch.Generator().manual_seed(seed)
    old = weight[:new_ids.start].float()
    deviations = torch.randn(len(new_ids), old.shape[1], generator=generator)
    if code_vectors is not None:
        deviations[:len(code_vectors)] = as_rows(code_vectors, old.shape[1], seed)
    weight[new_ids.start:new_ids.stop] = (old.mean(0) + deviations.to(old.device) * old.std(0)).to(weight.dtype)


def _with_new_rows_and_lora(network, tokenizer, vocabulary: MotionVocabulary, config: ModelConfig, code_vectors):
    fast_language_model = start_unsloth()
    base_rows = network.get_input_embeddings().weight.shape[0]
    # Some bases have more rows than their tokenizer has tokens, and must not shrink.
    network.resize_token_embeddings(max(len(tokenizer), base_rows), mean_resizing=False)
    tied = network.get_input_embeddings().weight is network.get_output_embeddings().weight
    trainable_rows = {"embed_tokens": list(vocabulary.new_ids)}
    with torch.no_grad():
        start_rows(network.get_input_embeddings().weight, vocabulary.new_ids, config.seed, code_vectors)
        if not tied:
            trainable_rows["lm_head"] = list(vocabulary.new_ids)
            start_rows(network.get_output_embeddings().weight, vocabulary.new_ids, config.seed + 1, code_vectors)
    with contextlib.redirect_stdout(sys.stderr):
        network = fast_language_model.get_peft_model(
            network, r=config.lora_r, lora_alpha=config.lora_alpha, lora_dropout=0.0, bias="none",
            target_modules=list(PROJECTIONS), use_gradient_checkpointing=False, random_state=config.seed,
            trainable_token_indices=trainable_rows)
    for module in network.modules():
        if hasattr(module, "lora_A"):
            module.cast_input_dtype_enabled = False  # the small matrices are cast, not the input
    network.peft_config["default"].base_model_name_or_path = config.model_name
    return network


def unfreeze(network) -> None:
    """Make exactly the LoRA matrices and the new rows trainable.

    On a GPU, Unsloth's preparation silently freezes everything but LoRA, the new rows too.
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
    def width(self) -> int:
        """The hidden size."""
        return self.network.config.get_text_config().hidden_size

    @property
    def tied(self) -> bool:
        """Whether the codes' rows in the embedding are also their rows in the head."""
        return not any(".lm_head." in name or name.startswith("lm_head") for name, p in self.named_parameters()
                       if p.requires_grad)

    @property
    def device(self):
        return next(self.network.parameters()).device

    def answer_rows(self):
        """The head's rows of the codes and <MOT_END>, (K + 1, D): the only tokens that decoding a motion can emit."""
        head = self.network.get_output_embeddings()
        if hasattr(head, "token_adapter"):
            adapter = head.token_adapter.tied_adapter or head.token_adapter
            return adapter.trainable_tokens_delta["default"][:self.vocabulary.codebook_size + 1]
        return head.weight[self.vocabulary.first_motion_id:self.vocabulary.end_id + 1]

    def hidden_states(self, input_ids, attention_mask):
        """(B, T) ids to (B, T, D), in the precision of the frozen weights."""
        base = self.network.get_base_model() if hasattr(self.network, "get_base_model") else self.network
        # On a CPU network/fused.py multiplies in that precision; elsewhere autocast casts the float32 LoRA matrices.
        fused = self.device.type == "cpu" and not self.model_config.load_in_4bit
        autocast = not fused and base.dtype != torch.float32
        with torch.autocast(self.device.type, dtype=base.dtype, enabled=autocast):
            return base.get_decoder()(input_ids=input_ids, attention_mask=attention_mask,
                                      use_cache=False).last_hidden_state

    def answer_nll(self, input_ids, attention_mask, labels):
        """The negative log-likelihood of every answer token, (N,), row by row.

        For motion answers the softmax runs over the codes of the position's stream, and over <MOT_END> where a step
        begins; for text answers over the whole vocabulary. Only answer positions are multiplied with the head.
        """
        hidden = self.hidden_states(input_ids, attention_mask)[:, :-1]
        loss_mask = labels[:, 1:] != IGNORED  # (B, T - 1); position t predicts label t + 1
        hidden, target = hidden[loss_mask], labels[:, 1:][loss_mask]
        codes = target - self.vocabulary.first_motion_id
        is_motion = (codes >= 0) & (codes <= self.vocabulary.codebook_size)  # <MOT_END> follows the last code
        is_motion |= target == self.vocabulary.mask_id
        rows = self.answer_rows()
        nll = torch.zeros(len(target), device=hidden.device)
        if is_motion.any():
            logits = hidden[is_motion].to(rows.dtype) @ rows.T
            logits = scale_logits(self.network.config, logits).float()
            nll = nll.masked_scatter(is_motion, self._motion_nll(logits, codes[is_motion]))
        if not is_motion.all():
            logits = self.network.get_output_embeddings()(hidden[~is_motion])
            logits = scale_logits(self.network.config, logits).float()
            nll = nll.masked_scatter(~is_motion, functional.cross_entropy(logits, target[~is_motion], reduction="none"))
        return nll

    def _motion_nll(self, logits, codes):
        """(N,), of flat codes (N,) given logits (N, K + 1). Where an absent stream has a code, that is any code of it:
        all that is known there is that the motion does not end."""
        streams, end = self.vocabulary.streams, self.vocabulary.codebook_size
        if streams.count == 1:
            return functional.cross_entropy(logits, codes, reduction="none")
        bounds = torch.tensor(streams.starts[1:], device=codes.device)
        stream = torch.searchsorted(bounds, codes, right=True) % streams.count  # an end stands where a step begins
        logits = logits.masked_fill(~torch.tensor(streams.may_follow(), device=codes.device)[stream], -torch.inf)
        chosen = logits.gather(1, codes.clamp(max=end)[:, None])[:, 0]
        return logits.logsumexp(1) - torch.where(codes > end, logits[:, :-1].logsumexp(1), chosen)

    def forward(self, input_ids, attention_mask, labels, num_items_in_batch=None):
        """The mean loss of the answer tokens. num_items_in_batch: their number in the step, where gradients are
        accumulated over several batches."""
        nll = self.answer_nll(input_ids, attention_mask, labels)
        return {"loss": nll.sum() / (len(nll) if num_items_in_batch is None else num_items_in_batch)}

    def trainable_state(self) -> dict:
        """Name to tensor of all trainable parameters."""
        return {name: p.detach().cpu() for name, p in self.network.named_parameters() if p.requires_grad}

    def load_trainable_state(self, state: dict) -> None:
        parameters = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        if state.keys() != parameters.keys():
            differing = sorted(state.keys() ^ parameters.keys())
            raise ModelError(f"the saved values do not fit the model: {len(differing)} names differ, such as "
                             f"{differing[0]}")
        with torch.no_grad():
            for name, parameter in parameters.items():
                if parameter.shape != state[name].shape:
                    raise ModelError(f"{name}: saved as {tuple(state[name].shape)}, the model has "
                                     f"{tuple(parameter.shape)}")
                parameter.copy_(state[name])

    def merged(self):
        """The base's own architecture with LoRA and the new rows merged in. This model cannot be trained or saved
        afterwards. Weights in 4 bits become 16 bits."""
        unfuse(self.network)
        if self.model_config.load_in_4bit:
            _merge_unquantised(self.network)
        self.network = self.network.merge_and_unload()
        return self.network.eval()

    def save(self, folder: str | Path, extra: dict) -> None:
        """Write adapter, new rows, tokenizer and `extra` (JSON) as a folder, which is always whole. Raises OSError."""
        with saving_folder(folder) as temporary:
            self.network.save_pretrained(temporary, save_embedding_layers=False)
            (temporary / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
            adapter_config = read_json(temporary / "adapter_config.json")
            adapter_config["target_modules"].sort()  # from a set, whose order is another one in every process
            write_json(temporary / "adapter_config.json", adapter_config)
            self.tokenizer.save_pretrained(temporary)
            content = {"model": asdict(self.model_config), "vocabulary": self.vocabulary.to_dict(), **extra}
            write_json(temporary / MOTION_CONFIG, content | {"files": digests_of(temporary)})


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


def build(config: ModelConfig, codebook: Streams | int, participants: Sequence[str], device: str | None = None,
          code_vectors=None):
    """A MotionLanguageModel with fresh LoRA and new rows. Raises ModelError for a base that cannot have them.

    codebook: the streams of motion tokens, or the codes of one. code_vectors (K, d): similar codes have similar
    vectors, and so do their rows at the start (network/code_vectors.py); None: all rows start at random.
    """
    network, tokenizer = load_base(config, device)
    vocabulary = add_motion_tokens(tokenizer, codebook, participants)
    network = _with_new_rows_and_lora(network, tokenizer, vocabulary, config, code_vectors)
    unfreeze(network)
    model = MotionLanguageModel(network, tokenizer, vocabulary, config)
    if model.device.type == "cpu":
        fuse(network, vocabulary.first_motion_id)
    else:
        look_up_new_rows(network, vocabulary.first_motion_id)
    return model


def _checked_config(folder: str | Path) -> dict:
    """motion_config.json of a folder whose files are those that were saved. Raises ModelError for others."""
    content = read_motion_config(folder)
    if "files" in content:
        check_digests(Path(folder), content["files"], ModelError)
    else:
        say_unchecked(Path(folder))
    return content


def load(folder: str | Path, device: str | None = None):
    """The MotionLanguageModel saved in `folder`, on the base that is named there.

    Raises ModelError for a folder that is damaged or does not fit its base.
    """
    content = _checked_config(folder)
    config = ModelConfig(**content["model"])
    vocabulary = MotionVocabulary.from_dict(content["vocabulary"])
    model = build(config, vocabulary.streams, vocabulary.participants, device)
    if model.vocabulary != vocabulary:
        raise ModelError(f"{folder} was trained on a base whose new tokens start at id {vocabulary.first_motion_id}, "
                         f"this {config.model_name} starts them at {model.vocabulary.first_motion_id}")
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    shapes = shapes_of(get_peft_model_state_dict(model.network, save_embedding_layers=False))
    set_peft_model_state_dict(model.network, read_weights(Path(folder) / ADAPTER_WEIGHTS, shapes))
    return model


@dataclass(frozen=True)
class MergedModel:
    """A trained model that can only decode."""

    network: MergedNetwork
    tokenizer: FolderTokenizer
    vocabulary: MotionVocabulary
    template: MotionTemplate

    def merged(self) -> MergedNetwork:
        return self.network


def load_for_decoding(folder: str | Path, device: str | None = None) -> MergedModel | MotionLanguageModel:
    """The model saved in `folder`, with the parts that decoding needs: network (from `merged`), tokenizer, vocabulary
    and template. On a CPU it is read without Unsloth and transformers, where all about it is known; elsewhere as `load`
    does. Both give the same answers. Raises ModelError as `load` does.
    """
    forced = os.environ.get("UNSLOTH_FORCE_CPU") == "1"
    if device == "cpu" or device is None and (forced or not torch.accelerator.is_available()):
        try:
            return _load_merged(folder)
        except UnknownToFastLoading as reason:
            log.info("loading takes longer, by way of Unsloth, because of %s", reason)
    return load(folder, device)


def _load_merged(folder: str | Path) -> MergedModel:
    """Raises UnknownToFastLoading for what only `load` can read, or refuse with its reason."""
    folder, content = Path(folder), _checked_config(folder)
    quieten_libraries()
    config, vocabulary = ModelConfig(**content["model"]), MotionVocabulary.from_dict(content["vocabulary"])
    base = base_folder(config.model_name)
    tokenizer, base_tokens = FolderTokenizer(folder), count_tokens(base)
    if base_tokens != vocabulary.first_motion_id:
        raise UnknownToFastLoading(f"{base_tokens} tokens in the base, where new ones start at "
                                   f"{vocabulary.first_motion_id}")
    spellings = new_tokens(vocabulary.streams, vocabulary.participants)
    if [tokenizer.token_to_id(token) for token in spellings] != list(vocabulary.new_ids):
        raise UnknownToFastLoading(f"{folder}/tokenizer.json, which has other motion tokens")
    network = merged_network(config, base, folder / ADAPTER_WEIGHTS, vocabulary.new_ids, len(tokenizer))
    return MergedModel(network, tokenizer, vocabulary, MotionTemplate(tokenizer, vocabulary))
