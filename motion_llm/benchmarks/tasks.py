"""`python bench.py tasks`: how well a model denoises, in-betweens and continues held-out clips.

Each held-out clip of the run loses a third of its tokens, and the model's tokens are compared with the lost ones,
beside two baselines that need no model: repeating the last token before the gap, and copying the tokens before it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from motion_llm.dataset.prepared import load_prepared
from motion_llm.dataset.rows import caption_key
from motion_llm.decoding.request import MotionRequest
from motion_llm.evaluation.lost_tokens import FEWEST_TOKENS, METHODS, TASKS, fill_in

PARTS = ("seen", "unseen")


def add_arguments(parser) -> None:
    parser.add_argument("--model_path", help="a trained stage's folder. Default: WORK_DIR/stage2_multitask")


def run(args, settings: Mapping) -> dict:
    """Raises ModelError, GenerationError, ValueError where the folder's run has no held-out clips."""
    from model import start_unsloth  # imports torch, which takes seconds

    start_unsloth()
    from generate import MotionGenerator  # imports transformers, which must come after Unsloth

    path = Path(args.model_path or Path(settings["WORK_DIR"]) / "stage2_multitask")
    generator = MotionGenerator(path)
    folder = path.resolve().parent / "prepared_data"
    rows = [row for part in PARTS for row in load_prepared(folder, part).to_list()
            if len(row["codes"]) >= FEWEST_TOKENS]
    if not rows:
        raise ValueError(f"{folder}: no held-out clip has {FEWEST_TOKENS} tokens or more")
    figures = {"model": str(path), "clips": len(rows)}
    for task in TASKS:
        figures[task] = _filling_in(generator, rows, task, settings["SEED"])
    figures["m2t"] = _captions(generator, rows)
    return figures


def _filling_in(generator, rows: Sequence[Mapping], task: str, seed: int) -> dict:
    from metrics import normalised_edit_distance  # rapidfuzz is not in vLLM's environment, where bench.py runs too

    filled = fill_in(generator, [row["codes"] for row in rows], [row["participant_id"] for row in rows], task, seed,
                     generator.vocabulary.streams)
    return {method: {"distance": float(np.mean([normalised_edit_distance(
                      clip.filled[method][clip.lost].tolist(), clip.codes[clip.lost].tolist()) for clip in filled])),
                  "right": float(np.mean([clip.accuracy(method) for clip in filled]))} for method in METHODS}


def _captions(generator, rows: Sequence[Mapping]) -> dict:
    results = generator.answer([MotionRequest("m2t", motion=row["codes"], participant_id=row["participant_id"],
                                              temperature=0) for row in rows], seed=0)
    right = [caption_key(result.text) == caption_key(row["text_query"])
             for row, result in zip(rows, results, strict=True)]
    examples = [[row["text_query"], result.text] for row, result in list(zip(rows, results, strict=True))[:5]]
    return {"right": float(np.mean(right)), "captions": len({caption_key(row["text_query"]) for row in rows}),
            "examples": examples}


def format_figures(figures: Mapping) -> str:
    head = f"{'a third of the tokens lost':<34}{'':>12}{'edit distance':>15}{'tokens right':>14}"
    lines = [f"{figures['model']}, {figures['clips']} held-out clips", "", head, "-" * len(head)]
    for task, where in TASKS.items():
        for i, method in enumerate(METHODS):
            scores = figures[task][method]
            lines.append(f"{f'{task}: {where}' if i == 0 else '':<34}{method:>12}{scores['distance']:>15.3f}"
                         f"{scores['right']:>14.1%}")
    lines.append(f"\nm2t: {figures['m2t']['right']:.0%} of the captions word for word, among "
                 f"{figures['m2t']['captions']}. For example (real; generated):")
    lines += [f"  {real}; {generated}" for real, generated in figures["m2t"]["examples"]]
    return "\n".join(lines)
