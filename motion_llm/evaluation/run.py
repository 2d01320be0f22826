"""An evaluation from start to end: generate clips, each saved at once, score them, write the files and the page."""

import contextlib
import hashlib
import json
import logging
import platform
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np

from motion_llm.dataset.lengths import LengthModel
from motion_llm.dataset.rows import caption_key
from motion_llm.evaluation.generated_clips import match, read_generated
from motion_llm.evaluation.joint_judge import JointJudge
from motion_llm.evaluation.rows import MOST_TOKENS, EvaluationError, EvaluationInputs, EvaluationRow, gather
from motion_llm.json_files import read_json, write_json, write_text
from motion_llm.motion.codec import CodecError, MotionCodec, codec_facts
from motion_llm.network.folder import CODEC_FOLDER, MOTION_CONFIG, read_motion_config
from motion_llm.saving import locked

log = logging.getLogger(__name__)

CHUNK = 128  # rows that are generated and saved at a time
CLIPS, REQUEST, METRICS_FILE = "generated.jsonl", "request.json", "metrics.json"
BASELINES, DETAILS, PAGE, EVALUATOR = "baselines.json", "details.json", "report.html", "evaluator"
OUTPUT_FILES = (CLIPS, REQUEST, METRICS_FILE, BASELINES, DETAILS, PAGE)
CODES = re.compile(rb'"motion_tokens": "(\d{1,9}(?: \d{1,9})*)"')  # in a line of generated.jsonl
VERSIONS = ("torch", "transformers", "peft", "unsloth", "numpy", "rapidfuzz", "sacrebleu", "rouge-score")


@dataclass(frozen=True)
class Request:
    """What to evaluate. model_path: a stage's folder, None for clips from a file (`generated`). data: the rows to
    score, None for the run's own test set. output: a folder, None for evaluation/ beside the model. num_samples: clips
    for each row. max_prompts: rows, None for all. train_data: training clips, None for those beside the model. fresh:
    remove the files of an earlier evaluation in output. split: which rows of data, None for its test rows if it has
    any, else all. codec: a codec's folder, None for the copy in the model's folder, if any. decoding: GEN_ settings
    that replace the model's."""

    model_path: str | None
    data: str | None = None
    output: str | None = None
    num_samples: int = 3
    max_prompts: int | None = None
    seed: int = 0
    include_train: bool = False
    generated: str | None = None
    train_data: str | None = None
    fresh: bool = False
    device: str | None = None
    split: str | None = None
    codec: str | None = None
    decoding: Mapping = field(default_factory=dict)


def evaluate_model(request: Request) -> str:
    """Evaluate, write the files, and return the text to print. Raises ValueError (or a subclass) and OSError for a
    request that cannot be evaluated."""
    started = time.monotonic()
    for name, least in (("num_samples", 1), ("max_prompts", 1), ("seed", 0)):
        value = getattr(request, name)
        if value is not None and value < least:
            raise EvaluationError(f"--{name} is {value}, expected {least} or more")
    model_path = None if request.model_path is None else Path(request.model_path)
    motion_config = None if model_path is None else read_motion_config(model_path)
    if request.decoding and (motion_config is None or request.generated is not None):
        raise EvaluationError(f"{', '.join('--' + name.lower() for name in request.decoding)}: clips from a file "
                              "cannot be decoded again; leave --generated out")
    if motion_config is not None:
        motion_config["settings"] = motion_config["settings"] | request.decoding
    if request.decoding.get("GEN_GUIDANCE", 1) != 1 and not motion_config["settings"].get("CAPTION_DROPOUT"):
        raise EvaluationError(f"--gen_guidance is {request.decoding['GEN_GUIDANCE']:g}, but {model_path} was trained "
                              "with every caption: train with CAPTION_DROPOUT 0.1, or leave it at 1")
    if motion_config is not None and "t2m" not in motion_config["tasks"]:
        raise EvaluationError(f"{model_path} was trained for {', '.join(motion_config['tasks'])}, not for text to "
                              "motion")
    if motion_config is None and (request.data is None or request.generated is None):
        raise EvaluationError("without a model there is no test set of its own, and nothing to generate with: give "
                              "--data FILE and --generated FILE")
    output = Path(request.output) if request.output else (model_path.parent if model_path else Path()) / "evaluation"
    if output.exists() and not output.is_dir():
        raise EvaluationError(f"--output {output} is a file, expected a folder or a new name")
    with _working_in(output):
        return _evaluate(request, model_path, motion_config, output, started)


@contextlib.contextmanager
def _working_in(output: Path) -> Iterator[None]:
    """Hold the folder for one evaluation at a time. A new one stays only if something was written there. Raises
    EvaluationError where another evaluation holds it."""
    is_new = not output.exists()
    try:
        with locked(output / ".lock", EvaluationError(f"another evaluation is using {output}: wait for it, or choose "
                                                      "another --output")):
            yield
    finally:
        if is_new and output.is_dir() and not any(output.iterdir()):
            with contextlib.suppress(OSError):  # another one has just begun there
                output.rmdir()


def _evaluate(request: Request, model_path: Path | None, motion_config: Mapping | None, output: Path, started: float
              ) -> str:
    inputs = gather(request.data, request.train_data, model_path, motion_config, request.max_prompts,
                    request.include_train, request.seed, request.split)
    codec = _codec_folder(request.codec, model_path, inputs)
    log.info("%d rows of %s to score%s", len(inputs.rows), inputs.facts["path"],
             "".join(f"\n  {note}" for note in inputs.notes))
    clips = nll = None
    if request.generated is not None:
        positions = motion_config["settings"]["MAX_SEQ_LEN"] if motion_config else 0
        generated = read_generated(request.generated, max(MOST_TOKENS, positions))
        clips, notes = match(generated, inputs.rows, request.num_samples)
        inputs.notes += notes
    _claim(output, _clip_facts(request, model_path, motion_config, inputs), request.fresh)
    if clips is None:
        clips, nll = _generate(model_path, inputs, request, output)
    text = _score(inputs, clips, nll, motion_config, model_path, output, request, started, codec)
    return f"{text}\n\n{output / PAGE} shows it in a browser ({(time.monotonic() - started) / 60:.1f} minutes)."


# ---------------------------------------------------------------- generating, saved chunk by chunk


def _clip_facts(request: Request, model_path: Path | None, motion_config: Mapping | None, inputs: EvaluationInputs
                ) -> dict:
    """Everything that the clips in an output folder depend on, for request.json."""
    model = None
    if motion_config is not None and request.generated is None:
        with open(model_path / "adapter_model.safetensors", "rb") as file:
            model = hashlib.file_digest(file, "sha256").hexdigest()
    settings = motion_config["settings"] if motion_config else {}
    decoding = {name: value for name, value in settings.items() if name.startswith("GEN_")}
    return {"model": model, "generated": request.generated, "data_fingerprint": inputs.facts["fingerprint"],
            "rows": hashlib.sha256(str([row.index for row in inputs.rows]).encode()).hexdigest(),
            "num_samples": request.num_samples, "seed": request.seed, "decoding": decoding}


def _claim(output: Path, clip_facts: Mapping, fresh: bool) -> None:
    """Refuse a folder with clips of another request; --fresh removes them."""
    existing = [name for name in OUTPUT_FILES if (output / name).is_file()]
    if existing and not fresh:
        if not (output / REQUEST).is_file():
            raise EvaluationError(f"{output} holds {', '.join(existing)} but no {REQUEST}, so they may not be an "
                                  "evaluation's: choose another --output, or move them away")
        earlier = read_json(output / REQUEST, EvaluationError)
        changed = [f"{name}: {str(earlier.get(name))[:120]} before, {str(value)[:120]} now"
                   for name, value in clip_facts.items() if earlier.get(name) != value]
        if changed:
            lines = "\n  ".join(changed)
            raise EvaluationError(f"{output} holds an evaluation of something else, says {REQUEST}:\n  {lines}\n"
                                  "Choose another --output, or give --fresh to remove it.")
    for name in sorted(existing, key=lambda name: name == REQUEST) if fresh else ():  # request.json last
        (output / name).unlink()
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / REQUEST, dict(clip_facts))


def _line(row: EvaluationRow, sample: int, codes: Sequence[int]) -> str:
    return json.dumps({"text_query": row.text_query, "motion_tokens": " ".join(map(str, codes)),
                       "participant_id": row.participant_id, "row": row.index, "sample": sample}, ensure_ascii=False)


def _earlier_clips(path: Path, order: Sequence[EvaluationRow], samples: int) -> list[list[int]]:
    """The clips that an earlier start saved, in `order`, up to the last whole chunk; the rest is generated again.
    Raises EvaluationError for a line that is not the expected clip."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is an unfinished line
    clips = []
    for place, line in enumerate(lines[:len(order) * samples]):
        row, sample = order[place // samples], place % samples
        match = CODES.search(line)
        codes = [int(code) for code in match[1].split()] if match else []
        if not codes or line != _line(row, sample, codes).encode():
            raise EvaluationError(f"{path}: line {place + 1} is not the clip expected there (row {row.index}, sample "
                                  f"{sample}): it was changed; give --fresh to generate anew")
        clips.append(codes)
    whole = len(clips) if len(clips) == len(order) * samples else len(clips) // (CHUNK * samples) * CHUNK * samples
    return clips[:whole]


def _generate(model_path: Path, inputs: EvaluationInputs, request: Request, output: Path
              ) -> tuple[list[list[list[int]]], dict[str, tuple[float, int]]]:
    """The clips of each row; and caption key -> the NLL of its real clips, as the sum over their tokens and the number
    of tokens."""
    from tqdm import tqdm

    from model import start_unsloth  # imports torch, which takes seconds

    start_unsloth(request.device)
    from generate import MotionGenerator  # imports transformers, so only after start_unsloth

    generator = MotionGenerator(model_path, device=request.device)
    generator.settings |= request.decoding
    trained = set(generator.vocabulary.participants)
    untrained = {row.participant_id for row in inputs.rows} - trained - {None}
    if untrained:
        inputs.notes.append(f"{len(untrained)} participants were never trained ({', '.join(sorted(untrained)[:5])}): "
                            "their rows are generated without one")
    # Rows of similar length are generated together, so that few clips of a batch wait for a long one.
    places = sorted(range(len(inputs.rows)), key=lambda i: (len(inputs.rows[i].codes), i))
    order = [inputs.rows[i] for i in places]
    generated = _earlier_clips(output / CLIPS, order, request.num_samples)
    done = len(generated) // request.num_samples
    write_text(output / CLIPS, "".join(_line(order[i // request.num_samples], i % request.num_samples, codes) + "\n"
                                       for i, codes in enumerate(generated)))
    with open(output / CLIPS, "a", encoding="utf-8") as file, tqdm(
            total=len(order), initial=done, unit="row", desc="generating", file=sys.stderr) as bar:
        for start in range(done, len(order), CHUNK):
            rows = order[start:start + CHUNK]
            motions = generator.generate_batch(
                [row.text_query for row in rows],
                [row.participant_id if row.participant_id in trained else None for row in rows],
                seed=_chunk_seed(request.seed, start), num_samples=request.num_samples)
            new = [[int(code) for code in motion.split()] for motion in motions]
            file.write("".join(_line(rows[i // request.num_samples], i % request.num_samples, codes) + "\n"
                               for i, codes in enumerate(new)))
            file.flush()
            generated += new
            bar.update(len(rows))
    clips: list[list[list[int]]] = [[] for _ in inputs.rows]
    for turn, place in enumerate(places):
        clips[place] = generated[turn * request.num_samples:(turn + 1) * request.num_samples]
    return clips, _nll(generator, inputs.rows, trained)


def _chunk_seed(seed: int, start: int) -> int:
    """A seed for each chunk, so that a resumed evaluation draws the same clips as one that was not interrupted."""
    return int(np.random.default_rng([seed, start]).integers(2**62))


def _nll(generator, rows: Sequence[EvaluationRow], trained: set[str]) -> dict[str, tuple[float, int]]:
    items = [{"text_query": row.text_query, "codes": row.codes,
              "participant_id": row.participant_id if row.participant_id in trained else None} for row in rows]
    sums: dict[str, tuple[float, int]] = {}
    for row, log_probability in zip(rows, generator.motion_log_probabilities(items), strict=True):
        total, tokens = sums.get(row.key, (0.0, 0))
        sums[row.key] = total - log_probability, tokens + len(row.codes) + 1
    return sums


# ---------------------------------------------------------------- scoring and writing


def _codec_folder(codec_path: str | None, model_path: Path | None, inputs: EvaluationInputs) -> Path | None:
    """The codec's folder: `codec_path`, else the copy in the model's folder, else None. Raises CodecError for a codec
    that does not fit the tokens."""
    if codec_path is not None:
        folder = Path(codec_path)
    elif model_path is not None and (model_path / CODEC_FOLDER).is_dir():
        folder = model_path / CODEC_FOLDER
    else:
        return None
    codes = codec_facts(folder)["codes"]
    if model_path is not None and codes != inputs.codebook_size:
        raise CodecError(f"the codec in {folder} has {codes} codes, but {model_path} was trained with "
                         f"{inputs.codebook_size}: they do not belong together")
    for row in inputs.rows:
        if max(row.codes) >= codes:
            raise CodecError(f"the codec in {folder} has {codes} codes, but row {row.index} of {inputs.facts['path']} "
                             f"has code {max(row.codes)}: they do not belong together")
    training = inputs.training.clips + inputs.training.held_clips if inputs.training else []
    largest = max(map(max, training), default=0)
    if largest >= codes:
        raise CodecError(f"the codec in {folder} has {codes} codes, but {inputs.training.source} has code {largest}: "
                         "they do not belong together")
    inputs.codebook_size = codes  # without a model it was only the largest code + 1
    return folder


def _score(inputs: EvaluationInputs, clips: list, nll: Mapping | None, motion_config: Mapping | None,
           model_path: Path | None, output: Path, request: Request, started: float, codec: Path | None) -> str:
    """Score the clips, write every file but generated.jsonl, and return the text to print."""
    # these import torch, which takes seconds
    from motion_llm.evaluation.evaluator_folder import evaluator_of
    from motion_llm.evaluation.findings import breakdown, deviations, format_scores, not_available, verdict
    from motion_llm.evaluation.report_page import write_page
    from motion_llm.evaluation.table import MODEL, Judge, score_all
    from motion_llm.evaluation.tasks import score_tasks, without_model

    beside_model = inputs.training is not None and request.train_data is None and motion_config is not None
    evaluator = evaluator_of(inputs, (model_path.parent if beside_model else output) / EVALUATOR, request.seed)
    joints = None if codec is None else JointJudge(MotionCodec.load(codec), [row.codes for row in inputs.rows])
    judge = Judge(inputs.rows, inputs.codebook_size, evaluator, inputs.training, request.seed, joints)
    table = score_all(judge, clips, nll)
    tasks = (without_model() if nll is None
             else score_tasks(inputs, model_path, motion_config, request.device, request.seed))
    tasks.add_to(table)
    inputs.notes += [*deviations(judge, clips), *tasks.notes]
    lines = [*verdict(table, len(judge.captions)), *tasks.verdict]
    missing = [*not_available(table, judge, nll is not None), *tasks.missing]
    details = {"verdict": lines, "notes": inputs.notes, "not_available": missing, "by": tasks.by,
               "captions_said": tasks.captions, **breakdown(judge, clips)}
    if codec is not None:
        details["codec"] = {"path": str(codec)} | codec_facts(codec)
    details |= _provenance(inputs, request, motion_config, evaluator, len(clips[0]), started)
    content = _content(table, tasks.by)
    write_json(output / METRICS_FILE, content[MODEL])
    write_json(output / BASELINES, {name: splits for name, splits in content.items() if name != MODEL})
    write_json(output / DETAILS, details)
    write_page(output / PAGE, table, details, judge.rows, clips, _lengths(motion_config, inputs.rows),
               _histories(model_path, motion_config))
    return format_scores(table, lines, [*inputs.notes, *missing])


def _content(table: Mapping, by: Mapping[str, str]) -> dict:
    """The table as JSON. The model's metrics of other tasks have the stage that answered, as "by"."""
    from motion_llm.evaluation.table import METRICS, MODEL  # imports torch, which takes seconds

    content = {row: {split: {name: estimate.to_dict() for name, estimate in metrics.items()}
                     for split, metrics in splits.items()} for row, splits in table.items()}
    for metrics in content[MODEL].values():
        for name, figure in metrics.items():
            if METRICS[name].task != "t2m":
                figure["by"] = by.get(name)
    return content


def _provenance(inputs: EvaluationInputs, request: Request, motion_config: Mapping | None, evaluator, samples: int,
                started: float) -> dict:
    """The data, settings, evaluator and versions behind the figures, for details.json."""
    return {
        "data": inputs.facts, "trained_on": inputs.trained_on, "codebook_size": inputs.codebook_size,
        "request": {name: value for name, value in asdict(request).items() if name not in ("fresh", "device")}
        | {"samples": samples},
        "settings": dict(motion_config["settings"]) if motion_config else {},
        "evaluator": evaluator and {"config": vars(evaluator.config), "history": evaluator.history} | evaluator.facts,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in VERSIONS},
        "minutes": round((time.monotonic() - started) / 60, 2)}


def _lengths(motion_config: Mapping | None, rows: Sequence[EvaluationRow]) -> list[float] | None:
    """The length, in tokens, that decoding aims at for each row; None without a model."""
    if motion_config is None:
        return None
    model = LengthModel.from_dict(motion_config["length_model"], caption_key)
    return [float(model.limits(row.text_query, row.participant_id).soft_target) for row in rows]


def _histories(model_path: Path | None, motion_config: Mapping | None) -> dict[str, dict]:
    """stage folder -> history of its training, for the stages of the model's run up to the model itself."""
    if motion_config is None:
        return {}
    histories = {}
    for path in sorted(model_path.resolve().parent.glob(f"*/{MOTION_CONFIG}")):
        content = read_motion_config(path.parent)
        if content.get("data_fingerprint") == motion_config.get("data_fingerprint"):
            histories[path.parent.name] = content["history"]
        if path.parent == model_path.resolve():
            break
    return histories
