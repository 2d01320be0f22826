"""`python bench.py train`: how fast this project trains, beside the usual recipe of this field, in one process.

The usual recipe: a system prompt of 190 tokens, motion tokens as text with spaces between, the loss over the whole
vocabulary, LoRA and both embedding matrices trained, with PEFT and transformers unchanged. It runs at the batch size at
which it is fastest. Both recipes take the same clips, base, precision and threads, and train text to motion alone.
"""

import contextlib
import ctypes
import gc
import itertools
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from data import read_rows
from motion_llm.dataset.report import check_split, raise_on_errors
from motion_llm.dataset.rows import BYTES_A_TOKEN
from motion_llm.dataset.splits import split_rows
from motion_llm.streams import Streams
from templates import MOT_BEGIN, MOT_END, new_tokens

PROMPT_TOKENS = 190
USUAL_BATCHES = (2, 4, 8, 16, 32, 64)  # the last two on a GPU alone
WARM_UP = 3  # updates that are not counted
PRODUCTS = (1024, 2048, 4096)  # sides of the square matrices whose products give the machine's peak rate
LARGE_PRODUCT = 8192  # on a GPU as well
ARCHITECTURES = {  # the published shapes, for random weights
    "qwen3-1.7b": ("Qwen3Config", dict(
        hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8,
        head_dim=128, vocab_size=151936, max_position_embeddings=40960, tie_word_embeddings=True)),
    "tiny": ("LlamaConfig", dict(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, vocab_size=49152, max_position_embeddings=2048, tie_word_embeddings=True)),
}


def add_arguments(parser) -> None:
    parser.add_argument("--minutes", type=float, default=1.0, metavar="X", help="of measuring for each. Default: 1")
    parser.add_argument("--random_init", choices=sorted(ARCHITECTURES), metavar="|".join(sorted(ARCHITECTURES)),
                        help="this architecture with random weights instead of MODEL_NAME; needs no download")
    parser.add_argument("--only_ours", action="store_true", help="leave the usual recipe out")


def run(args, settings: Mapping) -> dict:
    """The figures of both recipes. Raises DataError, ModelError, ValueError."""
    if not args.minutes > 0:
        raise ValueError(f"--minutes is {args.minutes:g}, expected a number above 0")
    report = read_rows(settings["DATA_JSON_PATH"], settings["MAX_SEQ_LEN"], settings["CODEBOOK_SIZE"], denoise=False)
    raise_on_errors(report)
    if report.streams.count > 1:
        raise ValueError(f"{report.path} has {report.streams.count} streams; the usual recipe, with which this "
                         "compares, knows one")
    split = split_rows(report.rows, settings["SEED"], settings["HELDOUT_SHARE"], settings["HELDOUT_MAX"])
    check_split(report, split)
    raise_on_errors(report)
    rows = [{"text_query": row.text_query, "codes": row.codes, "participant_id": row.participant_id}
            for row in (report.rows[place] for place in split.train)]
    participants = sorted({row["participant_id"] for row in rows} - {None})
    from model import start_unsloth  # imports torch, which takes seconds
    from motion_llm.network.arithmetic import cpu_arithmetic

    start_unsloth()
    with random_base(args.random_init) as folder:
        settings = dict(settings) | ({"MODEL_NAME": folder} if folder else {})
        dtype = training_dtype(settings)
        peak = matrix_peak(dtype)
        figures = {"ours": _measure(_our_recipe(settings, rows, report.codebook_size, participants), args.minutes)}
        if not args.only_ours:
            figures["usual"] = _measure(_usual_recipe(settings, rows, report.codebook_size, dtype), args.minutes)
            fastest = training_dtype(settings | {"DTYPE": "auto"})
            if fastest != dtype:  # only where DTYPE was set
                figures["usual_fastest"] = _measure(_usual_recipe(settings, rows, report.codebook_size, fastest),
                                                    args.minutes)
        peak["gflops"] = max(peak["gflops"], matrix_peak(dtype)["gflops"])
        for recipe in figures.values():
            recipe["share_of_peak"] = recipe["gflops"] / peak["gflops"]
        if peak["device"] == "cpu":
            peak["arithmetic"] = str(cpu_arithmetic(*_sizes(settings)))
    return {"base": args.random_init or settings["MODEL_NAME"], "data": settings["DATA_JSON_PATH"],
            "rows": len(rows), "peak": peak, **figures}


@contextlib.contextmanager
def random_base(architecture: str | None) -> Iterator[str | None]:
    """A temporary folder with random weights of the architecture and the bundled tokenizer; None without one."""
    if architecture is None:
        yield None
        return
    import torch
    import transformers

    from motion_llm.network.base import bundled_model_folder  # imports torch, which takes seconds

    name, shape = ARCHITECTURES[architecture]
    folder = tempfile.mkdtemp(prefix="motion-llm-")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(bundled_model_folder())
        config = getattr(transformers, name)(**shape, bos_token_id=tokenizer.bos_token_id,
                                             eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            network = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        del network
        yield folder
    finally:
        shutil.rmtree(folder)


def _sizes(settings: Mapping) -> tuple[int, int]:
    """The hidden and the intermediate size of the base."""
    from motion_llm.network.base import base_source, text_config  # imports torch, which takes seconds

    config = text_config(base_source(settings["MODEL_NAME"]), settings["MODEL_NAME"])
    return config.hidden_size, config.intermediate_size


def training_dtype(settings: Mapping):
    """The torch dtype of the frozen weights by DTYPE, as training has it."""
    import torch

    from motion_llm.network.base import weights_dtype  # imports torch, which takes seconds

    return weights_dtype(settings["DTYPE"], *_sizes(settings), not torch.cuda.is_available())


def matrix_peak(dtype) -> dict:
    """The best rate of square matrix products in this torch dtype, in 10^9 operations a second."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    best = 0.0
    for side in PRODUCTS if device == "cpu" else (*PRODUCTS, LARGE_PRODUCT):
        a, b = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
        for _ in range(6):
            started = _now()
            a @ b
            best = max(best, 2 * side**3 / (_now() - started) / 1e9)
    return {"gflops": best, "dtype": str(dtype).removeprefix("torch."), "device": device}


def _now() -> float:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class _Recipe:
    """A way of training to measure. step(batch) makes an update and returns (tokens without padding, scored tokens).
    scored_rows: rows of the output head that are computed for each scored token. choices: its description, text."""

    def __init__(self, network, batches: Callable[[], Iterator], step, scored_rows: int, choices: str):
        self.batches, self.step, self.scored_rows, self.choices = batches, step, scored_rows, choices
        parameters = list(network.named_parameters())
        self.trainable = sum(p.numel() for _, p in parameters if p.requires_grad)
        self.weights = sum(p.numel() for name, p in parameters
                           if "embed_tokens" not in name and "lm_head" not in name and "lora_" not in name)
        self.width = network.config.get_text_config().hidden_size


def _measure(recipe: _Recipe, minutes: float) -> dict:
    """Updates for `minutes`, after a few that are not counted."""
    with _PeakMemory() as memory:
        batches = recipe.batches()
        for batch in itertools.islice(batches, WARM_UP):
            recipe.step(batch)
        clips = tokens = scored = updates = 0
        started = _now()
        for batch in batches:
            batch_tokens, batch_scored = recipe.step(batch)
            clips, tokens, scored, updates = (
                clips + len(batch), tokens + batch_tokens, scored + batch_scored, updates + 1)
            if (seconds := _now() - started) >= 60 * minutes:
                break
    operations = 4 * recipe.weights * tokens + 4 * recipe.width * recipe.scored_rows * scored
    return {"clips_per_second": clips / seconds, "tokens_per_second": tokens / seconds, "updates": updates,
            "gflops": operations / seconds / 1e9, "peak_bytes": memory.peak, "trainable": recipe.trainable,
            "tokens_per_clip": tokens / clips, "choices": recipe.choices}


class _PeakMemory:
    """The peak memory of the process (on a GPU: of torch there) while the context is open. Memory that earlier work
    freed is returned to the system first."""

    def __enter__(self):
        import psutil
        import torch

        gc.collect()
        self.cuda = torch.cuda.is_available()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        elif sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
        self.process, self.peak, self.over = psutil.Process(), 0, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.over.wait(0.02):
            self.peak = max(self.peak, self.process.memory_info().rss)

    def __exit__(self, *exception) -> None:
        import torch

        self.over.set()
        self.thread.join()
        if self.cuda:
            self.peak = torch.cuda.max_memory_allocated()


def _optimizer(parameters, lr: float):
    import torch

    return torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0, fused=True)


def _our_recipe(settings: Mapping, rows, codebook_size: int, participants) -> _Recipe:
    import numpy as np
    import torch

    # These import torch, which takes seconds.
    from collators import ExampleDrawer, collate, length_sorted_batches, micro_batches
    from model import ModelConfig, build
    from motion_llm.training.batch_size import examples_of_update
    from motion_llm.training.memory import make_room
    from motion_llm.training.rates import LORA

    config = ModelConfig(settings["MODEL_NAME"], settings["MAX_SEQ_LEN"], settings["LORA_R"], settings["LORA_ALPHA"],
                         settings["DTYPE"], settings["SEED"], settings["LOAD_IN_4BIT"])
    model = build(config, codebook_size, participants)
    model.train()
    room = make_room(model, config.max_seq_len)
    trained = [p for p in model.network.parameters() if p.requires_grad]
    optimizer = _optimizer(trained, settings["LR"] or LORA)
    drawer = ExampleDrawer(model.template, {"t2m": 1.0}, settings["PID_DROPOUT"], settings["SEED"],
                           lambda: settings["HISTORY_NOISE"], settings["CAPTION_DROPOUT"])
    lengths = [model.template.length("t2m", len(row["text_query"].encode()) // BYTES_A_TOKEN, len(row["codes"]))
               for row in rows]
    batch_size = settings["BATCH_TRAIN"] or examples_of_update(
        len(rows), sum(lengths) / len(rows), int(model.device.type != "cpu"))

    def batches():
        for epoch in itertools.count():
            rng = np.random.default_rng([settings["SEED"], epoch])
            for places in length_sorted_batches(lengths, batch_size, rng):
                yield [drawer("t2m", epoch, place, rows[place]) for place in places]

    def step(examples):
        batch = collate(examples, model.pad_id)
        scored = sum(sum(example.loss_mask) for example in examples)
        for part in micro_batches(batch, room.tokens):
            part = {name: tensor.to(model.device) for name, tensor in part.items()}
            model(**part, num_items_in_batch=scored)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return int(batch["attention_mask"].sum()), scored

    fused = "fused.py" if model.device.type == "cpu" else "Unsloth's kernels"
    return _Recipe(model.network, batches, step, codebook_size + 1,
                   f"batches of {batch_size} clips of like length, {room.tokens} positions at once at "
                   "most, short prompt, motion ids, loss over codes and <MOT_END>, LoRA rank "
                   f"{settings['LORA_R']} and new rows, {fused}")


def _usual_recipe(settings: Mapping, rows, codebook_size: int, dtype) -> _Recipe:
    """The usual recipe in this torch dtype, at the batch size of USUAL_BATCHES that is fastest in short trials."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from motion_llm.network.base import PROJECTIONS, base_source  # imports torch, which takes seconds

    source = base_source(settings["MODEL_NAME"])
    tokenizer = AutoTokenizer.from_pretrained(source)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = AutoModelForCausalLM.from_pretrained(source, dtype=dtype).to(device)
    tokenizer.add_tokens(new_tokens(Streams.one(codebook_size), []), special_tokens=True)
    network.resize_token_embeddings(max(len(tokenizer), network.get_input_embeddings().weight.shape[0]),
                                    mean_resizing=False)
    network.config.tie_word_embeddings = False
    network = get_peft_model(network, LoraConfig(
        r=settings["LORA_R"], lora_alpha=settings["LORA_ALPHA"], target_modules=list(PROJECTIONS),
        modules_to_save=["embed_tokens", "lm_head"], task_type="CAUSAL_LM"))
    network.train()
    optimizer = _optimizer([p for p in network.parameters() if p.requires_grad], 2e-4)
    conversations = [_usual_ids(tokenizer, row) for row in rows]

    def step(examples):
        width = max(len(ids) for ids, _ in examples)
        ids = torch.full((len(examples), width), tokenizer.pad_token_id)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for i, (example, prompt) in enumerate(examples):
            ids[i, :len(example)], mask[i, :len(example)] = torch.tensor(example), 1
            labels[i, prompt:len(example)] = torch.tensor(example[prompt:])
        network(input_ids=ids.to(device), attention_mask=mask.to(device), labels=labels.to(device)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return int(mask.sum()), int((labels[:, 1:] != -100).sum())

    def batches(size: int):
        order = torch.randperm(len(conversations), generator=torch.Generator().manual_seed(settings["SEED"])).tolist()
        endless = (conversations[i] for _ in itertools.count() for i in order)
        while True:
            yield list(itertools.islice(endless, size))

    speeds = {}
    for size in USUAL_BATCHES if device == "cuda" else USUAL_BATCHES[:4]:
        try:
            speeds[size] = _trial(batches(size), step)
        except torch.OutOfMemoryError:  # of a GPU, which larger batches would not fit either
            optimizer.zero_grad()
            torch.cuda.empty_cache()
            break
    best = max(speeds, key=speeds.get)
    trials = ", ".join(f"{size}: {speed:.2f}" for size, speed in speeds.items())
    return _Recipe(network, lambda: batches(best), step, network.get_output_embeddings().weight.shape[0],
                   f"{str(dtype).removeprefix('torch.')}, batches of {best} clips (clips/s in short trials: {trials}), "
                   f"system prompt of {PROMPT_TOKENS} tokens, codes spelled with spaces between, loss over the whole "
                   "vocabulary, LoRA rank "
                   f"{settings['LORA_R']} and both embedding matrices")


def _trial(batches: Iterator, step) -> float:
    """Clips a second over two updates, after one that is not counted."""
    step(next(batches))
    started = _now()
    return sum(len(batch) for batch in itertools.islice(batches, 2) if step(batch)) / (_now() - started)


SYSTEM = ("You are an assistant for human motion. The user describes a movement of a person in a sentence, and you "
          "answer with the sequence of motion tokens that shows it. Every token stands for a short piece of movement. "
          "Use only motion tokens, begin with the opening token and end with the closing one. ")


def _usual_ids(tokenizer, row: Mapping) -> tuple[list[int], int]:
    """The ids of the whole conversation, and the number of those in its prompt."""
    system = tokenizer.encode(SYSTEM * 8, add_special_tokens=False)[:PROMPT_TOKENS]
    turns = [{"role": "system", "content": tokenizer.decode(system)},
             {"role": "user", "content": "Describe the motion: " + row["text_query"]}]
    prompt = tokenizer.encode(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True),
                              add_special_tokens=False)
    spelled = " ".join([MOT_BEGIN, *(f"<motion_{code}>" for code in row["codes"].tolist()), MOT_END])
    answer = tokenizer.encode(spelled + (tokenizer.eos_token or ""), add_special_tokens=False)
    return prompt + answer, len(prompt)


def format_figures(figures: Mapping) -> str:
    peak = figures["peak"]
    head = f"{'':<14}{'clips/s':>9}{'tokens/s':>10}{'of peak':>9}{'memory':>9}{'trainable':>11}{'tokens/clip':>13}"
    lines = [f"{figures['base']} on {figures['data']}, {figures['rows']} training clips, text to motion; peak of "
             f"matrix products {peak['gflops']:,.0f} GFLOP/s ({peak['dtype']}, {peak['device']})", "", head,
             "-" * len(head)]
    titles = {"ours": "ours", "usual": "usual recipe", "usual_fastest": "at its fastest"}
    for name in (name for name in titles if name in figures):
        recipe = figures[name]
        lines.append(f"{titles[name]:<14}{recipe['clips_per_second']:>9.2f}{recipe['tokens_per_second']:>10,.0f}"
                     f"{recipe['share_of_peak']:>9.0%}{recipe['peak_bytes'] / 1e9:>6.2f} GB"
                     f"{recipe['trainable'] / 1e6:>9.1f} M{recipe['tokens_per_clip']:>13.0f}")
    ratios = [f"{figures['ours']['clips_per_second'] / figures[name]['clips_per_second']:.1f} times as many clips a "
              f"second as the {'usual recipe ' * (name != 'usual')}{titles[name]}"
              for name in titles if name != "ours" and name in figures]
    lines += ["", f"ours makes {', '.join(ratios)}"] if ratios else []
    lines += [f"arithmetic: {peak['arithmetic']}"] if "arithmetic" in peak else []
    lines += [f"{titles[name]}: {figures[name]['choices']}" for name in titles if name in figures]
    return "\n".join(lines)
