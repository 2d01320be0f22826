"""demo.py says in one line what is missing, and serves on this machine alone."""

import importlib.util

import pytest
from conftest import run_script

import demo


def test_without_a_model_it_says_how_to_get_one(tmp_path, capsys):
    assert run_script(demo, "--model_path", str(tmp_path / "none")) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "does not exist; train with python train_pipeline.py" in told


def test_without_gradio_it_says_what_to_install(tiny_run, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else find(name))
    assert run_script(demo, "--model_path", str(tiny_run / "stage3_t2m_sft")) == 1
    assert capsys.readouterr().err == "demo.py: the page needs Gradio: pip install -r requirements-demo.txt\n"


def test_it_serves_on_this_machine_alone_unless_told_otherwise():
    args = demo._parser().parse_args([])
    assert (args.host, args.port) == ("127.0.0.1", 7860)
    args = demo._parser().parse_args(["--host", "0.0.0.0", "--port", "80"])
    assert (args.host, args.port) == ("0.0.0.0", 80)


def test_a_wrong_port_is_refused_by_the_parser(capsys):
    with pytest.raises(SystemExit):
        demo._parser().parse_args(["--port", "x"])
    assert "--port" in capsys.readouterr().err
