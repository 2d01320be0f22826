"""`python bench.py tasks`: how well a model fills in, goes over a gap and goes on, on held-out clips.

Each held-out clip of the run loses a third of its tokens, and what the model puts there is compared with what was
there, beside two ways that need no model: repeating the last token before the gap, and copying the tokens before it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from metrics import normalised_edit_distance
from templates import MASKED

LEAST = 6  # tokens of a clip that is asked about
PARTS = ("seen", "unseen")
WAYS = ("model", "repeating", "copying")


def add_arguments(parser) -> None:
    parser.add_argument("--model_path", help="a trained stage's folder. Default: WORK_DIR/stage2_multitask")


def run(args, settings: Mapping) -> dict:
    """Raises ModelError, GenerationError, ValueError where the folder's run has no held-out clips."""
    from model import start_unsloth

    start_unsloth()
    from generate import MotionGenerator
    from prepared import load_prepared

    path = Path(args.model_path or Path(settings["WORK_DIR"]) / "stage2_multitask")
    generator = MotionGenerator(path)
    folder = path.resolve().parent / "prepared_data"
    rows = [row for part in PARTS for row in load_prepared(folder, part).to_list() if len(row["codes"]) >= LEAST]
    if not rows:
        raise ValueError(f"{folder}: no held-out clip has {LEAST} tokens or more")
    figures = {"model": str(path), "clips": len(rows)}
    for task in ("denoise", "inbetween", "continue"):
        figures[task] = _filling_in(generator, rows, task, settings["SEED"])
    figures["m2t"] = _captions(generator, rows)
    return figures


def lost_places(task: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """The places of the third of a clip's tokens that are lost; the first is not."""
    third = count // 3
    if task == "denoise":
        return np.sort(1 + rng.choice(count - 1, third, replace=False))
    start = count - third if task == "continue" else 1 + int(rng.integers(0, count - third - 1))
    return np.arange(start, start + third)


def repeating(codes: Sequence[int], lost: np.ndarray) -> list[int]:
    """The codes with each lost one like the last before it."""
    filled = list(codes)
    for place in lost:
        filled[place] = filled[place - 1]
    return filled


def copying(codes: Sequence[int], lost: np.ndarray) -> list[int]:
    """The codes with what stands before the first lost one copied into the lost places, again and again."""
    filled, before = list(codes), list(codes)[:lost[0]][-len(lost):]
    for i, place in enumerate(lost):
        filled[place] = before[i % len(before)]
    return filled


def _filling_in(generator, rows: Sequence[Mapping], task: str, seed: int) -> dict:
    from motion_request import MotionRequest

    requests, losses = [], []
    for i, row in enumerate(rows):
        codes = [int(code) for code in row["codes"]]
        lost = lost_places(task, len(codes), np.random.default_rng([seed, i]))
        start, end = codes[:lost[0]], codes[lost[-1] + 1:]
        asked = {"denoise": {"motion": [MASKED if place in lost else code for place, code in enumerate(codes)]},
                 "inbetween": {"motion": start, "end": end, "tokens": len(codes)},
                 "continue": {"motion": start, "tokens": len(codes)}}[task]
        if task == "denoise":
            asked["motion"] = ["?" if code == MASKED else code for code in asked["motion"]]
        requests.append(MotionRequest(task, participant_id=row["participant_id"], **asked))
        losses.append(lost)
    results = generator.answer(requests, seed=seed)
    scores: dict = {way: {"distance": [], "right": []} for way in WAYS}
    for row, lost, result in zip(rows, losses, results, strict=True):
        codes = np.asarray(row["codes"])
        for way, filled in (("model", result.codes), ("repeating", repeating(codes, lost)),
                            ("copying", copying(codes, lost))):
            found = np.asarray(filled)[lost]
            scores[way]["distance"].append(normalised_edit_distance(found.tolist(), codes[lost].tolist()))
            scores[way]["right"].append(float((found == codes[lost]).mean()))
    return {way: {name: float(np.mean(values)) for name, values in found.items()} for way, found in scores.items()}


def _captions(generator, rows: Sequence[Mapping]) -> dict:
    from data import caption_key
    from motion_request import MotionRequest

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
    titles = {"denoise": "denoise: anywhere", "inbetween": "inbetween: a gap", "continue": "continue: the end"}
    for task, title in titles.items():
        for i, way in enumerate(WAYS):
            found = figures[task][way]
            lines.append(f"{title if i == 0 else '':<34}{way:>12}{found['distance']:>15.3f}{found['right']:>14.1%}")
    lines.append(f"\nm2t: {figures['m2t']['right']:.0%} of the captions word for word, among "
                 f"{figures['m2t']['captions']}. For example (asked; answered):")
    lines += [f"  {asked}; {found}" for asked, found in figures["m2t"]["examples"]]
    return "\n".join(lines)
