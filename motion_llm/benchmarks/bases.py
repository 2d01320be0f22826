"""`python bench.py bases --tokenizers DIR`: whether tokenizers go through everything, each with a tiny network.

Each folder in DIR that holds a tokenizer gets a network of random weights, which is trained for a few updates, read
again in both ways, asked and exported. What was tokenised is compared at every step.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from motion_llm.benchmarks.train import ARCHITECTURES
from templates import new_tokens

CAPTIONS = (  # what people write: spellings of markers, accents, other scripts, numbers, spaces
    "a person walks forward", "  a person  turns 180 degrees, then  bows!", "<MOT_END> <motion_3> <|im_end|> </s>",
    "<start_of_turn>user <|eot_id|> [INST]", "une personne s'étire, très lentement", "人が歩いて、手を振る",
    "شخص يمشي ببطء", "someone waves 👋 (with both hands)", "a\ttab and a\nline break", "x" * 300)
CLIPS, CODES = 40, 16
CHECKS = ("turns", "captions", "trained", "read again", "asked", "exported")


def add_arguments(parser) -> None:
    parser.add_argument("--tokenizers", required=True, metavar="DIR",
                        help="a folder with tokenizers as they are published, each in a folder of its own")


def run(args, settings: Mapping) -> dict:
    """Raises ValueError for a folder without tokenizers. What goes wrong with one of them is in its figures."""
    from motion_llm.network.base import TOKENIZER_FILES, start_unsloth  # imports torch, which takes seconds

    folders = sorted({path.parent for name in TOKENIZER_FILES for path in Path(args.tokenizers).rglob(name)})
    if not folders:
        raise ValueError(f"--tokenizers {args.tokenizers}: no folder in it has one of {', '.join(TOKENIZER_FILES)}")
    start_unsloth()
    return {"tokenizers": [_measure(folder, Path(args.tokenizers)) for folder in folders]}


def _measure(folder: Path, top: Path) -> dict:
    """Whether each of CHECKS passes; those behind one that fails are left out, and its error is told."""
    figures, started = {"name": str(folder.relative_to(top)), "passed": []}, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="motion-llm-") as temporary:
        try:
            for check in _checks(folder, Path(temporary), figures):
                figures["passed"].append(check)
        except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, OSError) as error:
            figures["error"] = f"{type(error).__name__}: {error}"[:600]
    return figures | {"seconds": time.monotonic() - started}


def _checks(folder: Path, temporary: Path, figures: dict) -> Iterator[str]:
    """The name of each check that has passed; figures gets what is shown of the tokenizer."""
    from model import add_motion_tokens, load_tokenizer
    from motion_llm.streams import Streams
    from templates import MotionTemplate

    base = _random_base(folder, temporary / "base")
    tokenizer = load_tokenizer(str(base))
    figures["tokens"] = len(tokenizer)
    vocabulary = add_motion_tokens(tokenizer, CODES, ["ana"])
    template = MotionTemplate(tokenizer, vocabulary)
    markers = template.markers
    figures["turns"] = {name: tokenizer.decode(ids) for name, ids in (
        ("user", markers.user), ("assistant", markers.assistant), ("text_end", [markers.text_end]))}
    _same("the new tokens", tokenizer.convert_tokens_to_ids(new_tokens(Streams.one(CODES), ["ana"])),
          list(vocabulary.new_ids))
    yield "turns"

    for caption in CAPTIONS:
        _same(f"caption {caption!r}", tokenizer.decode(template.encode_text(caption)), caption)
    yield "captions"

    stage = _train(base, temporary)
    yield "trained"

    yield from _trained_checks(stage, temporary / "export", lambda text: template.render(
        "t2m", text=text, participant_id="ana", answer=False).ids)


def _trained_checks(stage: Path, output: Path, prompt: Callable[[str], list[int]]) -> Iterator[str]:
    """prompt: what the base's own tokenizer makes of a caption."""
    from generate import MotionGenerator
    from model import load, load_for_decoding
    from motion_llm.serving.client import Client, Clip

    for reader in (load, load_for_decoding):
        template = reader(stage).template
        for caption in CAPTIONS:
            _same(f"caption {caption!r}, read by {reader.__name__}",
                  template.render("t2m", text=caption, participant_id="ana", answer=False).ids, prompt(caption))
    yield "read again"

    generator = MotionGenerator(stage)
    for motion in generator.generate_batch(CAPTIONS, seed=0):
        if wrong := [code for code in motion.split() if int(code) >= CODES] or not motion:
            raise ValueError(f"the motion {motion!r}: {wrong}, expected codes from 0 to {CODES - 1}")
    generator.caption("1 2 3")
    yield "asked"

    _script("export.py", "--model_path", str(stage), "--output", str(output))
    client = Client(output)
    for caption in CAPTIONS:
        _same(f"caption {caption!r}, in the export", client.request(Clip(caption, participant_id="ana"))["prompt"],
              prompt(caption))
    yield "exported"


def _random_base(folder: Path, output: Path) -> Path:
    """The tokenizer of `folder` with a tiny network of random weights. Returns output."""
    import transformers

    name, shape = ARCHITECTURES["tiny"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = getattr(transformers, name)(**shape | {"vocab_size": len(tokenizer)}, bos_token_id=tokenizer.bos_token_id,
                                         eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(output)
    tokenizer.save_pretrained(output)
    return output


def _train(base: Path, temporary: Path) -> Path:
    """The last stage of a small run on the base."""
    data, work = temporary / "data.json", temporary / "run"
    data.write_text(json.dumps([{"text_query": CAPTIONS[i % 2], "participant_id": "ana",
                                 "motion_tokens": " ".join(str((i + j) % CODES) for j in range(6 + i % 5))}
                                for i in range(CLIPS)]), encoding="utf-8")
    _script("train_pipeline.py", "--data_json_path", str(data), "--codebook_size", str(CODES),
            "--model_name", str(base), "--work_dir", str(work), "--report_page", "false", "--heldout_share", "0",
            "--epochs_s1", "1", "--epochs_s2", "1", "--epochs_s3", "1", "--stage3_mix", "t2m=0.6,m2t=0.2,denoise=0.2")
    return work / "stage3_t2m_sft"


def _script(name: str, *arguments: str) -> None:
    """Raises RuntimeError with the end of what a failed script said."""
    done = subprocess.run([sys.executable, name, *arguments], capture_output=True, text=True,
                          cwd=Path(__file__).parents[2])
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr.strip()[-400:]}")


def _same(what: str, found: Sequence, expected: Sequence) -> None:
    if found != expected:
        raise ValueError(f"{what}: {found!r}, expected {expected!r}")


def format_figures(figures: Mapping) -> str:
    width = max(len(one["name"]) for one in figures["tokenizers"])
    head = f"{'tokenizer':<{width}}{'tokens':>10}" + "".join(f"{check:>12}" for check in CHECKS) + f"{'seconds':>9}"
    lines = [head, "-" * len(head)]
    for one in figures["tokenizers"]:
        failed = len(one["passed"])
        marks = ["yes" if check in one["passed"] else "no" if place == failed else "-"
                 for place, check in enumerate(CHECKS)]
        lines.append(f"{one['name']:<{width}}{one.get('tokens', 0):>10,}" + "".join(f"{mark:>12}" for mark in marks)
                     + f"{one['seconds']:>9.0f}")
    for one in figures["tokenizers"]:
        lines.append(f"\n{one['name']}")
        lines += [f"  {name:<10}{text!r}" for name, text in one.get("turns", {}).items()]
        if "error" in one:
            lines.append(f"  {one['error']}")
    return "\n".join(lines)
