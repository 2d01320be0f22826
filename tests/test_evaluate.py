"""evaluate.py, evaluation/run.py: a tiny run evaluated, interrupted and resumed; clips of other models."""

import json
import multiprocessing
import shutil
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from conftest import run_script, tiny_rows

import evaluate
from motion_llm.evaluation import run as evaluation_run
from motion_llm.evaluation.clips import EvaluationError, EvaluationRow
from motion_llm.evaluation.metric_names import METRICS, SPLITS
from motion_llm.saving import locked


@pytest.fixture(autouse=True)
def quick_evaluator(monkeypatch):
    from motion_llm.evaluation import evaluator

    monkeypatch.setattr(evaluator, "EvaluatorConfig", partial(
        evaluator.EvaluatorConfig, dimensions=8, width=16, buckets=256, steps=20, checks=2))


@pytest.fixture(scope="module")
def run_folder(tiny_run, tmp_path_factory):
    """A copy of the run, as an evaluation writes beside the model."""
    folder = tmp_path_factory.mktemp("evaluated") / "output"
    shutil.copytree(tiny_run, folder)
    return folder


def run_evaluation(folder, *more: str) -> int:
    return run_script(evaluate, "--model_path", str(folder / "stage3_t2m_sft"), *more)


@pytest.fixture(scope="module")
def evaluated(run_folder, request):
    from motion_llm.evaluation import evaluator

    patch = pytest.MonkeyPatch()
    patch.setattr(evaluator, "EvaluatorConfig", partial(
        evaluator.EvaluatorConfig, dimensions=8, width=16, buckets=256, steps=20, checks=2))
    assert run_evaluation(run_folder, "--num_samples", "2") == 0
    patch.undo()
    return run_folder / "evaluation"


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def lines_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def clips_of(tiny_dataset) -> list[dict]:
    """The rows of the dataset, one of each clip."""
    rows = json.loads(Path(tiny_dataset).read_text(encoding="utf-8"))
    return list({(row["motion_tokens"], row["participant_id"]): row for row in reversed(rows)}.values())[::-1]


def test_metrics_json_is_split_metric_and_four_figures(evaluated):
    content = read(evaluated / "metrics.json")
    assert tuple(content) == SPLITS
    for figures in content.values():
        assert list(figures) == list(METRICS)
        for name, figure in figures.items():
            assert set(figure) == {"value", "low", "high", "n"} | ({"by"} if METRICS[name].task != "t2m" else set())
    rows = len(lines_of(evaluated / "generated.jsonl")) // 2
    figures = content["all"]
    assert figures["mm_dist"]["n"] == content["seen"]["mm_dist"]["n"] + content["unseen"]["mm_dist"]["n"] == rows
    assert figures["valid_share"] == {"value": 1, "low": 1, "high": 1, "n": rows}  # clips, not samples
    assert figures["nll_per_token"]["value"] > 0 and figures["participant_accuracy"]["n"] == rows
    assert figures["fid"]["n"] == rows and figures["fid"]["low"] <= figures["fid"]["value"]
    assert set(read(evaluated / "baselines.json")) == {
        "real", "another_real_clip", "nearest_caption_clip", "random_clip", "shuffled_captions",
        "nearest_clip_caption", "random_clip_caption", "repeating", "copying", "model_with_caption",
        "model_with_wrong_caption"}


def test_what_the_last_stage_was_not_trained_for_is_told_by_the_one_before_it(evaluated, run_folder):
    from motion_llm.dataset.prepared import load_prepared

    figures, baselines = read(evaluated / "metrics.json")["all"], read(evaluated / "baselines.json")
    details, page = read(evaluated / "details.json"), (evaluated / "report.html").read_text(encoding="utf-8")
    motions = len({tuple(codes) for codes in load_prepared(run_folder / "prepared_data", "test")["codes"]})
    for name, ceiling in (("bleu_1", 100), ("bleu_4", 100), ("rouge_l", 100), ("chrf", 100), ("denoising_accuracy", 1),
                          ("denoising_accuracy_gap", 1), ("denoising_accuracy_end", 1)):
        figure = figures[name]
        assert 0 <= figure["low"] <= figure["value"] <= figure["high"] <= ceiling, name
        assert figure["n"] == motions and figure["by"] == "stage2_multitask"
        rows = ("nearest_clip_caption", "random_clip_caption") if ceiling == 100 else ("repeating", "copying")
        assert all(baselines[row]["all"][name]["n"] == motions for row in rows)
    assert len(details["captions_said"]) == motions and "answered by stage2_multitask" in " ".join(details["notes"])
    assert "by stage2_multitask" in page


def test_without_a_stage_for_it_a_task_has_no_figures_and_the_report_says_why(run_folder, tmp_path, capsys, evaluated):
    shutil.copytree(run_folder, tmp_path / "run", ignore=shutil.ignore_patterns("stage2*", "evaluation"))
    assert run_evaluation(tmp_path / "run", "--num_samples", "1", "--max_prompts", "4") == 0
    figures = read(tmp_path / "run" / "evaluation" / "metrics.json")["all"]
    assert figures["chrf"] == figures["denoising_accuracy"] == {
        "value": None, "low": None, "high": None, "n": 0, "by": None}
    printed = capsys.readouterr().out
    expected = ("not available: bleu_1, bleu_4, rouge_l, chrf, denoising_accuracy, denoising_accuracy_gap, "
                "denoising_accuracy_end (no stage of this run was trained for m2t, denoise, inbetween, continue)")
    assert expected in printed
    assert "motion to text, " not in printed and "lost tokens, " not in printed


def test_what_is_written_names_the_data_the_settings_and_the_versions(evaluated, run_folder):
    details = read(evaluated / "details.json")
    prepared = read(run_folder / "prepared_data" / "fingerprint.json")
    assert details["data"]["fingerprint"] == prepared["fingerprint"]
    assert details["settings"]["SEED"] == 0 and details["versions"]["torch"] and details["request"]["seed"] == 0
    assert details["captions"] and details["participants"] and details["lengths"]
    assert (evaluated / "report.html").is_file()
    assert (run_folder / "evaluator" / "evaluator.json").is_file()


def test_the_same_command_again_gives_the_same_figures_and_generates_nothing(evaluated, run_folder, monkeypatch):
    import generate

    before = {name: (evaluated / name).read_bytes() for name in ("metrics.json", "baselines.json", "generated.jsonl")}
    answers = generate.MotionGenerator.answers
    monkeypatch.setattr(generate.MotionGenerator, "answers", lambda self, requests, seed: answers(
        self, requests, seed) if {request.task for request in requests} != {"t2m"} else pytest.fail("generates"))
    shutil.rmtree(run_folder / "evaluator")  # trained again with the same seed, it is the same
    assert run_evaluation(run_folder, "--num_samples", "2") == 0
    assert before == {name: (evaluated / name).read_bytes() for name in before}


def test_killed_in_the_middle_it_goes_on_to_the_same_clips(run_folder, tmp_path, monkeypatch, evaluated):
    import generate

    monkeypatch.setattr(evaluation_run, "CHUNK", 3)
    whole = tmp_path / "whole"
    assert run_evaluation(run_folder, "--num_samples", "2", "--output", str(whole)) == 0
    text = (whole / "generated.jsonl").read_text(encoding="utf-8")
    shutil.copytree(whole, tmp_path / "cut")
    (tmp_path / "cut" / "metrics.json").unlink()
    cut = len("".join(text.splitlines(keepends=True)[:9])) + 20  # in the middle of the tenth line, of the second chunk
    (tmp_path / "cut" / "generated.jsonl").write_text(text[:cut], encoding="utf-8")
    counts, original = [], generate.MotionGenerator.answers

    def counting(self, requests, *rest, **more):
        counts.append(sum(request.task == "t2m" for request in requests))
        return original(self, requests, *rest, **more)

    monkeypatch.setattr(generate.MotionGenerator, "answers", counting)
    assert run_evaluation(run_folder, "--num_samples", "2", "--output", str(tmp_path / "cut")) == 0
    assert sum(counts) == len(text.splitlines()) // 2 - 3  # the first chunk of three rows is kept
    assert (tmp_path / "cut" / "generated.jsonl").read_text(encoding="utf-8") == text
    assert read(tmp_path / "cut" / "metrics.json") == read(whole / "metrics.json")


def test_no_kill_leaves_fewer_clips_than_there_were(run_folder, tmp_path, monkeypatch, evaluated):
    monkeypatch.setattr(evaluation_run, "CHUNK", 3)
    copy, write_text = tmp_path / "copy", Path.write_text
    shutil.copytree(evaluated, copy)
    before = (copy / "generated.jsonl").read_bytes()[:-30]  # the last line is unfinished
    (copy / "generated.jsonl").write_bytes(before)

    def killed(path, text, **options):
        write_text(path, text[:len(text) // 2] if "generated" in path.name else text, **options)
        if "generated" in path.name:
            raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", killed)
        with pytest.raises(RuntimeError, match="killed"):
            run_evaluation(run_folder, "--num_samples", "2", "--output", str(copy))
    assert (copy / "generated.jsonl").read_bytes() == before


def test_clips_cut_inside_a_character_and_lines_that_are_no_clips(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation_run, "CHUNK", 1)
    rows = [EvaluationRow(i, "歩く人", "歩く人", [1], None, "seen") for i in range(3)]
    whole = [evaluation_run._line(row, 0, [4, 5]).encode() + b"\n" for row in rows]
    path = tmp_path / "generated.jsonl"
    path.write_bytes(whole[0] + whole[1] + whole[2][:18])  # in the middle of the first character
    assert evaluation_run._earlier_clips(path, rows, 1) == [[4, 5], [4, 5]]
    for line in (b'{"motion_tokens": 5}', b'{"motion_tokens": "x"}', b"{", b"\xff", b"[" * 100_000):
        path.write_bytes(whole[0] + line + b"\n")
        with pytest.raises(EvaluationError, match="line 2 is not the clip expected there"):
            evaluation_run._earlier_clips(path, rows, 1)


def test_a_second_evaluation_of_one_folder_is_refused_at_once(run_folder, tmp_path, capsys, evaluated, monkeypatch):
    before = {path.name: path.read_bytes() for path in evaluated.iterdir()}
    monkeypatch.setattr(evaluation_run, "gather", lambda *arguments: pytest.fail("the data are read"))
    with evaluation_run._working_in(evaluated):
        assert run_evaluation(run_folder, "--num_samples", "2", "--fresh") == 1
    assert f"another evaluation is using {evaluated}" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in evaluated.iterdir()} == before
    with evaluation_run._working_in(tmp_path / "new"):
        pass
    assert not (tmp_path / "new").exists()


def test_what_a_kill_left_of_the_evaluator_is_cleared_though_it_is_not_written_again(run_folder, tmp_path, evaluated):
    shutil.copytree(run_folder, tmp_path / "run")
    evaluator = tmp_path / "run" / "evaluator"
    (tmp_path / "run" / ".evaluator.saving").mkdir()
    evaluator.rename(tmp_path / "run" / ".evaluator.before")  # as between the two renames
    before = (tmp_path / "run" / ".evaluator.before" / "evaluator.json").stat().st_mtime_ns
    assert run_evaluation(tmp_path / "run", "--num_samples", "2") == 0
    assert (evaluator / "evaluator.json").stat().st_mtime_ns == before
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".evaluator")]


def _hold(path, ready, go) -> None:
    with locked(path, busy=None):
        ready.set()
        go.wait(30)


def test_a_second_evaluation_of_a_run_waits_for_its_evaluator(run_folder, tmp_path, evaluated, monkeypatch):
    from motion_llm.evaluation import evaluator

    context = multiprocessing.get_context("fork")
    ready, go = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(run_folder / ".evaluator.preparing", ready, go))
    other.start()
    assert ready.wait(30)
    loaded, load = [], evaluator.Evaluator.load.__func__
    monkeypatch.setattr(evaluator.Evaluator, "load", classmethod(
        lambda cls, folder: loaded.append(go.is_set()) or load(cls, folder)))
    threading.Timer(3, go.set).start()
    assert run_evaluation(run_folder, "--num_samples", "2") == 0
    other.join(30)
    assert loaded == [True]


@pytest.mark.parametrize("changes", [{"history": []}, {"facts": {}}, {"version": "x" * 9999}, {"config": None}])
def test_a_damaged_evaluator_is_trained_anew_with_a_line_that_names_it(run_folder, tmp_path, evaluated, caplog,
                                                                      changes):
    shutil.copytree(run_folder, tmp_path / "run")
    path = tmp_path / "run" / "evaluator" / "evaluator.json"
    before = read(path)
    path.write_text(json.dumps(before | changes), encoding="utf-8")
    with caplog.at_level("INFO"):
        assert run_evaluation(tmp_path / "run", "--num_samples", "2") == 0
    (line,) = [record.message for record in caplog.records if "training a new one" in record.message]
    assert "evaluator.json" in line and len(line) < 400
    assert {**read(path), "facts": {}} == {**before, "facts": {}}


@pytest.mark.parametrize("wrong", [None, True, -1, 10**30, 1e308, "", "x" * 10_000, [], {}, [[[[[]]]]]])
def test_a_request_of_other_values_is_refused_in_a_few_lines(run_folder, tmp_path, evaluated, capsys, wrong):
    shutil.copytree(evaluated, tmp_path / "copy")
    path = tmp_path / "copy" / "request.json"
    path.write_text(json.dumps(read(path) | {"decoding": wrong}), encoding="utf-8")
    assert run_evaluation(run_folder, "--num_samples", "2", "--output", str(tmp_path / "copy")) == 1
    message = capsys.readouterr().err.split("evaluate.py: ")[1]
    assert "says request.json" in message and "decoding: " in message and len(message) < 1000


def test_clips_of_200_000_tokens_are_answered_within_seconds(tiny_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = json.loads(open(tiny_dataset, encoding="utf-8").read())
    rows[4]["motion_tokens"] = "3 1 " * 100_000
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    started = time.monotonic()
    for data, message in ((tiny_dataset, "clips.jsonl: line 5 has"), ("data.json", "data.json: row 4 has")):
        assert run_script(evaluate, "--generated", "clips.jsonl", "--data", data) == 1
        error = capsys.readouterr().err
        assert "200,000" in error and message.split(" has")[0] in error
    assert time.monotonic() - started < 5 and not (tmp_path / "evaluation").exists()


def test_the_verdict_is_kept_for_the_end_of_a_run_and_stands_first(evaluated, run_folder, tmp_path, capsys):
    details = read(evaluated / "details.json")
    assert {"word", "share", "low", "high", "sentence"} <= set(details["following"])
    assert details["summary"][0] == details["following"]["sentence"] and len(details["summary"]) == 3
    shutil.copytree(run_folder, tmp_path / "run")
    path = tmp_path / "run" / "stage3_t2m_sft" / "motion_config.json"
    content = read(path)
    content["history"] |= {"t2m_passes": 0.613, "more": "--max_minutes 30"}
    path.write_text(json.dumps(content), encoding="utf-8")
    assert run_evaluation(tmp_path / "run", "--num_samples", "2") == 0
    following = read(tmp_path / "run" / "evaluation" / "details.json")["following"]
    assert following["word"] != "follows" and capsys.readouterr().out.startswith(following["sentence"])
    assert "0.61 passes of text to motion" in following["sentence"] and "--max_minutes 30" in following["sentence"]


def test_a_clip_with_several_captions_is_generated_once_and_a_set_without_repeats_has_intervals(
        tiny_dataset, tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = clips = clips_of(tiny_dataset)
    data = [row | {"text_query": f"{row['text_query']} {how}"} for row in clips for how in ("now", "again")]
    shown = [row | {"motion_tokens": row["motion_tokens"] + " 5"} for row in data]
    for name, content in (("data.json", data), ("train.json", rows)):
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, shown)), encoding="utf-8")
    with caplog.at_level("INFO"):
        assert run_script(evaluate, "--generated", "clips.jsonl", "--data", "data.json", "--train_data", "train.json",
                          "--include_train", "--output", "out", "--num_samples", "1") == 0
    figures, captured = read(tmp_path / "out" / "metrics.json")["all"], capsys.readouterr()
    assert caplog.messages[0] == "reading the data"
    assert f"{len(clips)} clips with {2 * len(clips)} captions of data.json to score" in caplog.text
    for name in ("mm_dist", "fid", "valid_share", "edit_distance"):
        assert figures[name]["n"] == len(clips), name
    for name in ("fid", "kid", "diversity", "unigram_jsd", "bigram_jsd"):
        assert figures[name]["low"] < figures[name]["value"] < figures[name]["high"], name
    assert "bootstrap over captions with their clips" in captured.out


def test_every_chunk_draws_from_a_seed_of_its_own():
    seeds = [evaluation_run._chunk_seed(seed, start) for seed in (0, 1) for start in (0, 32, 64)]
    assert len(set(seeds)) == 6 and all(0 <= seed < 2**63 for seed in seeds)
    assert seeds[0] == evaluation_run._chunk_seed(0, 0)


def test_another_request_or_strange_files_are_refused_by_name(evaluated, run_folder, capsys, tmp_path):
    assert run_evaluation(run_folder, "--num_samples", "2", "--seed", "5") == 1
    assert "seed: 0 before, 5 now" in capsys.readouterr().err
    (tmp_path / "metrics.json").write_text("{}")
    assert run_evaluation(run_folder, "--output", str(tmp_path)) == 1
    assert "holds metrics.json but no request.json" in capsys.readouterr().err
    shutil.copytree(evaluated, tmp_path / "changed")
    path = tmp_path / "changed" / "generated.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([lines[1], lines[0], *lines[2:]]), encoding="utf-8")
    assert run_evaluation(run_folder, "--num_samples", "2", "--output", str(tmp_path / "changed")) == 1
    assert "line 1 is not the clip expected there" in capsys.readouterr().err
    other = tmp_path / "other.json"
    other.write_text(json.dumps(tiny_rows()[:-1]), encoding="utf-8")
    assert run_evaluation(run_folder, "--data", str(other), "--output", str(tmp_path / "changed")) == 1
    assert f"the content of {other}, by its sha256: " in capsys.readouterr().err


def test_fresh_that_is_killed_while_it_removes_can_be_given_again(run_folder, tmp_path, evaluated, monkeypatch):
    copy = tmp_path / "evaluation"
    shutil.copytree(evaluated, copy)
    calls, unlink = [], Path.unlink

    def killed(path, *arguments, **options):
        calls.append(path)
        if len(calls) > 2 and path.name != ".lock":
            raise RuntimeError("killed")
        unlink(path, *arguments, **options)

    arguments = ("--num_samples", "2", "--seed", "5", "--fresh", "--output", str(copy))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(RuntimeError, match="killed"):
            run_evaluation(run_folder, *arguments)
    assert (copy / "request.json").is_file()
    assert run_evaluation(run_folder, *arguments) == 0


def test_fresh_generates_anew_with_the_other_seed(run_folder, tmp_path, evaluated):
    shutil.copytree(evaluated, tmp_path / "copy")
    copy = tmp_path / "copy"
    assert run_evaluation(run_folder, "--num_samples", "2", "--seed", "5", "--fresh", "--output", str(copy)) == 0
    assert lines_of(copy / "generated.jsonl") != lines_of(evaluated / "generated.jsonl")


def test_decoding_otherwise_is_said_and_changes_the_clips(run_folder, tmp_path, evaluated):
    assert run_evaluation(run_folder, "--output", str(tmp_path / "greedy"), "--gen_temperature", "0") == 0
    clips = [line["motion_tokens"] for line in lines_of(tmp_path / "greedy" / "generated.jsonl")]
    assert len(set(clips)) < len(clips)  # the samples of a row are the same
    assert read(tmp_path / "greedy" / "details.json")["settings"]["GEN_TEMPERATURE"] == 0
    assert read(evaluated / "details.json")["settings"]["GEN_TEMPERATURE"] == 0.8


def test_all_rows_of_a_file_but_those_that_were_trained_on(run_folder, tiny_dataset, tmp_path, capsys):
    assert run_evaluation(run_folder, "--data", tiny_dataset, "--max_prompts", "4", "--num_samples", "1",
                          "--output", str(tmp_path)) == 0
    sizes = read(run_folder / "prepared_data" / "fingerprint.json")["sizes"]
    assert f"trained on {sizes['train']} of 60 rows, which are left out" in capsys.readouterr().out
    assert read(tmp_path / "metrics.json")["all"]["mm_dist"]["n"] == 4


def test_anyones_clips_are_scored_without_a_model(tiny_dataset, tmp_path, capsys, monkeypatch):
    """Real clips scored as generated ones, in another order; the other half of the file is the training clips."""
    monkeypatch.chdir(tmp_path)
    rows = clips_of(tiny_dataset)
    (tmp_path / "data.json").write_text(json.dumps(rows[::2]), encoding="utf-8")
    (tmp_path / "train.json").write_text(json.dumps(rows[1::2]), encoding="utf-8")
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows[::-1])), encoding="utf-8")
    assert run_script(evaluate, "--generated", "clips.jsonl", "--data", "data.json", "--train_data", "train.json",
                      "--output", "out", "--num_samples", "1") == 0
    figures, baselines = read(tmp_path / "out" / "metrics.json")["all"], read(tmp_path / "out" / "baselines.json")
    for name in ("r_precision_top1", "mm_dist", "fid", "diversity", "unigram_jsd", "novelty"):
        assert figures[name]["value"] == pytest.approx(baselines["real"]["all"][name]["value"], abs=1e-6), name
    assert figures["normalised_edit_distance"]["value"] == 0 and figures["nll_per_token"]["n"] == 0
    assert (tmp_path / "out" / "evaluator").is_dir() and not (tmp_path / "out" / "generated.jsonl").exists()
    output = capsys.readouterr().out
    assert "denoising_accuracy_end (they need a model that answers, not clips from a file)" in output
    assert "not available: nll_per_token (it needs the model" in output and "30 of 59 clips are scored" in output


def test_without_training_clips_what_needs_them_is_not_available(tiny_dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_script(evaluate, "--generated", tiny_dataset.replace("tiny.json", "none.jsonl"), "--data", tiny_dataset,
                      "--output", "out") == 1
    assert "none.jsonl" in capsys.readouterr().err
    rows = clips_of(tiny_dataset)
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    assert run_script(evaluate, "--generated", "clips.jsonl", "--data", "data.json", "--output", "again") == 0
    figures = read(tmp_path / "again" / "metrics.json")["all"]
    assert figures["fid"] == {"value": None, "low": None, "high": None, "n": 0} and figures["bigram_jsd"]["value"] == 0
    assert "(no training clips)" in capsys.readouterr().out


@pytest.mark.parametrize("arguments, message", [
    (["--num_samples", "0"], "--num_samples is 0, expected 1 or more"),
    (["--gen_top_p", "0.5", "--generated", "clips.jsonl"], "--gen_top_p: clips from a file cannot be decoded again"),
    (["--max_prompts", "0"], "--max_prompts is 0"),
    (["--data", "nowhere.json"], "nowhere.json"),
])
def test_what_cannot_be_done_is_refused(run_folder, capsys, arguments, message):
    assert run_evaluation(run_folder, *arguments) == 1
    assert message in capsys.readouterr().err


def test_guidance_is_refused_for_a_model_that_cannot_be_guided(run_folder, tmp_path, capsys):
    shutil.copytree(run_folder / "stage3_t2m_sft", tmp_path / "stage")
    content = read(tmp_path / "stage" / "motion_config.json")
    content["settings"] |= {"CAPTION_DROPOUT": 0.0, "GEN_GUIDANCE": 1.0}
    (tmp_path / "stage" / "motion_config.json").write_text(json.dumps(content), encoding="utf-8")
    assert run_script(evaluate, "--model_path", str(tmp_path / "stage"), "--gen_guidance", "3", "--data",
                      content["settings"]["DATA_JSON_PATH"], "--output", str(tmp_path / "out")) == 1
    assert "--gen_guidance is 3, but" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_model_of_motion_alone_is_refused(run_folder, capsys):
    assert run_script(evaluate, "--model_path", str(run_folder / "stage1_mlm")) == 1
    assert "not for text to motion" in capsys.readouterr().err


def test_without_a_model_or_data_there_is_nothing_to_score(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_script(evaluate, "--generated", "clips.jsonl") == 1
    assert "give --data FILE" in capsys.readouterr().err


# With the codec of the tokens


@pytest.fixture(scope="module")
def codec_folders(tmp_path_factory):
    """Number of codes -> the folder of a codec with so many codes."""
    from walker import walks

    from motion_llm.motion.codec import MotionCodec

    folder, motions = tmp_path_factory.mktemp("codecs"), walks()
    for codes in (100, 128, 150):
        MotionCodec.fit(motions, codes=codes, kind="kmeans").save(folder / str(codes))
    return {codes: str(folder / str(codes)) for codes in (100, 128, 150)}


@pytest.fixture
def real_as_generated(tiny_dataset, tmp_path):
    rows = clips_of(tiny_dataset)
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    return ["--data", str(tmp_path / "data.json"), "--generated", str(tmp_path / "clips.jsonl"),
            "--output", str(tmp_path / "out")]


def test_a_model_that_keeps_its_codec_is_judged_by_joints_too(run_folder, tmp_path, codec_folders, real_as_generated,
                                                              capsys):
    shutil.copytree(run_folder, tmp_path / "run")
    shutil.copytree(codec_folders[128], tmp_path / "run" / "stage3_t2m_sft" / "codec")
    assert run_evaluation(tmp_path / "run", *real_as_generated, "--include_train") == 0
    figures, baselines = read(tmp_path / "out" / "metrics.json")["all"], read(tmp_path / "out" / "baselines.json")
    assert figures["dtw_joint_error"]["value"] == 0 and figures["fid_joints"]["value"] < 1e-5
    assert baselines["random_clip"]["all"]["dtw_joint_error"]["value"] > 1
    assert baselines["random_clip"]["all"]["fid_joints"]["value"] > 0.01
    details = read(tmp_path / "out" / "details.json")
    assert details["codec"]["codes"] == 128 and details["codec"]["path"].endswith("stage3_t2m_sft/codec")
    output = capsys.readouterr().out
    assert "DTW joint error (mm)" in output and "FID of joints" in output and "no codec" not in output


def test_a_codec_can_be_named_where_there_is_no_model(tiny_dataset, tmp_path, codec_folders, real_as_generated,
                                                      monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_script(evaluate, *real_as_generated, "--codec", codec_folders[150]) == 0
    assert read(tmp_path / "out" / "metrics.json")["all"]["dtw_joint_error"]["value"] == 0
    assert read(tmp_path / "out" / "details.json")["codebook_size"] == 150  # not the largest code + 1
    assert run_script(evaluate, *real_as_generated) == 0
    assert read(tmp_path / "out" / "metrics.json")["all"]["dtw_joint_error"]["value"] is None
    assert "dtw_joint_error, fid_joints (no codec of the tokens: CODEC_PATH" in capsys.readouterr().out


def test_a_codec_of_other_tokens_is_refused(run_folder, tiny_dataset, tmp_path, codec_folders, real_as_generated,
                                            monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder, message in ((codec_folders[150], "has 150 codes, but"), (codec_folders[100], "was trained with 128"),
                            (str(tmp_path), "has no codec.json, so it is no codec's folder")):
        assert run_evaluation(run_folder, *real_as_generated, "--codec", folder) == 1
        assert message in capsys.readouterr().err
    assert run_script(evaluate, *real_as_generated, "--codec", codec_folders[100]) == 1
    assert "has 100 codes, but row 0 of" in capsys.readouterr().err
    rows = json.loads(open(tiny_dataset, encoding="utf-8").read())
    (tmp_path / "low.json").write_text(json.dumps(rows[1:]), encoding="utf-8")
    assert run_script(evaluate, *real_as_generated, "--data", str(tmp_path / "low.json"), "--train_data", tiny_dataset,
                      "--codec", codec_folders[100], "--include_train") == 1
    assert f"but {tiny_dataset} has code 127: they do not belong together" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
