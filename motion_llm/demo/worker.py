"""One worker answers the questions of everyone at the page, in rounds of few clips.

A question is a list of parts, one for each clip. A round takes a part from each client in turn, those that came first
first, and begins again with the first client while it has room. So a question of one clip waits for the round that is
being decoded and not for the twenty clips of somebody else, and parts of several clients are decoded together.
"""

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)

ROUND = 8  # clips that are decoded together
MOST_CLIPS = 24  # of a question
MOST_WAITING = 64  # questions that are not answered yet, of all clients
MOST_OF_CLIENT = 16  # the same, of one client


class Refused(ValueError):
    """A question that is not taken: too large, or too many wait already."""


def check_clips(count: object) -> None:
    """Raises Refused for a number of clips that one question cannot have."""
    if not isinstance(count, int) or not 1 <= count <= MOST_CLIPS:
        raise Refused(f"{str(count)[:20]} clips were asked for, expected a whole number from 1 to {MOST_CLIPS}")


@dataclass(frozen=True)
class Progress:
    """Of a question. ahead: clients that come before it; None once it has begun. tokens: decoded so far. results: by
    the place of the part, in the order of the places; error: what ended it early, which may be a defect; ended: no more
    will come."""

    ahead: int | None
    tokens: int
    results: dict[int, Any]
    error: BaseException | None
    ended: bool


class Ticket:
    """A question in the queue."""

    def __init__(self, worker: "Worker", client: str, parts: Sequence):
        self.client = client
        self._worker, self._parts = worker, parts
        self._waiting = deque(range(len(parts)))  # places of parts that are in no round yet
        self._results: dict[int, Any] = {}
        self._tokens, self._error, self.ended = 0, None, False
        self._changed = threading.Event()

    def changes(self, every: float = 0.3) -> Iterator[Progress]:
        """The progress at once, whenever a part is ready, every `every` seconds, and at the end."""
        while True:
            self._changed.clear()
            yield (now := self._worker.progress_of(self))
            if now.ended:
                return
            self._changed.wait(every)

    def cancel(self) -> None:
        """What is not decoded yet will not be. Does nothing after the end."""
        self._worker.end([self])


class Worker:
    """decode: a function of parts that yields (place in them, None) for a decoded token and (place, result) once for
    each. Runs in a thread of its own until `close`."""

    def __init__(self, decode: Callable[[Sequence], Iterator[tuple[int, Any]]], round_size: int = ROUND,
                 most_waiting: int = MOST_WAITING, most_of_client: int = MOST_OF_CLIENT):
        self._decode, self._round_size = decode, round_size
        self._most_waiting, self._most_of_client = most_waiting, most_of_client
        self._lock = threading.Condition()  # an RLock: `end` is called inside it
        self._lines: OrderedDict[str, deque[Ticket]] = OrderedDict()  # client -> its questions with waiting parts
        self._alone: deque[list[tuple[Ticket, int]]] = deque()  # rounds of one question, after an error
        self._open: set[Ticket] = set()  # not ended
        self._closed = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self._thread = threading.Thread(target=self._serve, name="queue", daemon=True)
        self._thread.start()

    # ---- for the clients' threads

    def ask(self, client: str, parts: Sequence) -> Ticket:
        """Raises Refused."""
        check_clips(len(parts))
        ticket = Ticket(self, client, parts)
        with self._lock:
            own = sum(other.client == client for other in self._open)
            if self._closed:
                raise Refused("the page was closed: start the command again")
            if len(self._open) >= self._most_waiting or own >= self._most_of_client:
                raise Refused(f"{len(self._open)} questions are waiting, {own} of them yours (at most "
                              f"{self._most_waiting}, and {self._most_of_client} of one person): ask again in a moment")
            self._open.add(ticket)
            self._lines.setdefault(client, deque()).append(ticket)
            self._lock.notify()
        return ticket

    def leave(self, client: str) -> None:
        """Cancel all questions of a client."""
        with self._lock:
            self.end([ticket for ticket in self._open if ticket.client == client])

    def close(self) -> None:
        """End all questions and the threads."""
        with self._lock:
            self._closed = True
            self.end(list(self._open), Refused("the page was closed"))
            self._lock.notify()
        self._thread.join()
        self._pool.shutdown()

    def progress_of(self, ticket: Ticket) -> Progress:
        with self._lock:
            results = {place: ticket._results[place] for place in sorted(ticket._results)}
            started = len(ticket._waiting) < len(ticket._parts)
            ahead = None if started or ticket.ended else list(self._lines).index(ticket.client)
            return Progress(ahead, ticket._tokens, results, ticket._error, ticket.ended)

    def end(self, tickets: list[Ticket], error: BaseException | None = None) -> None:
        """Take them out of the queue; a round that has nothing else ends with its next token."""
        with self._lock:
            for ticket in tickets:
                if ticket.ended:
                    continue
                ticket.ended, ticket._error = True, error
                self._open.discard(ticket)
                if ticket._waiting:
                    ticket._waiting.clear()
                    self._lines[ticket.client].remove(ticket)
                    if not self._lines[ticket.client]:
                        del self._lines[ticket.client]
                ticket._changed.set()

    # ---- in the worker's own threads

    def _serve(self) -> None:
        while parts := self._next_round():
            # The future holds whatever is raised, so that one round's defect does not end the thread.
            error = self._pool.submit(self._run, parts).exception()
            if error is not None:
                self._after_error(parts, error)

    def _next_round(self) -> list[tuple[Ticket, int]]:
        """(question, place of a part) each; waits until there is one. Empty at the end."""
        with self._lock:
            self._lock.wait_for(lambda: self._closed or self._alone or self._lines)
            if self._closed:
                return []
            if self._alone:
                return self._alone.popleft()
            taken = []
            while self._lines and len(taken) < self._round_size:
                client, line = self._lines.popitem(last=False)
                taken.append((line[0], line[0]._waiting.popleft()))
                if not line[0]._waiting:
                    line.popleft()
                if line:
                    self._lines[client] = line  # to the end of the queue
            return taken

    def _run(self, parts: list[tuple[Ticket, int]]) -> None:
        started, clients = time.monotonic(), {ticket.client for ticket, _ in parts}
        if all(ticket.ended for ticket, _ in parts):
            return
        with closing(self._decode([ticket._parts[place] for ticket, place in parts])) as events:
            for index, result in events:
                ticket, place = parts[index]
                with self._lock:
                    if all(ticket.ended for ticket, _ in parts):
                        break
                    if not ticket.ended:
                        self._note(ticket, place, result)
        log.info("%d clips of %d client%s in %.1f s", len(parts), len(clients), "s" * (len(clients) > 1),
                 time.monotonic() - started)

    def _note(self, ticket: Ticket, place: int, result: Any) -> None:
        if result is None:
            ticket._tokens += 1
            return
        ticket._results[place] = result
        if len(ticket._results) == len(ticket._parts):
            self.end([ticket])
        ticket._changed.set()

    def _after_error(self, parts: list[tuple[Ticket, int]], error: BaseException) -> None:
        """The questions of a round that failed get a round each, so that only the one that fails gets the error."""
        if not isinstance(error, (ValueError, OSError)):
            log.error("a defect, in a round of %d clips", len(parts), exc_info=error)
        with self._lock:
            rounds: dict[Ticket, list[tuple[Ticket, int]]] = {}
            for ticket, place in parts:
                if not ticket.ended and place not in ticket._results:
                    rounds.setdefault(ticket, []).append((ticket, place))
            if len({ticket for ticket, _ in parts}) == 1:
                self.end(list(rounds), error)
            else:
                self._alone.extend(rounds.values())
