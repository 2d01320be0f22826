"""What was typed at the page, checked, as requests; and what is shown of an answer."""

import html
import re
import secrets
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlencode

from motion_llm.decoding.request import (
    GenerationError,
    MotionRequest,
    MotionResult,
    checked_number,
    motion_of_text,
    with_fields,
)
from motion_llm.decoding.scene import SHARED, Scene, Segment
from motion_llm.demo.models import Models, Part, SteppedGenerator, Whole
from motion_llm.demo.worker import check_clips
from motion_llm.streams import Value, in_a_line
from motion_llm.viewer.figure import Clip
from motion_llm.viewer.files import write
from motion_llm.viewer.page import page
from motion_llm.viewer.video import VideoError, check_packages

FILES = (".bvh", ".glb", ".gif")  # of the buttons
SHORT = 44  # characters of a title


@dataclass(frozen=True)
class Question:
    """A request that can be answered. title: of the history. timeline: of a scene; the request has its participant and
    sampling then. recording: the uploaded file whose gap is filled, which stays as it is outside of the gap."""

    generator: SteppedGenerator
    request: MotionRequest
    seed: int
    title: str
    timeline: tuple[Segment, ...] = ()
    recording: Path | None = None

    @property
    def parts(self) -> list[Part | Whole]:
        if self.timeline:
            shared = {name: getattr(self.request, name) for name in SHARED}
            return [self.generator.scene(self.timeline, self.seed, **shared)]
        if self.request.task == "m2t":
            return [self.generator.described(self.request, self.seed)]
        return self.generator.parts(self.request, self.seed)


@dataclass(frozen=True)
class Answer:
    """What is kept of an answer. number: counts the answers of a visit; codes: of each clip, flat; motions: the same as
    text, in the dataset's form; captions: of each clip,
    what was asked, or what the model said if `says`. scene: of a question with several sentences. recording: of the
    question."""

    number: int
    title: str
    codes: tuple[tuple[int, ...], ...]
    motions: tuple[str, ...]
    captions: tuple[str, ...]
    says: bool
    seed: int
    scene: Scene | None = None
    recording: Path | None = None

    @classmethod
    def of(cls, question: Question, results: Sequence[MotionResult], number: int) -> "Answer":
        return cls(number, question.title, tuple(result.codes for result in results),
                   tuple(in_a_line(result.motion_tokens) for result in results),
                   tuple(result.text or question.title for result in results), question.request.task == "m2t",
                   question.seed, results[0] if question.timeline else None, question.recording)


# ---- from the form to a question


def question_of(models: Models, task: str, title: str, seed: str | None = None, **fields) -> Question:
    """seed: as it was typed; a new one where there is none. fields: of MotionRequest. Raises GenerationError, Refused,
    ModelError."""
    check_clips(fields.get("num_samples", 1))
    request = MotionRequest(task, **fields)
    generator = models.generator_for("t2m" if task == "continue" and request.text is not None else task)
    if task == "m2t":
        request = with_fields(request, best_of=generator.candidates)
    return Question(generator, request, seed_of(seed), _short(title))


def scene_of_lines(models: Models, lines: str | None, seed: str | None = None, **fields) -> Question:
    """A sentence a line, some with their seconds before them ("3.5: a person walks"). Raises as `question_of`."""
    timeline = []
    for number, line in enumerate(filter(str.strip, (lines or "").splitlines()), 1):
        seconds, text = re.fullmatch(r"\s*(?:(\d+(?:\.\d+)?)\s*s?\s*:)?(.*)", line, re.ASCII).groups()
        try:
            timeline.append(Segment(text.strip(), seconds and float(seconds)))
        except GenerationError as error:
            raise GenerationError(f"line {number}: {error}") from None
    if not timeline:
        raise GenerationError("write what happens, a sentence a line")
    check_clips(len(timeline))
    request = MotionRequest(text=timeline[0].text, **fields)
    title = ", then ".join(segment.text for segment in timeline)
    return Question(models.generator_for("t2m"), request, seed_of(seed), _short(title), tuple(timeline))


def _short(title: str) -> str:
    return title if len(title) <= SHORT else f"{title[:SHORT - 1]}…"


def seed_of(text: str | None) -> int:
    """Raises GenerationError."""
    if text is None or not str(text).strip():
        return secrets.randbits(32)
    text = str(text).strip()
    return checked_number("seed", int(text) if re.fullmatch(r"[0-9]{1,19}", text) else text, 0, 2**63 - 1, whole=True)


def whole(value: float | None) -> float | None:
    """4.0 from a form as 4; anything else as it is, for the request to refuse."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def tokens_or_file(models: Models, tokens: str | None, path: str | None) -> Value | None:
    """The motion that was given: codes, or a file that the model's codec encodes. Raises ValueError, OSError."""
    if path is None:
        return motion_of_text(tokens.strip()) or None if tokens else None
    if tokens and tokens.strip():
        raise GenerationError("a file and tokens were given, which are the same thing: give one of them")
    try:
        return models.main.encode(path)
    except ValueError as error:  # the visitor knows the file's name, not where the page put it
        raise GenerationError(str(error).replace(str(path), Path(path).name)) from None


# ---- what is shown


def examples_of(captions: Sequence[str], most: int = 4, longest: int = 30) -> list[str]:
    """Short captions of the training data, from everywhere in it."""
    short = [caption for caption in captions if len(caption) <= longest]
    return short[::max(1, len(short) // most)][:most]


def clip_of(generator: SteppedGenerator, codes: Sequence[int], caption: str, recording: Path | None) -> Clip:
    """The codes as a figure; what fills the gap of a recording, within that recording. Raises ValueError."""
    clip = generator.clip(codes, caption)
    if recording is None:
        return clip
    if not recording.is_file():
        raise GenerationError(f"{recording.name} is gone, as uploads are kept for an hour: upload it again")
    return replace(clip, motion=generator.spliced(recording, codes))


def figures_html(clips: Sequence[Clip], at: float = 0) -> str:
    """The clips side by side in the viewer, which starts at `at` seconds."""
    several = len(clips) > 1
    viewer = page([replace(clip, note=f"{i}: {clip.note}") if several else clip for i, clip in enumerate(clips, 1)])
    start = f"<script>setTime({at:.2f});</script>"
    viewer = viewer.replace("</body>", f"{start}\n</body>")
    # Gradio keeps an element whose tag stays and changes its attributes, and a frame that is still loading its last
    # srcdoc drops a new one: so other figures are another element.
    drawing = f"figures-{zlib.crc32(viewer.encode()):08x}"
    return (f'<{drawing}><iframe class="figures" title="Moving figures: {len(clips)}" sandbox="allow-scripts" '
            f'srcdoc="{html.escape(viewer)}"></iframe></{drawing}>')


def tokens_html(answer: Answer) -> str:
    """The tokens of each clip, for a model without a codec."""
    rows = "".join(f"<li><code>{html.escape(motion)}</code></li>" for motion in answer.motions)
    return ('<div class="no-figures"><p>This model does not know the codec of its tokens, so there is no figure. To '
            "add it, set CODEC_PATH in config.py and start the training command again.</p>"
            f"<ol>{rows}</ol></div>")


def status_html(text: str, kind: str = "status") -> str:
    """kind: status, or alert for what went wrong."""
    return f'<p class="{kind}" role="{kind}">{html.escape(text)}</p>'


def error_html(error: BaseException) -> str:
    """The text of the command line for what a user can mend; anything else is called a defect."""
    if isinstance(error, (ValueError, OSError)):
        return status_html(str(error), "alert")
    return status_html(f"This is a defect of the program, not of your question: {type(error).__name__}: "
                       f"{str(error)[:200]}. The log of the command has its traceback.", "alert")


def links_html(answer: Answer, place: int, figures: bool) -> str:
    """Links to the files of one clip; they are made when they are asked for. figures: whether there is a codec."""
    if not answer.codes or not figures:
        return ""
    motion = answer.motions[place]
    links = []
    for suffix in FILES:
        try:
            check_packages(suffix)
        except VideoError:
            continue
        name = f"{slug(answer.captions[place])}_{place + 1}{suffix}"
        query = {"tokens": motion, "caption": answer.captions[place]}
        if answer.recording is not None:  # its folder is named by the hash of its content
            query["recording"] = f"{answer.recording.parent.name}/{answer.recording.name}"
        address = html.escape(f"motion/{name}?{urlencode(query)}")
        kind = suffix[1:].upper()
        links.append(f'<a class="file" href="{address}" download="{name}" aria-label="Download clip {place + 1} as '
                     f'{kind}">{kind}</a>')
    return f'<div class="files">{"".join(links)}</div>'


def slug(caption: str) -> str:
    """A file's name for a caption: letters, digits and underscores."""
    return "_".join(re.findall(r"\w+", caption.lower(), re.ASCII))[:40].strip("_") or "motion"


def recording_of(uploads: Path, name: str) -> Path | None:
    """The uploaded file that a link names, "HASH/NAME"; None for no name. Raises GenerationError for one elsewhere."""
    if not name:
        return None
    path = (uploads / name).resolve()
    if not path.is_relative_to(uploads.resolve()) or len(Path(name).parts) != 2:
        raise GenerationError(f"{name[:60]} names no uploaded file")
    return path


def file_of(generator: SteppedGenerator, name: str, tokens: str, caption: str, recording: Path | None = None) -> bytes:
    """The content of a file of that name with the clip. Raises ValueError, OSError."""
    suffix = Path(name).suffix
    if suffix not in FILES:
        raise GenerationError(f"{name[:60]}: expected a name that ends with {', '.join(FILES)}")
    codes = generator.vocabulary.streams.read(motion_of_text(tokens))
    with tempfile.TemporaryDirectory() as folder:
        (path,) = write(Path(folder) / f"motion{suffix}", [clip_of(generator, codes, caption, recording)])
        return path.read_bytes()
