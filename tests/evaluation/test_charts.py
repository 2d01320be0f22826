"""charts.py: the SVG of the page."""

import re
from xml.etree import ElementTree

import pytest

from motion_llm.evaluation.charts import Mark, Series, chart, code_strip, dot_plot, legend, spelled, ticks


@pytest.mark.parametrize("low, high, expected", [
    (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 97, [0, 20, 40, 60, 80]), (0.21, 0.39, [0.25, 0.3, 0.35]),
    (-1, 1, [-1, -0.5, 0, 0.5, 1]), (3, 3, [3]), (0, 12000, [0, 5000, 10000])])
def test_ticks_are_round_numbers_within_the_range(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_numbers_are_spelled_briefly():
    assert [spelled(value) for value in (0, 5.0, 12000, 0.25, 0.0005, -1.5)] == [
        "0", "5", "12,000", "0.25", "0.0005", "-1.5"]


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def test_a_line_goes_from_corner_to_corner_the_right_way_up():
    svg = parsed(chart("t", [Series([(0, 0), (10, 5)], 2)], "x", "y"))
    (path,) = svg.findall("path")
    (x0, y0), (x1, y1) = (map(float, pair) for pair in re.findall(r"([\d.]+) ([\d.]+)", path.get("d")))
    assert path.get("class") == "line c2" and x0 < x1 and y0 > y1  # SVG counts downwards
    assert (x0, y0, x1) == (46, 202, 370)


def test_dots_rings_and_areas_and_a_line_of_one_point():
    svg = chart("t", [Series([(0, 1), (1, 2)], 0, "dots"), Series([(0, 1)], 1, "rings"),
                      Series([(0, 1), (1, 1)], 2, "area"), Series([(1, 1)], 3), Series([], 4)], "x", "y", diagonal=True)
    root = parsed(svg)
    assert [circle.get("class") for circle in root.findall("circle")] == ["dot c0", "dot c0", "ring c1", "dot c3"]
    assert root.find("path[@class='area c2']").get("d").endswith("Z")
    assert len(root.findall("line[@class='guide']")) == 1 and "c4" not in svg


def test_text_is_escaped():
    svg = chart("<b>&", [Series([(0, 1)], 0)], "<script>", '"')
    svg += dot_plot("<i>", [Mark("<u>", 1, None, None, "<s>", 0)])
    assert not re.search(r"<(b|script|i|u|s)>", svg) and "&lt;script&gt;" in svg
    assert "<script" not in legend([("<script>", 0)])


def test_nothing_to_draw_is_no_picture():
    assert chart("t", [], "x", "y") == chart("t", [Series([], 0)], "x", "y") == dot_plot("t", []) == ""


def test_a_dot_plot_has_a_row_for_each_mark_with_its_interval():
    svg = parsed(dot_plot("t", [Mark("model", 0.5, 0.4, 0.8, "0.50", 0), Mark("real", 1.0, None, None, "1.00", 4)]))
    dots, intervals = svg.findall("circle"), [line for line in svg.findall("line") if "interval" in line.get("class")]
    assert len(dots) == 2 and len(intervals) == 1
    start, place, end = (float(value) for value in (intervals[0].get("x1"), dots[0].get("cx"), intervals[0].get("x2")))
    assert start < place < end < float(dots[1].get("cx"))
    assert (end - start) / (float(dots[1].get("cx")) - place) == pytest.approx(0.4 / 0.5, abs=0.01)


def test_a_strip_has_a_block_for_each_run_of_codes():
    strip = code_strip([3, 3, 7, 3], 8, 16)
    assert 'viewBox="0 0 8 1"' in strip and strip.count("<rect") == 3
    assert 'x="0" y="0" width="2"' in strip and 'x="2" y="0" width="1"' in strip
    colours = re.findall('fill="([^"]*)"', strip)
    assert colours[0] == colours[2] != colours[1]
    assert code_strip([], 8, 16).count("<rect") == 0
