import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import run_script

import codec
import evaluate
import export
import import_tokens
import inference
import train_pipeline
import view
from motion_llm.command_line import Parser, exit_status, keep_inputs, printable, printable_json


def raising(error):
    def command():
        raise error
    return command


class UsageError(ValueError):
    pass


@pytest.mark.parametrize(("error", "status", "message"), [
    (ValueError("row 3 is empty"), 1, "view.py: row 3 is empty\n"),
    (FileNotFoundError(2, "No such file", "walk.bvh"), 1, "view.py: [Errno 2] No such file: 'walk.bvh'\n"),
    (ModuleNotFoundError("", name="torch"), 1, "view.py: the package torch is missing: run it with .venv/bin/python\n"),
    (KeyboardInterrupt(), 130, "view.py: stopped\n"),
    (UsageError("unknown flag"), 2, "view.py: unknown flag\n"),
])
def test_what_the_user_can_mend_is_one_line_on_stderr(error, status, message, capsys):
    assert exit_status("view.py", raising(error), usage_error=UsageError) == status
    assert capsys.readouterr() == ("", message)


def test_a_defect_keeps_its_traceback():
    with pytest.raises(KeyError):
        exit_status("view.py", raising(KeyError("codes")))


def test_a_command_names_its_own_status():
    assert [exit_status("view.py", lambda: None), exit_status("view.py", lambda: 1)] == [0, 1]


def test_a_console_that_is_not_utf8_gets_an_escape_instead_of_an_error():
    code = "from motion_llm.command_line import start_log; start_log(); print('\u6b69\u304f walks')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=Path(__file__).parent.parent,
                          env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout.split()) == (0, [b"\\u6b69\\u304f", b"walks"])


def test_a_file_that_is_read_is_not_written_over(tmp_path):
    (tmp_path / "captions.json").write_text("[]")
    (tmp_path / "link.json").symlink_to(tmp_path / "captions.json")
    for output in ("captions.json", "link.json"):
        with pytest.raises(ValueError, match=f"--output .*{output} is a file that is read, and would be lost"):
            keep_inputs(tmp_path / output, None, tmp_path / "missing.json", tmp_path / "captions.json")
    keep_inputs(tmp_path / "new.json", tmp_path / "captions.json", None)


# What a terminal would obey: colours, a title, a bell, one-character CSI, delete, a turned direction, half a character.
OBEYED = ["\x1b[31m", "\x1b]0;title\x07", "\b\b", "\r", "\x7f", "\x9b2J", "\u202egnp.", "\u2066", "\ud83d"]


def harmless(text: str) -> bool:
    return not any(ord(c) < 32 and c not in "\n\t" or 0x7F <= ord(c) < 0xA0 or c in "\u202a\u202b\u202c\u202d\u202e"
                   or "\u2066" <= c <= "\u2069" or 0xD800 <= ord(c) < 0xE000 for c in text)


@pytest.mark.parametrize("text", OBEYED)
def test_what_a_terminal_obeys_is_shown(text):
    shown = printable(f"caption {text}\tend\n")
    assert harmless(shown) and shown.startswith("caption \\") and shown.endswith("\tend\n")
    line = json.dumps({"text": text}, ensure_ascii=False)
    assert harmless(printable_json(line)) and json.loads(printable_json(line)) == {"text": text}


def test_other_text_stays_as_it_is():
    text = "Größe 歩く 💃🏽 שלום \u200f a\\b\n\tc"
    assert printable(text) == text and printable_json(text) == text


@pytest.mark.parametrize("text", OBEYED)
def test_errors_and_the_log_show_it_too(text, capsys):
    assert exit_status("view.py", raising(ValueError(f"file {text}"))) == 1
    assert harmless(capsys.readouterr().err)
    code = f"import logging; from motion_llm.command_line import start_log; start_log(); logging.info('a %s', {text!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=Path(__file__).parent.parent)
    assert harmless(done.stderr.decode()) and done.stderr.startswith(b"a \\")


def test_what_is_printed_of_a_strangers_dataset_is_harmless(tmp_path, capsys):
    """Unknown fields, captions, people, clips; in reports, errors and summaries."""
    rows = [{"text_query": f"walk \x9b {i}", "motion_tokens": f"{i} 2 3", "participant_id": "A\u00a0B", text: 1,
             "clip_id": f"clip {text}" if text != "\ud83d" else "c"} for i, text in enumerate(OBEYED)]
    path = tmp_path / "a\x1b[31m.json"
    for name, content in ((path, rows), (tmp_path / "broken.json", [*rows, {"text_query": 3, "\x1b[5m": 2}])):
        name.write_text(json.dumps(content))
        run_script(train_pipeline, "--data_json_path", str(name), "--check")
        run_script(import_tokens, "--layout", "json", "--data", str(name), "--output", str(tmp_path / "\x9bnew.json"))
        captured = capsys.readouterr()
        assert harmless(captured.out) and harmless(captured.err) and "\\x1b[31m" in captured.out


def test_what_is_printed_of_strangers_motions_is_harmless(tmp_path, capsys):
    (tmp_path / "walk\x1b[2J.bvh").write_text("HIERARCHY\nROOT \x1b]0;x\x07\n{\n\x1b[31m")
    assert run_script(codec, "fit", "--motions", str(tmp_path), "--output", str(tmp_path / "codec")) == 1
    assert run_script(view, "--bvh", str(tmp_path / "walk\x1b[2J.bvh"), "--output", str(tmp_path / "a.html")) == 1
    error = capsys.readouterr().err
    assert harmless(error) and "walk\\x1b[2J.bvh" in error


@pytest.mark.parametrize("script", [evaluate, export, view, codec, import_tokens])
def test_what_a_command_prints_is_harmless(script, capsys, monkeypatch):
    monkeypatch.setattr(script, "run", lambda args: "a caption \x1b[31m\x9b")
    arguments = {evaluate: [], export: ["--output", "a"], view: ["--output", "a.html"],
                 codec: ["decode", "--codec", "a", "--tokens", "1", "--output", "a.bvh"],
                 import_tokens: ["--layout", "qiqi", "--output", "a"]}
    assert run_script(script, *arguments[script]) == 0
    assert capsys.readouterr().out == "a caption \\x1b[31m\\x9b\n"


def test_answers_are_harmless_and_json_lines_stay_json(capsys, monkeypatch, tmp_path):
    caption = "a person\x1b[31m\x9b\u202e waves"
    monkeypatch.setattr(inference, "run", lambda args: (json.dumps({"text_query": text}, ensure_ascii=False)
                                                    for text in [caption]))
    output = tmp_path / "answers.jsonl"
    assert run_script(inference, "--prompts_file", "prompts.txt", "--output", str(output)) == 0
    printed = capsys.readouterr().out
    assert harmless(printed) and json.loads(printed) == json.loads(output.read_text()) == {"text_query": caption}
    monkeypatch.setattr(inference, "run", lambda args: (text for text in [caption]))
    assert run_script(inference, "--task", "m2t", "--motion_tokens", "1 2") == 0
    assert capsys.readouterr().out == "a person\\x1b[31m\\x9b\\u202e waves\n"


@pytest.mark.parametrize(("arguments", "flag"), [
    (["codec.py", "fit", "--codes", "7" * 5_000 + "x", "--motions", "m", "--output", "o"], "--codes"),
    (["view.py", "--tokens", "1 2", "--codec", "c" * 5_000, "--output", "x.html"], "ccc"),
    (["train_pipeline.py", "--lr", "z" * 5_000], "--lr"),
    (["inference.py", "--prompt", "a", "--model_path", "d/" * 2_500 + "stage9"], "stage9"),
])
def test_a_value_of_thousands_of_characters_is_not_repeated_in_its_refusal(arguments, flag):
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, *arguments], cwd=root, capture_output=True, text=True)
    refusal = done.stderr.splitlines()[-1]
    assert done.returncode in (1, 2) and flag in refusal and len(refusal) < 700, refusal[:1000]


def test_flags_are_taken_in_full_only_by_commands_of_commands_too(capsys):
    parser = Parser()
    parser.add_subparsers(required=True).add_parser("fit").add_argument("--codes")
    with pytest.raises(SystemExit):
        parser.parse_args(["fit", "--code", "3"])
    assert "unrecognized arguments: --code 3" in capsys.readouterr().err
