"""The rows and their split as a memory-mapped Arrow table on disk, so that later starts need not read the file."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from motion_llm.dataset.report import DataError, Problem, Report, raise_on_errors
from motion_llm.dataset.rows import Columns, Rows, Texts, row_motions
from motion_llm.dataset.splits import KINDS, PARTS, Split, sample
from motion_llm.digests import digest_of
from motion_llm.json_files import check_form, read_json, write_json
from motion_llm.saving import saving_folder
from motion_llm.streams import TEXT, StreamError, Streams

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

log = logging.getLogger(__name__)

TABLE, INFO = "rows.arrow", "fingerprint.json"
_VERSION = 4  # raise it when the table, the checks or the split change, so that older prepared data is replaced
_COUNT = range(2**53)
_FORM = {  # of fingerprint.json; tables of earlier versions, which an evaluation reads, lack what is marked by "?"
    "version": _COUNT, "made_with": {}, "text": str, "table_sha256?": str, "file_sha256?": str,
    "sizes": dict.fromkeys(PARTS, _COUNT), "warnings": [{"kind": str, "message": str}], "path": str,
    "max_seq_len": _COUNT, "form": str, "fingerprint": str, "codebook_size": range(2_000_000),
    "codebook_size_is_set": bool, "codes_used": _COUNT, "ignored_fields": {str: _COUNT},
    "streams?": {"names": [str], "sizes": [_COUNT], "form": str}, "used?": [_COUNT]}
_REPORT_FIELDS = ("path", "max_seq_len", "form", "fingerprint", "codebook_size", "codebook_size_is_set", "codes_used",
                  "ignored_fields", "file_sha256")
_COMPUTED = ("codebook_size", "codes_used")  # from the streams and what is used of each


def prepare(report: Report, split: Split, folder: str | Path, made_with: Mapping[str, Any], text: str = "") -> None:
    """Write rows and split as an Arrow table, with fingerprint.json in the same folder.

    Columns: index, text_query, codes (list of int32), participant_id, clip_id, split (one of PARTS) and kind (seen,
    unseen, or null in training and of unused rows); a record for each row, part after part, each in file order.
    made_with: the settings that the rows were checked and split with, for prepared_matches(). text: stored for later
    starts. The folder appears whole or not at all; an earlier one is replaced. Raises DataError if the report has
    errors.
    """
    raise_on_errors(report)
    with saving_folder(folder) as temporary:
        _write_table(temporary / TABLE, report.rows, split)
        info = {"version": _VERSION, "made_with": dict(made_with), "sizes": split.sizes(),
                "table_sha256": digest_of(temporary / TABLE), "text": text,
                "warnings": [asdict(problem) for problem in report.warnings],
                **{name: getattr(report, name) for name in _REPORT_FIELDS}}
        if report.streams.form != TEXT:
            info |= {"streams": report.streams.to_dict(), "used": report.used}
        write_json(temporary / INFO, info)
    log.info("prepared %d rows in %s", len(report.rows), folder)


def _write_table(path: Path, rows: Rows, split: Split) -> None:
    """Write part after part, no two in one batch, so that each part can be read by itself."""
    import pyarrow as pa

    text, done, batches = pa.string(), 0, {part: [] for part in PARTS[1:]}  # train is written at once
    schema = pa.schema([("index", pa.int64()), ("text_query", text), ("codes", pa.list_(pa.int32())),
                        ("participant_id", text), ("clip_id", text), ("split", text), ("kind", text)])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for chunk in rows.chunks:
            places = slice(done, done + len(chunk))
            done += len(chunk)
            parts = split.part[places]
            # A kind of -1 indexes the last name, None.
            names = (pa.array(np.array(names, object)[numbers], text)
                     for names, numbers in ((PARTS, parts), ((*KINDS, None), split.kind[places])))
            codes = pa.ListArray.from_arrays(pa.array(chunk.ends), pa.array(chunk.codes))
            batch = pa.RecordBatch.from_arrays([
                pa.array(chunk.index), _strings(chunk.texts), codes, _strings(chunk.participants),
                _strings(chunk.clips), *names], schema=schema)
            writer.write_batch(batch.filter(pa.array(parts == 0)) if parts.any() else batch)
            for number, part in enumerate(PARTS[1:], 1):
                if (parts == number).any():
                    batches[part].append(batch.filter(pa.array(parts == number)))
        for part in PARTS[1:]:
            for batch in batches[part]:
                writer.write_batch(batch)


def _strings(texts: Texts) -> "pyarrow.StringArray":
    import pyarrow as pa

    validity = None if texts.present.all() else pa.py_buffer(np.packbits(texts.present, bitorder="little"))
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(texts.ends), pa.py_buffer(texts.data), validity)


def _texts(array: "pyarrow.StringArray") -> Texts:
    _, ends, data = array.buffers()
    ends = np.frombuffer(ends, np.int32)[array.offset:array.offset + len(array) + 1]
    present = array.is_valid().to_numpy(zero_copy_only=False)
    return Texts(np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8), ends, present)


@dataclass(frozen=True)
class PreparedChunks:
    """The rows that prepare() wrote, of one part or of all; each iteration reads them anew and stores nothing in
    memory. Raises FileNotFoundError if the folder is not prepared."""

    folder: Path
    part: str | None = None

    def __iter__(self) -> Iterator[Columns]:
        import pyarrow as pa

        for batch in pa.ipc.open_stream(pa.memory_map(str(self.folder / TABLE))):
            if not len(batch) or self.part not in (None, batch.column("split")[0].as_py()):
                continue
            index, text, codes, participants, clips = (batch.column(name) for name in (
                "index", "text_query", "codes", "participant_id", "clip_id"))
            ends = codes.offsets.to_numpy()
            yield Columns(index.to_numpy(), _texts(text), codes.values.to_numpy()[ends[0]:ends[-1]], ends - ends[0],
                          _texts(participants), _texts(clips), np.full(len(batch), -1, np.int8))


def prepared_info(folder: str | Path) -> dict[str, Any]:
    """fingerprint.json: version, fingerprint, made_with, codebook_size, sizes (see Split.sizes()), text and more.
    Raises FileNotFoundError if the folder is not prepared, DataError naming the file where it is damaged."""
    path = Path(folder) / INFO
    info = read_json(path, DataError)
    check_form(info, _FORM, f"{path} is damaged:", DataError)
    return info


def streams_of(info: Mapping[str, Any]) -> Streams:
    """The streams of prepared_info(). Raises DataError where they are damaged."""
    if "streams" not in info:
        return Streams.one(info["codebook_size"])
    try:
        return Streams.from_dict(info["streams"])
    except StreamError as error:
        raise DataError(f"{info['path']}: {INFO} of its prepared data is damaged: {error}") from None


def damaged_table(folder: str | Path, info: Mapping[str, Any]) -> str | None:
    """What is wrong with the table of prepared_info(); None if it is whole, or older than its sha256."""
    path = Path(folder) / TABLE
    if not path.is_file():
        return f"{path} is missing"
    if "table_sha256" in info and digest_of(path) != info["table_sha256"]:
        return f"{path} is not the table that was saved there"
    return None


def prepared_matches(folder: str | Path, path: str | Path, made_with: Mapping[str, Any]) -> bool:
    """Whether the folder holds the table of the file at `path`, made with these settings; the file and the table must
    have the same bytes as then (by their sha256). A line says where the folder is damaged, as it is made anew then."""
    folder, damaged = Path(folder), None
    if not folder.is_dir():
        return False
    try:
        info = prepared_info(folder)
    except (DataError, FileNotFoundError) as error:  # that of an earlier version has other parts
        damaged = str(error)
    else:
        if (info["version"], info["path"], info["made_with"]) != (_VERSION, str(path), dict(made_with)):
            return False
        if not Path(path).is_file() or digest_of(Path(path)) != info.get("file_sha256"):
            return False
        damaged = damaged_table(folder, info)
    if damaged is not None:
        log.info("%s. It is made anew from %s", damaged, path)
    return damaged is None


def prepared_report(folder: str | Path) -> Report:
    """The report of read_rows() without errors; its rows are memory-mapped, in the order of the table."""
    info = prepared_info(folder)
    fields = {name: info[name] for name in _REPORT_FIELDS if name not in _COMPUTED}
    return Report(**fields, streams=streams_of(info),
                  used=info.get("used", [info["codes_used"]]), rows=Rows(PreparedChunks(Path(folder))),
                  warnings=[Problem(**problem) for problem in info["warnings"]])


def load_prepared(folder: str | Path, part: str | None = None, kind: str | None = None) -> "Dataset":
    """The table that prepare() wrote, memory-mapped; part ("train", ...) and kind select rows of it.

    Raises FileNotFoundError if the folder is not prepared, ValueError for an unknown part or kind.
    """
    import pyarrow.compute as pc
    from datasets import Dataset, disable_progress_bars

    if part not in (None, *PARTS) or kind not in (None, *KINDS):
        raise ValueError(f"part {part!r}, kind {kind!r}: expected one of {PARTS} and seen or unseen, or None")
    sizes = prepared_info(folder)["sizes"]
    disable_progress_bars()
    table = Dataset.from_file(str(Path(folder) / TABLE))
    if sum(sizes[name] for name in PARTS) != len(table):
        raise DataError(f"{Path(folder) / INFO} is damaged: sizes has {sum(sizes[name] for name in PARTS):,} rows, "
                        f"{TABLE} {len(table):,}")
    if part is not None:
        # An empty last part would start after the last row, which `datasets` refuses.
        start = sum(sizes[earlier] for earlier in PARTS[:PARTS.index(part)]) if sizes[part] else 0
        table = table.select(range(start, start + sizes[part]))  # a slice, for which `datasets` needs no index
    if kind is not None:
        table = table.select(np.flatnonzero(pc.equal(table.data.column("kind"), kind).fill_null(False).to_numpy()))
    return table


def load_measured(folder: str | Path, part: str, most: int, seed: int) -> list[dict]:
    """The rows of a held-out part that a run measures on: each clip under one of its captions of each kind, at most
    `most` clips a kind, whatever the order of the file."""
    table = load_prepared(folder, part)
    kinds, motions = np.array(table["kind"], object), row_motions(table)
    digests = Rows(PreparedChunks(Path(folder), part)).digests
    chosen = [places[sample(digests[places], most, seed, motions[places])]
              for places in (np.flatnonzero(kinds == kind) for kind in KINDS)]
    return table.select(np.sort(np.concatenate(chosen))).to_list()
