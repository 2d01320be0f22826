"""bench.py bases: tokenizers of several families go through everything, and what fails is told."""

import json

from conftest import run_script
from tiny import tiny_tokenizer

import bench


def test_each_tokenizer_goes_through_all_checks_or_says_what_failed(tmp_path, capsys):
    for kind in ("llama3", "gemma"):
        tiny_tokenizer(kind).save_pretrained(tmp_path / "in" / kind)
    broken = tiny_tokenizer("qwen")
    broken.chat_template = "{% for message in messages %}{{ loop.index ~ message['content'] }}{% endfor %}"
    broken.save_pretrained(tmp_path / "in" / "qwen")
    out = tmp_path / "out.json"
    assert run_script(bench, "bases", "--tokenizers", str(tmp_path / "in"), "--output", str(out)) == 0
    gemma, llama, qwen = json.loads(out.read_text())["figures"]["tokenizers"]
    every = ["turns", "captions", "trained", "read again", "asked", "exported"]
    assert gemma["passed"] == llama["passed"] == every and "error" not in gemma and "error" not in llama
    assert llama["turns"]["user"] == "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
    assert qwen["passed"] == [] and "cannot be taken apart" in qwen["error"]
    printed = capsys.readouterr().out
    assert "qwen " in printed and "cannot be taken apart" in printed
    assert printed.splitlines()[2].split()[2:8] == ["yes"] * 6


def test_a_folder_without_tokenizers_is_refused(tmp_path, capsys):
    assert run_script(bench, "bases", "--tokenizers", str(tmp_path)) == 1
    assert "no folder in it has one of tokenizer.json" in capsys.readouterr().err
