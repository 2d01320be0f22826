"""progress.py: a bar for what takes long, none for what does not."""

import io
import sys

from motion_llm.evaluation import progress


def test_a_long_part_has_a_bar_with_the_time_left_and_a_short_one_none(monkeypatch):
    for delay, shown in ((0.0, True), (60.0, False)):
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(progress, "SHOWN_AFTER", delay)
        assert list(progress.with_bar(iter("abc"), 3, "captions of motions")) == list("abc")
        assert ("captions of motions:" in stream.getvalue()) == shown


def test_a_bar_goes_on_where_an_earlier_start_stopped(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress.progress_bar(10, "generating", initial=4) as bar:
        bar.update()
        assert bar.n == 5
