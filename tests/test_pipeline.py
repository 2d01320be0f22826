"""train_pipeline.py and inference.py as scripts: the files of a run, what it refuses, what it prints."""

import contextlib
import io
import json
import multiprocessing
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import run_script, tiny_rows

import config
import inference
import train_pipeline
from motion_llm.dataset.lengths import LengthLimits
from motion_llm.dataset.prepared import load_prepared, prepared_report
from motion_llm.dataset.report import DataError
from motion_llm.decoding.request import MotionRequest, MotionResult
from motion_llm.training import work_folder

ROOT = Path(__file__).parent.parent


def test_a_run_writes_three_stages_settings_and_metrics(tiny_run):
    for stage, tasks in {"stage1_mlm": ["lm"], "stage3_t2m_sft": ["t2m"], "stage2_multitask": [
            "t2m", "m2t", "denoise", "inbetween", "continue", "edit"]}.items():
        stage_config = json.loads((tiny_run / stage / "motion_config.json").read_text())
        history = stage_config["history"]
        assert stage_config["tasks"] == tasks
        assert history["losses"] and {"seen", "unseen", "epoch"} <= history["nll"][0].keys()
        assert (tiny_run / stage / "tokenizer.json").is_file()
    settings = json.loads((tiny_run / "settings.json").read_text())["settings"]
    assert settings["EPOCHS_S3"] == 2 and settings["LORA_R"] == 4
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    assert set(metrics["heldout"]) == {"seen", "unseen", "test"}
    assert set(metrics["heldout"]["seen"]) == {"model", "random_clip", "nearest_caption_clip", "another_real_clip"}
    assert metrics["heldout"]["seen"]["model"]["nll_per_token"] > 0
    assert set(metrics["stages"]) == {"stage1_mlm", "stage2_multitask", "stage3_t2m_sft"}
    assert not list((tiny_run / "checkpoints").iterdir())


def test_with_nothing_held_out_a_run_says_so_and_how_to_ask_it(tiny_arguments, tmp_path, capsys):
    arguments = [*tiny_arguments, "--work_dir", str(tmp_path / "o"), "--epochs_s1", "0", "--epochs_s2", "0"]
    assert run_script(train_pipeline, *arguments, "--epochs_s3", "1", "--heldout_share", "0") == 0
    printed = capsys.readouterr().out
    assert "\nNo rows were held out, so nothing was measured.\n" in printed and "norm." not in printed
    assert "Three generated clips:" in printed
    assert "Does it follow its captions? That was not judged: " in printed
    assert printed.count("Ask it for motion:\n  python inference.py --model_path") == 1
    assert "passes of text to motion over its training clips: go on with the same command and --epochs_s3" in printed


def test_with_nothing_held_out_a_model_is_judged_by_clips_that_it_was_trained_on(tiny_arguments, tmp_path, capsys):
    arguments = [*tiny_arguments, "--work_dir", str(tmp_path / "o"), "--epochs_s1", "0", "--epochs_s2", "0"]
    arguments += ["--epochs_s3", "1", "--heldout_share", "0", "--report_page", "true"]
    assert run_script(train_pipeline, *arguments) == 0
    printed = capsys.readouterr().out
    assert "(Judged by clips that it was trained on, as none are held out.)" in printed
    details = json.loads((tmp_path / "o" / "evaluation" / "details.json").read_text())
    assert details["data"]["clips"] == 59  # of 60 rows, two of which have the same motion


def test_lengths_come_from_training_rows_alone(tiny_run):
    unseen = {row["text_query"].casefold() for row in load_prepared(tiny_run / "prepared_data", "unseen")}
    captions = json.loads((tiny_run / "stage3_t2m_sft" / "motion_config.json").read_text())["length_model"]["captions"]
    assert unseen and not unseen & set(captions)
    training = load_prepared(tiny_run / "prepared_data", "train")
    assert sum(int(record.split()[0]) for record in captions.values()) == len(training)


def test_a_finished_run_is_only_evaluated_and_takes_new_decoding_settings(
        tiny_run, tiny_arguments, tmp_path, capsys, caplog):
    copy = tmp_path / "output"
    shutil.copytree(tiny_run, copy)
    with caplog.at_level("INFO"):
        assert run_script(train_pipeline, *tiny_arguments, "--work_dir", str(copy), "--gen_temperature", "0") == 0
    assert all(f"Stage {n} is finished" in caplog.text for n in (1, 2, 3))
    printed = capsys.readouterr().out
    assert "this model" in printed and "another real clip" in printed and "Three generated clips:" in printed
    settings = json.loads((copy / "stage3_t2m_sft" / "motion_config.json").read_text())["settings"]
    assert settings["GEN_TEMPERATURE"] == 0


def test_a_later_start_uses_the_prepared_data_while_the_file_is_the_same(
        tiny_run, tiny_arguments, tiny_dataset, tmp_path, monkeypatch):
    changed = tmp_path / "changed.json"
    shutil.copy(tiny_dataset, changed)
    parser = train_pipeline._parser()

    def start(*flags: str, reuse: bool):
        args = parser.parse_args([*tiny_arguments, "--work_dir", str(tiny_run), *flags])
        return train_pipeline._read(config.resolve(config.given(args)), reuse)

    first, again = start(reuse=False), start(reuse=True)
    assert again.split is None and again.report.fingerprint == first.report.fingerprint
    assert again.text.startswith(first.text) and "has not changed since it was checked" in again.text
    assert start("--seed", "9", reuse=True).split is not None
    assert start("--data_json_path", str(changed), reuse=True).split is not None  # messages name the file
    monkeypatch.setattr(train_pipeline, "read_rows", lambda *args, **options: pytest.fail("the file is read again"))
    assert sorted(start(reuse=True).report.rows.participants) == sorted(first.report.rows.participants)


def test_changed_settings_are_refused_with_the_difference(tiny_run, tiny_arguments, capsys):
    status = run_script(train_pipeline, *tiny_arguments, "--work_dir", str(tiny_run), "--lr", "0.5")
    assert status == 1
    assert re.search(r"LR: none before, 0.5 now(.|\n)*--fresh", capsys.readouterr().err)


def test_changed_data_is_refused_by_content_not_by_path(tiny_run, tiny_arguments, tmp_path, capsys):
    moved = tmp_path / "moved.jsonl"
    moved.write_text("\n".join(json.dumps(row) for row in tiny_rows()))
    arguments = [*tiny_arguments, "--data_json_path", str(moved), "--work_dir", str(tiny_run)]
    assert run_script(train_pipeline, *arguments) == 0
    capsys.readouterr()
    moved.write_text(json.dumps(tiny_rows()[:-1]))
    assert run_script(train_pipeline, *arguments) == 1
    assert re.search(r"the data: .* with 60 rows before, .* with 59 rows of other content now", capsys.readouterr().err)


def test_fresh_removes_the_files_of_a_run_and_nothing_else(tiny_run, tiny_arguments, tmp_path):
    copy = tmp_path / "output"
    shutil.copytree(tiny_run, copy)
    (copy / "my_notes.txt").write_text("keep me")
    before = (copy / "stage1_mlm" / "adapter_model.safetensors").read_bytes()
    arguments = [*tiny_arguments, "--work_dir", str(copy), "--seed", "7", "--epochs_s2", "0", "--epochs_s3", "0"]
    assert run_script(train_pipeline, *arguments, "--fresh") == 0
    assert (copy / "my_notes.txt").read_text() == "keep me"
    assert (copy / "stage1_mlm" / "adapter_model.safetensors").read_bytes() != before
    assert not (copy / "stage3_t2m_sft").exists()


def test_files_in_work_dir_that_no_run_wrote_are_never_touched(tiny_arguments, tmp_path, capsys):
    file = tmp_path / "mine" / "checkpoints" / "precious.txt"
    file.parent.mkdir(parents=True)
    file.write_text("keep me")
    for fresh in ([], ["--fresh"]):
        assert run_script(train_pipeline, *tiny_arguments, "--work_dir", str(tmp_path / "mine"), *fresh) == 1
        assert "holds checkpoints but no settings.json" in capsys.readouterr().err
    assert file.read_text() == "keep me"


@pytest.mark.parametrize("removed", [1, 3, 6])
def test_fresh_that_is_killed_while_it_removes_can_be_given_again(
        tiny_run, tiny_arguments, tmp_path, monkeypatch, removed):
    copy = tmp_path / "output"
    shutil.copytree(tiny_run, copy)
    arguments = [*tiny_arguments, "--work_dir", str(copy), "--fresh", "--epochs_s2", "0", "--epochs_s3", "0"]
    calls, remove = [], work_folder.remove

    def killed(path):
        calls.append(path)
        if len(calls) > removed:
            raise RuntimeError("killed")
        remove(path)

    with monkeypatch.context() as patch:
        patch.setattr(work_folder, "remove", killed)
        with pytest.raises(RuntimeError, match="killed"):
            run_script(train_pipeline, *arguments)
    assert run_script(train_pipeline, *arguments) == 0
    assert not [path for path in copy.iterdir() if path.name.endswith(".removing")]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--model_name", "nope"], "MODEL_NAME 'nope' is neither"),
    (["--epochs_s1", "0", "--epochs_s2", "0", "--epochs_s3", "0"], "nothing to train"),
    (["--caption_dropout", "0"], "GEN_GUIDANCE is 3 and CAPTION_DROPOUT 0: a model that is trained with every caption"),
    (["--max_seq_len", "30"], "do not fit MAX_SEQ_LEN 30"),
])
def test_fresh_removes_nothing_before_every_check_has_passed(
        tiny_run, tiny_arguments, tmp_path, capsys, arguments, message):
    copy = tmp_path / "output"
    shutil.copytree(tiny_run, copy)
    assert run_script(train_pipeline, *tiny_arguments, "--work_dir", str(copy), "--fresh", *arguments) == 1
    assert message in capsys.readouterr().err
    assert (copy / "stage3_t2m_sft" / "adapter_model.safetensors").is_file() and (copy / "metrics.json").is_file()


def test_fresh_does_not_remove_the_dataset_of_the_new_run(tiny_run, tiny_arguments, tmp_path, capsys):
    copy = tmp_path / "output"
    shutil.copytree(tiny_run, copy)
    inside = copy / "checkpoints" / "mine.json"
    inside.write_text(json.dumps(tiny_rows()))
    arguments = [*tiny_arguments, "--data_json_path", str(inside), "--work_dir", str(copy), "--fresh"]
    assert run_script(train_pipeline, *arguments) == 1
    assert "and the dataset with it" in capsys.readouterr().err and inside.is_file()


def test_a_missing_stage_before_a_finished_one_is_refused(tiny_run, tiny_arguments, tmp_path, capsys):
    copy = tmp_path / "output"
    shutil.copytree(tiny_run, copy)
    shutil.rmtree(copy / "stage2_multitask")
    assert run_script(train_pipeline, *tiny_arguments, "--work_dir", str(copy)) == 1
    assert "stage2_multitask, which came before, is gone" in capsys.readouterr().err


def test_a_second_run_in_the_same_folder_is_refused(tiny_run, tiny_arguments, capsys):
    with work_folder.working_in(tiny_run):
        assert run_script(train_pipeline, *tiny_arguments, "--work_dir", str(tiny_run)) == 1
    assert "another run is using" in capsys.readouterr().err


@pytest.mark.parametrize(("file", "content", "message"), [
    ("settings.json", "[]", "settings.json holds a list"),
    ("settings.json", '{"settings": nul', "settings.json is broken"),
    ("settings.json", '{"settings": null}', "settings.json is damaged"),
    ("stage3_t2m_sft/motion_config.json", "{}", "motion_config.json has no stage"),
    ("stage3_t2m_sft/adapter_model.safetensors", "x", "adapter_model.safetensors is not the file that was saved there"),
])
def test_damaged_files_of_a_run_are_named(tiny_run, tiny_arguments, tmp_path, capsys, file, content, message):
    copy = tmp_path / "output"
    shutil.copytree(tiny_run, copy)
    (copy / file).write_text(content)
    assert run_script(train_pipeline, *tiny_arguments, "--work_dir", str(copy)) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [None, True, -1, 10**30, 1e308, "", "x" * 10_000, [], {}, [[[[[]]]]]], ids=repr)
@pytest.mark.parametrize("place", [
    ("settings",), ("data_fingerprint",), ("data_rows",), ("codebook_size",), ("codec_fingerprint",),
    ("settings", "STAGE2_MIX"), ("settings", "STAGE2_MIX", "t2m"), ("settings", "DATA_JSON_PATH"),
    ("settings", "LORA_R")],
    ids=str)
def test_other_values_of_settings_json_are_refused_by_name_or_do_no_harm(tiny_run, tiny_arguments, tmp_path, place,
                                                                         wrong, monkeypatch):
    copy = tmp_path / "output"
    for name in ("settings.json", "stage1_mlm/motion_config.json"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tiny_run / name, copy / name)
    content = owner = json.loads((copy / "settings.json").read_text())
    for key in place[:-1]:
        owner = owner[key]
    owner[place[-1]] = wrong
    (copy / "settings.json").write_text(json.dumps(content))
    args = train_pipeline._parser().parse_args([*tiny_arguments, "--work_dir", str(copy)])
    run = train_pipeline._read(config.resolve(config.given(args)), reuse=False)
    may_be = {"data_rows": (), "codebook_size": (None,), "codec_fingerprint": (None, "", "x" * 10_000),
              "DATA_JSON_PATH": ("", "x" * 10_000)}.get(place[-1], ())
    if wrong in may_be:
        with contextlib.suppress(work_folder.PipelineError):
            work_folder.check_work_folder(run, False, config.differences)
        return
    with pytest.raises(work_folder.PipelineError, match="settings.json") as refusal:
        work_folder.check_work_folder(run, False, config.differences)
    assert len(str(refusal.value)) < 1400


@pytest.fixture
def prepared(tiny_arguments, tmp_path) -> Path:
    """A WORK_DIR with prepared data alone."""
    args = train_pipeline._parser().parse_args([*tiny_arguments, "--work_dir", str(tmp_path / "prepared")])
    train_pipeline._prepared(train_pipeline._read(config.resolve(config.given(args)), reuse=False))
    return tmp_path / "prepared"


@pytest.mark.parametrize(("file", "change", "line"), [
    ("rows.arrow", lambda content: content.replace(b"bows", b"rows"), "rows.arrow is not the table that was saved"),
    ("rows.arrow", None, "rows.arrow is missing"),
    ("fingerprint.json", lambda content: content[:200], "fingerprint.json is broken"),
    ("fingerprint.json", lambda content: content.replace(b'"train": ', b'"train": -'), "sizes train is -"),
    ("fingerprint.json", None, "fingerprint.json"),
])
def test_damaged_prepared_data_are_made_anew_with_a_line_that_names_the_file(
        prepared, tiny_arguments, tiny_dataset, caplog, file, change, line):
    path = prepared / "prepared_data" / file
    whole = {path.name: path.read_bytes() for path in path.parent.iterdir()}
    rows = load_prepared(path.parent).to_list()
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(whole[file]))
        assert path.read_bytes() != whole[file]
    args = train_pipeline._parser().parse_args([*tiny_arguments, "--work_dir", str(prepared)])
    with caplog.at_level("INFO"):
        run = train_pipeline._read(config.resolve(config.given(args)), reuse=True)
    assert line in caplog.text and f"It is made anew from {tiny_dataset}" in caplog.text
    train_pipeline._prepared(run)
    assert load_prepared(path.parent).to_list() == rows


@pytest.mark.parametrize("wrong", [None, True, -1, 10**30, 1e308, "", "x" * 10_000, [], {}, [[[[[]]]]]], ids=repr)
def test_other_values_of_fingerprint_json_are_refused_by_name_or_do_no_harm(prepared, wrong):
    path = prepared / "prepared_data" / "fingerprint.json"
    whole = json.loads(path.read_text())
    for name in (*whole, *(("sizes", part) for part in whole["sizes"])):
        content = json.loads(json.dumps(whole))
        owner, key = (content, name) if isinstance(name, str) else (content[name[0]], name[1])
        owner[key] = wrong
        path.write_text(json.dumps(content))
        try:
            prepared_report(path.parent)
            load_prepared(path.parent, "test")
        except DataError as error:
            assert str(path) in str(error) and len(str(error)) < len(str(path)) + 300, name


def test_a_run_clears_what_kills_left_in_its_folder(tiny_run, tiny_arguments, tmp_path, monkeypatch, caplog):
    copy = tmp_path / "output"
    shutil.copytree(tiny_run, copy)
    before = load_prepared(tiny_run / "prepared_data").to_list()
    (copy / "prepared_data").rename(copy / ".prepared_data.before")  # as between the two renames of a folder
    (copy / "checkpoints" / "stage2_multitask" / "saving").mkdir(parents=True)
    for name in (".prepared_data.saving", ".stage2_multitask.saving", ".evaluator.saving", ".checkpoints.removing"):
        (copy / name).mkdir()
    monkeypatch.setattr(train_pipeline, "_evaluate", lambda *arguments: {})
    with caplog.at_level("INFO"):
        assert run_script(train_pipeline, *tiny_arguments, "--work_dir", str(copy)) == 0
    assert "prepared_data is put back" in caplog.text and "removing " in caplog.text
    assert not [path.name for path in copy.iterdir() if path.name.startswith(".")]
    assert not list((copy / "checkpoints").iterdir())
    assert load_prepared(copy / "prepared_data").to_list() == before


def _trained_with_little_space(arguments: list[str], most_bytes: int, path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        status = run_script(train_pipeline, *arguments)
    path.write_text(f"{status}\n{errors.getvalue()[-2000:]}")


@pytest.mark.parametrize(("most_bytes", "place"), [(8_000, "prepared_data"), (30_000, "checkpoints/stage1_mlm")])
def test_a_full_disk_while_a_run_writes_is_told_by_name_and_the_same_command_goes_on(
        tiny_arguments, tmp_path, unsloth, most_bytes, place):
    """A limit on the size of a file fails as a full disk does."""
    out = tmp_path / "output"
    arguments = [*tiny_arguments, "--work_dir", str(out), "--epochs_s2", "0", "--epochs_s3", "0", "--lora_r", "3"]
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_trained_with_little_space, args=(arguments, most_bytes, tmp_path / "said.txt"))
    child.start()
    child.join(120)
    said = (tmp_path / "said.txt").read_text()
    assert said.startswith("1\n") and "Traceback" not in said
    assert said.splitlines()[-1].startswith("train_pipeline.py: ") and str(out / place) in said.splitlines()[-1]
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
    assert run_script(train_pipeline, *arguments) == 0


def older(folder: Path, copy: Path) -> Path:
    """A copy of a stage's folder as it was before digests of the files were kept."""
    shutil.copytree(folder, copy)
    content = json.loads((copy / "motion_config.json").read_text())
    content.pop("files")
    (copy / "motion_config.json").write_text(json.dumps(content))
    return copy


def test_weights_that_are_broken_are_named_in_an_older_folder_too(tiny_run, tmp_path, capsys):
    copy = older(tiny_run / "stage3_t2m_sft", tmp_path / "stage3_t2m_sft")
    assert answers_of(copy, capsys) == answers_of(tiny_run / "stage3_t2m_sft", capsys)
    (copy / "adapter_model.safetensors").write_text("x")
    assert run_script(inference, "--model_path", str(copy), "--prompt", "a person jumps") == 1
    assert "adapter_model.safetensors are broken" in capsys.readouterr().err


def answers_of(folder: Path, capsys) -> str:
    assert run_script(inference, "--model_path", str(folder), "--prompt", "a person jumps", "--seed", "1") == 0
    return capsys.readouterr().out


def test_the_weights_of_another_stage_are_refused_before_a_model_is_built(tiny_run, tmp_path, capsys):
    copy = tmp_path / "stage3_t2m_sft"
    shutil.copytree(tiny_run / "stage3_t2m_sft", copy)
    shutil.copyfile(tiny_run / "stage1_mlm" / "adapter_model.safetensors", copy / "adapter_model.safetensors")
    assert run_script(inference, "--model_path", str(copy), "--prompt", "a person jumps") == 1
    message = capsys.readouterr().err
    assert "adapter_model.safetensors is not the file that was saved there" in message and "Unsloth" not in message


def test_missing_adapter_values_are_noticed(tiny_run, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    copy = older(tiny_run / "stage3_t2m_sft", tmp_path / "stage3_t2m_sft")
    weights = load_file(copy / "adapter_model.safetensors")
    weights.pop(next(name for name in weights if "lora_A" in name))
    save_file(weights, copy / "adapter_model.safetensors")
    assert run_script(inference, "--model_path", str(copy), "--prompt", "a person jumps") == 1
    assert "it is damaged, or of another model" in capsys.readouterr().err


BAD = {
    "empty file": ("", r"bad.json.*empty"),
    "broken JSON": ('[{"text_query": "a",\n "motion_tokens" "1"}]', r"line 2.*column"),
    "not a list of objects": ('{"clips": []}', r"list of objects|JSON list"),
    "a missing field": ([{"text_query": "a person walks"}], r"missing field.*row 0"),
    "an empty text": ([{"text_query": " ", "motion_tokens": "1"}], r"row 0"),
    "a text that is none": ([{"text_query": 5, "motion_tokens": "1"}], r"row 0.*5"),
    "no tokens": ([{"text_query": "a", "motion_tokens": ""}], r"no motion tokens"),
    "a negative token": ([{"text_query": "a", "motion_tokens": "1 -2"}], r"negative.*row 0.*-2"),
    "a token that is no integer": ([{"text_query": "a", "motion_tokens": "1 2.5"}], r"not an integer.*2\.5"),
    "an absurd token": ([{"text_query": "a", "motion_tokens": "1 99999999"}], r"too large.*99999999"),
    "mixed participants": ([{"text_query": "a", "motion_tokens": "1", "participant_id": 1},
                            {"text_query": "b", "motion_tokens": "2", "participant_id": "1"}], r"participant_id"),
    "a clip that does not fit": ([{"text_query": "a", "motion_tokens": "1 " * 5000}], r"MAX_SEQ_LEN"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("check", [True, False], ids=["--check", "training"])
def test_bad_data_gives_its_message_and_status_1(name, check, tmp_path, capsys):
    content, pattern = BAD[name]
    path = tmp_path / "bad.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    arguments = ["--data_json_path", str(path), "--work_dir", str(tmp_path / "output")] + ["--check"] * check
    assert run_script(train_pipeline, *arguments) == 1
    printed = capsys.readouterr()
    assert re.search(pattern, " ".join((printed.out if check else printed.err).split()))
    assert "bad.json" in printed.out + printed.err and not (tmp_path / "output").exists()


def test_check_prints_the_report_and_trains_nothing(tiny_dataset, tmp_path, capsys):
    arguments = ["--check", "--data_json_path", tiny_dataset, "--work_dir", str(tmp_path / "o")]
    assert run_script(train_pipeline, *arguments) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("rows", "codebook", "participants", "captions", "validation", "no errors"))
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(("arguments", "message"), [
    (["--lr", "fast"], "--lr"),
    (["--lr", "-1"], "--lr"),
    (["--lora_rank", "4"], "--lora_rank"),
    (["--stage2_mix", "t2m=0.5"], "--stage2_mix"),
    (["--batch_train", "0"], "--batch_train"),
])
def test_unknown_and_impossible_settings_are_refused_by_name(arguments, message, capsys):
    assert run_script(train_pipeline, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_reporter_that_is_not_installed_is_refused(tiny_arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train_pipeline.importlib.util, "find_spec", lambda name: None)
    assert run_script(train_pipeline, *tiny_arguments, "--report_to", "wandb", "--work_dir", str(tmp_path / "o")) == 1
    assert "REPORT_TO is 'wandb', but that package is not installed" in capsys.readouterr().err


def test_a_clip_that_fits_by_words_but_not_by_tokens_is_refused_before_training(tiny_arguments, tmp_path, capsys):
    path = tmp_path / "long.json"
    rows = tiny_rows()
    rows[3]["text_query"] = "pneumonoultramicroscopicsilicovolcanoconiosis" * 4
    path.write_text(json.dumps(rows))
    arguments = [*tiny_arguments, "--data_json_path", str(path), "--work_dir", str(tmp_path / "o")]
    assert run_script(train_pipeline, *arguments) == 1
    message = capsys.readouterr().err
    assert re.search(r"long.json: 1 rows do not fit MAX_SEQ_LEN 128: row 3 needs \d+ in ", message)
    # Nothing was written yet, so the same folder can be used with a larger MAX_SEQ_LEN, as the message advises.
    arguments += ["--max_seq_len", "400", "--epochs_s2", "0", "--epochs_s3", "0"]
    assert run_script(train_pipeline, *arguments) == 0


@pytest.mark.parametrize("arguments", [["train_pipeline.py", "--help"], ["train_pipeline.py", "--check"],
                                       ["train_pipeline.py", "--lr", "x"], ["inference.py", "--help"],
                                       ["inference.py", "--prompt", "a", "--temperature", "-1"],
                                       ["inference.py", "--prompt", "a", "--model_path", "nowhere"]])
def test_help_check_and_refusals_answer_within_three_seconds(arguments):
    started = time.monotonic()
    result = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert time.monotonic() - started < 3
    assert "Traceback" not in result.stderr and result.returncode == (0 if arguments[-1] in ("--help", "--check") else
                                                                      2 if "--lr" in arguments else 1)


def test_help_explains_every_setting():
    result = subprocess.run([sys.executable, "train_pipeline.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert all(f"--{name.lower()}" in result.stdout for name in config.defaults())


def answers(tiny_run, capsys, *arguments: str) -> list[str]:
    assert run_script(inference, "--model_path", str(tiny_run / "stage3_t2m_sft"), *arguments) == 0
    return capsys.readouterr().out.removesuffix("\n").split("\n")


def test_inference_prints_tokens_alone_and_writes_them(tiny_run, tmp_path, capsys):
    output = tmp_path / "deep" / "motion.txt"
    lines = answers(tiny_run, capsys, "--prompt", "a person jumps", "--num_samples", "3", "--seed", "1",
                    "--output", str(output))
    assert len(lines) == 3 and all(re.fullmatch(r"\d+( \d+)*", line) for line in lines)
    assert output.read_text().splitlines() == lines
    assert answers(tiny_run, capsys, "--prompt", "a person jumps", "--num_samples", "3", "--seed", "1") == lines


def test_the_log_has_lengths_with_one_decimal_at_most(caplog):
    with caplog.at_level("INFO"):
        for target in (53.0332, 7.46, 9.0):
            inference._log_length("a dance", LengthLimits(5, target, 70, "x"))
    assert re.findall(r"about (\S+),", caplog.text) == ["53", "7.5", "9"]


def test_answers_are_saved_as_they_come_and_an_earlier_file_stays_until_the_first(tmp_path, monkeypatch, capsys):
    output, seen = tmp_path / "answers.jsonl", []
    output.write_text("earlier\n")

    def lines(args):
        seen.append(output.read_text())
        yield "first"
        seen.append(output.read_text())
        yield "second"
        raise KeyboardInterrupt

    monkeypatch.setattr(inference, "run", lines)
    assert run_script(inference, "--prompts_file", "prompts.txt", "--output", str(output)) == 130
    assert seen == ["earlier\n", "first\n"] and output.read_text() == "first\nsecond\n"
    assert capsys.readouterr().out == "first\nsecond\n"


def test_long_requests_show_a_bar_and_short_ones_none(monkeypatch, capsys, caplog):
    result = MotionResult("1", "a dance", limits=LengthLimits(5, 6, 70, "x"))
    assert list(inference._with_bar(iter([result] * 3), 3)) == [result] * 3
    assert "decoding" not in capsys.readouterr().err
    monkeypatch.setattr(inference, "BAR_AFTER", 0)
    with caplog.at_level("INFO"):
        assert list(inference._with_bar(iter([result] * 3), 3)) == [result] * 3
    assert "decoding:" in capsys.readouterr().err
    assert [record.message for record in caplog.records] == ["'a dance': 5 to 70 tokens, about 6, from x"]


def test_a_prompts_file_is_answered_in_its_order_with_its_duplicates(tiny_run, tmp_path, capsys):
    prompts = ["a person jumps", "wer weiß", "a person jumps"]
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(prompts) + "\n", encoding="utf-8")
    rows = [json.loads(line) for line in answers(tiny_run, capsys, "--prompts_file", str(path), "--num_samples", "2")]
    assert [row["text_query"] for row in rows] == [prompt for prompt in prompts for _ in range(2)]
    assert all(re.fullmatch(r"\d+( \d+)*", row["motion_tokens"]) for row in rows)
    path.write_bytes("a person jumps\u2028and bows\r\n".encode())  # one caption, with a separator inside
    (only,) = answers(tiny_run, capsys, "--prompts_file", str(path))
    assert json.loads(only)["text_query"] == "a person jumps\u2028and bows"
    path.write_bytes(b"a person \xfc")
    assert run_script(inference, "--model_path", str(tiny_run / "stage3_t2m_sft"), "--prompts_file", str(path)) == 1
    assert "prompts.txt: not UTF-8: byte 0xfc at byte offset 9, line 1" in capsys.readouterr().err
    path.write_text("a person jumps\n\nbows\n")
    assert run_script(inference, "--prompts_file", str(path)) == 1
    assert "line 2 is empty" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "message"), [
    (["--participant_id", "P009"], "participant 'P009' is unknown; there are P001, P002"),
    (["--temperature", "-1"], "GEN_TEMPERATURE is -1"),
    (["--num_samples", "0"], "num_samples is 0"),
    (["--max_new_tokens", "0"], "max_new_tokens is 0"),
    (["--output", "."], "is a folder, expected a file"),
    (["--tokens", "9", "--seconds", "2"], "tokens and seconds were given"),
    (["--min_tokens", "9", "--max_tokens", "2"], "min_tokens is 9, more than max_tokens, 2"),
    (["--tokens", "900"], "900 motion tokens were asked for"),
    (["--seconds", "2"], "set TOKENS_PER_SECOND"),
    (["--tokens_per_second", "0"], "TOKENS_PER_SECOND is 0"),
    (["--stream", "--num_samples", "2"], "--stream prints one motion"),
    (["--motion_tokens", "1 2"], "motion (--motion_tokens) was given, which t2m (text to motion) does not take"),
    (["--task", "continue", "--motion_tokens", "1 x"], "'x' at position 1"),
    (["--seed", "-1"], "seed is -1"),
    (["--device", "cuda"], "torch finds no GPU"),
])
def test_inference_refuses_bad_arguments(tiny_run, capsys, arguments, message):
    status = run_script(inference, "--model_path", str(tiny_run / "stage3_t2m_sft"), "--prompt", "a", *arguments)
    assert status == 1 and message in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "t2m needs a sentence: --prompt, or --prompts_file"),
    (["--task", "m2t"], "m2t (motion to text) needs motion"),
    (["--task", "m2t", "--motion_tokens", "1 2"], "was trained for t2m, not for motion to text (m2t); use "),
    (["--task", "denoise", "--motion_tokens", "1 2", "--prompts_file", "x"], "--prompts_file is for t2m"),
])
def test_inference_refuses_a_task_without_its_inputs(tiny_run, capsys, arguments, message):
    assert run_script(inference, "--model_path", str(tiny_run / "stage3_t2m_sft"), *arguments) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "pattern"), [
    (["--task", "m2t", "--motion_tokens", "1 2"], r".+\n"),
    (["--task", "denoise", "--motion_tokens", "1 ? 3", "--num_samples", "2"], r"(1 \d+ 3\n){2}"),
    (["--task", "inbetween", "--motion_tokens", "1 2", "--end_tokens", "3", "--tokens", "5"], r"1 2 \d+ \d+ 3\n"),
    (["--task", "continue", "--motion_tokens", "1 2", "--tokens", "4"], r"1 2 \d+ \d+\n"),
    (["--task", "continue", "--motion_tokens", "1 2", "--prompt", "bows", "--tokens", "3"], r"1 2 \d+\n"),
    (["--task", "edit", "--motion_tokens", "1 2 3 4", "--prompt", "bows", "--span", "1:3", "--tokens_per_second", "1"],
     r"1 \d+ \d+ 4\n"),
    (["--task", "inbetween", "--motion_tokens", "1", "--end_tokens", "3", "--tokens", "3", "--prompt", "bows"],
     r"1 \d+ 3\n"),
    (["--prompt", "bows", "--tokens_per_second", "2", "--seconds", "1.5", "--stream"], r"\d+ \d+ \d+\n"),
    (["--prompt", "bows", "--best_of", "2"], r"\d+( \d+)*\n"),
])
def test_inference_answers_every_task(tiny_run, capsys, tmp_path, arguments, pattern):
    path = tmp_path / "out.txt"
    assert run_script(inference, "--model_path", str(tiny_run / "stage2_multitask"), "--output", str(path),
                      *arguments) == 0
    printed = capsys.readouterr().out
    assert re.fullmatch(pattern, printed) and path.read_text() == printed


def test_a_call_beats_the_command_line_beats_the_folder_beats_config(tiny_run, tiny_arguments, tmp_path, monkeypatch):
    from generate import MotionGenerator  # imports transformers, which must follow Unsloth's start

    generator = MotionGenerator(tiny_run / "stage3_t2m_sft")
    monkeypatch.setattr(config, "GEN_TOP_K", 99)
    assert generator._sampling(MotionRequest(text="x")).top_k == 0  # the folder's, not config.py's
    assert generator._sampling(MotionRequest(text="x", top_k=7)).top_k == 7
    assert config.resolve({"GEN_TOP_K": 5}, {"GEN_TOP_K": 4})["GEN_TOP_K"] == 5
    assert config.resolve({}, {"GEN_TOP_K": 4})["GEN_TOP_K"] == 4
    assert config.resolve({})["GEN_TOP_K"] == 99
    assert generator.settings["MAX_SEQ_LEN"] == 128 != config.MAX_SEQ_LEN


def test_inference_exports_motion_generator(unsloth):
    from generate import MotionGenerator  # imports transformers, which must follow Unsloth's start

    assert inference.MotionGenerator is MotionGenerator
