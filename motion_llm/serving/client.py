"""A small client of a server that decodes an exported model: captions in, codes out, many at once.

    python served/client.py --prompt "a person walks forward"

It goes into every export, as client.py, with the modules it needs (templates, grammar, lengths). It needs the packages
tokenizers and numpy, nothing else. Requests and answers carry token ids, never text: prompts are rendered here as in
training, and each answer is checked. Written for vLLM's OpenAI-compatible server.
"""

import argparse
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from motion_llm.command_line import exit_status
from motion_llm.dataset.lengths import LengthLimits, LengthModel
from motion_llm.dataset.rows import caption_key
from motion_llm.json_files import check_form
from motion_llm.network.folder import read_motion_config
from motion_llm.serving.grammar import motion_grammar
from motion_llm.streams import in_a_line
from templates import MotionVocabulary, PlainTextEncoder

URL = "http://127.0.0.1:8000"
IDS = [range(2**31)]
FORM = {  # of what the client reads in motion_config.json, beside what every model's folder has
    "turns": {"user": IDS, "assistant": IDS},
    "settings": {"MAX_SEQ_LEN": range(1, 10**8), "GEN_TEMPERATURE": float, "GEN_TOP_P": float, "GEN_TOP_K": float,
                 "GEN_END_LOGIT_SLOPE": float}}
TIMEOUT = 600.0  # seconds to wait for an answer


class ClientError(ValueError):
    """A request that cannot be answered, or an answer that is not valid."""


@dataclass(frozen=True)
class Clip:
    """One motion to request. min_tokens, max_tokens and soft_target, in steps where there are several streams, default
    to the lengths of the caption's training clips; soft_target has an effect only with an end_logit_slope. codes: those
    allowed; None for all. seed: of the sampling."""

    caption: str
    participant_id: str | None = None
    min_tokens: int | None = None
    max_tokens: int | None = None
    soft_target: float | None = None
    codes: tuple[int, ...] | None = None
    seed: int | None = None


@dataclass(frozen=True)
class _Tokenizer:
    """The attributes of a tokenizer that PlainTextEncoder uses."""

    backend_tokenizer: object
    is_fast: bool = True

    @property
    def added_tokens_decoder(self) -> dict:
        return self.backend_tokenizer.get_added_tokens_decoder()


class Prompts:
    """Captions to prompts and length limits, from an export's folder alone. Raises ClientError for other folders."""

    def __init__(self, folder: str | Path):
        from tokenizers import Tokenizer

        folder = Path(folder)
        for name in ("motion_config.json", "tokenizer.json"):
            if not (folder / name).is_file():
                raise ClientError(f"{folder} has no {name}: it is no exported model")
        content = read_motion_config(folder)
        if "turns" not in content:
            raise ClientError(f"{folder}/motion_config.json has no turns: it is a model's folder, not an exported one")
        check_form(content, FORM, f"{folder}/motion_config.json:", ClientError)
        self.settings = content["settings"]
        self.turns = content["turns"]
        self.vocabulary = MotionVocabulary.from_dict(content["vocabulary"])
        self.length_model = LengthModel.from_dict(content["length_model"], caption_key)
        self._encode = PlainTextEncoder(_Tokenizer(Tokenizer.from_file(str(folder / "tokenizer.json"))))

    def ids(self, clip: Clip) -> list[int]:
        """The prompt's ids, as MotionTemplate.render("t2m", ..., answer=False) gives them (a test compares the two)."""
        vocabulary = self.vocabulary
        return [*self.turns["user"], vocabulary.task_id("t2m"), vocabulary.participant_token_id(clip.participant_id),
                *self._encode(clip.caption), *self.turns["assistant"], vocabulary.begin_id]

    def limits(self, clip: Clip, prompt_length: int) -> LengthLimits:
        """The clip's own limits, and those of the length model where it has none; lowered to what fits the model."""
        learned = self.length_model.limits(clip.caption, clip.participant_id)
        room = (self.settings["MAX_SEQ_LEN"] - prompt_length - 1) // self.vocabulary.streams.count
        if room < 1:
            raise ClientError(f"the prompt takes {prompt_length} of the model's {self.settings['MAX_SEQ_LEN']} "
                              "positions and leaves none for motion: shorten it")
        for name in ("min_tokens", "max_tokens"):
            if (value := getattr(clip, name)) is not None and not 1 <= value <= room:
                raise ClientError(f"{name} is {value}, expected 1 to {room}, what the prompt leaves")
        shortest = learned.min_tokens if clip.min_tokens is None else clip.min_tokens
        longest = max(learned.max_tokens, shortest) if clip.max_tokens is None else clip.max_tokens
        longest = min(longest, room)
        if clip.min_tokens is None:
            shortest = min(shortest, longest)
        target = learned.soft_target if clip.soft_target is None else clip.soft_target
        return LengthLimits(shortest, min(max(target, shortest), longest), longest, learned.source)


class Client:
    """A server that decodes the model exported to `folder`. sampling: temperature, top_p, top_k, end_logit_slope; the
    export's settings by default. Raises ClientError."""

    def __init__(self, folder: str | Path, url: str = URL, **sampling):
        self.prompts = Prompts(folder)
        self.url = url.rstrip("/")
        self.sampling = {name: self.prompts.settings[f"GEN_{name.upper()}"]
                         for name in ("temperature", "top_p", "top_k", "end_logit_slope")}
        if unknown := sorted(set(sampling) - set(self.sampling)):
            raise ClientError(f"{', '.join(unknown)}: unknown; there are {', '.join(self.sampling)}")
        self.sampling |= {name: value for name, value in sampling.items() if value is not None}
        self._model: str | None = None

    def request(self, clip: Clip) -> dict:
        """The JSON of a clip's request."""
        ids = self.prompts.ids(clip)
        return self._content(clip, ids, self.prompts.limits(clip, len(ids)))

    def _content(self, clip: Clip, ids: list[int], limits: LengthLimits) -> dict:
        vocabulary, sampling = self.prompts.vocabulary, dict(self.sampling)
        grammar = motion_grammar(vocabulary, limits.min_tokens, limits.max_tokens, clip.codes)
        in_step = vocabulary.streams.count
        limits, slope = limits.times(in_step), sampling.pop("end_logit_slope") / in_step  # the server counts codes
        content = {"prompt": ids, "max_tokens": limits.max_tokens + 1, "stop_token_ids": [vocabulary.end_id],
                   "structured_outputs": {"grammar": grammar}, "return_token_ids": True, **sampling}
        if slope:
            content["vllm_xargs"] = {"end_id": vocabulary.end_id, "soft_target": limits.soft_target,
                                     "end_logit_slope": slope}
        return content if clip.seed is None else content | {"seed": clip.seed}

    def ask(self, clip: Clip) -> list[int]:
        """A motion's codes, flat where there are several streams. Raises ClientError."""
        if self._model is None:
            self._model = self._ready()
        ids = self.prompts.ids(clip)
        limits = self.prompts.limits(clip, len(ids))
        answer = self._send("/v1/completions", self._content(clip, ids, limits) | {"model": self._model})
        return self._codes(answer, clip, limits)

    def ask_all(self, clips: Sequence[Clip], at_once: int = 64) -> list[list[int]]:
        """Motions in the order of the clips, with at most `at_once` requests open; the server batches them."""
        if clips and self._model is None:
            self._model = self._ready()
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(self.ask, clips))

    def _ready(self) -> str:
        """The served model's name. Checks that the server has the plugin, without which it ignores the soft target."""
        model = self._send("/v1/models")["data"][0]["id"]
        if self.sampling["end_logit_slope"]:
            invalid = {"model": model, "prompt": [0], "max_tokens": 1,
                       "vllm_xargs": {"end_logit_slope": -1, "end_id": 0, "soft_target": 0}}
            try:
                self._send("/v1/completions", invalid)
            except ClientError as error:
                if "end_logit_slope is -1" in str(error):
                    return model
                raise
            raise ClientError(f"the server at {self.url} runs without the plugin for the soft target: start it as the "
                              "export's README says, or ask with end_logit_slope 0")
        return model

    def _send(self, path: str, content: dict | None = None) -> dict:
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise ClientError(f"{self.url}{path} answered {error.code}: "
                              f"{error.read().decode(errors='replace')[:2000]}") from None
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise ClientError(f"no answer from {self.url}{path}: {error}") from None
        except json.JSONDecodeError as error:
            raise ClientError(f"{self.url}{path} answered no JSON: {error}") from None

    def _codes(self, answer: dict, clip: Clip, limits: LengthLimits) -> list[int]:
        """The codes of a valid answer. Raises ClientError for an answer that is not valid."""
        vocabulary = self.prompts.vocabulary
        choice = answer["choices"][0]
        ids = choice.get("token_ids")
        if not ids:
            raise ClientError(f"the answer has no token_ids, expected those of a vLLM server: {str(choice)[:200]}")
        codes = [i - vocabulary.first_motion_id for i in ids[:-1]]
        streams = vocabulary.streams
        if not (ids[-1] == vocabulary.end_id and streams.problem(codes) is None
                and limits.min_tokens <= len(codes) // streams.count <= limits.max_tokens
                and (clip.codes is None or set(codes) <= set(clip.codes))):
            raise ClientError(f"{clip.caption!r}: not a motion of {limits.min_tokens} to {limits.max_tokens} codes and "
                              f"the end {vocabulary.end_id}: {str(ids)[:200]} ({choice.get('finish_reason')}): "
                              "was the grammar left out?")
        return codes


def _parser(folder: Path) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Motions for sentences, from a server.", allow_abbrev=False)
    parser.add_argument("--folder", default=str(folder), help="the export. Default: where client.py is")
    parser.add_argument("--url", default=URL, help=f"the server. Default: {URL}")
    parser.add_argument("--prompt", action="append", required=True, help="a sentence; may be given several times")
    parser.add_argument("--participant_id", help="move like this participant of the training data")
    for name in ("min_tokens", "max_tokens", "seed"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("soft_target", "temperature", "top_p", "end_logit_slope"):
        parser.add_argument(f"--{name}", type=float)
    parser.add_argument("--top_k", type=int)
    return parser


def main(folder: Path) -> int:
    """The command line of an export's client.py; folder: the export."""
    args = _parser(folder).parse_args()
    return exit_status("client.py", lambda: print("\n".join(_answers(args))))


def _answers(args: argparse.Namespace) -> list[str]:
    clips = [Clip(prompt, args.participant_id, args.min_tokens, args.max_tokens, args.soft_target, None, args.seed)
             for prompt in args.prompt]
    client = Client(args.folder, args.url, temperature=args.temperature, top_p=args.top_p, top_k=args.top_k,
                    end_logit_slope=args.end_logit_slope)
    streams = client.prompts.vocabulary.streams
    return [in_a_line(streams.written(codes)) for codes in client.ask_all(clips)]
