"""How fast an exported model decodes on vLLM: `.venv-vllm/bin/python bench_vllm.py --folder served`, one JSON line.

For `bench.py decode`, which lives in another environment. Every clip gets exactly --tokens codes, so that all rows of a
batch do the same work; prompts are the captions that the model knows, and nothing of them is kept from run to run.
"""

import argparse
import json
import sys
from dataclasses import dataclass

from lengths import LengthLimits
from vllm_engine import VllmEngine, measure


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--folder", required=True, help="an exported model")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32, 64], help="clips at once")
    parser.add_argument("--tokens", type=int, default=60, help="codes of a clip. Default: 60")
    parser.add_argument("--repeats", type=int, default=3, help="runs to take the median of, after a warm-up")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top_p", type=float, default=0.95)
    parser.add_argument("--slope", type=float, default=0.0, help="of the end's logit; 0 leaves the plugin idle")
    parser.add_argument("--compile", action="store_true", help="let vLLM compile the model first, which takes minutes")
    return parser


def main() -> int:
    args = _parser().parse_args()
    if min(*args.batch, args.tokens, args.repeats) < 1:
        print("bench_vllm.py: batch, tokens and repeats: expected 1 or more", file=sys.stderr)
        return 1
    try:
        engine = VllmEngine(args.folder, enforce_eager=not args.compile, enable_prefix_caching=False)
    except ValueError as error:
        print(f"bench_vllm.py: {error}", file=sys.stderr)
        return 1
    captions = list(engine.captions)
    limits = LengthLimits(args.tokens, args.tokens, args.tokens, "")
    sampling = Sampling(args.temperature, args.top_p, 0, args.slope)
    figures = {}
    for batch in args.batch:
        prompts = [engine.template.render("t2m", text=captions[i % len(captions)], answer=False).ids
                   for i in range(batch)]
        figures[str(batch)] = measure(engine, [Request(ids, limits) for ids in prompts], sampling, args.repeats)
    engine.close()
    print(json.dumps({"engine": "vllm", "version": engine.version, "tokens": args.tokens, "batches": figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
