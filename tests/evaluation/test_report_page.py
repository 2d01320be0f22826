"""report_page.py: one page that opens offline, has every result, and escapes all text of the data."""

import re
from html.parser import HTMLParser

import pytest

from motion_llm.evaluation.intervals import NOT_AVAILABLE, Estimate
from motion_llm.evaluation.report_page import ABOUT, write_page
from motion_llm.evaluation.rows import EvaluationRow
from motion_llm.evaluation.table import METRICS, MODEL, RANDOM, REAL, SPLITS

NASTY = '</dd><script>alert("1")</script> & $title'
HISTORY = {"losses": [[5, 3.0], [10, 2.0]], "nll": [{"epoch": 1, "step": 10, "seen": 1.5, "unseen": 1.75}]}


class Checker(HTMLParser):
    """Checks that tags are closed in order; collects links, tags and text."""

    VOID = {"meta", "br", "line", "circle", "path"}

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def page(tmp_path, table=None, histories=None, asked_lengths=(3.0, 4.0), verdict=("It is good.",), **changes) -> tuple:
    figure = Estimate(0.123456, 0.1, 0.2, 77)
    table = table or {name: {split: dict.fromkeys(METRICS, figure) for split in SPLITS}
                      for name in (MODEL, REAL, RANDOM)}
    entry = {"name": NASTY, "n": 2, "kind": "seen", "expected_length": 3, "length": 4, "normalised_edit_distance": 0.9,
             "clip": "1 2", "real": "3 4", "novelty": None}
    details = {
        "verdict": list(verdict), "notes": [NASTY], "not_available": [], "trained_on": 1, "codebook_size": 8,
        "data": {"path": NASTY, "part": "the test set", "fingerprint": "f00d", "rows": 3},
        "request": {"model_path": NASTY, "generated": None, "samples": 2}, "settings": {"SEED": NASTY},
        "evaluator": None, "versions": {"torch": "2.0"}, "captions": [entry, entry | {"name": "best", "clip": ""}],
        "participants": [entry], "lengths": [entry],
        "by": dict.fromkeys(METRICS, "stage2"), "captions_said": [
            {"row": 0, "kind": "seen", "motion": "1 2 3", "said": NASTY, "captions": [NASTY, "b"], "chrf": 1.0},
            {"row": 1, "kind": None, "motion": "4 4", "said": "", "captions": ["b"], "chrf": 0.0}]} | changes
    rows = [EvaluationRow(0, NASTY, NASTY, [1, 2, 3], NASTY, "seen"),
            EvaluationRow(1, "b", "b", [4, 4], None, "unseen")]
    write_page(tmp_path / "report.html", table, details, rows, [[[1, 2], [3]], [[], [99]]], asked_lengths,
               {"stage1": HISTORY, "stage2": HISTORY} if histories is None else histories)
    content = (tmp_path / "report.html").read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(content)
    assert checker.open == []
    return content, checker


def test_text_of_the_data_is_never_html(tmp_path):
    content, checker = page(tmp_path)
    assert "script" not in checker.tags and "<script" not in content
    assert sum(NASTY in text for text in checker.text) >= 6  # and is shown as it is, $title too


def test_nothing_is_asked_for_from_elsewhere(tmp_path):
    content, checker = page(tmp_path)
    assert checker.links == [] and not re.search(r"https?:|@import|url\(", content)


def test_everything_is_there(tmp_path):
    content, checker = page(tmp_path)
    text = " ".join(checker.text)
    for metric in METRICS.values():
        assert text.count(metric.title) >= 3
    for expected in ("It is good.", "0.123", "0.100 to 0.200", "77", "f00d", "torch", "SEED", "stage1", "3 4", "best",
                     "(no codes)", "asked for by decoding", "Captions of motions, by stage2", "Lost tokens put right",
                     "(nothing)", f"{NASTY}; b"):
        assert expected in text, expected
    assert checker.tags.count("svg") == 3 + 2 + 2
    for css in ("prefers-color-scheme: dark", "@media print", "max-width: 760px", 'name="viewport"'):
        assert css in content


def test_what_there_is_not_leaves_no_empty_frame(tmp_path):
    bare = {name: {split: dict.fromkeys(METRICS, NOT_AVAILABLE) for split in SPLITS} for name in (MODEL, REAL)}
    bare[MODEL]["all"] |= {"edit_distance": Estimate(2.0, None, None, 3)}
    content, checker = page(tmp_path, bare, {}, None, participants=[], by={}, captions_said=[])
    assert checker.tags.count("svg") == 2 and "How it was trained" not in content and "By participant" not in content
    assert "Other tasks" not in content
    assert "All captions" in content and "never trained" not in content


@pytest.mark.parametrize("verdict, weak", [("The evaluator judges badly on seen captions.", True), ("Good.", False)])
def test_a_weak_evaluator_changes_the_look_of_the_verdict(tmp_path, verdict, weak):
    assert ('class="card verdict weak"' in page(tmp_path, verdict=[verdict])[0]) == weak


def test_what_the_figures_mean_is_told_of_figures_that_exist():
    assert set(ABOUT) <= set(METRICS)
