"""Clips to codes: a row of a dataset for each caption, of its clip or of the part that it names; or the clips alone."""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from motion_llm.json_files import parse_json, read_text
from motion_llm.motion.clip_files import MotionFiles, clip_id_of, with_bar
from motion_llm.motion.codec import CodecError, MotionCodec
from motion_llm.motion.kinematics import body_size, same_rate
from motion_llm.motion.names import listed
from motion_llm.motion.skeleton import Motion, MotionError
from motion_llm.motion.survey import Measures, check_jumps, check_rates, check_sizes, check_upright

log = logging.getLogger(__name__)
TIMES, FRAMES = ("start", "end"), ("start_frame", "end_frame")  # in seconds; in frames of the file
KEPT = ("participant_id", "split")
FIELDS = ("file", "text_query", *KEPT, *TIMES, *FRAMES)
EXPECTED = 'JSON, a list of objects such as {"file": "walk.bvh", "text_query": "a person walks"}'
MOST = 1e9  # seconds or frames that an entry may name
LONG = 30.0  # seconds; one caption rarely says what happens in more


def encode_captions(codec: MotionCodec, folder: str | Path, captions: str | Path, **options) -> list[dict]:
    """Rows of a dataset, in the captions' order; clip_id is the file's path in the folder, without its suffix; seconds
    is the length of the motion, which may end in the last window. motion_tokens has the form of the codec's streams.

    An entry with start and end, in seconds (or start_frame and end_frame, in frames of its file), gets the codes from
    int(start * fps / window) up to, not including, int(end * fps / window), as T2M-GPT cuts them; 0 and 0 mean the
    whole clip. options: those of read_motion. Raises CodecError naming the row, MotionError naming the file.
    """
    entries = _read_captions(Path(captions))
    files = MotionFiles(folder, **options)
    paths, encoded = [], {}
    for place, entry in enumerate(with_bar(entries, len(entries), "encoding", "caption")):
        try:
            i = files.find(entry["file"])
        except MotionError as error:
            raise CodecError(f"{captions}, row {place}: {error}") from None
        path = files.paths[i]
        paths.append(path)
        if path not in encoded:
            encoded[path] = _Clip.of(codec, files[i], path)
    _check_figures(codec, encoded)
    rows = []
    for place, (entry, path) in enumerate(zip(entries, paths, strict=True)):
        try:
            part = _part(entry, encoded[path], codec)
        except CodecError as error:
            raise CodecError(f"{captions}, row {place} ({entry['file']}): {error}") from None
        rows.append({"text_query": entry["text_query"]} | encoded[path].row(part, codec)
                    | {key: entry[key] for key in KEPT if key in entry}
                    | {"clip_id": clip_id_of(path.relative_to(files.folder))})
    _warn(entries, {path: clip.seconds for path, clip in encoded.items()}, paths)
    return rows


def encode_files(codec: MotionCodec, folder: str | Path, **options) -> list[dict]:
    """An object for each file of the folder, sorted by path: file, its path in the folder; motion_tokens; seconds.
    options: those of read_motion. Raises MotionError naming the file."""
    files = MotionFiles(folder, **options)
    encoded = {path: _Clip.of(codec, files[i], path)
               for i, path in enumerate(with_bar(files.paths, len(files), "encoding"))}
    _check_figures(codec, encoded)
    return [{"file": path.relative_to(files.folder).as_posix()} | clip.row(slice(clip.steps), codec)
            for path, clip in encoded.items()]


@dataclass(frozen=True)
class _Clip:
    """A file's codes, flat. steps: of one stream as many as codes. frames: at the codec's rate. fps, seconds: of the
    file."""

    codes: list[int]
    steps: int
    frames: int
    fps: float
    seconds: float
    measures: Measures

    @staticmethod
    def of(codec: MotionCodec, motion: Motion, path: Path) -> "_Clip":
        """Raises MotionError naming the file."""
        try:
            measures = Measures.of(motion, codec.layout)
            codes = codec.encode(motion)
            return _Clip(codes, len(codes) // codec.streams.count, codec.frames_of(motion), motion.fps, motion.seconds,
                         measures)
        except MotionError as error:
            raise MotionError(f"{path}: {error}") from None

    def row(self, part: slice, codec: MotionCodec) -> dict:
        """motion_tokens and seconds of a part of the steps."""
        first, last, _ = part.indices(self.steps)
        streams = codec.streams
        codes = self.codes[first * streams.count:last * streams.count]
        frames = min(last * codec.window, self.frames) - first * codec.window
        return {"motion_tokens": streams.written(codes), "seconds": round(frames / codec.fps, 4)}


def _check_figures(codec: MotionCodec, encoded: dict[Path, _Clip]) -> None:
    names, measures = [path.name for path in encoded], [clip.measures for clip in encoded.values()]
    skeleton = codec.layout.skeleton
    body = set(codec.layout.body[1:]) - set(skeleton.ends)
    lengths = (skeleton.offsets ** 2).sum(1) ** 0.5
    expected = body_size([lengths[i] if i in body else 0.0 for i in range(len(lengths))], skeleton.parents)
    check_sizes([measure.size for measure in measures], names, expected)
    check_upright(measures, names)
    check_jumps(measures, names)
    # Of a file at a multiple of the codec's rate, frames are taken as they are.
    other = {path.name: clip.fps for path, clip in encoded.items()
             if not same_rate(codec.fps * max(round(clip.fps / codec.fps), 1), clip.fps)}
    check_rates(list(other.values()), codec.fps, list(other))


def _part(entry: dict, clip: _Clip, codec: MotionCodec) -> slice:
    """The steps between the entry's start and end. Raises CodecError."""
    count, seconds = clip.steps, clip.seconds
    times = {name: entry[name] for name in (*TIMES, *FRAMES) if entry.get(name) is not None}
    if not times:
        return slice(count)
    names = FRAMES if set(times) & set(FRAMES) else TIMES
    if not set(times) <= set(names):
        raise CodecError(f"it has {' and '.join(times)}, expected {' and '.join(TIMES)} in seconds, or "
                         f"{' and '.join(FRAMES)}")
    for name, value in times.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MOST:
            raise CodecError(f"{name} is {value!r}, expected a number from 0 on")
    unit = 1 / clip.fps if names is FRAMES else 1.0
    start, end = times.get(names[0], 0) * unit, times.get(names[1], seconds / unit) * unit
    if start == end == 0:
        return slice(count)
    if end <= start or start >= seconds:
        raise CodecError(f"it goes from {start:g} to {end:g} s, and the clip has {seconds:.1f} s")
    rate = codec.fps / codec.window
    part = slice(int(start * rate), min(int(end * rate), count) if end < seconds else count)
    if part.start >= part.stop:
        raise CodecError(f"{start:g} to {end:g} s hold no whole code of {1 / rate:.2g} s")
    return part


def _warn(entries: list[dict], seconds: dict[Path, float], paths: list[Path]) -> None:
    late = [place for place, (entry, path) in enumerate(zip(entries, paths, strict=True))
            if isinstance(entry.get("end"), int | float) and entry["end"] > seconds[path] + 0.5]
    if late:
        end, clip = entries[late[0]]["end"], paths[late[0]]
        log.warning("%d captions end after their clips, such as row %d: %g s of %s, which has %.1f s: up to the clip's "
                    "end. Are these frames? Then call them start_frame and end_frame", len(late), late[0], end,
                    clip.name, seconds[clip])
    unknown = Counter(name for entry in entries for name in entry if name not in FIELDS)
    if unknown:
        log.warning("fields that are not used: %s; expected %s", listed(list(unknown)), ", ".join(FIELDS))
    long = [path.name for entry, path in zip(entries, paths, strict=True)
            if seconds[path] > LONG and not any(entry.get(name) for name in (*TIMES, *FRAMES))]
    if long:
        log.warning("%d captions without start and end are of clips longer than %g s, such as %s: such a row rarely "
                    "fits a model, and a caption says little of it", len(long), LONG, long[0])


def _read_captions(path: Path) -> list[dict]:
    text = read_text(path, CodecError)
    if text.lstrip().startswith("{"):  # JSON Lines
        rows = [parse_json(line, f"{path}: line {number}", CodecError, EXPECTED, finite=False)
                for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    else:
        rows = parse_json(text, str(path), CodecError, EXPECTED, finite=False)
    if not isinstance(rows, list) or not rows or rows == [{}]:
        raise CodecError(f"{path}: expected a list of objects with file and text_query")
    for place, row in enumerate(rows):
        for name in ("file", "text_query"):
            if not isinstance(row, dict) or not isinstance(row.get(name), str) or not row[name].strip():
                raise CodecError(f"{path}, row {place}: {str(row)[:80]}, expected an object with {name}, a text")
        person = row.get("participant_id")
        if isinstance(person, bool) or not isinstance(person, str | int | None):
            raise CodecError(f"{path}, row {place}: participant_id is {str(person)[:60]}, expected text or an integer")
    return rows
