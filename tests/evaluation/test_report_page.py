"""report_page.py: one page that opens offline, has every result, and escapes all text of the data."""

import re
from html.parser import HTMLParser

import pytest

from motion_llm.evaluation.clips import EvaluationRow
from motion_llm.evaluation.findings import format_scores
from motion_llm.evaluation.intervals import NOT_AVAILABLE, Estimate
from motion_llm.evaluation.metric_names import METRICS, MODEL, PART_METRICS, RANDOM, REAL, SPLITS, Block, blank
from motion_llm.evaluation.report_blocks import ABOUT_PARTS, block
from motion_llm.evaluation.report_page import write_page
from motion_llm.evaluation.report_sections import ABOUT

NASTY = '</dd><script>alert("1")</script> & $title'
HISTORY = {"losses": [[5, 3.0], [10, 2.0]], "nll": [{"epoch": 1, "step": 10, "seen": 1.5, "unseen": 1.75}]}


class Checker(HTMLParser):
    """Checks that tags are closed in order; collects links, tags and text."""

    VOID = {"meta", "br", "line", "circle", "path", "rect"}

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


PARTS = {"seen": {"word": "follows"}, "unseen": {"word": "does not yet follow"}}


def page(tmp_path, table=None, histories=None, asked_lengths=(3.0, 4.0), verdict=("It is good.",), figures=None,
         **changes) -> tuple:
    figure = Estimate(0.123456, 0.1, 0.2, 77)
    table = table or {name: {split: dict.fromkeys(METRICS, of_row) for split in SPLITS}
                      for name, of_row in ((MODEL, figure), (REAL, Estimate(0.75, 0.7, 0.8, 77)), (RANDOM, figure))}
    entry = {"name": NASTY, "n": 2, "kind": "seen", "expected_length": 3, "length": 4, "normalised_edit_distance": 0.9,
             "clip": "1 2", "real": "3 4", "novelty": None}
    details = {
        "following": {"word": "half follows", "parts": PARTS}, "pool": 32,
        "summary": ["It half follows its captions.", "It is close.", f"It does worst at {NASTY}."],
        "examples": [{"label": "Good", "caption": NASTY, "clip": "1 2 2", "real": "3 4", "shown": "5 mm away"}],
        "verdict": list(verdict), "notes": [NASTY], "not_available": [], "trained_on": 1, "codebook_size": 8,
        "data": {"path": NASTY, "part": "the test set", "fingerprint": "f00d", "rows": 5, "clips": 2,
                 "captions": 3},
        "request": {"model_path": NASTY, "generated": None, "samples": 2}, "settings": {"SEED": NASTY},
        "evaluator": None, "versions": {"torch": "2.0"}, "captions": [entry, entry | {"name": "best", "clip": ""}],
        "participants": [entry], "lengths": [entry],
        "by": dict.fromkeys(METRICS, "stage2"), "captions_said": [
            {"row": 0, "kind": "seen", "motion": "1 2 3", "said": NASTY, "captions": [NASTY, "b"], "chrf": 1.0},
            {"row": 1, "kind": None, "motion": "4 4", "said": "", "captions": ["b"], "chrf": 0.0}]} | changes
    rows = [EvaluationRow(0, NASTY, NASTY, [1, 2, 3], NASTY, "seen"),
            EvaluationRow(1, "b", "b", [4, 4], None, "unseen")]
    write_page(tmp_path / "report.html", table, details, rows, [[[1, 2], [3]], [[], [99]]], asked_lengths,
               {"stage1": HISTORY, "stage2": HISTORY} if histories is None else histories, figures)
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
    for expected in ("It is good.", "0.123", "0.100 to 0.200", "77", "f00d", "torch", "SEED", "stage1", "best",
                     "It is close.", "2 clips with 3 captions of", "each generated 2 times", "0 tokens",
                     "asked for by decoding", "Captions of motions, by stage2", "Lost tokens put right",
                     "(nothing)", f"{NASTY}; b"):
        assert expected in text, expected
    assert content.count('role="img"') == 1 + 3 + 2 + 2  # the first screen's chart, and those that are folded
    assert checker.tags.count("details") == checker.tags.count("summary") == 8
    for css in ("prefers-color-scheme: dark", "@media print", "max-width: 760px", 'name="viewport"'):
        assert css in content


def test_what_there_is_not_leaves_no_empty_frame(tmp_path):
    bare = {name: {split: dict.fromkeys(METRICS, NOT_AVAILABLE) for split in SPLITS} for name in (MODEL, REAL)}
    bare[MODEL]["all"] |= {"edit_distance": Estimate(2.0, None, None, 3)}
    content, checker = page(tmp_path, bare, {}, None, participants=[], by={}, captions_said=[])
    assert content.count('role="img"') == 2 and "How it was trained" not in content and "By participant" not in content
    assert "Other tasks" not in content
    assert "All captions" in content and "never trained" not in content


def test_the_first_screen_is_the_word_three_sentences_the_clips_and_one_chart(tmp_path):
    content, checker = page(tmp_path)
    first = content.split("<details>")[0]
    assert '<div class="card verdict half">' in first and first.count('role="img"') == 1
    assert first.index("half follows<span") < first.index("It half follows its captions.") < first.index("It is close.")
    assert "It is good." not in first and "1 2 2" not in content  # no walls of integers anywhere
    assert first.count('<svg class="strip"') == 2 and "Without the codec of the tokens" in first


def test_with_a_codec_the_clips_play_in_place_and_ask_for_nothing(tmp_path):
    content, checker = page(tmp_path, figures='<script>play("a")</script>')
    assert checker.tags.count("iframe") == 1 and "script" not in checker.tags and checker.links == []
    assert 'sandbox="allow-scripts" srcdoc="&lt;script&gt;play(&quot;a&quot;)&lt;/script&gt;"' in content
    assert "Without the codec" not in content


@pytest.mark.parametrize("word, look", [("follows", "good"), ("does not yet follow", "bad"),
                                        ("cannot be judged", "open")])
def test_the_verdict_has_its_look(tmp_path, word, look):
    content, _ = page(tmp_path, following={"word": word, "parts": {"all": {"word": word}}})
    assert f'<div class="card verdict {look}">' in content
    assert ("finds a clip" in content.split("<details>")[0]) == (look != "open")


def test_r_precision_is_not_drawn_where_it_is_not_to_be_trusted(tmp_path):
    weak = {name: {split: dict.fromkeys(METRICS, Estimate(0.2, 0.1, 0.3, 7)) for split in SPLITS}
            for name in (MODEL, REAL, RANDOM)}
    following = {"word": "cannot be judged", "parts": {"all": {"word": "cannot be judged"}}}
    content, _ = page(tmp_path, weak, following=following)
    assert 'aria-label="R-Precision' not in content and "R-Precision top 3 (not to be trusted)" in content
    trusted, _ = page(tmp_path, {name: {split: dict.fromkeys(METRICS, Estimate(0.8, 0.7, 0.9, 7)) for split in SPLITS}
                                 for name in (MODEL, REAL, RANDOM)})
    assert 'aria-label="R-Precision' in trusted and "not to be trusted" not in trusted


def test_what_the_figures_mean_is_told_of_figures_that_exist():
    assert set(ABOUT) <= set(METRICS)


@pytest.mark.parametrize(("unseen", "heading"), [
    ("cannot be judged", "captions that were trained"), ("follows", "its captions"), (None, "its captions")])
def test_the_heading_names_the_captions_that_were_judged(unseen, heading):
    from motion_llm.evaluation.report_page import _verdict

    parts = {"seen": {"word": "follows"}} | ({"unseen": {"word": unseen}} if unseen else {})
    told = _verdict({"following": {"word": "follows", "parts": parts}, "summary": ["Yes."]})
    assert f"follows<span class=\"soft\"> {heading}</span>" in told


# Figures of parts of the motions


def test_a_block_has_a_line_for_each_figure_of_each_part_and_escapes_its_name():
    figure = Estimate(0.5, 0.25, 0.75, 7)
    tables = {name: {row: {split: dict.fromkeys(names, figure) for split in SPLITS} for row in (MODEL, RANDOM)}
              for name, names in (("a<b>", ["edit_distance"]), ("c", ["edit_distance", "denoising_accuracy"]))}
    tables["c"]["copying"] = blank(METRICS) | {"all": {"denoising_accuracy": figure}}
    told = Block("by_stream", "by stream", tables)
    checker = Checker()
    checker.feed(block(told))
    text = " ".join(checker.text)
    assert checker.open == [] and "a<b>" in text
    assert text.count(METRICS["edit_distance"].title) == 2 and text.count("put right, lost anywhere") == 1
    whole = {row: blank(METRICS) for row in (MODEL, REAL)}
    lines = format_scores(whole, [], [], [told]).splitlines()
    assert [line for line in lines if line in tables] == ["a<b>", "c", "c"]  # lost tokens have a table of their own
    assert sum(line.startswith(" edit distance (tokens)") and "0.2 to 0.8" in line for line in lines) == 2
    assert told.to_dict()["c"]["copying"] == {"seen": {}, "unseen": {}, "all": {"denoising_accuracy": figure.to_dict()}}


def test_the_figures_of_joints_are_explained_below_them_alone():
    tables = {"hand": {MODEL: {split: dict.fromkeys(PART_METRICS, Estimate(1.0, None, None, 2)) for split in SPLITS}}}
    html = block(Block("joints_by_part", "joints by part", tables))
    assert all(metric.title.replace("'", "&#x27;") in html for metric in PART_METRICS.values())
    assert set(ABOUT_PARTS) == set(PART_METRICS) and html.count("<dt>") == len(PART_METRICS)
    assert block(Block("by_stream", "by stream", {})) == ""
