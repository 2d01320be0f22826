"""evaluate.py on motions of several streams: a tiny model of a body and two hands, and files of either form."""

import contextlib
import io
import json
import math
import shutil
from functools import partial

import numpy as np
import pytest
from conftest import ACTIONS, TINY_SETTINGS, run_script
from hands import TWO, waving

import evaluate
import train_pipeline
from motion_llm.evaluation import run as evaluation_run
from motion_llm.evaluation.clips import EvaluationError, EvaluationRow
from motion_llm.motion.codec import MotionCodec
from motion_llm.streams import ABSENT, STEPS, Streams

PARTS = ("body", "left_hand", "right_hand")


@pytest.fixture(autouse=True)
def quick_evaluator(monkeypatch):
    from motion_llm.evaluation import evaluator

    monkeypatch.setattr(evaluator, "EvaluatorConfig", partial(
        evaluator.EvaluatorConfig, dimensions=8, width=16, buckets=256, steps=20, checks=2))


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def lines_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path, rows: list[dict]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def parts_codec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codec")
    motions = [waving(48, phase=phase) for phase in np.linspace(0, 6, 8)]
    MotionCodec.fit(motions, {"body": 24, "left_hand": 12, "right_hand": 8}, kind="kmeans", parts="hands").save(folder)
    return folder


@pytest.fixture(scope="module")
def parts_rows(parts_codec) -> list[dict]:
    """60 rows of encoded clips; every tenth has no right hand."""
    codec, rows = MotionCodec.load(parts_codec), []
    for number, action in enumerate(ACTIONS):
        for clip in range(6):
            motion = waving(24 + 4 * clip, phase=number, fist=20 + 5 * number, arm=10 * clip)
            tokens = codec.streams.written(codec.encode(motion))
            if len(rows) % 10 == 3:
                tokens["right_hand"] = None
            rows.append({"text_query": f"a person {action}", "motion_tokens": tokens,
                         "participant_id": f"P00{1 + clip % 2}"})
    return rows


@pytest.fixture(scope="module")
def streams_run(parts_rows, parts_codec, tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams")
    data = write(folder / "data.jsonl", parts_rows)
    sizes = "body=24,left_hand=12,right_hand=8"
    assert run_script(train_pipeline, "--data_json_path", data, "--model_name", tiny_base("llama"), *TINY_SETTINGS,
                      "--codebook_size", sizes, "--work_dir", str(folder / "output")) == 0
    shutil.copytree(parts_codec, folder / "output" / "stage3_t2m_sft" / "codec")
    return folder / "output"


def run_evaluation(folder, *more: str) -> int:
    return run_script(evaluate, "--model_path", str(folder / "stage3_t2m_sft"), "--data",
                      str(folder.parent / "data.jsonl"), "--num_samples", "1", *more)


@pytest.fixture(scope="module")
def evaluated(streams_run):
    from motion_llm.evaluation import evaluator

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "EvaluatorConfig", partial(
            evaluator.EvaluatorConfig, dimensions=8, width=16, buckets=256, steps=20, checks=2))
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert run_evaluation(streams_run) == 0
    (streams_run / "printed.txt").write_text(printed.getvalue(), encoding="utf-8")
    return streams_run / "evaluation"


def test_clips_are_kept_in_the_form_of_the_data_with_the_streams_of_their_row(evaluated, parts_rows):
    rows = {(row["text_query"], row["motion_tokens"]["right_hand"] is None) for row in parts_rows}
    lines = lines_of(evaluated / "generated.jsonl")
    for line in lines:
        assert tuple(line["motion_tokens"]) == PARTS
        counts = {len(codes.split()) for codes in line["motion_tokens"].values() if codes is not None}
        assert len(counts) == 1 and (line["text_query"], line["motion_tokens"]["right_hand"] is None) in rows
    assert any(line["motion_tokens"]["right_hand"] is None for line in lines)
    assert read(evaluated / "metrics.json")["all"]["valid_share"]["value"] == 1  # without a hand too


def test_every_stream_has_its_figures_beside_those_of_all_together(evaluated):
    figures, by_stream = read(evaluated / "metrics.json")["all"], read(evaluated / "details.json")["by_stream"]
    assert tuple(by_stream) == PARTS
    of = {name: by_stream[name]["model"]["all"] for name in PARTS}
    for metric in ("nll_per_token", "edit_distance", "unigram_jsd", "bigram_jsd", "codebook_usage",
                   "codebook_perplexity", "repetition_rate", "denoising_accuracy", "denoising_accuracy_gap",
                   "denoising_accuracy_end"):
        assert all(math.isfinite(of[name][metric]["value"]) for name in PARTS), metric
    assert of["right_hand"]["edit_distance"]["n"] < of["body"]["edit_distance"]["n"] == figures["edit_distance"]["n"]
    assert {*by_stream["body"]} >= {"real", "another_real_clip", "random_clip", "repeating", "copying"}
    # A softmax over a stream's own codes: an untrained model has about the logarithm of their number.
    assert [of[name]["nll_per_token"]["value"] for name in PARTS] == pytest.approx(
        [math.log(24), math.log(12), math.log(8)], rel=0.35)
    low, high = (pick(of[name]["nll_per_token"]["value"] for name in PARTS) for pick in (min, max))
    assert figures["nll_per_token"]["value"] < high and low < high


def test_parts_of_the_figure_are_judged_by_their_joints(evaluated):
    by_part = read(evaluated / "details.json")["joints_by_part"]
    assert tuple(by_part) == ("all joints", *PARTS)
    for name, rows in by_part.items():
        own = {metric: figure["value"] for metric, figure in rows["model"]["all"].items()}
        assert all(own[metric] > 0 for metric in ("dtw_jpe", "dtw_pa_jpe", "speed_ratio", "spread_ratio")), name
        assert not name.endswith("hand") or own["dtw_pa_jpe"] < own["dtw_jpe"]
    assert by_part["all joints"]["model"]["all"]["dtw_jpe"]["value"] == pytest.approx(
        read(evaluated / "metrics.json")["all"]["dtw_joint_error"]["value"], rel=1e-5)
    whole, hand = (by_part[name]["model"]["all"]["dtw_jpe"]["n"] for name in ("body", "right_hand"))
    assert hand < whole  # those of rows with a right hand


def test_the_page_and_the_tables_show_them(evaluated, streams_run):
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    assert "Figures by stream" in page and "Joints by part" in page and "DTW-PA-JPE" in page
    printed = (streams_run / "printed.txt").read_text(encoding="utf-8")
    start = printed.index("by stream, all captions")
    block = printed[start:printed.index("joints by part, all captions")]
    assert block.count("\nleft_hand\n") == 2 and " DTW-PA-JPE (mm)" in printed[start + len(block):]
    assert "a step has 3 tokens (body, left_hand, right_hand)" in printed


def test_the_same_command_again_reads_the_clips_back_and_generates_nothing(evaluated, streams_run, monkeypatch):
    import generate

    before = {name: (evaluated / name).read_bytes() for name in ("metrics.json", "generated.jsonl")}
    answers = generate.MotionGenerator.answers
    monkeypatch.setattr(generate.MotionGenerator, "answers", lambda self, requests, seed: answers(
        self, requests, seed) if {request.task for request in requests} != {"t2m"} else pytest.fail("generates"))
    assert run_evaluation(streams_run) == 0
    assert before == {name: (evaluated / name).read_bytes() for name in before}


OBJECTS, LEVELS = Streams(("left", "right"), (4, 3)), Streams(("q0", "q1"), (4, 3), STEPS)


@pytest.mark.parametrize("streams, clip, wrong", [
    (OBJECTS, [0, 6, 3, 5], '{"left": "0 4", "right": "2 1"}'), (OBJECTS, [1, ABSENT], '{"left": "1"}'),
    (OBJECTS, [1, 4], "{" * 100_000 + "}"), (LEVELS, [0, 6, 3, 5], "[[0, 2], [3]]"), (LEVELS, [1, 4], '"1 0"'),
    (LEVELS, [1, 4], "[[1, 0], [1, 9]]")])
def test_a_line_is_read_back_in_either_form_and_no_other_is(tmp_path, monkeypatch, streams, clip, wrong):
    monkeypatch.setattr(evaluation_run, "CHUNK", 1)
    rows = [EvaluationRow(i, 'says "motion_tokens": "1"', "says", [1], None, "seen") for i in range(3)]
    lines = [evaluation_run._line(row, 0, clip, streams) for row in rows]
    path = tmp_path / "generated.jsonl"
    path.write_text(f"{lines[0]}\n{lines[1]}\n{lines[2][:60]}", encoding="utf-8")
    assert evaluation_run._earlier_clips(path, rows, 1, streams) == [clip, clip]
    motion = json.dumps(json.loads(lines[1])["motion_tokens"])
    path.write_text(f"{lines[0]}\n{lines[1].replace(motion, wrong)}\n", encoding="utf-8")
    with pytest.raises(EvaluationError, match="line 2 is not the clip expected there"):
        evaluation_run._earlier_clips(path, rows, 1, streams)


# Without a model


def as_steps(rows: list[dict]) -> list[dict]:
    """The rows that have all streams, as lists of steps."""
    return [row | {"motion_tokens": [list(map(int, step)) for step in zip(
        *(codes.split() for codes in row["motion_tokens"].values()), strict=True)]}
        for row in rows if None not in row["motion_tokens"].values()]


@pytest.mark.parametrize("form", ["object", "steps"])
def test_real_clips_as_generated_score_as_real_whichever_codes_a_file_has(parts_rows, tmp_path, monkeypatch, form):
    """The two files have other largest codes, so that their codes have to be read alike."""
    monkeypatch.chdir(tmp_path)
    rows = parts_rows if form == "object" else as_steps(parts_rows)
    few = [row for row in rows if row["text_query"] != rows[0]["text_query"]]
    data = write(tmp_path / "data.jsonl", few[1::2])
    train = write(tmp_path / "train.jsonl", [*few[::2], rows[0]])
    assert run_script(evaluate, "--data", data, "--train_data", train, "--generated", data, "--output", "out",
                      "--num_samples", "1") == 0
    figures, details = read(tmp_path / "out" / "metrics.json")["all"], read(tmp_path / "out" / "details.json")
    for name, value in (("normalised_edit_distance", 0), ("unigram_jsd", 0), ("length_ratio", 1), ("valid_share", 1)):
        assert figures[name]["value"] == value, name
    assert figures["fid"]["value"] < 1e-5 < read(tmp_path / "out" / "baselines.json")["random_clip"]["all"]["fid"][
        "value"]
    names = PARTS if form == "object" else ("q0", "q1", "q2")
    assert tuple(details["by_stream"]) == names == tuple(details["streams"]["names"])
    assert [details["by_stream"][name]["model"]["all"]["bigram_jsd"]["value"] for name in names] == [0, 0, 0]
    assert "joints_by_part" not in details


def test_a_codec_of_parts_can_be_named_and_other_parts_as_well(parts_rows, parts_codec, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = write(tmp_path / "data.jsonl", parts_rows[:12])
    arguments = ["--data", data, "--generated", data, "--num_samples", "1", "--codec", str(parts_codec)]
    assert run_script(evaluate, *arguments, "--output", "own") == 0
    by_part = read(tmp_path / "own" / "details.json")["joints_by_part"]
    assert tuple(by_part) == ("all joints", *PARTS) and by_part["left_hand"]["model"]["all"]["dtw_jpe"]["value"] == 0
    assert by_part["left_hand"]["model"]["all"]["speed_ratio"]["value"] == 1
    (tmp_path / "parts.json").write_text(json.dumps(TWO))
    assert run_script(evaluate, *arguments, "--output", "two", "--parts", "parts.json") == 0
    assert tuple(read(tmp_path / "two" / "details.json")["joints_by_part"]) == ("all joints", "upper", "lower")
    assert run_script(evaluate, *arguments[:-2], "--output", "none", "--parts", "hands") == 1
    assert "--parts hands: parts are judged by their joints, which need the codec" in capsys.readouterr().err


def test_a_codec_of_other_streams_is_refused(parts_rows, parts_codec, codec_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = write(tmp_path / "data.jsonl", parts_rows[:6])
    for folder in (codec_folder, parts_codec):
        other = data if folder == codec_folder else write(tmp_path / "steps.jsonl", as_steps(parts_rows[:6]))
        assert run_script(evaluate, "--data", other, "--generated", other, "--codec", str(folder)) == 1
        assert "they do not belong together" in capsys.readouterr().err
