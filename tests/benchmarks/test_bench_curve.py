"""bench.py curve: the stages one after another over the minutes, in a picture and a table."""

import xml.etree.ElementTree as ElementTree

from conftest import run_script

import bench
from motion_llm.benchmarks.curve import curves_of


def test_minutes_continue_from_stage_to_stage():
    curves = curves_of({"stage1_mlm": {"seconds": 60, "nll": [{"seconds": 59, "seen": 2.0, "mean": 2.0}]},
                        "stage3_t2m_sft": {"seconds": 120, "nll": [{"seconds": 30, "seen": 1.0, "unseen": 1.5}]}})
    assert curves[1]["start"] == 1 and curves[1]["end"] == 3
    assert curves[0]["points"] == [(59 / 60, {"seen": 2.0})]
    assert curves[1]["points"] == [(1.5, {"seen": 1.0, "unseen": 1.5})]


def test_a_finished_run_is_drawn(tiny_run, tmp_path, capsys):
    picture = tmp_path / "curve.svg"
    assert run_script(bench, "curve", "--work_dir", str(tiny_run), "--picture", str(picture)) == 0
    table = capsys.readouterr().out
    assert table.count("stage3_t2m_sft") == 2 and str(picture) in table  # two epochs
    root = ElementTree.fromstring(picture.read_text())
    circles = root.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 2 * (1 + 1 + 2)  # seen and unseen, once an epoch
    for circle in circles:
        assert 0 < float(circle.get("cx")) < 760 and 0 < float(circle.get("cy")) < 420


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert run_script(bench, "curve", "--work_dir", str(tmp_path)) == 1
    assert "metrics.json does not exist: expected the WORK_DIR" in capsys.readouterr().err
