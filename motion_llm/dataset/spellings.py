"""Names of participants and clips that are spelt in several ways: in two Unicode forms, which count as one name, or
with other capital letters or spaces, which count as two."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from motion_llm.dataset.report import count_of
from motion_llm.dataset.rows import Columns, Groups, Rows, Texts

FIELDS = {"participant_id": "participants", "clip_id": "clips"}  # field of the file -> column
SHOWN = 2  # names that a message shows
_LONGEST = 30  # letters of a name that a message shows
_loose_space = re.compile(r"(?<!\d)\s+|\s+(?!\d)").sub  # "1 11" and "11 1" stay two names


def one_form(chunks: Sequence[Columns]) -> tuple[dict[int, Columns], list[str]]:
    """Bring names that occur in several Unicode forms into one, NFC; a name that has one form in the whole file stays
    as it is. Returns the changed chunks by their places, and a message for each field that has such names."""
    changed, messages = {}, []
    for field, column in FIELDS.items():
        spellings: dict[str, Counter[str]] = defaultdict(Counter)  # NFC -> spelling -> rows
        places = []  # of chunks with letters beyond ASCII
        for place, chunk in enumerate(chunks):
            texts: Texts = getattr(chunk, column)
            if texts.data.max(initial=0) >= 128:
                places.append(place)
                for name, count in Counter(texts.to_list()).items():
                    if name is not None and not name.isascii():
                        spellings[unicodedata.normalize("NFC", name)][name] += count
        several = {nfc: counts for nfc, counts in spellings.items() if len(counts) > 1}
        renamed = {name: nfc for nfc, counts in several.items() for name in counts}
        for place in places if renamed else ():
            chunk = changed.get(place, chunks[place])
            names = [renamed.get(name, name) for name in getattr(chunk, column).to_list()]
            changed[place] = replace(chunk, **{column: Texts.of(names)})
        if several:
            listed = "; ".join(f"{_short(nfc)} ({_forms(counts)})" for nfc, counts in list(several.items())[:SHOWN])
            messages.append(f"{field} is spelt in several Unicode forms, which count as one: {listed}{_more(several)}")
    return changed, messages


def _forms(counts: Counter[str]) -> str:
    forms = ((next((form for form in ("NFC", "NFD") if unicodedata.is_normalized(form, name)), "mixed"), count)
             for name, count in counts.items())
    return ", ".join(f"{form} in {count_of(count, 'row')}" for form, count in forms)


def _short(name: str) -> str:
    return repr(name if len(name) <= _LONGEST else f"{name[:_LONGEST - 3]}...")


def _more(items: dict) -> str:
    return f"; and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""


def name_key(name: str) -> str:
    """The form in which names that a person takes for one are equal: case folded, without spaces, except between
    digits."""
    folded = name.casefold()
    if not name.isascii():
        folded = unicodedata.normalize("NFC", folded)
    words = folded.split()
    return words[0] if len(words) == 1 else _loose_space("", " ".join(words))


def alike_names(rows: Rows) -> list[str]:
    """A message for each field that has names with the same key."""
    messages = []
    for field, groups in (("participant_id", _by_participant(rows)), ("clip_id", rows.clips)):
        alike = _alike(rows, field, groups)
        if alike:
            listed = "; ".join(" and ".join(f"{_short(name)} ({count_of(count, 'row')})" for name, count in names[:2])
                               for names in list(alike.values())[:SHOWN])
            messages.append(f"{field} differs only in capital letters or spaces, and counts as different: {listed}"
                            f"{_more(alike)}. Spell them alike if they are one")
    return messages


def _by_participant(rows: Rows) -> Groups:
    first = np.empty(len(rows.participants), np.int64)
    places = np.flatnonzero(rows.participant >= 0)[::-1]
    first[rows.participant[places]] = places  # the first row of each is assigned last
    return Groups(rows.participant, first)


def _alike(rows: Rows, field: str, groups: Groups) -> dict[str, list[tuple[str, int]]]:
    """Key -> the names that have it, with their numbers of rows; only keys of several names, in file order.

    The keys of all names are compared by their hashes, as a million names would take too much memory.
    """
    hashes, order = np.empty(groups.count, np.int64), np.sort(groups.first)
    for place, name in _names(rows, FIELDS[field], order):
        hashes[groups.ids[place]] = hash(name_key(name))
    by_hash = np.sort(hashes)
    repeated = by_hash[1:][by_hash[1:] == by_hash[:-1]]
    if not len(repeated):
        return {}
    counts = np.bincount(groups.ids[groups.ids >= 0])
    alike: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for place, name in _names(rows, FIELDS[field], order[np.isin(hashes[groups.ids[order]], repeated)]):
        alike[name_key(name)].append((name, int(counts[groups.ids[place]])))
    return {key: names for key, names in alike.items() if len(names) > 1}


def _names(rows: Rows, column: str, places: np.ndarray) -> Iterator[tuple[int, str]]:
    """The names of the rows at these places, ascending."""
    done = 0
    for chunk in rows.chunks:
        here = places[(places >= done) & (places < done + len(chunk))]
        if len(here):
            names = getattr(chunk, column).to_list()
            yield from ((place, names[place - done]) for place in here.tolist())
        done += len(chunk)
