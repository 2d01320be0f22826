"""benchmarks/data.py: the synthetic dataset is as described, and every measurement runs on a small one."""

import json
from types import SimpleNamespace

import pytest

from motion_llm.benchmarks import data as bench_data

SETTINGS = {"SEED": 0, "HELDOUT_SHARE": 0.05, "HELDOUT_MAX": 100}
MADE_WITH = bench_data.MAKE_WITH | {"seed": 0, "share": 0.05, "cap": 100}


def test_the_dataset_is_valid_and_as_described(tmp_path):
    bench_data.write_dataset(tmp_path / "data.json", 3000)
    rows = json.loads((tmp_path / "data.json").read_text())
    assert len(rows) == 3000 and len({row["participant_id"] for row in rows}) == bench_data.PARTICIPANTS
    assert len({row["clip_id"] for row in rows}) == 2000 == len({row["motion_tokens"] for row in rows})
    assert len({row["text_query"] for row in rows}) > 2000
    assert 45 < sum(len(row["motion_tokens"].split()) for row in rows) / 3000 < 55


def test_every_measurement_runs(unsloth, tmp_path):
    bench_data.write_dataset(tmp_path / "data.json", 1000)
    figures = {"rows": 1000, "file_mb": 0.3, "table_mb": 0.3}
    figures |= {name: measure(tmp_path, MADE_WITH) for name, measure in bench_data.MEASUREMENTS.items()}
    assert json.loads(json.dumps(figures)) == figures
    text = bench_data.format_figures(figures)
    assert "1,000 rows" in text and "prepare: split" in text and "second start" in text
    assert 0 < figures["lengths"]["query_ms"] < 100 and 0 < figures["lengths"]["file_mb"] < 1


def test_each_runs_in_its_own_process(monkeypatch):
    monkeypatch.setattr(bench_data, "MEASUREMENTS", {"prepare": bench_data._prepare})
    figures = bench_data.run(SimpleNamespace(rows=1000), SETTINGS)
    assert set(figures["prepare"]["seconds"]) == {"read_and_validate", "split", "report", "write_table"}
    with pytest.raises(ValueError, match="--rows is 10, expected 1000 or more"):
        bench_data.run(SimpleNamespace(rows=10), SETTINGS)
