"""`python bench.py decode`: the decoding speed of this project, of `model.generate` under the same constraints, and of
vLLM.

All decode clips of one exact length from the model's own captions, without guidance, so that every row does the same
work. The first two take turns, round by round, and the median round counts. The machine's limits are measured in the
same run: with one row the limit is reading the weights, with many it is multiplying by them.
"""

import contextlib
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from data import read_rows
from motion_llm.benchmarks.train import ARCHITECTURES, matrix_peak, random_base
from motion_llm.dataset.lengths import LengthLimits, LengthModel
from motion_llm.dataset.report import raise_on_errors
from motion_llm.dataset.rows import caption_key
from motion_llm.decoding.request import MotionRequest

log = logging.getLogger(__name__)

BATCHES = (1, 8, 32, 64)
OURS, BASELINE = "ours", "model.generate"
ROOT = Path(__file__).parents[2]
VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"  # `make .venv-vllm/installed` makes it
READ_BYTES = 2**28  # size of the array that is read to measure the memory bandwidth
MIXED_LONGEST = 4  # in the mixed load: the longest clip's tokens, in multiples of the shortest clip's


def add_arguments(parser) -> None:
    parser.add_argument("--model_path", help="a trained stage's folder. Default: WORK_DIR/stage3_t2m_sft")
    parser.add_argument("--random_init", choices=sorted(ARCHITECTURES), metavar="|".join(sorted(ARCHITECTURES)),
                        help="this architecture with random weights instead of a trained model; needs no download")
    parser.add_argument("--clip_tokens", type=int, default=48, metavar="N", help="tokens of each clip. Default: 48")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES), metavar="N",
                        help=f"clips at once, several. Default: {' '.join(map(str, BATCHES))}")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds of measurement. Default: 3")
    parser.add_argument("--mixed", type=int, default=500, metavar="N",
                        help="clips of mixed lengths that are decoded at the end, 0 for none. Default: 500")
    parser.add_argument("--compile_vllm", action="store_true", help="let vLLM compile the model, which takes minutes")
    parser.add_argument("--without_vllm", action="store_true", help="leave vLLM out, where it is installed")


def run(args, settings: Mapping) -> dict:
    """Figures by batch size. Raises ModelError, GenerationError, ValueError."""
    if args.clip_tokens < 4 or min(args.rounds, *args.batches) < 1 or args.mixed < 0:
        raise ValueError("expected --clip_tokens of 4 or more, --rounds and --batches of 1 or more, --mixed of 0 or "
                         "more")
    if args.random_init and args.model_path:
        raise ValueError("--random_init and --model_path name two models: leave one out")
    from model import start_unsloth  # imports torch, which takes seconds

    start_unsloth()
    with _model_folder(args, settings) as path:
        return _figures(path, args)


def _figures(path: str, args) -> dict:
    from generate import MotionGenerator  # imports transformers, which must follow Unsloth's start

    generator, baseline = MotionGenerator(path), _ModelGenerate(path)
    captions = list(generator.length_model.captions)

    def ours(count: int) -> None:
        generator.decoder.slots = count
        generator.answer([MotionRequest(text=captions[i % len(captions)], tokens=args.clip_tokens, guidance=1)
                          for i in range(count)], seed=0)

    def model_generate(count: int) -> None:
        baseline([captions[i % len(captions)] for i in range(count)], args.clip_tokens)

    batches = _in_turn({OURS: ours, BASELINE: model_generate}, args.batches, args.rounds, args.clip_tokens)
    machine = {"bytes_per_second": memory_bandwidth(generator.decoder.network.device),
               "gflops": matrix_peak(generator.decoder.network.embed.weight.dtype)["gflops"]}
    size = _size(generator)
    for count in args.batches:
        batch = batches[str(count)]
        for name in (OURS, BASELINE):
            steps = batch[name]["tokens_per_second"] / count
            batch[name]["share_of_bandwidth"] = steps * size["bytes"] / machine["bytes_per_second"]
            batch[name]["share_of_peak"] = steps * count * 2 * size["values"] / machine["gflops"] / 1e9
        batch["constraints_share"] = _constraints_share(generator, count, count / batch[OURS]["tokens_per_second"])
    figures = {"model": args.random_init or path, "clip_tokens": args.clip_tokens, "batches": batches,
               "machine": machine, "size": size,
               "first_token": {OURS: _first_token(generator, captions[0]),
                               BASELINE: baseline.first_token(captions[0])}}
    if args.mixed:
        figures["mixed"] = _mixed(generator, baseline, captions, args)
    if VLLM_PYTHON.exists() and not (args.without_vllm or args.random_init):
        figures["vllm"] = _vllm(path, generator.settings, args)
    return figures


@contextlib.contextmanager
def _model_folder(args, settings: Mapping) -> Iterator[str]:
    """The folder of the trained model, or a temporary one of an untrained one. Raises DataError, ModelError."""
    with random_base(args.random_init) as base, tempfile.TemporaryDirectory() as folder:
        if base is None:
            yield args.model_path or str(Path(settings["WORK_DIR"]) / "stage3_t2m_sft")
            return
        from model import ModelConfig, build  # imports torch, which takes seconds

        report = read_rows(settings["DATA_JSON_PATH"], settings["MAX_SEQ_LEN"], settings["CODEBOOK_SIZE"],
                           denoise=False)
        raise_on_errors(report)
        config = ModelConfig(base, settings["MAX_SEQ_LEN"], settings["LORA_R"], settings["LORA_ALPHA"],
                             settings["DTYPE"], settings["SEED"])
        lengths = LengthModel.fit(report.rows.chunks, caption_key, report.streams.count)
        build(config, report.streams, sorted(report.rows.participants)).save(Path(folder) / "untrained", {
            "stage": "untrained", "tasks": ["t2m"], "settings": dict(settings), "history": {},
            "length_model": lengths.to_dict()})
        yield str(Path(folder) / "untrained")


def _vllm(path: str, settings: Mapping, args) -> dict:
    """The figures of `bench.py vllm` for the exported model, run in vLLM's environment. Raises ValueError."""
    with tempfile.TemporaryDirectory() as folder:
        served = str(Path(folder) / "served")
        _run([sys.executable, str(ROOT / "export.py"), "--model_path", path, "--output", served])
        log.info("  vLLM: its start takes a minute")
        output = Path(folder) / "figures.json"
        _run(
            [str(VLLM_PYTHON), str(ROOT / "bench.py"), "vllm", "--folder", served, "--batch", *map(str, args.batches),
             "--tokens", str(args.clip_tokens), "--repeats", str(args.rounds), *["--compile"] * args.compile_vllm,
             "--temperature", str(settings["GEN_TEMPERATURE"]), "--top_p", str(settings["GEN_TOP_P"]),
             "--output", str(output)])
        return json.loads(output.read_text(encoding="utf-8"))["figures"]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{Path(command[1]).name} ended with status {done.returncode}: {done.stderr.strip()[-500:]}")


class _ModelGenerate:
    """`model.generate` on the merged network, with our logits processor: the usual way to decode."""

    def __init__(self, path: str):
        from model import load  # imports torch, which takes seconds

        model = load(path)
        self.template, self.vocabulary, self.pad_id = model.template, model.vocabulary, model.pad_id
        self.network = model.merged().eval()

    def __call__(self, captions: list[str], tokens: int | list[int]) -> None:
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        from motion_llm.decoding.constraints import LengthAwareMotionLogitsProcessor  # imports transformers

        prompts = [self.template.render("t2m", text=text, answer=False).ids for text in captions]
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.pad_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt):], mask[row, width - len(prompt):] = torch.tensor(prompt), 1
        counts = [tokens] * len(captions) if isinstance(tokens, int) else tokens
        limits = [LengthLimits(count, count, count, "") for count in counts]
        processor = LengthAwareMotionLogitsProcessor(self.vocabulary, limits, width, 1.0)
        config = GenerationConfig(do_sample=True, temperature=0.8, top_p=0.95, top_k=0, max_new_tokens=max(counts) + 1,
                                  eos_token_id=self.vocabulary.end_id, pad_token_id=self.pad_id)
        device = self.network.device
        self.network.generate(input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=config,
                              logits_processor=LogitsProcessorList([processor]))

    def first_token(self, caption: str) -> float:
        import torch
        from transformers import GenerationConfig

        ids = torch.tensor([self.template.render("t2m", text=caption, answer=False).ids], device=self.network.device)
        config = GenerationConfig(do_sample=False, max_new_tokens=1, pad_token_id=self.pad_id)
        return _median_seconds(lambda: self.network.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config), 5)


def _in_turn(decoders: Mapping[str, Callable[[int], None]], sizes: Sequence[int], rounds: int, tokens: int) -> dict:
    """batch size -> name of a decoder -> tokens per second, of the median round and of all rounds."""
    for decode in decoders.values():
        decode(sizes[0])
    seconds = {str(count): {name: [] for name in decoders} for count in sizes}
    for number in range(rounds):
        for count in sizes:
            for name, decode in decoders.items():
                started = time.perf_counter()
                decode(count)
                seconds[str(count)][name].append(time.perf_counter() - started)
        log.info("  round %d of %d", number + 1, rounds)
    batches: dict = {}
    for count, by_name in seconds.items():
        rates = {name: sorted(int(count) * tokens / spent for spent in values) for name, values in by_name.items()}
        batches[count] = {name: {"tokens_per_second": statistics.median(values), "rounds": values}
                          for name, values in rates.items()}
        batches[count]["ratio"] = statistics.median(baseline / ours for ours, baseline in
                                                    zip(by_name[OURS], by_name[BASELINE], strict=True))
    return batches


def _median_seconds(work: Callable[[], object], times: int) -> float:
    """After one call that warms up."""
    work()
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _first_token(generator, caption: str) -> float:
    """Seconds from the request to its first token."""
    return _median_seconds(lambda: next(generator.stream(caption, seed=0)), 5)


def memory_bandwidth(device) -> float:
    """Bytes per second that all threads read together: the best of five sums over an array."""
    import torch

    values = torch.ones(READ_BYTES // 4, device=device)
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        float(values.sum())
        best = max(best, READ_BYTES / (time.perf_counter() - started))
    return best


def _size(generator) -> dict:
    """The weights that a step reads and multiplies by: the layers' matrices and the needed rows of the head."""
    network = generator.decoder.network
    products = [product for layer in network.layers for product in layer.products] + [generator.motion_alphabet.product]
    return {"values": sum(product.values for product in products), "bytes": sum(product.bytes for product in products)}


def _constraints_share(generator, count: int, step: float) -> float:
    """The constraints' share of a decoding step of `step` seconds."""
    import torch

    from motion_llm.decoding.constraints import Bounds, constrained_scores  # imports transformers

    device = generator.decoder.network.device
    bounds = Bounds.of([LengthLimits(10, 20, 30, "")] * count, 1.0, device=device)
    alphabet = generator.motion_alphabet
    scores, tokens = torch.randn(count, len(alphabet), device=device), torch.full((count,), 15, device=device)
    return _median_seconds(lambda: constrained_scores(scores, tokens, bounds), 50) / step


def _mixed(generator, baseline: _ModelGenerate, captions: list[str], args) -> dict:
    """Seconds for clips of many lengths in batches of 32, as a user with a list of prompts would wait for them."""
    batch, shortest = 32, max(4, args.clip_tokens // MIXED_LONGEST)
    lengths = [shortest + (7919 * i) % (MIXED_LONGEST * shortest - shortest + 1) for i in range(args.mixed)]
    texts = [captions[i % len(captions)] for i in range(args.mixed)]
    generator.decoder.slots = batch
    requests = [MotionRequest(text=text, tokens=count, guidance=1) for text, count in zip(texts, lengths, strict=True)]
    started = time.perf_counter()
    generator.answer(requests, seed=0)
    ours, started = time.perf_counter() - started, time.perf_counter()
    order = sorted(range(args.mixed), key=lambda i: lengths[i])  # the best order for whole batches
    for start in range(0, args.mixed, batch):
        part = order[start:start + batch]
        baseline([texts[i] for i in part], [lengths[i] for i in part])
    return {"clips": args.mixed, "tokens": sum(lengths), OURS: ours, BASELINE: time.perf_counter() - started}


def format_figures(figures: Mapping) -> str:
    machine, size = figures["machine"], figures["size"]
    lines = [
        f"{figures['model']}, clips of {figures['clip_tokens']} tokens; a step reads {size['bytes'] / 1e6:.0f} MB of "
        f"weights; the machine reads {machine['bytes_per_second'] / 1e9:.1f} GB/s and multiplies "
        f"{machine['gflops']:.0f} GFLOP/s", "",
        f"{'':<10}{'tokens/s':>10}{'':>16}{'times':>7}{'ours: share of':>22}{'constraints,':>14}",
        f"{'batch':<10}{OURS:>10}{BASELINE:>16}{'':>7}{'bandwidth':>13}{'peak':>9}{'of a step':>14}"]
    lines.append("-" * len(lines[-1]))
    for count, batch in figures["batches"].items():
        ours, baseline = batch[OURS], batch[BASELINE]
        lines.append(f"{count:<10}{ours['tokens_per_second']:>10.0f}{baseline['tokens_per_second']:>16.0f}"
                     f"{batch['ratio']:>7.1f}{ours['share_of_bandwidth']:>13.0%}{ours['share_of_peak']:>9.0%}"
                     f"{batch['constraints_share']:>14.1%}")
    if vllm := figures.get("vllm"):
        rates = [f"{count}: {speed['tokens_per_second']:.0f} tokens/s, ours "
                 f"{figures['batches'][count][OURS]['tokens_per_second'] / speed['tokens_per_second']:.1f} times"
                 for count, speed in vllm["batches"].items()]
        lines += [f"\nvLLM {vllm['version']}, batch " + "; ".join(rates),
                  f"its first token after {1e3 * vllm['batches']['1']['seconds_to_first_token']:.0f} ms"]
    first = figures["first_token"]
    lines.append(f"\nfirst token after {1e3 * first[OURS]:.0f} ms ({OURS}) and {1e3 * first[BASELINE]:.0f} ms "
                 f"({BASELINE})")
    if mixed := figures.get("mixed"):
        lines.append(f"{mixed['clips']} clips of mixed lengths, {mixed['tokens']} tokens, batches of 32: "
                     f"{mixed[OURS]:.1f} s ({OURS}), {mixed[BASELINE]:.1f} s ({BASELINE}, sorted by length), "
                     f"{mixed[BASELINE] / mixed[OURS]:.1f} times")
    return "\n".join(lines)
