"""README.md and docs/: their commands and code run, what they name exists, and they stay short enough to be read."""

import ast
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
         for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
LOG = "docs/log.md"  # of the past: what it names may be gone
SCRIPTS = r"(train_pipeline|inference|evaluate|import_tokens|codec|view|export|bench|demo)\.py"
# Lines in fences, and inline code, which may go on in the next line.
COMMANDS = sorted({(name, " ".join(f"{script} {rest}".split())) for name, text in TEXTS.items() if name != LOG
                   for pattern in (rf"^(?:\.venv(?:-vllm)?/bin/)?python {SCRIPTS}[ ]?([^`\n]*)$",
                                   rf"`(?:\.venv(?:-vllm)?/bin/)?python\s+{SCRIPTS}([^`]*)`")
                   for script, rest in re.findall(pattern, text, re.MULTILINE)})


def parser_of(script: str):
    import bench
    import codec
    import demo
    import evaluate
    import export
    import import_tokens
    import inference
    import train_pipeline
    import view

    modules = (bench, codec, demo, evaluate, export, import_tokens, inference, train_pipeline, view)
    return {module.__name__: module for module in modules}[script]


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_every_command_is_understood(name, command):
    script, *arguments = shlex.split(command)
    module = parser_of(script)
    if arguments == ["--help"] or not arguments and script in ("bench", "codec", "view"):
        return  # the script as such is spoken of
    args = (module.make_parser if script == "inference" else module._parser)().parse_args(arguments)
    if script == "inference" and args.prompts_file is None and args.prompt is not None and args.motion is None:
        assert len(module.requests_of(args, module.prompts_of(args))) == 1


def test_there_are_commands_to_check():
    assert sum(name == "README.md" for name, _ in COMMANDS) >= 10 and len(COMMANDS) > 40


@pytest.mark.parametrize("name", [name for name, text in TEXTS.items() if "```python" in text])
def test_the_python_code_runs_as_it_stands(name, run_with_codec, tmp_path, monkeypatch, unsloth):
    (tmp_path / "output").symlink_to(run_with_codec)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", TEXTS[name], re.DOTALL):  # a later block goes on from an earlier one
        exec(compile(code, name, "exec"), names)


@pytest.mark.parametrize("name", [name for name, text in TEXTS.items() if "```json" in text])
def test_a_json_example_is_a_good_dataset(name, tmp_path):
    import data

    for example in re.findall(r"```json\n(.*?)```", TEXTS[name], re.DOTALL):
        path = tmp_path / "example.json"
        path.write_text(example, encoding="utf-8")
        report = data.read_rows(path, 512)
        assert len(report.rows) == 2 and not report.errors and not report.warnings


def test_the_readme_is_read_in_five_minutes():
    assert len(TEXTS["README.md"].splitlines()) <= 200
    assert len(TEXTS["docs/benchmarks.md"].splitlines()) <= 200


def test_the_readme_names_every_module_at_the_top_and_every_wing():
    where = TEXTS["README.md"].split("## Where things are")[1].replace("(`jobs.py`)", "")  # in decoding/
    assert {path.name for path in ROOT.glob("*.py")} == set(re.findall(r"`(\w+\.py)`", where)) - {"__init__.py"}
    wings = {f"{path.parent.name}/" for path in (ROOT / "motion_llm").glob("*/__init__.py")}
    assert wings == set(re.findall(r"`(\w+/)`", where)) - {"motion_llm/"}


def test_a_wing_names_every_module_of_its_own_and_nothing_else():
    for path in sorted((ROOT / "motion_llm").glob("*/__init__.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        words = set(re.findall(r"\w+", docstring))
        there = {module.stem for module in path.parent.glob("*.py")} - {"__init__"}
        assert there <= words, path


@pytest.mark.parametrize("name", [name for name in TEXTS if name != LOG])
def test_files_that_a_document_names_exist(name):
    text = TEXTS[name]
    folder = (ROOT / name).parent
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert link.startswith("http") or (folder / link).exists(), link
    for path in re.findall(r"`((?:motion_llm|tests|docs|notebooks|data)/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path


def test_settings_that_the_documents_name_exist():
    import config

    prefixes = "GEN|LR|EPOCHS|BATCH|GRAD|MAX|HELDOUT|STAGE2|REPORT|LORA|WORK|MODEL|DATA"
    text = "\n".join(text for name, text in TEXTS.items() if name != LOG)
    named = set(re.findall(rf"\b(?:{prefixes})_[A-Z0-9_]+\b", text))
    assert named <= set(config.defaults()) and len(named) > 10


def test_the_metrics_that_are_listed_are_those_there_are():
    from motion_llm.evaluation.table import METRICS

    (table,) = re.findall(r"\| metrics? \| [^\n]*\n\|[ -|]*\n((?:\|.*\n)+)", TEXTS["docs/evaluation.md"])
    cells = [line.split("|")[1] for line in table.splitlines()]
    assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted(METRICS)


@pytest.mark.parametrize("name", [name for name in TEXTS if name != LOG])
def test_links_lead_to_headings_that_exist(name):
    for path, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", TEXTS[name]):
        target = TEXTS[(Path(name).parent / path).as_posix()] if path else TEXTS[name]
        headings = re.findall(r"^#+ (.+)$", target, re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, anchor


@pytest.mark.parametrize("name", [name for name in TEXTS if name != LOG])
def test_functions_and_constants_that_a_document_names_exist(name):
    sources = [*ROOT.glob("*.py"), *(ROOT / "motion_llm").rglob("*.py"), *ROOT.glob("requirements*.txt")]
    words = set(re.findall(r"\w+", "\n".join(path.read_text(encoding="utf-8") for path in sources)))
    spans = re.findall(r"`([\w.]+)(?:\(\))?`", TEXTS[name])
    named = {part for span in spans for part in span.split(".") if "_" in part}
    assert named <= words, named - words
