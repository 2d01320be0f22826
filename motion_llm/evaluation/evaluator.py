"""A judge of whether a motion fits a caption: a motion and a text encoder into one space, trained on real clips only.

Like the evaluator of Guo et al. 2022, it embeds a clip near its caption and far from others, so the metrics of
embedding_metrics.py work for tokens of any codec. The loss here is InfoNCE (van den Oord et al. 2018) in both
directions, and all clips of one caption count as right.
"""

import copy
import logging
import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from motion_llm.dataset.rows import caption_key
from motion_llm.digests import check_digests, digests_of, say_unchecked
from motion_llm.evaluation.progress import with_bar
from motion_llm.json_files import check_form, read_json, write_json
from motion_llm.network.base import read_weights, shapes_of
from motion_llm.network.folder import ModelError
from motion_llm.saving import saving_folder
from motion_llm.streams import MOST_STREAMS

log = logging.getLogger(__name__)

Codes = Sequence[int]
WEIGHTS, INFO = "evaluator.safetensors", "evaluator.json"
_VERSION = 2  # raise it when the network, its training or text_features change, so that saved evaluators are replaced
_SIZE = range(1, 2_000_000)
_SIZES = ("codebook_size", "dimensions", "width", "buckets", "batch", "steps", "checks", "patience")
EVALUATOR_FORM = {"config": dict.fromkeys(_SIZES, _SIZE) | dict.fromkeys(("lr", "temperature", "lost"), float)
                  | {"seed": range(2**64), "in_step?": range(2, MOST_STREAMS + 1)}, "facts": {}, "files?": {str: str},
                  "history": [{"step": _SIZE, "loss": float, "reciprocal_rank": slice(0, 1)}]}
MOST_CLIPS, MOST_CAPTIONS = 50_000, 1_000  # clips to train on; captions that held-out clips are ranked among
LONGEST = 512  # steps of a clip that are used; the rest is cut off


@dataclass(frozen=True)
class EvaluatorConfig:
    """Sizes and training. dimensions: of the space. buckets: embedding rows for hashed parts of captions. lost: share
    of codes and of caption parts that are masked in training. checks: number of evaluations on held-out clips.
    patience: evaluations without a better result before training stops. in_step: codes of a step, where clips have
    several streams."""

    codebook_size: int
    dimensions: int = 32
    width: int = 64
    buckets: int = 4096
    batch: int = 64
    steps: int = 1000
    checks: int = 20
    patience: int = 5
    lr: float = 2e-3
    temperature: float = 0.1
    lost: float = 0.2
    seed: int = 0
    in_step: int = 1

    def to_dict(self) -> dict:
        """The fields, without in_step where it is 1, as folders of one stream have always had them."""
        return {name: value for name, value in asdict(self).items() if name != "in_step" or value != 1}


def text_features(text: str, buckets: int) -> tuple[list[int], list[int], list[int]]:
    """Words, word pairs and letter n-grams (3 to 5) of a caption, hashed to embedding rows from 1 on (0 is masked).

    Letter n-grams make "walk" and "walking" similar; word pairs keep some of the order.
    """
    words = caption_key(text).split()
    pairs = [f"{a} {b}" for a, b in zip(["^", *words], [*words, "$"], strict=True)]
    letters = [marked[i:i + n] for marked in (f"<{word}>" for word in words) for n in (3, 4, 5)
               for i in range(len(marked) - n + 1)]

    def rows(kind: str, parts: list[str]) -> list[int]:
        return [1 + zlib.crc32(f"{kind} {part}".encode("utf-8", "surrogatepass")) % (buckets - 1) for part in parts]

    return rows("w", words), rows("p", pairs), rows("l", letters)


class _MotionEncoder(nn.Module):
    """Codes to an embedding: code and time embeddings, dilated convolutions, mean and maximum over time. A step of
    several streams is the sum of its codes' embeddings; each stream has codes of its own."""

    def __init__(self, config: EvaluatorConfig):
        super().__init__()
        width = config.width
        self.codes = nn.Embedding(config.codebook_size + 2, width, padding_idx=config.codebook_size + 1)
        self.time = nn.Linear(4, width)
        self.layers = nn.ModuleList(nn.Conv1d(width, width, 3, padding=reach, dilation=reach) for reach in (1, 2, 4))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in self.layers)
        self.out = nn.Sequential(nn.Linear(2 * width + 1, width), nn.GELU(), nn.Linear(width, config.dimensions))
        self.dropout = nn.Dropout(0.2)

    def forward(self, codes: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """codes (B, T, Q), padded; lengths (B,) in steps -> (B, d) of unit length."""
        present = (torch.arange(codes.shape[1]) < lengths[:, None])[..., None].float()  # (B, T, 1)
        place = torch.arange(codes.shape[1]) / (lengths[:, None] - 1).clamp(min=1)  # 0 at the start, 1 at the end
        time = torch.stack([place, 1 - place, torch.sin(math.pi * place), torch.cos(2 * math.pi * place)], -1)
        hidden = self.dropout(self.codes(codes).sum(2) + self.time(time)) * present
        for layer, norm in zip(self.layers, self.norms, strict=True):
            new = layer(hidden.transpose(1, 2)).transpose(1, 2)
            hidden = (hidden + functional.gelu(norm(new))) * present
        mean = hidden.sum(1) / present.sum(1)
        maximum = hidden.masked_fill(present == 0, -torch.inf).amax(1)
        log_length = lengths.float().log()[:, None] / 4
        return functional.normalize(self.out(self.dropout(torch.cat([mean, maximum, log_length], 1))), dim=1)


class _TextEncoder(nn.Module):
    """Caption parts to an embedding: means of words, pairs and letter n-grams, weighted alike whatever their number."""

    def __init__(self, config: EvaluatorConfig):
        super().__init__()
        width = config.width
        self.parts = nn.EmbeddingBag(config.buckets, width, mode="mean", padding_idx=0)
        self.out = nn.Sequential(nn.LayerNorm(3 * width), nn.Linear(3 * width, width), nn.GELU(),
                                 nn.Linear(width, config.dimensions))

    def forward(self, parts: torch.Tensor) -> torch.Tensor:
        """parts (B, 3, P), padded with 0 -> (B, d) of unit length."""
        means = self.parts(parts.flatten(0, 1)).view(len(parts), -1)  # (B, 3 * width)
        return functional.normalize(self.out(means), dim=1)


class Evaluator:
    """Embeds motions and captions. history: the evaluations on held-out clips in training. facts: the caller's, saved
    with the evaluator, such as what it was trained on."""

    def __init__(self, config: EvaluatorConfig):
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.motion, self.text = _MotionEncoder(config), _TextEncoder(config)
        self.history: list[dict] = []
        self.facts: dict = {}

    def embed_motions(self, clips: Sequence[Codes]) -> np.ndarray:
        """(N, d) of unit length. All codes outside the codebook, and those of absent streams, are one unknown code; an
        empty clip is a step of that code alone."""
        order = sorted(range(len(clips)), key=lambda i: len(clips[i]))
        embeddings = np.empty((len(clips), self.config.dimensions), np.float32)
        self.motion.eval()
        with torch.no_grad():
            for start in range(0, len(order), 256):
                part = order[start:start + 256]
                embeddings[part] = self.motion(*self._batch([clips[i] for i in part])).numpy()
        return embeddings

    def embed_captions(self, texts: Sequence[str]) -> np.ndarray:
        """(N, d) of unit length."""
        self.text.eval()
        with torch.no_grad():
            parts = [self.text(self._parts(texts[start:start + 256])) for start in range(0, len(texts), 256)]
        return torch.cat(parts).numpy() if parts else np.empty((0, self.config.dimensions), np.float32)

    def _batch(self, clips: Sequence[Codes]) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, Q) codes of the clips' steps, padded; (B,) their steps."""
        unknown, in_step = self.config.codebook_size, self.config.in_step
        lengths = torch.tensor([min(max(1, len(clip) // in_step), LONGEST) for clip in clips])
        codes = torch.full((len(clips), int(lengths.max()), in_step), unknown + 1)
        for i, clip in enumerate(clips):
            row = np.asarray(clip[:LONGEST * in_step], dtype=np.int64) if len(clip) else np.full(in_step, unknown)
            steps = np.where((row < 0) | (row >= unknown), unknown, row).reshape(-1, in_step)
            codes[i, :len(steps)] = torch.from_numpy(steps)
        return codes, lengths

    def _parts(self, texts: Sequence[str]) -> torch.Tensor:
        """(B, 3, P): embedding rows for words, pairs and letter n-grams, padded with 0."""
        features = [text_features(text, self.config.buckets) for text in texts]
        parts = torch.zeros(len(texts), 3, max(len(rows) for kinds in features for rows in kinds), dtype=torch.long)
        for i, kinds in enumerate(features):
            for kind, rows in enumerate(kinds):
                parts[i, kind, :len(rows)] = torch.tensor(rows)
        return parts

    def save(self, folder: str | Path) -> None:
        """Write weights and evaluator.json as a folder, which is always whole. Raises OSError."""
        from safetensors.torch import save_file

        with saving_folder(folder) as temporary:
            save_file(self._state(), temporary / WEIGHTS)
            write_json(temporary / INFO, {"version": _VERSION, "config": self.config.to_dict(), "facts": self.facts,
                                          "history": self.history, "files": digests_of(temporary, [WEIGHTS])})

    def _state(self) -> dict[str, torch.Tensor]:
        both = {"motion": self.motion, "text": self.text}
        return {f"{name}.{key}": value.contiguous() for name, module in both.items()
                for key, value in module.state_dict().items()}

    @classmethod
    def load(cls, folder: str | Path) -> "Evaluator":
        """Raises ModelError for a folder without an evaluator, or with a damaged one."""
        folder = Path(folder)
        if not (folder / INFO).is_file():
            raise ModelError(f"{folder} has no {INFO}, so no evaluator was saved there")
        content = read_json(folder / INFO, ModelError)
        if content.get("version") != _VERSION:
            raise ModelError(f"{folder / INFO} is of version {str(content.get('version'))[:60]}, expected {_VERSION}")
        check_form(content, EVALUATOR_FORM, str(folder / INFO), ModelError)
        if not content["history"]:
            raise ModelError(f"{folder / INFO} has an empty history, so the evaluator was never trained")
        if unknown := [name for name in content["config"] if not {name, f"{name}?"} & {*EVALUATOR_FORM["config"]}]:
            raise ModelError(f"{folder / INFO}: config has {unknown[0][:60]}, which is unknown")
        if "files" in content:
            check_digests(folder, content["files"], ModelError)
        else:
            say_unchecked(folder)
        config = EvaluatorConfig(**content["config"])
        with torch.device("meta"):  # without memory, as the sizes of a stranger may be absurd
            shapes = shapes_of(cls(config)._state())
        weights, evaluator = read_weights(folder / WEIGHTS, shapes), cls(config)
        for name, module in (("motion", evaluator.motion), ("text", evaluator.text)):
            module.load_state_dict({key.removeprefix(f"{name}."): value for key, value in weights.items()
                                    if key.startswith(f"{name}.")})
        evaluator.history, evaluator.facts = content["history"], content["facts"]
        return evaluator


def train_evaluator(clips: Sequence[Codes], captions: Sequence[str], held_clips: Sequence[Codes],
                    held_captions: Sequence[str], config: EvaluatorConfig) -> Evaluator:
    """An evaluator trained on clips and their captions, with the weights that ranked the held-out ones best. A clip
    with several captions comes once a pass, each time under the next one: beside another caption of it in a batch, one
    of the two would count as wrong.

    held_clips, held_captions: not in training; used only for early stopping. The same arguments give the same
    evaluator. Raises ValueError for fewer than two different captions, or without held-out clips.
    """
    keys = [caption_key(text) for text in captions]
    if len(clips) != len(keys) or len(set(keys)) < 2:
        raise ValueError(f"{len(clips)} clips with {len(set(keys))} different captions of {len(keys)}: expected a "
                         "caption for each clip, and two different ones at least")
    if not held_clips or len(held_clips) != len(held_captions):
        raise ValueError(f"{len(held_clips)} held-out clips with {len(held_captions)} captions, expected as many, and "
                         "one at least")
    evaluator, rng = Evaluator(config), np.random.default_rng(config.seed)
    places = np.sort(rng.permutation(len(clips))[:MOST_CLIPS])
    caption_index = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    caption_of_clip = torch.tensor([caption_index[key] for key in keys])
    texts = list({key: text for key, text in zip(keys, captions, strict=True)})
    parts = evaluator._parts(texts)  # (captions, 3, P)
    rank = _Ranks(held_clips, held_captions, keys, rng)
    modules = nn.ModuleList([evaluator.motion, evaluator.text])
    optimizer = torch.optim.AdamW(modules.parameters(), lr=config.lr, weight_decay=0.05)
    every = max(1, config.steps // config.checks)
    best, best_state, waited = -1.0, None, 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        groups = _clips_of(places, clips)
        for step, batch in enumerate(with_bar(_batches(groups, config, rng), config.steps, "evaluator", "step"), 1):
            for group in optimizer.param_groups:  # linear warm-up times cosine decay
                group["lr"] = config.lr * min(1, step / 50) * 0.5 * (1 + math.cos(math.pi * step / config.steps))
            modules.train()
            loss = _loss(evaluator, [clips[i] for i in batch], caption_of_clip[batch], parts)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % every == 0:
                score = rank(evaluator)
                evaluator.history.append({"step": step, "loss": round(loss.item(), 4), "reciprocal_rank": score})
                if score > best:
                    best, best_state, waited = score, copy.deepcopy(modules.state_dict()), 0
                else:
                    waited += 1
                if waited == config.patience:
                    break
    modules.load_state_dict(best_state)
    log.info("evaluator: %d clips, %d captions; held-out mean reciprocal rank %.3f, best after %d of %d steps",
             len(places), len(texts), best, max(evaluator.history, key=lambda h: h["reciprocal_rank"])["step"], step)
    return evaluator


def _clips_of(places: np.ndarray, clips: Sequence[Codes]) -> list[list[int]]:
    """The places of each clip, which has as many captions."""
    by_clip: dict[tuple, list[int]] = {}
    for place in places.tolist():
        by_clip.setdefault(tuple(clips[place]), []).append(place)
    return list(by_clip.values())


def _batches(places: Sequence[Sequence[int]], config: EvaluatorConfig, rng: np.random.Generator):
    """config.steps batches of one of the places of each clip; each clip comes once before any comes again, then with
    its next place. The first one is drawn."""
    first = np.random.default_rng([config.seed, 1]).integers([len(of_clip) for of_clip in places])
    order: list[int] = []
    turn = 0
    for _ in range(config.steps):
        while len(order) < min(config.batch, len(places)):
            order += [places[i][(first[i] + turn) % len(places[i])] for i in rng.permutation(len(places))]
            turn += 1
        yield order[:config.batch]
        del order[:config.batch]


def _loss(evaluator: Evaluator, clips: Sequence[Codes], captions: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
    """InfoNCE between the clips and the distinct captions among them: each clip against the captions, and each caption
    against the clips, where its own clips share the target equally."""
    config = evaluator.config
    codes, lengths = evaluator._batch(clips)
    hidden = (torch.rand(codes.shape) < config.lost) & (codes <= config.codebook_size)
    codes = codes.masked_fill(hidden, config.codebook_size)
    distinct, targets = captions.unique(return_inverse=True)
    words = parts[distinct]
    words = words.masked_fill(torch.rand(words.shape) < config.lost, 0)
    scores = evaluator.motion(codes, lengths) @ evaluator.text(words).T / config.temperature  # (B, C)
    clip_shares = functional.one_hot(targets, len(distinct)).float()
    from_captions = -(clip_shares / clip_shares.sum(0) * scores.log_softmax(0)).sum() / len(distinct)
    return (functional.cross_entropy(scores, targets) + from_captions) / 2


class _Ranks:
    """Mean reciprocal rank of the captions of held-out clips among all captions, at most MOST_CAPTIONS."""

    def __init__(self, clips: Sequence[Codes], captions: Sequence[str], others: Sequence[str],
                 rng: np.random.Generator):
        keys = [caption_key(text) for text in captions]
        held_keys = list(dict.fromkeys(keys))
        other_keys = [key for key in dict.fromkeys(others) if key not in set(held_keys)]
        room = max(0, MOST_CAPTIONS - len(held_keys))
        self.texts = held_keys + [other_keys[i] for i in np.sort(rng.permutation(len(other_keys))[:room])]
        index = {key: i for i, key in enumerate(held_keys)}
        self.clips, self.caption_index = clips, np.array([index[key] for key in keys])

    def __call__(self, evaluator: Evaluator) -> float:
        scores = evaluator.embed_motions(self.clips) @ evaluator.embed_captions(self.texts).T
        own_scores = scores[np.arange(len(self.caption_index)), self.caption_index]
        return round(float((1 / (scores >= own_scores[:, None]).sum(1)).mean()), 6)
