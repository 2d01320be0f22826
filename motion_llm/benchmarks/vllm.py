"""`python bench.py vllm`: the decoding speed of an exported model on vLLM, in the environment that has vLLM:

    .venv-vllm/bin/python bench.py vllm --folder served

Every clip gets exactly --tokens codes, so that all rows of a batch do the same work. Prompts are captions of the
training data, and vLLM's prefix cache is off. `bench.py decode` runs this as well and prints its figures.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from motion_llm.dataset.lengths import LengthLimits
from motion_llm.serving.vllm_engine import VllmEngine


@dataclass(frozen=True)
class Request:
    prompt_ids: list[int]
    limits: LengthLimits
    codes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Sampling:
    temperature: float
    top_p: float
    top_k: int
    slope: float


def add_arguments(parser) -> None:
    parser.add_argument("--folder", required=True, help="an exported model")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32, 64], help="clips at once")
    parser.add_argument("--tokens", type=int, default=60, help="codes per clip. Default: 60")
    parser.add_argument("--repeats", type=int, default=3, help="runs to take the median of, after a warm-up")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top_p", type=float, default=0.95)
    parser.add_argument("--slope", type=float, default=0.0, help="end_logit_slope; 0 turns the plugin off")
    parser.add_argument("--compile", action="store_true", help="let vLLM compile the model first, which takes minutes")


def run(args, settings: Mapping) -> dict:
    """Figures by batch size. Raises ValueError, and ModelError where vLLM is not installed."""
    if min(*args.batch, args.tokens, args.repeats) < 1:
        raise ValueError("--batch, --tokens and --repeats: expected 1 or more")
    engine = VllmEngine(args.folder, enforce_eager=not args.compile, enable_prefix_caching=False)
    captions = list(engine.captions)
    limits = LengthLimits(args.tokens, args.tokens, args.tokens, "")
    sampling = Sampling(args.temperature, args.top_p, 0, args.slope)
    batches = {}
    for size in args.batch:
        prompts = [engine.template.render("t2m", text=captions[i % len(captions)], answer=False).ids
                   for i in range(size)]
        batches[str(size)] = measure(engine, [Request(ids, limits) for ids in prompts], sampling, args.repeats)
    engine.close()
    return {"engine": "vllm", "version": engine.version, "tokens": args.tokens, "batches": batches}


def format_figures(figures: Mapping) -> str:
    lines = [f"vLLM {figures['version']}, clips of {figures['tokens']} tokens"]
    lines += [f"  batch {size}: {speed['tokens_per_second']:.0f} tokens/s, first token after "
              f"{1000 * speed['seconds_to_first_token']:.0f} ms" for size, speed in figures["batches"].items()]
    return "\n".join(lines)


def measure(engine: VllmEngine, requests: Sequence, sampling, repeats: int) -> dict[str, float]:
    """Tokens per second (ends counted) and seconds until all of `requests`, sent at once, have their first token: the
    medians of `repeats` runs, after one that warms up."""
    speeds, firsts = [], []
    for seed in range(repeats + 1):
        started = time.perf_counter()
        answers = engine.decode(requests, [sampling] * len(requests), seed)
        seconds = time.perf_counter() - started
        speeds.append(sum(len(codes) + 1 for codes in answers) / seconds)
        firsts.append(engine.seconds_to_first_tokens(requests, sampling, seed))
    speeds, firsts = sorted(speeds[1:]), sorted(firsts[1:])
    return {"tokens_per_second": speeds[repeats // 2], "seconds_to_first_token": firsts[repeats // 2]}
