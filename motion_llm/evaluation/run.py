"""An evaluation from start to end: clips generated and kept as they come, scored, and written as files and a page."""

import hashlib
import json
import logging
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np

from motion_llm.dataset.rows import caption_key
from motion_llm.evaluation.generated_clips import match, read_generated
from motion_llm.evaluation.rows import Asked, AskedRow, EvaluationError, evaluator_material, gather
from motion_llm.json_files import read_json, write_json
from motion_llm.motion.codec import CodecError, MotionCodec, codec_facts
from motion_llm.network.folder import CODEC_FOLDER, MOTION_CONFIG, ModelError, read_motion_config

log = logging.getLogger(__name__)

CHUNK = 128  # rows that are generated, and kept, at a time
CLIPS, REQUEST, METRICS_FILE = "generated.jsonl", "request.json", "metrics.json"
BASELINES, DETAILS, PAGE, EVALUATOR = "baselines.json", "details.json", "report.html", "evaluator"
OWN = (CLIPS, REQUEST, METRICS_FILE, BASELINES, DETAILS, PAGE)
VERSIONS = ("torch", "transformers", "peft", "unsloth", "numpy", "rapidfuzz", "sacrebleu", "rouge-score")


@dataclass(frozen=True)
class Request:
    """What is to be evaluated. model_path: a stage's folder, None for clips of others (`generated`). data: the rows to
    score, None for the run's own test set. output: a folder, None for evaluation beside the model. num_samples: clips
    for each row. max_prompts: rows, None for all. train_data: training clips, None for those beside the model. fresh:
    remove what is in output. split: which rows of data, None for its test rows where it names any. codec: a folder of
    codec.py's, None for the one that the model keeps, if any. decoding: GEN_ settings instead of the model's."""

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
    """Do it, write the files, and give the text to print. Raises ValueError (its subclasses included) and OSError for
    what cannot be done."""
    started = time.monotonic()
    for name, least in (("num_samples", 1), ("max_prompts", 1), ("seed", 0)):
        value = getattr(request, name)
        if value is not None and value < least:
            raise EvaluationError(f"--{name} is {value}, expected {least} or more")
    model_path = None if request.model_path is None else Path(request.model_path)
    kept = None if model_path is None else read_motion_config(model_path)
    if request.decoding and (kept is None or request.generated is not None):
        raise EvaluationError(f"{', '.join('--' + name.lower() for name in request.decoding)}: clips that are there "
                              "already cannot be decoded otherwise; leave --generated out")
    if kept is not None:
        kept["settings"] = kept["settings"] | request.decoding
    if request.decoding.get("GEN_GUIDANCE", 1) != 1 and not kept["settings"].get("CAPTION_DROPOUT"):
        raise EvaluationError(f"--gen_guidance is {request.decoding['GEN_GUIDANCE']:g}, but {model_path} was trained "
                              "with every caption: train with CAPTION_DROPOUT 0.1, or leave it at 1")
    if kept is not None and "t2m" not in kept["tasks"]:
        raise EvaluationError(f"{model_path} was trained for {', '.join(kept['tasks'])}, not for text to motion")
    if kept is None and (request.data is None or request.generated is None):
        raise EvaluationError("without a model there is no test set of its own, and nothing to generate with: give "
                              "--data FILE and --generated FILE")
    output = Path(request.output) if request.output else (model_path.parent if model_path else Path()) / "evaluation"
    if output.exists() and not output.is_dir():
        raise EvaluationError(f"--output {output} is a file, expected a folder or a new name")
    asked = gather(request.data, request.train_data, model_path, kept, request.max_prompts, request.include_train,
                   request.seed, request.split)
    codec = _codec_folder(request.codec, model_path, asked)
    log.info("%d rows of %s to score%s", len(asked.rows), asked.facts["path"],
             "".join(f"\n  {note}" for note in asked.notes))
    _claim(output, _asked_for(request, model_path, kept, asked), request.fresh)
    if request.generated is not None:
        clips, notes = match(read_generated(request.generated), asked.rows, request.num_samples)
        asked.notes += notes
        nll = None
    else:
        clips, nll = _generate(model_path, asked, request, output)
    text = _score(asked, clips, nll, kept, model_path, output, request, started, codec)
    return f"{text}\n\n{output / PAGE} shows it in a browser ({(time.monotonic() - started) / 60:.1f} minutes)."


# ---------------------------------------------------------------- clips, kept as they come


def _asked_for(request: Request, model_path: Path | None, kept: Mapping | None, asked: Asked) -> dict:
    """All that the clips of a folder depend on."""
    model = None
    if kept is not None and request.generated is None:
        with open(model_path / "adapter_model.safetensors", "rb") as file:
            model = hashlib.file_digest(file, "sha256").hexdigest()
    decoding = {name: value for name, value in kept["settings"].items() if name.startswith("GEN_")} if kept else {}
    return {"model": model, "generated": request.generated, "data_fingerprint": asked.facts["fingerprint"],
            "rows": hashlib.sha256(str([row.index for row in asked.rows]).encode()).hexdigest(),
            "num_samples": request.num_samples, "seed": request.seed, "decoding": decoding}


def _claim(output: Path, asked_for: Mapping, fresh: bool) -> None:
    """Refuse a folder with clips of another request; --fresh removes them."""
    there = [name for name in OWN if (output / name).is_file()]
    if there and not fresh:
        if not (output / REQUEST).is_file():
            raise EvaluationError(f"{output} holds {', '.join(there)} but no {REQUEST}, so no evaluation is known to "
                                  "have left them: choose another --output, or move them away")
        before = read_json(output / REQUEST)
        changed = [f"{name}: {before.get(name)} before, {value} now" for name, value in asked_for.items()
                   if before.get(name) != value]
        if changed:
            raise EvaluationError(f"{output} holds an evaluation of something else:\n  " + "\n  ".join(changed)
                                  + "\nChoose another --output, or give --fresh to remove it.")
    for name in there if fresh else ():
        (output / name).unlink()
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / REQUEST, dict(asked_for))


def _line(row: AskedRow, sample: int, codes: Sequence[int]) -> str:
    return json.dumps({"text_query": row.text_query, "motion_tokens": " ".join(map(str, codes)),
                       "participant_id": row.participant_id, "row": row.index, "sample": sample}, ensure_ascii=False)


def _kept_clips(path: Path, order: Sequence[AskedRow], samples: int) -> list[list[int]]:
    """The clips of an earlier start, in order, as many as make whole chunks; what was cut off when it was killed is
    made again. Raises EvaluationError for a line that does not belong there."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # what stands after the last line's end is half a line
    clips = []
    for place, text in enumerate(lines[:len(order) * samples]):
        row, sample = order[place // samples], place % samples
        codes = json.loads(text).get("motion_tokens", "").split() if text.startswith("{") else []
        if not codes or text != _line(row, sample, codes):
            raise EvaluationError(f"{path}: line {place + 1} is not the clip expected there (row {row.index}, sample "
                                  f"{sample}): it was changed; give --fresh to generate anew")
        clips.append([int(code) for code in codes])
    whole = len(clips) if len(clips) == len(order) * samples else len(clips) // (CHUNK * samples) * CHUNK * samples
    return clips[:whole]


def _generate(model_path: Path, asked: Asked, request: Request, output: Path
              ) -> tuple[list[list[list[int]]], dict[str, tuple[float, int]]]:
    """For each row its clips, and by caption the NLL of its real clips: its sum over the tokens and their number."""
    from tqdm import tqdm

    from model import start_unsloth

    start_unsloth(request.device)  # before transformers, which generate.py imports
    from generate import MotionGenerator

    generator = MotionGenerator(model_path, device=request.device)
    generator.settings |= request.decoding
    known = set(generator.vocabulary.participants)
    strangers = {row.participant_id for row in asked.rows} - known - {None}
    if strangers:
        asked.notes.append(f"{len(strangers)} participants were never trained ({', '.join(sorted(strangers)[:5])}): "
                           "their rows are asked for without one")
    # Rows of like length are generated together, so that few wait for a long one.
    places = sorted(range(len(asked.rows)), key=lambda i: (len(asked.rows[i].codes), i))
    order = [asked.rows[i] for i in places]
    found = _kept_clips(output / CLIPS, order, request.num_samples)
    done = len(found) // request.num_samples
    (output / CLIPS).write_text("".join(
        _line(order[i // request.num_samples], i % request.num_samples, codes) + "\n" for i, codes in enumerate(found)),
        encoding="utf-8")
    with open(output / CLIPS, "a", encoding="utf-8") as file, tqdm(
            total=len(order), initial=done, unit="row", desc="generating", file=sys.stderr) as bar:
        for start, rows in _chunks(order, done):
            motions = generator.generate_batch(
                [row.text_query for row in rows],
                [row.participant_id if row.participant_id in known else None for row in rows],
                seed=_chunk_seed(request.seed, start), num_samples=request.num_samples)
            codes = [[int(code) for code in motion.split()] for motion in motions]
            file.write("".join(_line(rows[i // request.num_samples], i % request.num_samples, one) + "\n"
                               for i, one in enumerate(codes)))
            file.flush()
            found += codes
            bar.update(len(rows))
    clips: list[list[list[int]]] = [[] for _ in asked.rows]
    for turn, place in enumerate(places):
        clips[place] = found[turn * request.num_samples:(turn + 1) * request.num_samples]
    return clips, _nll(generator, asked.rows, known)


def _chunks(order: Sequence[AskedRow], done: int) -> Iterator[tuple[int, Sequence[AskedRow]]]:
    return ((start, order[start:start + CHUNK]) for start in range(done, len(order), CHUNK))


def _chunk_seed(seed: int, start: int) -> int:
    """A seed of each chunk's own, so that a run that goes on draws what one that was not stopped does."""
    return int(np.random.default_rng([seed, start]).integers(2**62))


def _nll(generator, rows: Sequence[AskedRow], known: set[str]) -> dict[str, tuple[float, int]]:
    asked = [{"text_query": row.text_query, "codes": row.codes,
              "participant_id": row.participant_id if row.participant_id in known else None} for row in rows]
    found: dict[str, tuple[float, int]] = {}
    for row, log_probability in zip(rows, generator.motion_log_probabilities(asked), strict=True):
        total, tokens = found.get(row.key, (0.0, 0))
        found[row.key] = total - log_probability, tokens + len(row.codes) + 1
    return found


# ---------------------------------------------------------------- scoring and writing


def _codec_folder(given: str | None, model_path: Path | None, asked: Asked) -> Path | None:
    """The codec's folder: the given one, or the one that the model keeps. Raises CodecError for one that does not fit
    the tokens."""
    beside = None if model_path is None else model_path / CODEC_FOLDER
    folder = Path(given) if given is not None else beside if beside is not None and beside.is_dir() else None
    if folder is None:
        return None
    codes = codec_facts(folder)["codes"]
    if model_path is not None and codes != asked.codebook_size:
        raise CodecError(f"the codec in {folder} has {codes} codes, but {model_path} was trained with "
                         f"{asked.codebook_size}: they do not belong together")
    for row in asked.rows:
        if max(row.codes) >= codes:
            raise CodecError(f"the codec in {folder} has {codes} codes, but row {row.index} of {asked.facts['path']} "
                             f"has code {max(row.codes)}: they do not belong together")
    training = asked.training.clips + asked.training.held_clips if asked.training else []
    largest = max(map(max, training), default=0)
    if largest >= codes:
        raise CodecError(f"the codec in {folder} has {codes} codes, but {asked.training.source} has code {largest}: "
                         "they do not belong together")
    asked.codebook_size = codes  # without a model only the largest code is known
    return folder


def _evaluator(asked: Asked, folder: Path, seed: int):
    """The evaluator that is kept in `folder`, if it was trained on the same clips; else a new one. None, with a note,
    where there is nothing to train it on."""
    from motion_llm.evaluation.evaluator import Evaluator, EvaluatorConfig, train_evaluator

    training = asked.training
    if training is None:
        return None
    clips, texts, held_clips, held_texts = evaluator_material(training, seed)
    if len({caption_key(text) for text in texts}) < 2:
        asked.notes.append("the training clips have a single caption, so no evaluator can be trained")
        return None
    facts = {"trained_on": hashlib.sha256(repr((clips, texts, held_clips, held_texts)).encode()).hexdigest(),
             "clips": len(clips), "source": training.source}
    wanted = EvaluatorConfig(asked.codebook_size, seed=seed)
    try:
        evaluator = Evaluator.load(folder)
        if evaluator.config == wanted and evaluator.facts["trained_on"] == facts["trained_on"]:
            log.info("evaluator: the one in %s is used again", folder)
            return evaluator
    except ModelError as error:  # none yet, or of an earlier version
        log.info("%s: a new one is trained", error)
    evaluator = train_evaluator(clips, texts, held_clips, held_texts, wanted)
    evaluator.facts = facts
    evaluator.save(folder)
    return evaluator


def _score(asked: Asked, clips: list, nll: Mapping | None, kept: Mapping | None, model_path: Path | None, output: Path,
           request: Request, started: float, codec: Path | None) -> str:
    from motion_llm.evaluation.findings import breakdown, deviations, format_scores, not_available, verdict
    from motion_llm.evaluation.joint_judge import JointJudge
    from motion_llm.evaluation.report_page import write_page
    from motion_llm.evaluation.table import MODEL, Judge, score_all
    from motion_llm.evaluation.tasks import score_tasks, without_model

    beside = asked.training is not None and request.train_data is None and kept is not None
    evaluator = _evaluator(asked, (model_path.parent if beside else output) / EVALUATOR, request.seed)
    joints = None if codec is None else JointJudge(MotionCodec.load(codec), [row.codes for row in asked.rows])
    judge = Judge(asked.rows, asked.codebook_size, evaluator, asked.training, request.seed, joints)
    table = score_all(judge, clips, nll)
    tasks = score_tasks(asked, model_path, kept, request.device, request.seed) if nll is not None else without_model()
    tasks.add_to(table)
    asked.notes += [*deviations(judge, clips), *tasks.notes]
    lines = [*verdict(table, len(judge.captions)), *tasks.verdict]
    missing = [*not_available(table, judge, nll is not None), *tasks.missing]
    found = {"verdict": lines, "notes": asked.notes, "not_available": missing, "by": tasks.by,
             "captions_said": tasks.captions, **breakdown(judge, clips)}
    if codec is not None:
        found["codec"] = {"path": str(codec)} | codec_facts(codec)
    details = found | _made_with(asked, request, kept, evaluator, len(clips[0]), started)
    content = _content(table, tasks.by)
    write_json(output / METRICS_FILE, content[MODEL])
    write_json(output / BASELINES, {name: splits for name, splits in content.items() if name != MODEL})
    write_json(output / DETAILS, details)
    write_page(output / PAGE, table, details, judge.rows, clips, _lengths(kept, asked.rows),
               _histories(model_path, kept))
    return format_scores(table, lines, [*asked.notes, *missing])


def _content(table: Mapping, by: Mapping[str, str]) -> dict:
    """The table as JSON; figures of the model's other tasks say which stage they are of."""
    from motion_llm.evaluation.table import METRICS, MODEL

    content = {row: {split: {name: estimate.to_dict() for name, estimate in own.items()}
                     for split, own in splits.items()} for row, splits in table.items()}
    for own in content[MODEL].values():
        for name, figure in own.items():
            if METRICS[name].task != "t2m":
                figure["by"] = by.get(name)
    return content


def _made_with(asked: Asked, request: Request, kept: Mapping | None, evaluator, samples: int, started: float) -> dict:
    return {
        "data": asked.facts, "trained_on": asked.trained_on, "codebook_size": asked.codebook_size,
        "request": {name: value for name, value in asdict(request).items() if name not in ("fresh", "device")}
        | {"samples": samples},
        "settings": dict(kept["settings"]) if kept else {},
        "evaluator": evaluator and {"config": vars(evaluator.config), "history": evaluator.history} | evaluator.facts,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in VERSIONS},
        "minutes": round((time.monotonic() - started) / 60, 2)}


def _lengths(kept: Mapping | None, rows: Sequence[AskedRow]) -> list[float] | None:
    """The length, in tokens, that decoding asks for each row's caption; None without a model."""
    if kept is None:
        return None
    from motion_llm.dataset.lengths import LengthModel

    model = LengthModel.from_dict(kept["length_model"], caption_key)
    return [float(model.limits(row.text_query, row.participant_id).soft_target) for row in rows]


def _histories(model_path: Path | None, kept: Mapping | None) -> dict[str, dict]:
    """stage folder -> history of its training, for the stages beside the model, up to its own."""
    if kept is None:
        return {}
    found = {}
    for path in sorted(model_path.resolve().parent.glob(f"*/{MOTION_CONFIG}")):
        content = read_motion_config(path.parent)
        if content.get("data_fingerprint") == kept.get("data_fingerprint"):
            found[path.parent.name] = content["history"]
        if path.parent == model_path.resolve():
            break
    return found
