"""The page: four forms on the left, the figures and earlier answers beside them. A thin layer over questions and
worker; Gradio makes the elements and carries the events."""

import html
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from motion_llm.decoding.request import SAMPLING_SETTINGS, TASKS, MotionResult, with_lost_span
from motion_llm.decoding.scene import Scene
from motion_llm.demo import questions
from motion_llm.demo.models import Models
from motion_llm.demo.questions import Answer, Question, question_of, status_html, whole
from motion_llm.demo.worker import MOST_CLIPS, MOST_WAITING, Progress, Worker
from motion_llm.motion.files import READERS
from motion_llm.streams import in_a_line
from motion_llm.viewer.figure import Clip

log = logging.getLogger(__name__)

CSS = Path(__file__).with_suffix(".css")
UPLOADS = Path(get_upload_folder())
KEPT = 30  # answers of a visit
MOST_VISITS = 100  # whose answers are kept, those of closed pages included: Gradio keeps 0.6 MB of each
REDRAW_EVERY = 1.0  # seconds; the viewer is drawn anew for each group of clips that came
NOBODY = "anyone"
READY = "Write a sentence and press Generate."
SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Arial", "sans-serif")  # none is downloaded
# On a narrow screen the answer is below the form.
TO_ANSWER = """(...inputs) => {
  if (innerWidth < 800) document.getElementById("answer").scrollIntoView({ behavior: "smooth" });
  return inputs;
}"""
COPY = "(tokens) => { navigator.clipboard?.writeText(tokens); }"  # browsers have it on this machine, and over https


class Page:
    """What the events of the page do, and its layout (`blocks`)."""

    def __init__(self, models: Models, worker: Worker):
        self.models, self.worker = models, worker
        self.settings = models.main.settings
        self.rate = self.settings.get("TOKENS_PER_SECOND")
        self.has_codec = models.main.codec_folder.is_dir()
        self._one_file = threading.Lock()  # files are made one at a time: a GIF takes seconds of a core
        self.blocks = self._layout()

    # ---- layout

    def _layout(self) -> gr.Blocks:
        with gr.Blocks(title="Motion LLM", analytics_enabled=False, delete_cache=(3600, 3600),
                       fill_width=True) as blocks:
            gr.HTML(f"<div><h1>Motion LLM</h1><p>{html.escape(str(self.models.main.model_path))}</p></div>",
                    elem_id="head")
            with gr.Row(elem_id="both"):
                with gr.Column(elem_id="ask", scale=0, min_width=300):
                    with gr.Tabs(elem_id="forms"):
                        with gr.Tab("Sentence"):
                            sentence = self._sentence_form()
                        with gr.Tab("Scene"):
                            scene = self._scene_form()
                        with gr.Tab("Describe"):
                            describe = self._describe_form()
                        with gr.Tab("Edit"):
                            goes_on = self._continue_form()
                    self.earlier = gr.Radio([], label="Earlier answers", elem_id="earlier", visible=False)
                with gr.Column(elem_id="answer", scale=1, min_width=300):
                    self._answer_area()
            self._connect(sentence, self.sentence, "sentence")
            self._connect(scene, self.scene, "scene")
            self._connect(describe, self.describe, "describe")
            self._connect(goes_on, self.goes_on, "continue")
            blocks.unload(self.leave)
        return blocks

    def _sentence_form(self) -> tuple[list, list]:
        """The inputs of `sentence`, and what starts it."""
        people = self.models.main.vocabulary.participants
        text = gr.Textbox(label="Sentence", lines=2, max_lines=4, placeholder="a person walks forward",
                          elem_id="sentence")
        examples = questions.examples_of(self.models.main.length_model.captions)
        gr.Examples([[caption] for caption in examples], text, label="For example", cache_examples=False,
                    api_visibility="private")
        with gr.Row():
            person = gr.Dropdown([NOBODY, *people], value=NOBODY, label="Participant", visible=bool(people),
                                 min_width=120)
            clips = self._variants(2)
        free, length = self._length()
        with gr.Accordion("Sampling", open=False):
            default = {name: self.settings.get(setting) for name, setting in SAMPLING_SETTINGS.items()}
            guided = bool(self.settings.get("CAPTION_DROPOUT"))
            guidance = gr.Slider(1, 10, value=(default["guidance"] or 1) if guided else 1, step=0.1, label="Guidance",
                                 interactive=guided, info="How closely it follows the sentence; 1 is off." if guided
                                 else "This model was trained with every caption and knows no guidance.")
            temperature = gr.Slider(0, 2, value=default["temperature"], step=0.05, label="Temperature",
                                    info="0 is the likeliest motion, more is more varied.")
            seed = self._seed()
        with gr.Row():
            go = gr.Button("Generate", variant="primary", elem_id="generate", min_width=120)
        return [text, person, clips, free, length, guidance, temperature, seed], [go.click, text.submit]

    def _scene_form(self) -> tuple[list, list]:
        people = self.models.main.vocabulary.participants
        seconds = ", with its seconds before it if you like" if self.rate else ""
        lines = gr.Textbox(label=f"What happens, a sentence a line{seconds}", lines=4, max_lines=12, elem_id="lines",
                           placeholder=f"a person walks forward\n{'3.5: ' if self.rate else ''}a person turns around")
        with gr.Row():
            person = gr.Dropdown([NOBODY, *people], value=NOBODY, label="Participant", visible=bool(people),
                                 min_width=120)
            seed = self._seed()
        go = gr.Button("Generate", variant="primary")
        return [lines, person, seed], [go.click]

    def _length(self) -> tuple:
        """A box for the learned length, and a slider in seconds (tokens where the model does not know their rate)."""
        lengths = self.models.main.length_model.overall
        scale, unit, step = (self.rate, "Seconds", 0.1) if self.rate else (1, "Tokens", 1)
        free = gr.Checkbox(True, label="Length from the sentence")
        length = gr.Slider(round(max(step, lengths.shortest / scale), 1), round(2 * lengths.longest / scale, 1),
                           value=round(lengths.median / scale, 1), step=step, label=unit, visible=False)
        free.change(lambda free: gr.update(visible=not free), free, length, show_progress="hidden", queue=False,
                    api_visibility="private")
        return free, length

    @staticmethod
    def _variants(count: int) -> gr.Number:
        return gr.Number(count, label=f"Variants (1 to {MOST_CLIPS})", precision=0, min_width=120)

    @staticmethod
    def _seed() -> gr.Textbox:
        return gr.Textbox(label="Seed", max_lines=1, placeholder="new each time", min_width=120)

    def _source(self) -> tuple[gr.Textbox, gr.File]:
        tokens = gr.Textbox(label="Motion tokens", lines=1, max_lines=4, placeholder="65 88 75 115 83 83 88 75")
        file = gr.File(label=f"or a file ({', '.join(READERS)})", file_types=list(READERS), height=112,
                       visible=self.has_codec)
        return tokens, file

    def _describe_form(self) -> tuple[list, list]:
        self._says_which_model("m2t")
        tokens, file = self._source()
        go = gr.Button("Describe", variant="primary")
        return [tokens, file], [go.click, tokens.submit]

    def _continue_form(self) -> tuple[list, list]:
        self._says_which_model("continue")
        tokens, file = self._source()
        mode = gr.Radio(["Continue it", "Fill a gap"], value="Continue it", label="What to do")
        with gr.Group():
            text = gr.Textbox(label="Sentence (may be empty)", placeholder="a person sits down")
        with gr.Group(visible=False) as with_gap:
            gap = gr.Textbox(label="Gap in seconds, or ? for each lost token above", placeholder="2.0:3.5")
        with gr.Row():
            clips = self._variants(1)
            seed = self._seed()
        mode.change(lambda mode: gr.update(visible=mode != "Continue it"), mode, with_gap, show_progress="hidden",
                    queue=False, api_visibility="private")
        go = gr.Button("Go on", variant="primary")
        return [tokens, file, mode, text, gap, clips, seed], [go.click]

    def _says_which_model(self, task: str) -> None:
        """A line where another folder answers, or none can."""
        folder, own = self.models.folder_for(task), self.models.main.model_path
        if folder == own:
            return
        text = f"{own.name} was not trained for {TASKS[task]}: "
        text += (f"{folder.name} answers here, loaded with the first question." if folder else
                 "the model of stage 2 is, but no folder beside it has one (--model_path takes it).")
        gr.HTML(status_html(text), elem_classes="which-model")

    def _answer_area(self) -> None:
        with gr.Row(elem_id="line"):
            self.status = gr.HTML(status_html(READY), elem_id="status")
            self.stop = gr.Button("Stop", size="sm", scale=0, min_width=72, interactive=False, elem_id="stop")
        self.figures = gr.HTML('<div class="no-figures"><p>Figures appear here.</p></div>', elem_id="figures")
        with gr.Row(elem_id="take"):
            self.pick = gr.Dropdown([], label="Clip", visible=False, elem_id="pick", scale=0, min_width=90)
            self.tokens = gr.Textbox(label="Tokens", lines=1, max_lines=1, interactive=False, visible=False,
                                     elem_id="tokens", scale=1)
            # Not the element's own button, which takes the label from the text.
            self.copy = gr.Button("Copy", scale=0, min_width=72, visible=False, elem_id="copy")
            self.links = gr.HTML("", elem_id="links")
        self.answers, self.shown = gr.State([]), gr.State(None)
        quiet = dict(show_progress="hidden", queue=False, api_visibility="private")
        self.pick.input(self.picked, [self.pick, self.shown], [self.links, self.tokens], **quiet)
        self.stop.click(self.leave, None, None, **quiet)
        self.copy.click(None, self.tokens, None, js=COPY, **quiet)

    def _connect(self, form: tuple[list, list], function: Callable, name: str) -> None:
        inputs, triggers = form
        self.outputs = [self.status, self.figures, self.pick, self.links, self.tokens, self.copy, self.stop,
                        self.earlier, self.answers, self.shown]
        gr.on(triggers, function, [*inputs, self.answers], self.outputs, api_name=name, js=TO_ANSWER,
              concurrency_limit=None, show_progress="hidden")
        if name == "sentence":  # once
            self.earlier.input(self.earlier_answer, [self.earlier, self.answers], self.outputs, queue=False,
                               show_progress="hidden", api_visibility="private")

    # ---- events

    def sentence(self, text, person, clips, free, length, guidance, temperature, seed, answers, request: gr.Request):
        def make() -> Question:
            how_long = {} if free else {"seconds" if self.rate else "tokens": length if self.rate else whole(length)}
            guided = {"guidance": guidance} if self.settings.get("CAPTION_DROPOUT") else {}
            return question_of(self.models, "t2m", text, seed, text=text, num_samples=whole(clips),
                               participant_id=None if person in (None, NOBODY) else person, temperature=temperature,
                               **how_long, **guided)

        yield from self._follow(make, answers, request)

    def scene(self, lines, person, seed, answers, request: gr.Request):
        def make() -> Question:
            return questions.scene_of_lines(self.models, lines, seed,
                                            participant_id=None if person in (None, NOBODY) else person)

        yield from self._follow(make, answers, request)

    def describe(self, tokens, file, answers, request: gr.Request):
        def make() -> Question:
            motion = questions.tokens_or_file(self.models, tokens, file)
            title = Path(file).name if file else motion
            return question_of(self.models, "m2t", title, "0", motion=motion, temperature=0)

        yield from self._follow(make, answers, request)

    def goes_on(self, tokens, file, mode, text, gap, clips, seed, answers, request: gr.Request):
        def make() -> Question:
            motion = questions.tokens_or_file(self.models, tokens, file)
            if mode == "Continue it":
                text_or_none = text.strip() or None if text else None
                title = text_or_none or f"after {in_a_line(motion)}"
                return question_of(self.models, "continue", title, seed, motion=motion, text=text_or_none,
                                   num_samples=whole(clips))
            if motion is not None and gap and gap.strip():
                motion = with_lost_span(motion, gap, self.rate)
            text_or_none = text.strip() or None if text else None
            question = question_of(self.models, "edit" if text_or_none else "denoise",
                                   text_or_none or f"fill {in_a_line(motion)}", seed, motion=motion, text=text_or_none,
                                   num_samples=whole(clips))
            return replace(question, recording=Path(file)) if file else question

        yield from self._follow(make, answers, request)

    def _follow(self, make: Callable[[], Question], answers: list[Answer], request: gr.Request) -> Iterator[dict]:
        """Ask the question, and show the answer as it comes."""
        yield {self.status: status_html("Reading the question ..."), self.stop: gr.update(interactive=True)}
        try:
            question = make()
            ticket = self.worker.ask(request.session_hash, question.parts)
        except (ValueError, OSError) as error:
            yield {self.status: questions.error_html(error), self.stop: gr.update(interactive=False)}
            return
        number = answers[-1].number + 1 if answers else 1
        clips: dict[int, Clip] = {}
        drawn_at = first_at = None
        try:
            for now in ticket.changes():
                update = {self.status: status_html(line_of(now, question))}
                waited = drawn_at is None or time.monotonic() - drawn_at > REDRAW_EVERY
                if len(now.results) > len(clips) and (now.ended or waited):
                    clips |= {place: self._clip(result, question.title, question.recording)
                              for place, result in now.results.items() if place not in clips}
                    drawn_at = time.monotonic()
                    first_at = first_at or drawn_at
                    answer = Answer.of(question, list(now.results.values()), number)
                    update |= self._answer(answer, [clips[place] for place in now.results], drawn_at - first_at)
                if now.ended:
                    update |= self._end(now, question, answers, number)
                yield update
        except (ValueError, OSError) as error:  # of a figure: the codec is damaged, or the recording is gone
            yield {self.status: questions.error_html(error), self.stop: gr.update(interactive=False)}
        finally:
            ticket.cancel()  # whoever left; nothing after the end

    def _end(self, now: Progress, question: Question, answers: list[Answer], number: int) -> dict:
        update = {self.stop: gr.update(interactive=False)}
        if now.error is not None:
            update[self.status] = questions.error_html(now.error)
        if now.results:
            answer = Answer.of(question, list(now.results.values()), number)
            answers = [*answers, answer][-KEPT:]
            update |= {self.answers: answers, self.earlier: gr.update(
                choices=[(f"{one.number}. {one.title}", one.number) for one in reversed(answers)], value=number,
                visible=True)}
            first = next(iter(now.results.values()))
            if (taken_for := getattr(first, "taken_for", None)) is not None:  # scenes have it for each sentence
                update[self.status] = status_html(f"It has words that no training caption has, so it was taken for "
                                                  f"“{taken_for}”")
            if answer.says:
                sure = f", {first.score:.0%} sure" if first.others else ""
                update[self.status] = status_html(f"“{answer.captions[0]}”{sure}", "said")
        return update

    def _clip(self, result: MotionResult | Scene, title: str, recording: Path | None) -> Clip | None:
        """None for a model without a codec."""
        if not self.has_codec:
            return None
        if isinstance(result, Scene):
            return self.models.main.scene_clips([result])[0]
        return questions.clip_of(self.models.main, result.codes, result.text or title, recording)

    def _answer(self, answer: Answer, clips: list[Clip | None], at: float) -> dict:
        """What the answer's area shows. clips: its figures, which start at `at` seconds."""
        choices = [(f"{i + 1}", i) for i in range(len(answer.codes))]
        links, tokens = self.picked(0, answer)
        return {self.figures: questions.figures_html(clips, at) if self.has_codec else questions.tokens_html(answer),
                self.pick: gr.update(choices=choices, value=0, visible=len(choices) > 1), self.links: links,
                self.tokens: gr.update(value=tokens, visible=True), self.copy: gr.update(visible=True),
                self.shown: answer}

    def picked(self, place: int, answer: Answer) -> tuple[str, str]:
        """The links and the tokens of a clip."""
        return (questions.links_html(answer, place, self.has_codec), answer.motions[place])

    def earlier_answer(self, number: int, answers: list[Answer]) -> dict:
        answer = next(answer for answer in answers if answer.number == number)
        results = [answer.scene] if answer.scene else [MotionResult("", caption, codes=codes) for codes, caption in zip(
            answer.codes, answer.captions, strict=True)]
        try:
            clips = [self._clip(result, "", answer.recording) for result in results]
        except ValueError as error:
            return {self.status: questions.error_html(error)}
        line = (status_html(f"“{answer.captions[0]}”", "said") if answer.says else
                status_html(f"{clips_of(len(clips))}, seed {answer.seed}"))
        return {self.status: line} | self._answer(answer, clips, 0)

    def leave(self, request: gr.Request) -> None:
        """The visitor pressed Stop, or closed the page."""
        self.worker.leave(request.session_hash)

    # ---- files

    def file(self, request: Request) -> Response:
        """GET motion/NAME?tokens=...&caption=...&recording=...: the motion as a file of the name's suffix."""
        name, query = request.path_params["name"], request.query_params
        try:
            with self._one_file:
                content = questions.file_of(self.models.main, name, query.get("tokens", ""), query.get("caption", ""),
                                            questions.recording_of(UPLOADS, query.get("recording", "")))
        except (ValueError, OSError) as error:
            return PlainTextResponse(str(error), 400)
        return Response(content, media_type="application/octet-stream")


def clips_of(count: int) -> str:
    return f"{count} clip{'s' * (count != 1)}"


def line_of(now: Progress, question: Question) -> str:
    """The line above the figures."""
    ready, asked = len(now.results), question.request.num_samples
    if now.ended:
        stopped = f"Stopped: {ready} of " if ready < asked else ""
        return f"{stopped}{clips_of(asked)}, seed {question.seed}"
    if now.ahead is not None:
        return "In the queue: you are next" if not now.ahead else f"In the queue: {now.ahead} before you"
    return f"{ready} of {clips_of(asked)} ready, {now.tokens} tokens decoded"


def theme() -> gr.Theme:
    return gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=SYSTEM_FONTS,
                             font_mono=("ui-monospace", "Consolas", "monospace"), radius_size="lg")


def serve(models: Models, worker: Worker, host: str, port: int) -> tuple[Page, str]:
    """Start the page and return it with its address. Raises OSError for an address that cannot be had."""
    with socket.socket() as probe:  # before Gradio tries it, as its message names its own variables
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise OSError(f"--host {host} --port {port} cannot be served on: {error}; choose another") from None
    shown = Page(models, worker)
    shown.blocks.queue(default_concurrency_limit=None, max_size=2 * MOST_WAITING)
    _, address, _ = shown.blocks.launch(
        server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True, inbrowser=False,
        ssr_mode=False, footer_links=[], max_threads=MOST_WAITING + 16, max_file_size="50mb", theme=theme(),
        css=CSS.read_text(encoding="utf-8"), state_session_capacity=MOST_VISITS, enable_monitoring=False,
        app_kwargs={"routes": [Route("/motion/{name}", shown.file)]})
    return shown, address
