"""Every setting, in one place: edit a constant, then run `python train_pipeline.py`.

Any constant can also be given on the command line as a flag in lower case (`--lr 1e-3`); the comment
above a constant is that flag's help. Only entry scripts import this module; importing it does nothing.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# ---------------------------------------------------------------- data

# The dataset: a JSON list of objects, or JSON Lines, with text_query and motion_tokens (participant_id,
# clip_id and split are optional). Change it to your own file; a relative path counts from the folder you are in.
DATA_JSON_PATH = "data/sample_motion.json"

# Folder of the codec that made the motion tokens, if codec.py fitted it. The codes' embeddings start from its vectors,
# and it is copied into the model's folder, so that the model can answer with BVH files and web pages. None: the tokens
# come from another program. The flag --data_json_path without --codec_path means None.
CODEC_PATH = "data/sample_codec"

# Folder for everything that is written: prepared data, checkpoints, the finished model. One folder, one
# model: change it to keep an earlier model.
WORK_DIR = "./output"

# Number that fixes the split of the data, the first weights and the order of the clips. Change it to
# measure how much a result varies.
SEED = 0

# Tokens of the language model that the longest example may take, prompt and answer together. Raise it if the data
# check says that clips do not fit; memory and time grow with it.
MAX_SEQ_LEN = 512

# Number of codes in the codebook of the motion tokeniser. None: the largest code in the data + 1. Set it
# if the data does not use the highest codes, so that a decoder for the whole codebook fits the model. Of several
# streams one number for all, or one for each: {"body": 512, "left_hand": 128}, or [512, 512] for streams without names.
CODEBOOK_SIZE = None

# File with the codec's vectors, row i for code i (.npy, or .npz with an array called centers, codebook or embedding).
# Codes with similar vectors start with similar embeddings, so the model learns faster. None: the vectors of CODEC_PATH;
# without a codec, codes that have the same neighbours in the clips start with similar embeddings.
CODEBOOK_PATH = None

# Share of the rows for each of the four held-out sets (seen and unseen captions, for validation and for test), at most
# 0.125, so that at least half is trained on. 0 holds nothing out. Lower it if every clip is needed for training. Rows
# that name their split keep it; the share is for the sets that they do not name.
HELDOUT_SHARE = 0.05

# Rows at most in each held-out set. Where the rows name their split: rows of each such set that a run measures on.
# Raise it for steadier scores; evaluation takes longer.
HELDOUT_MAX = 100

# ---------------------------------------------------------------- model

# The language model to start from: smollm2-135m (bundled), a name on the model hub such as
# unsloth/Qwen3-1.7B, or a folder. Change it to a larger model if you have a GPU.
MODEL_NAME = "smollm2-135m"

# Number format of the frozen weights: auto (what the machine multiplies faster, bfloat16 or float32; on a GPU
# without bfloat16 float16), bfloat16, float32 or float16. Change it only if auto chooses badly for your machine.
DTYPE = "auto"

# True: the frozen weights are kept in 4 bits (bitsandbytes), for models that do not fit otherwise. Slower, and a
# little worse; refused where bitsandbytes does not work.
LOAD_IN_4BIT = False

# Rank of the LoRA matrices. Raise it for more capacity on large data; memory and time grow with it.
LORA_R = 16

# Scale of the LoRA update: it is multiplied by LORA_ALPHA / LORA_R. Keep it at about twice LORA_R.
LORA_ALPHA = 32

# ---------------------------------------------------------------- training

# Examples in a training batch of a process. None: 8 in all on a CPU, with which the model learns most from each clip;
# on a GPU as many as keep it busy while a pass still makes 100 updates. Memory does not depend on it: large batches are
# split.
BATCH_TRAIN = None

# Batches whose gradients are added up before an update. An update sees BATCH_TRAIN x GRAD_ACCUM examples.
GRAD_ACCUM = 1

# Peak learning rate of the LoRA matrices. None: 0.0015 for the bundled model, less for wider ones, more for larger
# batches. Set it lower if the loss jumps.
LR = None

# Peak learning rate of the new rows of the embedding (motion codes, participants, markers). They are not pretrained,
# so it is higher than LR. None: 0.007 for the bundled model, less for wider ones, more for larger batches.
LR_NEW_ROWS = None

# Passes over the training rows in stage 1, motion alone. 0 skips the stage.
EPOCHS_S1 = 1

# Passes in stage 2, text and motion in the mix of STAGE2_MIX. 0 skips the stage.
EPOCHS_S2 = 3

# Passes in stage 3, text to motion above all. Raise it while the score on held-out clips still improves.
EPOCHS_S3 = 6

# Minutes of training, with the evaluations on held-out clips. The stages share them in proportion to their epochs,
# which then are no limit themselves, and the learning rates fall over that time. None: train for the epochs. Set it to
# the time you have.
MAX_MINUTES = None

# Updates between two checkpoints. Lower it if the machine may stop at any time.
SAVE_STEPS = 200

# Share of each task in stage 2: t2m (text to motion), m2t (motion to text), denoise (repair a damaged
# motion). The shares add up to 1. On the command line: t2m=0.5,m2t=0.3,denoise=0.2
STAGE2_MIX = {"t2m": 0.7, "m2t": 0.18, "denoise": 0.12}

# The same for stage 3. The small shares of the other tasks keep the last model able to do them; with none of them it is
# for text to motion alone.
STAGE3_MIX = {"t2m": 0.9, "m2t": 0.06, "denoise": 0.04}

# Share of the examples that are trained without their participant, so that the model also answers when
# none is given. Raise it if you mostly generate without one.
PID_DROPOUT = 0.2

# Share of the examples of text to motion that are trained without their caption, which makes GEN_GUIDANCE possible. 0
# gives a slightly better likelihood, and clips that follow their caption less (set GEN_GUIDANCE to 1 then).
CAPTION_DROPOUT = 0.1

# Share of the examples of denoising that show the clip's caption, so that a gap can be filled in by words (edits); the
# others are filled in without.
EDIT_CAPTIONS = 0.5

# Mean share of a clip's codes that are replaced by random ones in the model's input (motion alone, and text to motion);
# in the last stage it falls to a sixth of that. The model then relies on the caption instead of the last few codes.
# 0 = off; raise it if clips begin as the caption says and continue as something else.
HISTORY_NOISE = 0.6

# Where training curves go: none, tensorboard or wandb (the last two have to be installed).
REPORT_TO = "none"

# ---------------------------------------------------------------- generation and evaluation

# Whether a run ends with a report page (evaluation/report.html in the work folder), which takes a minute or
# two more. `python evaluate.py` writes it at any time.
REPORT_PAGE = True

# Randomness of generated motion: 0 always takes the likeliest code (greedy), 1 follows the model as it
# is. Lower it for safer motion, raise it for more variety.
GEN_TEMPERATURE = 0.8

# Draw only from the likeliest codes that together have this probability. 1 = off.
GEN_TOP_P = 0.95

# Draw only from this many likeliest codes. 0 = off.
GEN_TOP_K = 0

# How fast the logit of the end token rises around the expected length of a clip (logits a token). Raise it for lengths
# nearer to the expected one; 0 leaves the end to the model.
GEN_END_LOGIT_SLOPE = 1.0

# How strongly the caption steers generation (classifier-free guidance). Raise it for clips that follow their caption
# more closely, above all in new words and combinations; lower it for more variety. 1 = off: many clips at once are
# decoded faster.
GEN_GUIDANCE = 3.0

# How many motion tokens your codec makes of a second of motion, so that lengths can be given in seconds: its frames a
# second divided by its frames a token. None = not known. The bundled sample has 5.
TOKENS_PER_SECOND = None

# Examples at once in evaluation and generation. None: 32 on a CPU, more on a GPU with room for them. Lower it if memory
# runs out.
EVAL_BATCH = None

# ================================================================ nothing below needs editing


class SettingError(ValueError):
    """A setting that is unknown, missing or out of its range; the text names it, its value and its source."""


@dataclass(frozen=True)
class _Rule:
    """What a setting may be. accept() gives the value in its final type or raises ValueError or TypeError;
    parse() turns command-line text into something accept() takes."""

    expected: str
    metavar: str
    accept: Callable[[Any], Any]
    parse: Callable[[str], Any] = str


def _number(low: float, high: float, whole: bool = False, above: bool = False,
            optional: bool = False) -> _Rule:
    """A number from low to high (above: low itself is refused); whole: an integer; optional: or None."""

    def accept(value: Any) -> Any:
        if optional and value in (None, "none"):  # "none": on the command line, where None means no flag
            return None
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise TypeError
        if not low <= value <= high or (above and value == low):  # also false for nan
            raise ValueError
        return value if whole else float(value)

    def parse(text: str) -> Any:
        return "none" if optional and text.lower() == "none" else (int if whole else float)(text)

    kind = "an integer" if whole else "a number"
    span = f"above {low:g} and at most {high:g}" if above else f"from {low:,} to {high:,}"
    return _Rule(f"{kind} {span}{', or None' if optional else ''}", "N" if whole else "X", accept, parse)


def _count(low: int = 1, high: int = 1_000_000, optional: bool = False) -> _Rule:
    return _number(low, high, whole=True, optional=optional)


def _switch() -> _Rule:
    """True or False."""

    def accept(value: Any) -> bool:
        if not isinstance(value, bool):
            raise TypeError
        return value

    def parse(text: str) -> bool:
        return {"true": True, "false": False}[text.lower()]

    return _Rule("True or False", "{true,false}", accept, parse)


def _text(*choices: str, optional: bool = False) -> _Rule:
    """One of the choices, or any text that is not blank if there are none; optional: or None."""

    def accept(value: Any) -> str | None:
        if optional and value in (None, "none"):
            return None
        if not isinstance(value, str):
            raise TypeError
        if not value.strip() or (choices and value not in choices):
            raise ValueError
        return value

    expected = "one of " + ", ".join(choices) if choices else "text that is not blank"
    return _Rule(expected + ", or None" * optional,
                 "{" + ",".join(choices) + "}" if choices else "TEXT", accept)


def _shares(*names: str) -> _Rule:
    """A dict with exactly these names, shares of 0 or more that add up to 1."""

    def accept(value: Any) -> dict[str, float]:
        if not isinstance(value, Mapping):
            raise TypeError
        share = _number(0, 1).accept
        shares = {name: share(value[name]) for name in names if name in value}
        if set(value) != set(names) or not math.isclose(sum(shares.values()), 1, rel_tol=0, abs_tol=1e-6):
            raise ValueError
        return shares

    def parse(text: str) -> dict[str, float]:
        pairs = [part.split("=") for part in text.split(",")]
        shares = {name.strip(): float(share) for name, share in pairs}
        if len(shares) != len(pairs):
            raise ValueError
        return shares

    return _Rule(f"shares of 0 or more for exactly {', '.join(names)} that add up to 1",
                 ",".join(f"{name}=X" for name in names), accept, parse)


def _codebooks() -> _Rule:
    """A number of codes, one for each named stream, or one for each stream in a list; or None."""
    one = _count()

    def accept(value: Any) -> Any:
        if isinstance(value, Mapping) and value:
            return {name: one.accept(size) for name, size in value.items()}
        if isinstance(value, (list, tuple)) and value:
            return [one.accept(size) for size in value]
        return _count(optional=True).accept(value)

    def parse(text: str) -> Any:
        pairs = [part.split("=") for part in text.split(",")]
        if len(pairs) == 1 and len(pairs[0]) == 1:
            return _count(optional=True).parse(text)
        if all(len(pair) == 1 for pair in pairs):
            return [int(size) for size, in pairs]
        sizes = {name.strip(): int(size) for name, size in pairs}
        if len(sizes) != len(pairs):
            raise ValueError
        return sizes

    return _Rule(f"{one.expected}, a dict or a list of such numbers, one for each stream, or None",
                 "N", accept, parse)


_RULES: dict[str, _Rule] = {
    "DATA_JSON_PATH": _text(),
    "WORK_DIR": _text(),
    "SEED": _count(0, 2**32 - 1),
    "MAX_SEQ_LEN": _count(16),
    "CODEBOOK_SIZE": _codebooks(),
    "CODEBOOK_PATH": _text(optional=True),
    "CODEC_PATH": _text(optional=True),
    "HELDOUT_SHARE": _number(0, 0.125),  # four parts: training keeps at least half
    "HELDOUT_MAX": _count(0),
    "MODEL_NAME": _text(),
    "DTYPE": _text("auto", "bfloat16", "float32", "float16"),
    "LOAD_IN_4BIT": _switch(),
    "LORA_R": _count(1, 4096),
    "LORA_ALPHA": _count(1, 65536),
    "BATCH_TRAIN": _count(1, 65536, optional=True),
    "GRAD_ACCUM": _count(1, 65536),
    "LR": _number(0, 1, above=True, optional=True),
    "LR_NEW_ROWS": _number(0, 1, above=True, optional=True),
    "EPOCHS_S1": _count(0),
    "EPOCHS_S2": _count(0),
    "EPOCHS_S3": _count(0),
    "MAX_MINUTES": _number(0, 1_000_000, above=True, optional=True),
    "SAVE_STEPS": _count(),
    "STAGE2_MIX": _shares("t2m", "m2t", "denoise"),
    "STAGE3_MIX": _shares("t2m", "m2t", "denoise"),
    "PID_DROPOUT": _number(0, 1),
    "CAPTION_DROPOUT": _number(0, 1),
    "EDIT_CAPTIONS": _number(0, 1),
    "HISTORY_NOISE": _number(0, 1),
    "REPORT_TO": _text("none", "tensorboard", "wandb"),
    "REPORT_PAGE": _switch(),
    "GEN_TEMPERATURE": _number(0, 100),
    "GEN_TOP_P": _number(0, 1, above=True),
    "GEN_TOP_K": _count(0),
    "GEN_END_LOGIT_SLOPE": _number(0, 1000),
    "GEN_GUIDANCE": _number(0, 100),
    "TOKENS_PER_SECOND": _number(0, 10_000, above=True, optional=True),
    "EVAL_BATCH": _count(1, 65536, optional=True),
}

# The settings a trained model depends on. DATA_JSON_PATH is not one: data is compared by its content. Nor are WORK_DIR
# and the settings that only change how a run is logged, saved or used.
TRAINING: tuple[str, ...] = tuple(
    name for name in _RULES if not name.startswith("GEN_")
    and name not in ("DATA_JSON_PATH", "WORK_DIR", "SAVE_STEPS", "REPORT_TO", "REPORT_PAGE", "CODEC_PATH",
                     "TOKENS_PER_SECOND", "EVAL_BATCH"))


def defaults() -> dict[str, Any]:
    """The constants above, unchecked. An UPPER_CASE name that someone added is among them, so that check() refuses it:
    otherwise it would silently do nothing."""
    constants = {name: value for name, value in globals().items() if re.fullmatch(r"[A-Z][A-Z0-9_]*", name)}
    return {name: dict(value) if isinstance(value, dict) else value
            for name, value in constants.items() if name != "TRAINING"}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def check(settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The settings in their final types (an int becomes a float where a number is meant).

    source says where they come from ("config.py", "command line", "output/settings.json"). Raises
    SettingError, a line for each setting that is unknown or not what its rule expects.
    """
    accepted, refused = {}, []
    for name, value in settings.items():
        if name not in _RULES:
            close = difflib.get_close_matches(str(name).upper(), _RULES, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"the settings are {', '.join(_RULES)}"
            refused.append(f"{source}: unknown setting {name}; {hint}")
            continue
        try:
            accepted[name] = _RULES[name].accept(value)
        except (TypeError, ValueError):
            refused.append(f"{source}: {name} is {_short(value)}, expected {_RULES[name].expected}")
    if refused:
        raise SettingError("\n".join(refused))
    return accepted


def resolve(command_line: Mapping[str, Any], kept: Mapping[str, Any] | None = None,
            kept_source: str = "settings.json") -> dict[str, Any]:
    """Every setting: the command line's value, else the kept one (from a model's folder), else config.py's.

    command_line: as `given(args)` returns it; a value of None counts as absent. Each source is checked completely, also
    the values that another source overrides. The CODEC_PATH of config.py belongs to the DATA_JSON_PATH of config.py:
    with other data on the command line it becomes None, unless another source names a codec, because that codec would
    decode the tokens to wrong motion. Raises SettingError.
    """
    constants = defaults()
    missing = [name for name in _RULES if name not in constants]
    if missing:
        raise SettingError(f"config.py: {', '.join(missing)} is missing; put the line back")
    settings = check(constants, "config.py")
    flags = check({name: value for name, value in command_line.items() if value is not None}, "command line")
    if flags.get("DATA_JSON_PATH", settings["DATA_JSON_PATH"]) != settings["DATA_JSON_PATH"]:
        settings["CODEC_PATH"] = None
    return settings | check(kept or {}, kept_source) | flags


def differences(old: Mapping[str, Any], new: Mapping[str, Any], names: Iterable[str] = TRAINING) -> list[str]:
    """A line for each named setting whose values differ: "LR: 0.002 before, 0.001 now"."""
    pairs = [(name, old.get(name, "absent"), new.get(name, "absent")) for name in names]
    return [f"{name}: {spell(before)} before, {spell(now)} now"
            for name, before, now in pairs if before != now]


def add_arguments(parser: Any, names: Iterable[str] | None = None) -> None:
    """Add a flag for each constant (or for those of `names`) to an argparse parser. Its default is None.

    A value that a rule refuses ends the program with status 2 and a line that names the flag:

        parser = Parser()  # of motion_llm/command_line.py
        config.add_arguments(parser)
        settings = config.resolve(config.given(parser.parse_args()))
    """
    comments, values = _comments(), defaults()
    for name in _RULES if names is None else names:
        text = f"{comments.get(name, '')} Default: {spell(values.get(name))}"
        parser.add_argument("--" + name.lower(), type=_converter(name), default=None,
                            metavar=_RULES[name].metavar, help=text.replace("%", "%%"))


def given(args: Any) -> dict[str, Any]:
    """The settings that were given on the command line, by name, from what parse_args() returned."""
    values = {name: getattr(args, name.lower(), None) for name in _RULES}
    return {name: value for name, value in values.items() if value is not None}


def _converter(name: str) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        from argparse import ArgumentTypeError  # imported here, as only a script with a command line needs it

        try:
            value = _RULES[name].parse(text)
            accepted = _RULES[name].accept(value)
        except (KeyError, TypeError, ValueError):
            raise ArgumentTypeError(f"found {text!r}, expected {_RULES[name].expected}") from None
        return value if accepted is None else accepted  # None would mean that the flag is absent

    return convert


def _comments() -> dict[str, str]:
    """The comment above each constant, as one line, from this file's own source."""
    comments, block = {}, []
    for line in Path(__file__).read_text(encoding="utf-8").splitlines():
        constant = re.match(r"([A-Z][A-Z0-9_]*)\b[^=]*=", line)
        if constant:
            comments[constant[1]] = " ".join(block)
        block = [*block, line[1:].strip()] if line.startswith("#") else []
    return comments


def spell(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, Mapping):
        return ",".join(f"{name}={share:g}" for name, share in value.items())
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)
