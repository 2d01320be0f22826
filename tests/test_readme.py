"""README.md: its commands and code run, its tables name what there is."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPTS = r"(?:train_pipeline|inference|evaluate|import_tokens|codec|view|export)\.py"
COMMANDS = re.findall(rf"^(?:\.venv/bin/)?python ({SCRIPTS}.*)$", README, re.MULTILINE)
INLINE = re.findall(rf"`python ({SCRIPTS}[^`]*)`", README)


@pytest.mark.parametrize("command", COMMANDS + INLINE)
def test_every_command_is_understood(command):
    import codec
    import evaluate
    import export
    import import_tokens
    import inference
    import train_pipeline
    import view

    script, *arguments = shlex.split(command)
    modules = (codec, evaluate, export, import_tokens, inference, train_pipeline, view)
    module = {f"{module.__name__}.py": module for module in modules}[script]
    args = module._parser().parse_args(arguments)
    if module is inference and args.prompts_file is None:
        assert len(inference._requests(args, inference._prompts(args))) == 1


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 3 and INLINE


def test_the_python_code_runs_as_it_stands(tiny_run, tmp_path, monkeypatch, unsloth):
    (tmp_path / "output").symlink_to(tiny_run)
    monkeypatch.chdir(tmp_path)
    blocks, names = re.findall(r"```python\n(.*?)```", README, re.DOTALL), {}
    assert blocks
    for code in blocks:  # a later block goes on where an earlier one ended
        exec(compile(code, "README.md", "exec"), names)


def test_the_json_example_is_a_good_dataset(tmp_path):
    import data

    (example,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "example.json"
    path.write_text(example, encoding="utf-8")
    report = data.read_rows(path, 512)
    assert len(report.rows) == 2 and not report.errors and not report.warnings


def test_settings_that_the_readme_names_exist():
    import config

    prefixes = "GEN|LR|EPOCHS|BATCH|GRAD|MAX|HELDOUT|STAGE2|REPORT|LORA|WORK|MODEL|DATA"
    named = set(re.findall(rf"\b(?:{prefixes})_[A-Z0-9_]+\b", README))
    assert named <= set(config.defaults()) and len(named) > 10


def test_the_metrics_that_the_readme_lists_are_those_there_are():
    from motion_llm.evaluation.table import METRICS

    (table,) = re.findall(r"\| metrics \| what they are \|\n.*\n((?:\|.*\n)+)", README)
    cells = [line.split("|")[1] for line in table.splitlines()]
    assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted(METRICS)
