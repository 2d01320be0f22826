"""bench.py train: two recipes are trained on the tiny base and compared in a table."""

import json
import tempfile

import pytest
from conftest import TINY_SETTINGS, run_script

import bench
from motion_llm.benchmarks import train as bench_train
from motion_llm.network import arithmetic


def test_both_recipes_are_measured_and_compared(tiny_arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_train, "PRODUCTS", (1024,))
    out = tmp_path / "figures.json"
    assert run_script(bench, "train", *tiny_arguments, "--minutes", "0.02", "--output", str(out)) == 0
    table = capsys.readouterr().out
    assert "usual recipe" in table and "times as many clips a second" in table and "of peak" in table
    figures = json.loads(out.read_text())["figures"]
    ours, usual = figures["ours"], figures["usual"]
    for recipe in (ours, usual):
        assert recipe["updates"] > 0 and recipe["clips_per_second"] > 0 and recipe["peak_bytes"] > 1e8
        assert 0 < recipe["share_of_peak"] < 1
    assert usual["tokens_per_clip"] > 190 > ours["tokens_per_clip"]
    assert usual["trainable"] > ours["trainable"]
    assert figures["peak"]["gflops"] > 1


def test_operations_are_counted_as_stated(tiny_arguments, tmp_path, monkeypatch):
    class Network:
        config = type("Config", (), {"get_text_config": lambda self: type("Text", (), {"hidden_size": 10})()})()

        def named_parameters(self):
            import torch

            frozen = torch.nn.Parameter(torch.zeros(7, 100), requires_grad=False)
            return [("layers.0.q_proj.weight", frozen), ("embed_tokens.weight", frozen),
                    ("layers.0.q_proj.lora_A", torch.nn.Parameter(torch.zeros(5)))]

    recipe = bench_train._Recipe(Network(), lambda: iter([["clip"] * 2] * 1000), lambda batch: (30, 20), 9, "")
    clock = iter(range(1000))
    monkeypatch.setattr(bench_train, "_now", lambda: next(clock))
    figures = bench_train._measure(recipe, 10 / 60)
    assert (figures["updates"], figures["trainable"], figures["clips_per_second"]) == (10, 5, 2)
    assert figures["gflops"] * 1e9 == pytest.approx(4 * 700 * 30 + 4 * 10 * 9 * 20)


def test_random_weights_are_measured_and_leave_nothing(tiny_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(bench_train, "PRODUCTS", (64,))
    settings = [*TINY_SETTINGS, "--data_json_path", tiny_dataset, "--minutes", "0.01", "--only_ours"]
    assert run_script(bench, "train", "--random_init", "tiny", *settings) == 0
    assert capsys.readouterr().out.startswith("tiny on ")
    assert not list(tmp_path.glob("motion-llm-*"))


def test_no_minutes_are_refused(capsys):
    assert run_script(bench, "train", "--minutes", "0") == 1
    assert "--minutes is 0, expected a number above 0" in capsys.readouterr().err


@pytest.mark.parametrize(("faster", "setting", "rows"), [
    ("bfloat16", "auto", {"usual": "bfloat16"}), ("float32", "auto", {"usual": "float32"}),
    ("float32", "bfloat16", {"usual": "bfloat16", "usual_fastest": "float32"})])
def test_the_usual_recipe_runs_in_the_precision_of_ours_and_in_its_fastest(
        tiny_arguments, tmp_path, monkeypatch, capsys, faster, setting, rows):
    """A processor without bfloat16 multiplies it many times slower, so "auto" does not train in it there."""
    rates = {"float32": 10.0, "bfloat16": 10.0, faster: 100.0}
    monkeypatch.setattr(arithmetic, "_seconds", lambda x, _: 1 / rates[str(x.dtype).removeprefix("torch.")])
    monkeypatch.setattr(arithmetic, "has_bfloat16", lambda: True)
    arithmetic.cpu_arithmetic.cache_clear()
    monkeypatch.setattr(bench_train, "PRODUCTS", (8,))
    monkeypatch.setattr(bench_train, "_our_recipe", lambda *_: "float8")
    monkeypatch.setattr(bench_train, "_usual_recipe", lambda settings, rows, size, dtype: str(dtype)[6:])
    monkeypatch.setattr(bench_train, "_measure", lambda recipe, minutes: {
        "choices": recipe, "gflops": 1.0, "clips_per_second": 2.0, "tokens_per_second": 3.0, "peak_bytes": 4,
        "trainable": 5, "tokens_per_clip": 6.0})
    out = tmp_path / "out.json"
    assert run_script(bench, "train", *tiny_arguments, "--dtype", setting, "--output", str(out)) == 0
    content = json.loads(out.read_text())
    figures, printed = content["figures"], capsys.readouterr().out
    assert {name: figures[name]["choices"] for name in ("usual", "usual_fastest") if name in figures} == rows
    assert figures["peak"]["dtype"] == rows["usual"]
    assert f"arithmetic: {faster}, as this processor" in printed and content["machine"]["features"] in printed
    arithmetic.cpu_arithmetic.cache_clear()
