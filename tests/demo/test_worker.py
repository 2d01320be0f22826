"""The demo's queue with a decoder that the test lets go on, clip by clip: order, fairness, batches, leaving, errors."""

import logging
import threading
import tracemalloc

import pytest

from motion_llm.demo.worker import MOST_CLIPS, Refused, Worker, check_clips


class Decoder:
    """Decodes parts (texts) to upper case, two tokens each. Unless `free`, a round waits for `go`. Remembers the
    rounds, and which parts of them were decoded. A part "bad" raises ValueError, "defect" ZeroDivisionError."""

    def __init__(self, free: bool = False):
        self.rounds, self.decoded = [], []
        self.begun, self._go, self.free = threading.Semaphore(0), threading.Semaphore(0), free

    def __call__(self, parts):
        self.rounds.append(list(parts))
        self.begun.release()
        if not self.free:
            assert self._go.acquire(timeout=10)
        for place, part in enumerate(parts):
            yield place, None
            if part == "bad":
                raise ValueError("no scores")
            if part == "defect":
                raise ZeroDivisionError("a hole")
            yield place, None
            self.decoded.append(part)
            yield place, part.upper()

    def wait(self):
        """Until a round has begun."""
        assert self.begun.acquire(timeout=10)

    def go(self):
        self._go.release()


@pytest.fixture
def started():
    """start(decoder, ...) -> a worker, closed afterwards."""
    workers = []

    def start(decoder, **options) -> Worker:
        workers.append((Worker(decoder, **options), decoder))
        return workers[-1][0]

    yield start
    for worker, decoder in workers:
        if isinstance(decoder, Decoder):
            decoder.free = True
            decoder.go()
        worker.close()


def end_of(ticket):
    """The last progress of a question."""
    *_, last = ticket.changes(every=5)
    assert last.ended
    return last


def test_results_come_in_the_order_of_the_parts_with_their_tokens_counted(started):
    last = end_of(started(Decoder(free=True)).ask("a", ["x", "y", "z"]))
    assert last.results == {0: "X", 1: "Y", 2: "Z"} and list(last.results) == [0, 1, 2]
    assert (last.tokens, last.error, last.ahead) == (6, None, None)


def test_results_are_shown_as_they_come(started):
    gate = threading.Event()

    def decode(parts):
        yield 1, "second"
        assert gate.wait(10)
        yield 0, "first"

    ticket = started(decode).ask("a", ["x", "y"])
    changes = ticket.changes(every=5)
    while not (now := next(changes)).results:
        pass
    assert now.results == {1: "second"} and not now.ended
    gate.set()
    assert list(end_of(ticket).results.items()) == [(0, "first"), (1, "second")]


def test_a_large_question_does_not_hold_up_a_small_one(started):
    decoder = Decoder()
    worker = started(decoder, round_size=4)
    large = worker.ask("large", [f"l{i}" for i in range(20)])
    decoder.wait()  # the first round has begun, without the others
    small, other = worker.ask("small", ["s0"]), worker.ask("other", ["o0", "o1"])
    for _ in range(5):
        decoder.go()
        decoder.wait()
    assert decoder.rounds[0] == ["l0", "l1", "l2", "l3"]
    assert decoder.rounds[1] == ["l4", "s0", "o0", "l5"]
    assert decoder.rounds[2] == ["o1", "l6", "l7", "l8"]
    assert end_of(small).results == {0: "S0"} and end_of(other).results == {0: "O0", 1: "O1"}
    assert not large.ended


def test_questions_of_one_client_are_answered_in_order(started):
    decoder = Decoder()
    worker = started(decoder, round_size=2)
    worker.ask("b", ["first"])
    decoder.wait()
    for name in ("a0", "a1", "a2"):
        worker.ask("a", [name])
    for _ in range(2):
        decoder.go()
        decoder.wait()
    assert decoder.rounds == [["first"], ["a0", "a1"], ["a2"]]


def test_the_place_in_the_queue_shows(started):
    decoder = Decoder()
    worker = started(decoder, round_size=1)
    tickets = [worker.ask(client, ["x"]) for client in "abc"]
    decoder.wait()
    assert [next(ticket.changes()).ahead for ticket in tickets] == [None, 0, 1]
    decoder.go()
    decoder.wait()
    assert [next(ticket.changes()).ahead for ticket in tickets] == [None, None, 0]


def test_who_leaves_costs_nothing_more(started):
    decoder = Decoder()
    worker = started(decoder, round_size=2)
    gone = worker.ask("gone", [f"g{i}" for i in range(9)])
    decoder.wait()
    stays = worker.ask("stays", ["s"])
    worker.leave("gone")
    decoder.go()
    decoder.wait()  # the next round is of the one who stays
    decoder.go()
    assert end_of(stays).results == {0: "S"}
    assert decoder.rounds[1] == ["s"] and len(decoder.rounds) == 2
    assert decoder.decoded == ["s"]  # the round that nobody wanted ended with its first token
    last = end_of(gone)
    assert last.results == {} and last.error is None


def test_a_cancelled_question_leaves_the_clients_others(started):
    decoder = Decoder()
    worker = started(decoder, round_size=1)
    worker.ask("b", ["first"])
    decoder.wait()
    first, second = worker.ask("a", ["one"]), worker.ask("a", ["two"])
    first.cancel()
    first.cancel()  # once is enough, twice does no harm
    decoder.free = True
    decoder.go()
    assert end_of(second).results == {0: "TWO"} and end_of(first).results == {}
    assert ["one"] not in decoder.rounds


@pytest.mark.parametrize(("part", "kind"), [("bad", ValueError), ("defect", ZeroDivisionError)])
def test_an_error_reaches_its_own_client_alone(started, caplog, part, kind):
    decoder = Decoder()
    worker = started(decoder)
    blocker = worker.ask("z", ["first"])
    decoder.wait()
    before, guilty, after = worker.ask("a", ["x", "y", "w"]), worker.ask("b", ["p", part, "q"]), worker.ask("c", ["z"])
    decoder.free = True
    with caplog.at_level(logging.ERROR):
        decoder.go()
        assert end_of(blocker).results == {0: "FIRST"}
        assert end_of(before).results == {0: "X", 1: "Y", 2: "W"} and end_of(after).results == {0: "Z"}
        last = end_of(guilty)
    assert type(last.error) is kind and last.results == {0: "P"}
    assert ("Traceback" in caplog.text) == (kind is ZeroDivisionError)  # what a user can mend is no defect
    assert end_of(worker.ask("b", ["again"])).results == {0: "AGAIN"}


def test_too_much_is_refused_in_clear_words(started):
    decoder = Decoder()
    worker = started(decoder, most_waiting=5, most_of_client=3)
    with pytest.raises(Refused, match=r"25 clips were asked for, expected a whole number from 1 to 24"):
        worker.ask("a", ["x"] * (MOST_CLIPS + 1))
    with pytest.raises(Refused, match="expected a whole number"):
        check_clips(2.5)
    for _ in range(3):
        worker.ask("a", ["x"])
    with pytest.raises(Refused, match=r"3 questions are waiting, 3 of them yours \(at most 5, and 3 of one person\)"):
        worker.ask("a", ["x"])
    worker.ask("b", ["x"])
    last = worker.ask("c", ["x"])
    with pytest.raises(Refused, match="5 questions are waiting, 0 of them yours"):
        worker.ask("d", ["x"])
    last.cancel()
    worker.ask("d", ["x"])


def test_closing_ends_everything(started):
    decoder = Decoder()
    worker = Worker(decoder, round_size=1)
    running, waiting = worker.ask("a", ["x", "y"]), worker.ask("b", ["z"])
    decoder.wait()
    closing = threading.Thread(target=worker.close)
    closing.start()
    for ticket in (running, waiting):
        last = end_of(ticket)
        assert isinstance(last.error, Refused) and last.results == {}
    decoder.go()
    closing.join(10)
    assert not closing.is_alive() and not worker._thread.is_alive() and len(decoder.rounds) == 1
    with pytest.raises(Refused, match="the page was closed"):
        worker.ask("c", ["x"])


def test_nothing_is_kept_of_what_is_answered(started):
    worker = started(Decoder(free=True))
    worker._decode.rounds = worker._decode.decoded = type("Forgets", (), {"append": lambda self, part: None})()

    def round_trip(count: int) -> None:
        tickets = [worker.ask(f"{count}-{i % 5}", [f"{'x' * 1000}{i}"] * 4) for i in range(50)]
        tickets[0].cancel()
        for ticket in tickets:
            end_of(ticket)

    round_trip(0)
    tracemalloc.start()
    round_trip(1)
    before = tracemalloc.get_traced_memory()[0]
    for count in range(2, 6):
        round_trip(count)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert not worker._open and not worker._lines and not worker._alone
    assert after - before < 50_000  # 200 questions of 4 kB
