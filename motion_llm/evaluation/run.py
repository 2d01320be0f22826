"""An evaluation from start to end: generate clips, each saved at once, score them, write the files and the page."""

import contextlib
import hashlib
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import chain
from pathlib import Path

import numpy as np

from motion_llm.evaluation.clips import EvaluationError, EvaluationRow
from motion_llm.evaluation.generated_clips import Generated, match, read_generated
from motion_llm.evaluation.progress import progress_bar, with_bar
from motion_llm.evaluation.request import CLIPS, OUTPUT_FILES, PAGE, REQUEST, Request
from motion_llm.evaluation.results import Likelihoods, check_parts, codec_folder, score_clips
from motion_llm.evaluation.rows import MOST_TOKENS, EvaluationInputs, clips_and_captions, gather
from motion_llm.evaluation.stream_clips import ONE_STREAM, present, token_nll, written
from motion_llm.json_files import read_json, write_json, write_text
from motion_llm.network.folder import read_motion_config
from motion_llm.saving import locked
from motion_llm.streams import ABSENT, Streams

log = logging.getLogger(__name__)

CHUNK = 128  # clips that are generated and saved at a time
AT_ONCE = 64  # clips whose likelihoods are computed between two steps of the bar
CODES = re.compile(rb'"motion_tokens": ("[^"]*"|[{[].*[}\]]), "participant_id": ')  # in a line of generated.jsonl


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
    log.info("reading the data")
    positions = motion_config["settings"]["MAX_SEQ_LEN"] if motion_config else 0

    streams: list[Streams] = []

    @cache  # read when the data has been, whose errors come first
    def generated() -> Generated:
        return read_generated(request.generated, max(MOST_TOKENS, positions), streams[0])

    has_clip = None if request.generated is None else lambda key, person: generated().holds(key, person)
    inputs = gather(request.data, request.train_data, model_path, motion_config, request.max_prompts,
                    request.include_train, request.seed, request.split, has_clip,
                    None if request.codec is None else Path(request.codec), streams.append)
    codec = codec_folder(request.codec, model_path, inputs)
    log.info("%s of %s to score%s", clips_and_captions(inputs.facts), inputs.facts["path"],
             "".join(f"\n  {note}" for note in inputs.notes))
    check_parts(request.parts, codec)
    clips, likelihoods = None, Likelihoods()
    if request.generated is not None:
        clips, notes = match(generated(), inputs.rows, request.num_samples)
        inputs.notes += notes
    _claim(output, _clip_facts(request, model_path, motion_config, inputs), inputs.facts["path"], request.fresh)
    if clips is None:
        clips, likelihoods = _generate(model_path, inputs, request, output)
    text = score_clips(inputs, clips, likelihoods, motion_config, model_path, output, request, started, codec)
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


def _claim(output: Path, clip_facts: Mapping, data: str, fresh: bool) -> None:
    """Refuse a folder with clips of another request; --fresh removes them. data: the path of what is scored."""
    existing = [name for name in OUTPUT_FILES if (output / name).is_file()]
    if existing and not fresh:
        if not (output / REQUEST).is_file():
            raise EvaluationError(f"{output} holds {', '.join(existing)} but no {REQUEST}, so they may not be an "
                                  "evaluation's: choose another --output, or move them away")
        earlier = read_json(output / REQUEST, EvaluationError)
        names = {"data_fingerprint": f"the content of {data}, by its sha256"}
        changed = [f"{names.get(name, name)}: {str(earlier.get(name))[:120]} before, {str(value)[:120]} now"
                   for name, value in clip_facts.items() if earlier.get(name) != value]
        if changed:
            lines = "\n  ".join(changed)
            raise EvaluationError(f"{output} holds an evaluation of something else, says {REQUEST}:\n  {lines}\n"
                                  "Choose another --output, or give --fresh to remove it.")
    for name in sorted(existing, key=lambda name: name == REQUEST) if fresh else ():  # request.json last
        (output / name).unlink()
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / REQUEST, dict(clip_facts))


def _line(row: EvaluationRow, sample: int, codes: Sequence[int], streams: Streams = ONE_STREAM) -> str:
    return json.dumps({"text_query": row.text_query, "motion_tokens": written(codes, streams),
                       "participant_id": row.participant_id, "row": row.index, "sample": sample}, ensure_ascii=False)


def _codes_in(line: bytes, streams: Streams) -> list[int]:
    """The codes in a line of generated.jsonl; [] for another line."""
    match = CODES.search(line)
    if match is None:
        return []
    try:
        return list(streams.read(json.loads(match[1])))
    except (ValueError, RecursionError):  # of JSON, or of other streams
        return []


def _earlier_clips(path: Path, order: Sequence[EvaluationRow], samples: int, streams: Streams = ONE_STREAM
                   ) -> list[list[int]]:
    """The clips that an earlier start saved, in `order`, up to the last whole chunk; the rest is generated again.
    Raises EvaluationError for a line that is not the expected clip."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is an unfinished line
    clips = []
    for place, line in enumerate(lines[:len(order) * samples]):
        row, sample = order[place // samples], place % samples
        codes = _codes_in(line, streams)
        if not codes or line != _line(row, sample, codes, streams).encode():
            raise EvaluationError(f"{path}: line {place + 1} is not the clip expected there (row {row.index}, sample "
                                  f"{sample}): it was changed; give --fresh to generate anew")
        clips.append(codes)
    whole = len(clips) if len(clips) == len(order) * samples else len(clips) // (CHUNK * samples) * CHUNK * samples
    return clips[:whole]


def _generate(model_path: Path, inputs: EvaluationInputs, request: Request, output: Path
              ) -> tuple[list[list[list[int]]], Likelihoods]:
    """The clips of each row, and the likelihoods of the real clips."""
    from model import start_unsloth  # imports torch, which takes seconds

    start_unsloth(request.device)
    from generate import MotionGenerator  # imports transformers, so only after start_unsloth
    from motion_llm.decoding.request import MotionRequest

    log.info("loading the model")
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
    streams = generator.vocabulary.streams
    generated = _earlier_clips(output / CLIPS, order, request.num_samples, streams)
    done = len(generated) // request.num_samples
    write_text(output / CLIPS, "".join(_line(order[i // request.num_samples], i % request.num_samples, codes, streams)
                                       + "\n" for i, codes in enumerate(generated)))
    with open(output / CLIPS, "a", encoding="utf-8") as file, progress_bar(
            len(order) * request.num_samples, "generating", initial=len(generated)) as bar:
        for start in range(done, len(order), CHUNK):
            rows = order[start:start + CHUNK]
            requests = [MotionRequest(text=row.text_query, num_samples=request.num_samples,
                                      participant_id=row.participant_id if row.participant_id in trained else None,
                                      streams=_asked(row.codes, streams)) for row in rows]
            new = []
            for result in generator.answers(requests, _chunk_seed(request.seed, start)):
                new.append(list(result.codes))
                bar.update()
            file.write("".join(_line(rows[i // request.num_samples], i % request.num_samples, codes, streams)
                               + "\n" for i, codes in enumerate(new)))
            file.flush()
            generated += new
    clips: list[list[list[int]]] = [[] for _ in inputs.rows]
    for turn, place in enumerate(places):
        clips[place] = generated[turn * request.num_samples:(turn + 1) * request.num_samples]
    return clips, _nll(generator, inputs.rows, trained)


def _asked(real: Sequence[int], streams: Streams) -> tuple[str, ...] | None:
    """The streams that a row's real clip has, which its generated clip has to have; None for all."""
    there = present(real, streams)
    return there if len(there) < streams.count else None


def _chunk_seed(seed: int, start: int) -> int:
    """A seed for each chunk, so that a resumed evaluation draws the same clips as one that was not interrupted."""
    return int(np.random.default_rng([seed, start]).integers(2**62))


def _nll(generator, rows: Sequence[EvaluationRow], trained: set[str]) -> Likelihoods:
    items = [{"text_query": row.text_query, "codes": row.codes,
              "participant_id": row.participant_id if row.participant_id in trained else None} for row in rows]
    sums: dict[str, tuple[float, int]] = {}
    streams = generator.vocabulary.streams
    likelihoods = generator.motion_log_probabilities if streams.count == 1 else partial(_of_tokens, generator)
    parts = (likelihoods(items[start:start + AT_ONCE]) for start in range(0, len(items), AT_ONCE))
    values = list(with_bar(chain.from_iterable(parts), len(items), "likelihoods of real clips"))
    for row, log_probability in zip(rows, values, strict=True):
        total, tokens = sums.get(row.key, (0.0, 0))
        there = sum(code != ABSENT for code in row.codes)
        sums[row.key] = total - float(np.sum(log_probability, dtype=np.float64)), tokens + there + 1
    return Likelihoods(sums, {} if streams.count == 1 else token_nll(rows, values, streams))


def _of_tokens(generator, items: Sequence[Mapping]) -> list[np.ndarray]:
    """The log-probabilities of each motion's codes and its end (T * Q + 1,), in nats."""
    prompts = [generator.template.render("t2m", text=item["text_query"], participant_id=item["participant_id"],
                                         answer=False).ids for item in items]
    answers = [[*item["codes"], generator.vocabulary.codebook_size] for item in items]
    return generator.decoder.log_probabilities(prompts, answers, generator.motion_alphabet)
