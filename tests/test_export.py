"""export.py: an export is the same model, in a form that loads without this project."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import run_script
from test_model import EXTRA, batch, tiny_model, trained

import bench
import config
import export
from motion_llm.dataset.length_regression import LengthRegression
from motion_llm.network.folder import ModelError
from motion_llm.serving import client
from motion_llm.serving.vllm_engine import VllmEngine
from templates import MotionVocabulary

KINDS = ["llama", "llama_untied", "llama_padded", "qwen3", "gemma2", "gemma3", "granite", "cohere"]
LENGTHS = {"spread": 0.1, "overall": "3 2 4 6", "captions": {"a dance": "3 2 4 6"}, "participants": {}, "codes": {},
           "regression": LengthRegression.fit(["a dance"], [4.0], [3], 0.1).to_dict()}


def exported(base: str, folder: Path):
    """A model after a few training steps, as it is in memory, and the folder of its export."""
    model = trained(tiny_model(base))
    model.save(folder / "stage", EXTRA | {"settings": config.defaults() | {"MAX_SEQ_LEN": 128},
                                          "length_model": LENGTHS})
    return model, export.export(folder / "stage", folder / "served")


@pytest.mark.parametrize("kind", KINDS)
def test_the_export_gives_the_models_own_logits_in_the_bases_own_architecture(tiny_base, tmp_path, kind):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, folder = exported(tiny_base(kind), tmp_path)
    inputs = {name: value for name, value in batch(model, "t2m").items() if name != "labels"}
    base = json.loads((Path(tiny_base(kind)) / "config.json").read_text())
    network = AutoModelForCausalLM.from_pretrained(folder)
    assert [type(network).__name__] == base["architectures"]
    with torch.no_grad():
        logits, expected = network(**inputs).logits, model.merged()(**inputs).logits
    mask = inputs["attention_mask"].bool()
    torch.testing.assert_close(logits[mask], expected[mask], atol=2e-4, rtol=2e-4)
    vocabulary = model.vocabulary
    rows = network.get_input_embeddings().weight
    assert len(rows) == network.config.vocab_size == max(base["vocab_size"], vocabulary.new_ids.stop)
    assert (rows is network.get_output_embeddings().weight) == base["tie_word_embeddings"]
    assert network.config.use_cache and network.generation_config.eos_token_id == vocabulary.end_id
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == model.tokenizer.get_vocab()
    assert tokenizer.convert_ids_to_tokens(vocabulary.end_id) == "<MOT_END>"


def test_the_folder_holds_what_serving_needs_and_no_code_for_the_model(tiny_base, tmp_path):
    _, folder = exported(tiny_base("llama"), tmp_path)
    for name in ("model.safetensors", "tokenizer.json", "motion_config.json", "grammar.lark", "client.py",
                 "plugin/end_shift.py", "README.md"):
        assert (folder / name).is_file()
    assert not list(folder.rglob("*.bin")) and not list(folder.rglob("*.pt")) and not list(folder.glob("adapter*"))
    assert "auto_map" not in json.loads((folder / "config.json").read_text())
    vocabulary = MotionVocabulary.from_dict(json.loads((folder / "motion_config.json").read_text())["vocabulary"])
    assert (folder / "grammar.lark").read_text().endswith(f"{{2,6}} <[{vocabulary.end_id}]>\n")


def test_the_readme_is_filled_in_and_its_client_command_is_understood(tiny_base, tmp_path):
    _, folder = exported(tiny_base("llama"), tmp_path)
    text = (folder / "README.md").read_text()
    assert not re.findall(r"@[A-Z_]+@", text)
    for engine in ("vLLM", "SGLang (not run)", "llama.cpp (not run)"):
        assert f"## {engine}" in text
    (command,) = re.findall(r"^python served/client.py (.*)$", text, re.MULTILINE)
    client._parser(folder).parse_args(shlex.split(command))
    request = json.loads(next(line for line in text.splitlines() if line.startswith('{"prompt"')))
    assert request == client.Client(folder).request(client.Clip("a dance"))


def test_an_earlier_export_is_replaced_and_anything_else_is_left_alone(tiny_base, tmp_path):
    model, folder = exported(tiny_base("llama"), tmp_path)
    (folder / "model.safetensors").write_bytes(b"old")
    export.export(tmp_path / "stage", folder)
    assert (folder / "model.safetensors").stat().st_size > 1000
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    for folder in (other, tmp_path / "stage"):
        before = sorted(path.name for path in folder.iterdir())
        with pytest.raises(ValueError, match="expected an empty one, a new one or an earlier export"):
            export.export(tmp_path / "stage", folder)
        assert sorted(path.name for path in folder.iterdir()) == before
    with pytest.raises(ValueError, match="notes.txt is a file, expected a folder"):
        export.export(tmp_path / "stage", other / "notes.txt")


def test_an_interrupted_export_leaves_no_half_export(tiny_base, tmp_path, monkeypatch):
    def stopped(*args):
        raise KeyboardInterrupt

    _, folder = exported(tiny_base("llama"), tmp_path)
    before = (folder / "README.md").stat().st_mtime_ns
    monkeypatch.setattr(export, "write_companions", stopped)
    for output in (folder, tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt):
            export.export(tmp_path / "stage", output)
    assert (folder / "README.md").stat().st_mtime_ns == before and not (tmp_path / "new").exists()
    monkeypatch.undo()
    assert export.export(tmp_path / "stage", tmp_path / "new") == tmp_path / "new"
    assert not list(tmp_path.glob(".*.saving/README.md"))


def test_what_cannot_be_exported_is_refused(tiny_run, tmp_path, capsys):
    with pytest.raises(ModelError, match="trained for lm, expected a stage that turns text to motion"):
        export.export(tiny_run / "stage1_mlm", tmp_path / "served")
    assert run_script(export, "--model_path", str(tmp_path / "nowhere"), "--output", str(tmp_path / "served")) == 1
    assert "nowhere does not exist" in capsys.readouterr().err
    assert run_script(export) == 2


def test_a_missing_vllm_is_named(tiny_base, tmp_path, capsys):
    _, folder = exported(tiny_base("llama"), tmp_path)
    with pytest.raises(ModelError, match="the package vllm is not installed here"):
        VllmEngine(folder)
    with pytest.raises(ModelError, match="stage is a stage's folder, vLLM needs an exported one"):
        VllmEngine(tmp_path / "stage")
    assert run_script(bench, "vllm", "--folder", str(folder)) == 1
    assert "bench.py: the package vllm is not installed here" in capsys.readouterr().err


# ---------------------------------------------------------------- strangers' captions in the README

CAPTIONS = ["$(touch x) walks", "`touch x`", "it's \"quoted\" $HOME \\ !!", "a\nb\t```\n~~~", "'; touch x; echo '",
            "@REQUEST@ @GRAMMAR@", "--prompt", "# x && touch x | touch x > x", "\x9b31m\u202e\u2028 歩く 💃🏽 \\x41",
            "```bash", "$'a\\n'"]
BLOCK = re.compile(r"^```bash\n(.*?)\n```$", re.DOTALL | re.MULTILINE)


def readme_of(folder: Path, tmp_path: Path, name: str, **changes) -> str:
    """The README of an export whose motion_config.json has these values."""
    content = json.loads((folder / "motion_config.json").read_text())
    lengths = content["length_model"] | {"captions": changes.pop("captions", content["length_model"]["captions"])}
    model = content["model"] | {"model_name": changes.pop("model_name", "a/b")}
    copy = tmp_path / name / "served"
    copy.mkdir(parents=True)
    (copy / "motion_config.json").write_text(json.dumps(content | {"length_model": lengths, "model": model} | changes))
    (copy / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    export.write_companions(copy, SimpleNamespace(num_attention_heads=4, num_key_value_heads=2))
    return (copy / "README.md").read_text(encoding="utf-8")


def test_a_caption_runs_nothing_in_the_readmes_commands_and_arrives_unchanged(tiny_base, tmp_path):
    _, folder = exported(tiny_base("llama"), tmp_path / "model")
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    for name in ("python", "pip", "cmake", "curl", "build/bin/llama-server"):
        stub = stubs / name
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text('#!/bin/bash\nprintf "%s\\0" "$@" >> "$ARRIVED"\n')
        stub.chmod(0o755)
    for number, caption in enumerate(CAPTIONS):
        text = readme_of(folder, tmp_path, str(number), captions={caption: "3 2 4 6"})
        blocks = BLOCK.findall(text)
        assert len(blocks) == 3 and len(re.findall("^ {0,3}[`~]{3}", text, re.MULTILINE)) == 14  # none of the caption
        work = tmp_path / str(number) / "work"
        shutil.copytree(stubs, work)
        done = subprocess.run(["bash", "-c", "\n".join(blocks)], cwd=work, capture_output=True, text=True, env={
            "PATH": f"{stubs}:/usr/bin:/bin", "ARRIVED": str(work / "arrived"), "HOME": "/", "LC_ALL": "C.UTF-8"})
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert not list(tmp_path.rglob("x")), caption
        arguments = (work / "arrived").read_text().split("\0")
        (asked,) = [word for word in arguments if word.startswith("--prompt")]
        assert client._parser(folder).parse_args([asked]).prompt == [caption]
        assert text.isprintable() or not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e]", text)


def test_names_stay_in_their_line_and_code_of_the_readme(tiny_base, tmp_path):
    _, folder = exported(tiny_base("llama"), tmp_path / "model")
    text = readme_of(folder, tmp_path, "names", model_name="a/`b``c`\n\n# Title\n```\x1b[31m", stage="`@BASE@")
    first = text.split("\n\n")[1]
    assert first.startswith(r"The stage `` `@BASE@ `` trained from ````a/`b``c`\n\n# Title\n```\x1b[31m````, with its")


def test_a_model_without_a_caption_to_show_is_refused(tiny_base, tmp_path):
    _, folder = exported(tiny_base("llama"), tmp_path / "model")
    for number, captions in enumerate(({}, {"\ud83d": "3 2 4 6", " ": "3 2 4 6", "a\x1b[31m": "3 2 4 6"})):
        with pytest.raises(ModelError, match="its length model has no caption that can be asked for"):
            readme_of(folder, tmp_path, str(number), captions=captions)


def test_settings_of_another_form_are_refused(tiny_base, tmp_path):
    exported(tiny_base("llama"), tmp_path)
    path = tmp_path / "stage" / "motion_config.json"
    content = json.loads(path.read_text())
    for name, value in (("GEN_TOP_P", "$(touch x)"), ("GEN_TEMPERATURE", None)):
        path.write_text(json.dumps(content | {"settings": content["settings"] | {name: value}}))
        with pytest.raises(ValueError, match=f"motion_config.json: {name}"):
            export.export(tmp_path / "stage", tmp_path / "new")


def test_the_client_refuses_an_export_whose_configuration_is_of_another_form(tiny_base, tmp_path, capsys, monkeypatch):
    _, folder = exported(tiny_base("llama"), tmp_path)
    path = folder / "motion_config.json"
    content = json.loads(path.read_text())
    for change, message in (({"turns": {"user": "x", "assistant": []}}, "turns user is 'x', expected a list"),
                            ({"settings": {}}, "settings has no MAX_SEQ_LEN"), ({"turns": [1]}, "turns is a list")):
        path.write_text(json.dumps(content | change))
        monkeypatch.setattr("sys.argv", ["client.py", "--prompt", "a dance\x1b[31m"])
        assert client.main(folder) == 1
        assert message in capsys.readouterr().err


def test_the_client_of_an_export_runs_alone(tiny_base, tmp_path):
    """With the modules of the export's folder, and no server."""
    _, folder = exported(tiny_base("llama"), tmp_path)
    done = subprocess.run([sys.executable, str(folder / "client.py"), "--prompt=a dance", "--url",
                           "http://127.0.0.1:9"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.startswith("client.py: no answer from http://127.")
