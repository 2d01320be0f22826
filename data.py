"""Reading a dataset and checking every row of it.

A row is a caption with a motion, which is a list of codes (motion tokens). Nothing is silently dropped,
cropped or repaired: read_rows() collects every error, raise_on_errors() raises them together. Messages
name rows as `row 17`, counted from 0, for a JSON list, and as `line 18` of the file for JSON Lines.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from motion_llm.dataset.checks import FIELDS, LARGEST_CODE, Checker, Occurrences
from motion_llm.dataset.markers import find_markers, marker_warning, vocabulary_warning
from motion_llm.dataset.reader import SHOWN, Invalid, Records, show
from motion_llm.dataset.report import DataError, Problem, Report, check_split, count_of, format_report, raise_on_errors
from motion_llm.dataset.rows import SPLITS, Columns, Row, RowHashes, Rows, caption_key, group
from motion_llm.dataset.spellings import alike_names, one_form
from motion_llm.streams import ABSENT, TEXT, Streams

__all__ = ["DataError", "Problem", "Report", "Row", "Rows", "caption_key", "check_split", "format_report",
           "raise_on_errors", "read_rows"]

_ERRORS = {
    "not-an-object": "not an object",
    "duplicate-key": "a key given twice",
    "json-constant": "NaN or Infinity, which JSON does not have",
    "missing-field": "a missing field",
    "text": "a text_query that is no caption",
    "codes-type": 'motion_tokens that is neither text ("42 18 91") nor a list ([42, 18, 91]), and no streams '
                  '({{"body": "42 18", "hands": "3 3"}} or [[42, 3], [18, 3]])',
    "mixed-forms": "motion_tokens of another form than that of the rows before",
    "streams": "other streams than the rows before",
    "stream-name": "a stream that cannot have its name",
    "stream-lengths": "streams of different lengths",
    "no-codes": "no motion tokens",
    "negative-code": "a negative motion token",
    "non-integer-code": "a motion token that is not an integer",
    "code-too-large": "a motion token that is too large (at most {largest} is allowed{codebook})",
    "participant": "a participant_id that cannot be used",
    "clip-id": "a clip_id that cannot be used",
    "split": "a split that is none of train (training), val (valid, validation, dev) and test",
    "too-long": "a clip that cannot fit MAX_SEQ_LEN ({max_seq_len:,}); raise MAX_SEQ_LEN or shorten the clip",
}
_WARNINGS = {
    "stream-order": "streams in another order than the first row's (they are read by their names)",
    "may-not-fit": "a clip that may not fit MAX_SEQ_LEN ({max_seq_len:,}); checked exactly once the "
                   "tokenizer is loaded",
    "duplicate": "an exact duplicate of an earlier row",
    "similar-captions": "a caption that differs from an earlier one only by case, spaces, full stop or Unicode "
                        "form (they count as one)",
    "mistaken-character": "a caption with control characters, as Windows-1252 text has when it is read as Latin-1 (it "
                          "is trained as it stands)",
    "split-leak": "a clip (same tokens or same clip_id) that is in a later split too; the row is left out, neither "
                  "trained on nor scored",
    "no-split": "a row without a split among others that have one (it counts as train)",
}


# ---------------------------------------------------------------- reading and comparing


def _message(wording: str, occurrences: Occurrences, report: Report, records: Records) -> str:
    examples = ", ".join(f"{records.unit} {records.number(record)} ({text})" for record, text in occurrences.first)
    more = f", and {occurrences.count - SHOWN:,} more" if occurrences.count > SHOWN else ""
    return f"{report.path}: {wording}, in {count_of(occurrences.records, records.unit)}: {examples}{more}"


def _type_errors(checker: Checker, report: Report, records: Records) -> list[Problem]:
    problems = []
    for name, by_type in checker.types.items():
        if len(by_type) == 2:
            both = " and ".join(
                f"{word} in {count_of(count, records.unit)} (first: {records.unit} {records.number(first)}, "
                f"{show(value)})"
                for word, (count, first, value) in (("text", by_type[str]), ("an integer", by_type[int])))
            problems.append(Problem(f"{name.split('_')[0]}-types",
                                    f"{report.path}: {name} is {both}; make them all one type"))
    return problems


def _compare(rows: Rows, checker: Checker, records: Records) -> None:
    """Add the warnings about rows that agree: duplicates, similar captions."""
    if not len(rows):
        return
    motions, captions, keys = rows.motions, rows.captions, rows.keys

    def add(kind: str, mask: np.ndarray, earlier: np.ndarray, name_texts: bool = True) -> None:
        """mask: bool, (N,), the rows to report; earlier: (N,), the row that each agrees with."""
        places = np.flatnonzero(mask)

        def text(i: int) -> str:
            row, earlier_row = rows[places[i]], rows[earlier[places[i]]]
            reference = f"as {records.unit} {records.number(earlier_row.index)}"
            return f"{show(row.text_query)}, {reference}, {show(earlier_row.text_query)}" if name_texts else reference

        if len(places):
            checker.findings.add_all(kind, rows.index[places], text)

    contents = group(np.stack([captions.ids * motions.count + motions.ids, rows.participant], 1).astype(np.uint64))
    place = np.arange(len(rows))
    add("duplicate", contents.first[contents.ids] != place, contents.first[contents.ids], name_texts=False)
    same_key = keys.first[keys.ids]
    new = captions.first[captions.ids] == place
    add("similar-captions", new & (captions.ids[same_key] != captions.ids), same_key)
    _compare_splits(rows, checker, records)


def _compare_splits(rows: Rows, checker: Checker, records: Records) -> None:
    """Add the rows whose clip is in a later split too, and those without a split where others have one."""
    leaks, unsplit = np.flatnonzero(rows.later_copy >= 0), np.flatnonzero(rows.splits < 0)

    def text(i: int) -> str:
        row, later_row = rows[leaks[i]], rows[rows.later_copy[leaks[i]]]
        return f"{row.split or SPLITS[0]}, as {records.unit} {records.number(later_row.index)}, {later_row.split}"

    if len(leaks):
        checker.findings.add_all("split-leak", rows.index[leaks], text)
    if 0 < len(unsplit) < len(rows):
        checker.findings.add_all("no-split", rows.index[unsplit], lambda i: show(rows[unsplit[i]].text_query))


def read_rows(path: str | Path, max_seq_len: int,
              codebook_size: int | Mapping[str, int] | Sequence[int] | Streams | None = None,
              denoise: bool = True) -> Report:
    """Read a dataset and check all of it. Errors in it are reported, not raised: see raise_on_errors().

    The file is a JSON list of objects or JSON Lines (told apart by content), UTF-8, each object with text_query,
    motion_tokens ("42 18 91" or [42, 18, 91]; of several streams see motion_llm/streams.py) and optionally
    participant_id and clip_id (text or integers) and split (train, val or test). A participant or clip_id in several
    Unicode forms counts as one. max_seq_len: positions. codebook_size: the number of codes, of every stream or of each
    (by name, in their order, or those of a model), None for the largest code + 1. denoise: whether stage 2's denoising
    task is trained, whose examples hold the motion twice. The file is read in chunks; memory holds 4 bytes a code, the
    texts and about 150 bytes a row.
    """
    report = Report(str(path), max_seq_len, codebook_size_is_set=codebook_size is not None)
    set_size = codebook_size if isinstance(codebook_size, int) else None
    largest = min(LARGEST_CODE, set_size - 1) if set_size else LARGEST_CODE
    checker, records = Checker(max_seq_len, largest, denoise, codebook=codebook_size), Records()
    counts = _Counts()
    chunks, hashes = [], []
    try:
        for chunk in records.chunks(Path(path), FIELDS):
            columns = checker(chunk)
            counts.add(columns.codes, len(checker.form.names))
            chunks.append(columns)
            if checker.form.form == TEXT:  # flat codes of several streams are known when all sizes are
                hashes.append(RowHashes.of(columns))
    except Invalid as error:  # a file that cannot be read to its end gets this one error
        report.form = records.form
        report.errors.append(Problem(error.kind, f"{path}: {error.detail}"))
        return report
    report.streams = checker.form.streams(codebook_size, counts.sizes)
    if empty := [name for name, size in zip(report.streams.names, report.streams.sizes, strict=True) if not size]:
        if report.streams.form != TEXT:
            report.errors.append(Problem("no-codes", f"{path}: stream {empty[0]} is null in every row: leave it out"))
    if report.streams.form != TEXT:
        chunks = [replace(chunk, codes=report.streams.flat(chunk.codes.reshape(-1, report.streams.count)))
                  for chunk in chunks]
        hashes = list(map(RowHashes.of, chunks))
    changed, spellings = one_form(chunks)
    for place, columns in changed.items():
        chunks[place], hashes[place] = columns, RowHashes.of(columns)
    report.form, report.file_sha256, report.rows = records.form, records.sha256, Rows(chunks, hashes)
    report.used = counts.used
    _add_problems(report, checker, records)
    _add_suspicions(report, counts, spellings)
    if not report.errors:
        of_streams = b"" if report.streams.form == TEXT else json.dumps(report.streams.to_dict()).encode()
        report.fingerprint = hashlib.sha256(report.rows.digests.tobytes() + of_streams).hexdigest()
    return report


class _Counts:
    """How often each code of each stream occurs. of_stream: (K,) of each, K the stream's largest code + 1."""

    def __init__(self):
        self._counts: list[np.ndarray] = []

    def add(self, codes: np.ndarray, streams: int) -> None:
        """codes: (T * streams,), the streams' own; ABSENT ones are not counted."""
        self._counts = self._counts or [np.zeros(LARGEST_CODE + 1, np.int64) for _ in range(streams)]
        for stream, counts in enumerate(self._counts):
            own = codes[stream::streams]
            found = np.bincount(own[own >= 0] if streams > 1 else own)
            counts[:len(found)] += found

    @property
    def of_stream(self) -> list[np.ndarray]:
        return [np.trim_zeros(counts, "b") for counts in self._counts]

    @property
    def sizes(self) -> list[int]:
        return list(map(len, self.of_stream))

    @property
    def used(self) -> list[int]:
        return [int(np.count_nonzero(counts)) for counts in self.of_stream]


def _add_problems(report: Report, checker: Checker, records: Records) -> None:
    unlisted = records.broken_count - len(records.broken)
    broken = records.broken + [f"and {unlisted:,} more broken lines"] * (unlisted > 0)
    report.errors += [Problem("json", f"{report.path}: {text}") for text in broken]
    report.errors += _type_errors(checker, report, records)
    _compare(report.rows, checker, records)
    sizes = sorted(set(report.streams.sizes))
    codebook = f", CODEBOOK_SIZE is {' or '.join(f'{size:,}' for size in sizes)}" if report.codebook_size_is_set else ""
    largest = " or ".join(f"{code:,}" for code in sorted(set(checker.largest_of().values())))
    values = {"max_seq_len": report.max_seq_len, "largest": largest, "codebook": codebook}
    occurrences = checker.findings.by_kind
    for wordings, problems in ((_ERRORS, report.errors), (_WARNINGS, report.warnings)):
        problems += [Problem(kind, _message(wording.format(**values), occurrences[kind], report, records))
                     for kind, wording in wordings.items() if kind in occurrences]
    report.ignored_fields = dict(sorted(checker.ignored.items()))
    if report.ignored_fields:
        names = ", ".join(f"{name} ({count_of(count, records.unit)})" for name, count in report.ignored_fields.items())
        report.warnings.append(Problem("ignored-field", f"{report.path}: unknown fields, ignored: {names}"))


def _add_suspicions(report: Report, counts: _Counts, spellings: list[str]) -> None:
    """Add the warnings about what is no error in any row, and still probably a mistake in the file as a whole.

    spellings: the messages of one_form().
    """
    texts = []
    for stream, of_codes in enumerate(counts.of_stream):
        rows = report.rows if report.streams.form == TEXT else _one_stream(report.rows, report.streams, stream)
        name = None if report.streams.form == TEXT else report.streams.names[stream]
        markers = find_markers(rows, of_codes)
        texts += [("markers", name, marker_warning(rows, markers, report.path, name)),
                  ("vocabulary-ids", name, vocabulary_warning(rows, of_codes, markers, report.path, name))]
    texts += [("spellings", None, text) for text in spellings + alike_names(report.rows)]
    report.warnings += [Problem(kind, f"{report.path}: {f'{name}: ' if name else ''}{text}")
                        for kind, name, text in texts if text]


def _one_stream(rows: Rows, streams: Streams, stream: int) -> Rows:
    """The rows that have the stream, with its own codes alone."""
    chunks = []
    for chunk in rows.chunks:
        steps, ends = streams.steps(chunk.codes), chunk.ends // streams.count
        present = steps[ends[:-1], stream] != ABSENT
        chunks.append(Columns.of([replace(chunk.row(place), codes=steps[ends[place]:ends[place + 1], stream])
                                  for place in np.flatnonzero(present)]))
    return Rows(chunks)
