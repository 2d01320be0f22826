"""Scores the clips of an evaluation and writes its files: the table, the details behind it, and the page."""

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from motion_llm.dataset.lengths import LengthModel
from motion_llm.dataset.rows import caption_key
from motion_llm.evaluation.clips import EvaluationRow
from motion_llm.evaluation.embedding_metrics import POOL
from motion_llm.evaluation.joint_judge import JointJudge
from motion_llm.evaluation.request import BASELINES, DETAILS, EVALUATOR, METRICS_FILE, PAGE, Request
from motion_llm.evaluation.rows import EvaluationInputs
from motion_llm.evaluation.stream_clips import Sums, decodable, flat_codes
from motion_llm.json_files import write_json
from motion_llm.motion.codec import CodecError, MotionCodec, codec_facts, codec_streams
from motion_llm.network.folder import CODEC_FOLDER, MOTION_CONFIG, read_motion_config
from motion_llm.streams import TEXT, Streams
from motion_llm.viewer.figure import Clip
from motion_llm.viewer.page import page as viewer_page

VERSIONS = ("torch", "transformers", "peft", "unsloth", "numpy", "rapidfuzz", "sacrebleu", "rouge-score")


@dataclass(frozen=True)
class Likelihoods:
    """The negative log-likelihoods of the real clips: of all tokens, None without a model; and by stream."""

    all: Sums | None = None
    by_stream: Mapping[str, Sums] = field(default_factory=dict)


def codec_folder(codec_path: str | None, model_path: Path | None, inputs: EvaluationInputs) -> Path | None:
    """The codec's folder: `codec_path`, else the copy in the model's folder, else None. Raises CodecError for a codec
    that does not fit the tokens."""
    if codec_path is not None:
        folder = Path(codec_path)
    elif model_path is not None and (model_path / CODEC_FOLDER).is_dir():
        folder = model_path / CODEC_FOLDER
    else:
        return None
    codes, streams = codec_facts(folder)["codes"], codec_streams(folder)
    if (streams.names, streams.sizes) != (inputs.streams.names, inputs.streams.sizes) and {
            streams.form, inputs.streams.form} != {TEXT}:
        raise CodecError(f"the codec in {folder} has {_sizes(streams)}, but {model_path or inputs.facts['path']} has "
                         f"{_sizes(inputs.streams)}: they do not belong together")
    if streams.form != TEXT:
        return folder
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
    inputs.streams = streams  # without a model it was only the largest code + 1
    return folder


def _sizes(streams: Streams) -> str:
    return ", ".join(f"{size} codes of {name}" for name, size in zip(streams.names, streams.sizes, strict=True))


def check_parts(told: str | None, codec: Path | None) -> None:
    """Raises CodecError for parts that the codec's figure does not have, and where there is no codec; OSError."""
    if told is None:
        return
    from motion_llm.evaluation.part_judge import parts_of  # imports torch, which takes seconds

    if codec is None:
        raise CodecError(f"--parts {told}: parts are judged by their joints, which need the codec of the tokens: "
                         "CODEC_PATH when training, or --codec")
    parts_of(told, MotionCodec.load(codec))


def score_clips(inputs: EvaluationInputs, clips: list, likelihoods: Likelihoods, motion_config: Mapping | None,
                model_path: Path | None, output: Path, request: Request, started: float, codec: Path | None) -> str:
    """Score the clips, write every file but generated.jsonl, and return the text to print."""
    # these import torch, which takes seconds
    from motion_llm.evaluation.by_stream import score_streams
    from motion_llm.evaluation.evaluator_folder import evaluator_of
    from motion_llm.evaluation.findings import (
        breakdown,
        deviations,
        examples,
        first_sentences,
        format_scores,
        not_available,
        over_what,
        verdict,
    )
    from motion_llm.evaluation.following import following
    from motion_llm.evaluation.metric_names import MODEL, SPLITS, Block
    from motion_llm.evaluation.part_judge import PartJudge, parts_of, score_parts
    from motion_llm.evaluation.report_page import write_page
    from motion_llm.evaluation.table import Judge, score_all
    from motion_llm.evaluation.tasks import score_tasks, without_model

    beside_model = inputs.training is not None and request.train_data is None and motion_config is not None
    evaluator = evaluator_of(inputs, (model_path.parent if beside_model else output) / EVALUATOR, request.seed)
    joints = None if codec is None else JointJudge(MotionCodec.load(codec), [row.codes for row in inputs.rows])
    judge = Judge(inputs.rows, inputs.streams, evaluator, inputs.training, request.seed, joints)
    table = score_all(judge, clips, likelihoods.all)
    tasks = (without_model() if likelihoods.all is None
             else score_tasks(inputs, model_path, motion_config, request.device, request.seed))
    tasks.add_to(table)
    blocks = [Block("by_stream", "by stream", score_streams(judge, likelihoods.by_stream, tasks.by_stream))]
    parts = {} if joints is None else parts_of(request.parts, joints.codec)
    if parts or joints is not None and judge.streams.count > 1:
        blocks.append(Block("joints_by_part", "joints by part", score_parts(judge, PartJudge(joints, parts))))
    blocks = [block for block in blocks if block.tables]
    inputs.notes += [*deviations(judge, clips), *tasks.notes,
                     f"intervals of FID, KID, Diversity and divergences are {over_what(len(clips[0]))}"]
    scored = {split: len({row.key for row in inputs.rows if split in ("all", row.kind)}) for split in SPLITS}
    history = motion_config["history"] if motion_config and request.generated is None else {}
    follows = following(table, scored, len(judge.captions), history.get("t2m_passes"), history.get("more"))
    where = breakdown(judge, clips)
    summary = first_sentences(table, follows, where)
    lines = [*verdict(table, len(judge.captions)), *tasks.verdict]
    missing = [*not_available(table, judge, likelihoods.all is not None), *tasks.missing]
    details = {"following": follows.to_dict(), "summary": summary, "verdict": lines, "notes": inputs.notes,
               "not_available": missing, "by": tasks.by, "captions_said": tasks.captions,
               "pool": min(POOL, len(judge.captions)), "examples": examples(judge, clips), **where}
    if codec is not None:
        details["codec"] = {"path": str(codec)} | codec_facts(codec)
    details |= _provenance(inputs, request, motion_config, evaluator, len(clips[0]), started)
    details |= {block.name: block.to_dict() for block in blocks}
    content = _content(table, tasks.by)
    write_json(output / METRICS_FILE, content[MODEL])
    write_json(output / BASELINES, {name: splits for name, splits in content.items() if name != MODEL})
    write_json(output / DETAILS, details)
    write_page(output / PAGE, table, details, judge.rows, clips, _lengths(motion_config, inputs.rows),
               _histories(model_path, motion_config), joints and _figures(joints.codec, details["examples"]), blocks)
    return format_scores(table, [*summary, "", *lines], [*inputs.notes, *missing], blocks)


def _figures(codec: MotionCodec, examples: Sequence[Mapping]) -> str | None:
    """The viewer's page of the examples, each beside its real clip; None if one cannot be decoded."""
    clips = []
    for example in examples:
        for name, note in (("clip", f"generated, {example['shown']}"), ("real", "real")):
            codes = flat_codes(example[name], codec.streams)
            if not decodable(codes, codec.streams):
                return None
            motion = codec.decode(codes)
            clips.append(Clip(motion, f"{example['label']}: {example['caption']}",
                              f"{note} \u00b7 {motion.seconds:.1f} s"))
    return viewer_page(clips, group=2) if clips else None


def _content(table: Mapping, by: Mapping[str, str]) -> dict:
    """The table as JSON. The model's metrics of other tasks have the stage that answered, as "by"."""
    from motion_llm.evaluation.metric_names import METRICS, MODEL  # imports torch, which takes seconds

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
        **({} if inputs.streams.form == TEXT else {"streams": inputs.streams.to_dict()}),
        "request": request.shown() | {"samples": samples},
        "settings": dict(motion_config["settings"]) if motion_config else {},
        "evaluator": evaluator and {"config": evaluator.config.to_dict(), "history": evaluator.history}
        | evaluator.facts,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in VERSIONS},
        "minutes": round((time.monotonic() - started) / 60, 2)}


def _lengths(motion_config: Mapping | None, rows: Sequence[EvaluationRow]) -> list[float] | None:
    """The length, in tokens or steps, that decoding aims at for each row; None without a model."""
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
