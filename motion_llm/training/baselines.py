"""Held-out scores of a trained model, beside baselines that need no model: as numbers and as a table."""

import random
import sys
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence

import numpy as np
from tqdm import tqdm

from generate import MotionGenerator
from metrics import MotionScores, score_motions
from motion_llm.dataset.caption_index import CaptionIndex
from motion_llm.dataset.rows import Columns, caption_key
from motion_llm.decoding.request import MotionRequest

MOST_CLIPS = 50_000
MODEL, RANDOM, NEAREST, ANOTHER = "model", "random_clip", "nearest_caption_clip", "another_real_clip"
TITLES = {
    MODEL: "this model",
    RANDOM: "random training clip",
    NEAREST: "training clip, most similar caption",
    ANOTHER: "another real clip, same caption",
}


class TrainingClips:
    """Training clips by caption, to draw baselines from.

    chunks: all training clips, iterated twice. If they are more than MOST_CLIPS, a random sample of about that many is
    kept, drawn with `seed`: random clips and most similar captions come from it. All clips of `captions` (caption keys)
    are kept as well.
    """

    def __init__(self, chunks: Iterable[Columns], captions: Container[str] = (), seed: int = 0):
        share = MOST_CLIPS / max(1, sum(map(len, chunks)))
        rng, motions = np.random.default_rng(seed), set()
        self.clips: list[list[int]] = []
        self.by_caption: dict[str, list[list[int]]] = defaultdict(list)
        for chunk in chunks:
            sampled = rng.random(len(chunk)) < share
            for place, text in enumerate(chunk.texts.to_list()):
                key = caption_key(text)
                if sampled[place] or key in captions:
                    codes = chunk.row(place).codes
                    self.by_caption[key].append(codes.tolist())
                    if sampled[place] and codes.tobytes() not in motions:  # a clip counts once, with many captions too
                        motions.add(codes.tobytes())
                        self.clips.append(codes.tolist())
        self._index = CaptionIndex(list(self.by_caption))
        self._nearest: dict[str, str] = {}

    def nearest_caption(self, key: str) -> str:
        if key not in self._nearest:
            self._nearest[key] = self._index.nearest(key, 1)[0][0]
        return self._nearest[key]


def evaluate(generator: MotionGenerator, parts: Mapping[str, Sequence[Mapping]], training: TrainingClips,
             seed: int) -> dict[str, dict[str, dict]]:
    """part -> row of the table -> scores. One clip is generated for each held-out row, with its participant; a bar
    shows how far it is.

    parts: "seen", "unseen", "test" -> rows {"text_query", "codes", "participant_id"}; empty ones are left out. A clip's
    references are all held-out clips of its caption in that part.
    """
    table = {}
    for part, rows in parts.items():
        if not rows:
            continue
        requests = [MotionRequest(text=row["text_query"], participant_id=row["participant_id"]) for row in rows]
        answers = tqdm(generator.answers(requests, seed), f"{part} captions, generating", len(rows), file=sys.stderr,
                       leave=False, unit="clip", dynamic_ncols=True, delay=1,
                       mininterval=0.5 if sys.stderr.isatty() else 30)
        clips = [list(answer.codes) for answer in answers]
        nll, tokens = generator.motion_nll(rows)
        references, in_step = _references(rows), generator.vocabulary.streams.count
        scores = {MODEL: score_motions(clips, references, in_step).to_dict() | {"nll_per_token": nll,
                                                                                 "nll_tokens": tokens}}
        for name, baseline in _baselines(rows, references, training, random.Random(seed), in_step).items():
            if baseline is not None:
                scores[name] = baseline.to_dict()
        table[part] = scores
    return table


def _references(rows: Sequence[Mapping]) -> list[list]:
    by_caption = defaultdict(list)
    for row in rows:
        by_caption[caption_key(row["text_query"])].append(row["codes"])
    return [by_caption[caption_key(row["text_query"])] for row in rows]


def _baselines(rows: Sequence[Mapping], references: Sequence[Sequence], training: TrainingClips,
               rng: random.Random, in_step: int) -> dict[str, MotionScores | None]:
    keys = [caption_key(row["text_query"]) for row in rows]
    scores = {
        RANDOM: score_motions([rng.choice(training.clips) for _ in keys], references, in_step),
        NEAREST: score_motions([rng.choice(training.by_caption[training.nearest_caption(key)]) for key in keys],
                               references, in_step),
    }
    # How much real clips of one caption differ: a training clip of the caption; for a caption that was never trained,
    # another held-out clip, which then is not among its own references.
    clips, clip_references = [], []
    for i, key in enumerate(keys):
        if key in training.by_caption:
            clips.append(rng.choice(training.by_caption[key]))
            clip_references.append(references[i])
        elif len(references[i]) > 1:
            drawn = rng.randrange(len(references[i]))
            clips.append(references[i][drawn])
            clip_references.append([*references[i][:drawn], *references[i][drawn + 1:]])
    return scores | {ANOTHER: score_motions(clips, clip_references, in_step)}


def format_stages(stages: Mapping[str, Mapping]) -> str:
    """The stages as a table: training loss at start and end, the best epoch and its held-out NLL a token, where clips
    are held out."""
    head = f"{'stage':<18}{'training loss':>16}{'kept epoch':>12}{'NLL seen':>10}{'unseen':>8}{'minutes':>9}"
    lines = [head, "-" * len(head)]
    for name, history in stages.items():
        losses, best = [loss for _, loss in history["losses"]], history["best"]
        first_to_last = f"{losses[0]:.2f} to {losses[-1]:.2f}" if losses else ""
        epoch = f"{best['epoch']:g}" if best else "last"
        seen, unseen = (f"{best[kind]:.3f}" if kind in best else "-" for kind in ("seen", "unseen"))
        lines.append(f"{name:<18}{first_to_last:>16}{epoch:>12}{seen:>10}{unseen:>8}{history['seconds'] / 60:>9.1f}")
    return "\n".join(lines)


def format_table(table: Mapping[str, Mapping[str, Mapping]]) -> str:
    """The table as text. Lower is better, except for length accuracy (higher) and length ratio (1 is best)."""
    head = f"{'':<8}{'':<38}{'edit':>6}{'norm.':>7}{'length':>8}{'length':>8}{'length':>8}{'NLL/':>7}{'':>6}"
    names = f"{'set':<8}{'clips':<38}{'dist.':>6}{'dist.':>7}{'within':>8}{'ratio':>8}{'error':>8}{'token':>7}{'n':>6}"
    units = f"{'':<8}{'':<38}{'':>6}{'':>7}{'10 %':>8}{'':>8}{'tokens':>8}{'':>7}{'':>6}"
    lines = [head, names, units, "-" * len(head)]
    for part, scores in table.items():
        for i, (name, values) in enumerate(scores.items()):
            nll = f"{values['nll_per_token']:.3f}" if "nll_per_token" in values else ""
            lines.append(
                f"{part if i == 0 else '':<8}{TITLES[name]:<38}{values['edit_distance']:>6.1f}"
                f"{values['normalised_edit_distance']:>7.3f}{values['length_accuracy']:>8.0%}"
                f"{values['length_ratio']:>8.2f}{values['length_error']:>8.1f}{nll:>7}{values['n']:>6}")
        lines.append("")
    return "\n".join(lines).rstrip()
