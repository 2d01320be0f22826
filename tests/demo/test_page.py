"""The demo's page on a tiny model: its events as functions, and the served page asked by Gradio's own client."""

import html
import logging
import re
import socket
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from walker import walks

from motion_llm.motion.files import read_motion
from motion_llm.motion.kinematics import resampled
from motion_llm.viewer.figure import Clip
from motion_llm.viewer.files import write

gradio = pytest.importorskip("gradio", reason="no tests of the demo's page: Gradio is missing (requirements-demo.txt)")

ANYONE = "anyone"


@pytest.fixture(scope="module")
def served(run_with_codec):
    """(page, address) of a page that is served."""
    from motion_llm.demo.models import Models, decode  # import transformers, which must follow Unsloth's start
    from motion_llm.demo.page import serve
    from motion_llm.demo.worker import Worker

    worker = Worker(decode)
    page, address = serve(Models(run_with_codec / "stage3_t2m_sft"), worker, "127.0.0.1", free_port())
    yield page, address
    page.blocks.close(verbose=False)
    worker.close()


@pytest.fixture
def page(served):
    return served[0]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def visitor(name: str = "ann"):
    return SimpleNamespace(session_hash=name)


def ask(page, text="a person bows", clips=2, seed="3", answers=(), name="ann") -> dict:
    """What the page shows at the end, by element."""
    shown = {}
    for update in page.sentence(text, ANYONE, clips, True, 1, 1, 0.8, seed, list(answers), visitor(name)):
        shown |= update
    return shown


def test_an_answer_shows_figures_files_tokens_and_goes_into_the_history(page):
    from motion_llm.decoding.request import MotionRequest

    shown = ask(page)
    alone = page.models.main.answer([MotionRequest(text="a person bows", num_samples=2, temperature=0.8,
                                                   guidance=1.0)], seed=3)
    assert "2 clips, seed 3" in shown[page.status] and "srcdoc" in shown[page.figures]
    assert shown[page.tokens]["value"] == alone[0].motion_tokens
    assert [suffix in shown[page.links] for suffix in (".bvh", ".glb")] == [True, True]
    assert shown[page.stop]["interactive"] is False
    (answer,) = shown[page.answers]
    assert [" ".join(map(str, codes)) for codes in answer.codes] == [one.motion_tokens for one in alone]
    links, tokens = page.picked(1, answer)
    assert tokens == alone[1].motion_tokens and "_2.bvh" in links


def test_the_history_goes_back(page):
    first = ask(page, seed="1")[page.answers]
    both = ask(page, "a person kicks", 1, answers=first)[page.answers]
    assert [answer.title for answer in both] == ["a person bows", "a person kicks"]
    back = page.earlier_answer(1, both)
    assert "2 clips, seed 1" in back[page.status] and back[page.shown] is both[0]
    assert back[page.tokens]["value"] == " ".join(map(str, both[0].codes[0]))


def test_the_history_is_bounded(page, monkeypatch):
    monkeypatch.setattr("motion_llm.demo.page.KEPT", 2)
    answers = []
    for _ in range(3):
        answers = ask(page, clips=1, answers=answers)[page.answers]
    assert [answer.number for answer in answers] == [2, 3]


@pytest.mark.parametrize(("changes", "text"), [
    ({"text": ""}, "expected a sentence"), ({"clips": 25}, "25 clips were asked for"), ({"seed": "x"}, "seed is")])
def test_errors_stand_in_the_page(page, changes, text):
    shown = ask(page, **changes)
    assert 'role="alert"' in shown[page.status] and text in shown[page.status]
    assert page.answers not in shown and shown[page.stop]["interactive"] is False


def test_a_defect_is_shown_as_one_and_its_traceback_is_logged(page, monkeypatch, caplog):
    monkeypatch.setattr(type(page.models.main), "steps", lambda self, parts: iter([(0, None), (1 // 0, None)]))
    monkeypatch.setattr(page.worker, "_decode", lambda parts: (1 // 0 for _ in parts))
    with caplog.at_level(logging.ERROR):
        shown = ask(page)
    assert "defect" in shown[page.status] and "ZeroDivisionError" in shown[page.status]
    assert "Traceback" in caplog.text


def test_a_figure_that_cannot_be_made_is_told_in_the_page(page, monkeypatch):
    from motion_llm.motion.codec import CodecError

    def damaged(codes, caption):
        raise CodecError("codebook.npz is damaged")

    monkeypatch.setattr(page.models.main, "clip", damaged)
    shown = ask(page)
    assert 'role="alert"' in shown[page.status] and "codebook.npz is damaged" in shown[page.status]
    assert shown[page.stop]["interactive"] is False and not page.worker._open


def test_motion_becomes_text(page):
    *_, last = page.describe("1 2 3 4", None, [], visitor())
    assert 'class="said"' in last[page.status] and last[page.tokens]["value"] == "1 2 3 4"
    *_, last = page.describe("", None, [], visitor())
    assert "needs motion" in last[page.status]


def test_a_scene_shows_its_sentences_in_time(page):
    shown = {}
    for update in page.scene("a person bows\n2: a person kicks", ANYONE, "3", [], visitor()):
        shown |= update
    assert "1 clip, seed 3" in shown[page.status] and "a person kicks" in shown[page.figures]
    again = page.earlier_answer(1, shown[page.answers])
    assert "a person kicks" in again[page.figures]


def test_a_motion_goes_on_and_gaps_are_filled(page):
    rows = {"on": page.goes_on("1 2 3", None, "Continue it", "", "", 2, "1", [], visitor()),
            "by a sentence": page.goes_on("1 2 3", None, "Continue it", "a person bows", "", 1, "1", [], visitor()),
            "lost": page.goes_on("1 2 ? 4", None, "Fill a gap", "not read", "", 1, "1", [], visitor()),
            "gap": page.goes_on("1 2 3 4 5 6", None, "Fill a gap", "", "0.2:0.5", 1, "1", [], visitor())}
    tokens = {name: [*updates][-1][page.tokens]["value"].split() for name, updates in rows.items()}
    assert tokens["on"][:3] == tokens["by a sentence"][:3] == ["1", "2", "3"]
    assert tokens["lost"][:2] == ["1", "2"] and tokens["lost"][3:] == ["4"]
    assert tokens["gap"][:2] == ["1", "2"] and tokens["gap"][4:] == ["5", "6"]  # 7.5 tokens a second
    *_, last = page.goes_on("1 2 3", None, "Fill a gap", "", "5:6", 1, "", [], visitor())
    assert "expected START:END" in last[page.status]


def test_outside_of_the_gap_a_file_stays_as_it_was_recorded(served, tmp_path, monkeypatch):
    httpx = pytest.importorskip("httpx")
    page, address = served
    monkeypatch.setattr("motion_llm.demo.page.UPLOADS", tmp_path)
    recorded = tmp_path / "0123abcd" / "walk.bvh"  # as uploads are kept
    recorded.parent.mkdir()
    write(recorded, [Clip(walks(1, 150)[0], "", "")])
    *_, shown = page.goes_on("", str(recorded), "Fill a gap", "", "1.0:1.5", 1, "1", [], visitor())
    (answer,) = shown[page.answers]
    name, query = re.search(r'href="(motion/[^?]+)\?([^"]+)"', shown[page.links]).groups()
    assert "recording=0123abcd%2Fwalk.bvh" in query
    answered = httpx.get(f"{address}{name}?{html.unescape(query)}", timeout=60)
    (tmp_path / "filled.bvh").write_bytes(answered.content)
    filled, before = read_motion(tmp_path / "filled.bvh"), read_motion(recorded)
    moved = np.abs(filled.joints - resampled(before, filled.fps).joints[:len(filled.joints)]).max(axis=(1, 2))
    assert moved[:round(0.9 * filled.fps)].max() < 1e-3 < moved[round(1.2 * filled.fps)]
    for other in ("../secret.bvh", "/etc/passwd", "0123abcd/../0123abcd/walk.bvh", "walk.bvh"):
        refused = httpx.get(f"{address}{name}", params={"tokens": "1 2", "recording": other}, timeout=60)
        assert refused.status_code == 400 and "names no uploaded file" in refused.text
    recorded.unlink()
    gone = httpx.get(f"{address}{name}?{html.unescape(query)}", timeout=60)
    assert gone.status_code == 400 and "walk.bvh is gone, as uploads are kept for an hour" in gone.text
    assert "walk.bvh is gone" in page.earlier_answer(answer.number, [answer])[page.status]


def test_who_leaves_is_dropped(page):
    updates = page.sentence("a person runs", ANYONE, 24, False, 60 / 7.5, 1, 0.8, "1", [], visitor("leaves"))
    next(updates), next(updates)
    (ticket,) = [ticket for ticket in page.worker._open if ticket.client == "leaves"]
    updates.close()  # as Gradio does
    assert ticket.ended and ticket not in page.worker._open
    updates = page.sentence("a person runs", ANYONE, 24, False, 60 / 7.5, 1, 0.8, "1", [], visitor("stops"))
    next(updates), next(updates)
    page.leave(visitor("stops"))
    *_, last = updates
    assert "Stopped: " in last[page.status] and "of 24 clips" in last[page.status]


def test_files_are_served_and_wrong_ones_refused(served):
    httpx = pytest.importorskip("httpx")
    _, address = served
    answer = httpx.get(f"{address}motion/bow_1.bvh", params={"tokens": "1 2 3", "caption": "a bow"}, timeout=60)
    assert answer.status_code == 200 and answer.content.startswith(b"HIERARCHY")
    for name, tokens in (("a.exe", "1"), ("a.bvh", "1 x"), ("a.bvh", "")):
        answer = httpx.get(f"{address}motion/{name}", params={"tokens": tokens}, timeout=60)
        assert answer.status_code == 400 and "expected" in answer.text


def test_several_clients_at_once_are_all_answered(served):
    from load import crowd

    waits, texts = crowd(served[1], clients=3, each=2)
    assert len(waits) == 6 and all(text.replace(" ", "").isdecimal() for text in texts)


def test_an_address_that_cannot_be_had_is_named(page):
    from motion_llm.demo.page import serve

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match=f"--port {taken.getsockname()[1]} cannot be served on"):
            serve(page.models, page.worker, "127.0.0.1", taken.getsockname()[1])
    with pytest.raises(OSError, match="cannot be served on"):
        serve(page.models, page.worker, "127.0.0.1", 99999)


def test_the_door_serves_until_it_is_stopped(run_with_codec, caplog):
    import demo

    stop = threading.Event()
    args = demo._parser().parse_args(["--model_path", str(run_with_codec / "stage3_t2m_sft"), "--port",
                                      str(free_port())])
    door = threading.Thread(target=demo.run, args=(args, stop))
    with caplog.at_level(logging.INFO):
        door.start()
        for _ in range(600):
            if "the page is at http://127.0.0.1" in caplog.text or not door.is_alive():
                break
            door.join(0.1)
        stop.set()
        door.join(30)
    assert "the page is at" in caplog.text and not door.is_alive()
    assert not any(thread.name == "queue" and not thread.daemon for thread in threading.enumerate())
