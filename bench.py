"""Measurements of this project on your machine, one table each: `python bench.py train`, `decode`, `tasks` ...

Every measurement says what it compares. It runs in this process, except the training of `wordings` and each step of
`data`, which run in processes of their own, and the commands of `faults`. --output also writes the figures as JSON.
"""

import argparse
import os
import platform
import sys
from pathlib import Path

import config
from motion_llm.benchmarks import bases as bench_bases
from motion_llm.benchmarks import codec as bench_codec
from motion_llm.benchmarks import curve as bench_curve
from motion_llm.benchmarks import data as bench_data
from motion_llm.benchmarks import decode as bench_decode
from motion_llm.benchmarks import faults as bench_faults
from motion_llm.benchmarks import requests as bench_requests
from motion_llm.benchmarks import scenes as bench_scenes
from motion_llm.benchmarks import tasks as bench_tasks
from motion_llm.benchmarks import train as bench_train
from motion_llm.benchmarks import vllm as bench_vllm
from motion_llm.benchmarks import wordings as bench_wordings
from motion_llm.command_line import Parser, exit_status, printable, start_log
from motion_llm.json_files import write_json

# A module for each command: add_arguments(parser), run(args, settings) -> figures (JSON-able), format_figures(figures)
# -> text. They import torch only when they run.
COMMANDS = {
    "train": (bench_train, "how fast training is, beside the usual recipe of this field"),
    "decode": (bench_decode, "how fast clips are made, beside model.generate"),
    "tasks": (bench_tasks, "how well a model denoises, in-betweens and continues"),
    "requests": (bench_requests, "random requests of every kind, each answer checked"),
    "scenes": (bench_scenes, "scenes of several sentences: whether each is valid, and how segments join"),
    "data": (bench_data, "how a large dataset is prepared: time and memory"),
    "curve": (bench_curve, "held-out NLL against minutes of a finished run, as a picture"),
    "codec": (bench_codec, "what a codec makes of motions: joint error, drift, jerk, seams, sliding"),
    "bases": (bench_bases, "whether tokenizers as they are published go through everything"),
    "vllm": (bench_vllm, "how fast an exported model decodes on vLLM, in the environment that has it"),
    "faults": (bench_faults, "damaged files, kills, odd flags: whether every answer is right or a clear refusal"),
    "wordings": (bench_wordings, "words and combinations of action and style that were never trained"),
}


def machine() -> dict:
    """What the figures depend on."""
    import torch

    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    facts = {"processor": name, "features": processor_features(), "threads": torch.get_num_threads(),
             "cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def processor_features() -> str:
    """The widest vectors that torch uses on this processor, and what it has for products of small numbers."""
    import torch

    flags: set[str] = set()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().lower().splitlines()
        flags = next((set(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "features"))),
                     flags)
    small = sorted(flags & {"avx512_bf16", "amx_bf16", "avx512_vnni", "bf16", "i8mm"})
    return " ".join([torch.backends.cpu.get_cpu_capability(), *small]) + (
        "" if {"avx512_bf16", "amx_bf16", "bf16"} & set(small) else ", no bfloat16")


def _parser() -> Parser:
    parser = Parser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        module.add_arguments(command)
        command.add_argument("--output", metavar="FILE", help="also write the figures there, as JSON")
        config.add_arguments(command)
    return parser


def main() -> int:
    args = _parser().parse_args()
    start_log()
    return exit_status("bench.py", lambda: run(args), usage_error=config.SettingError)


def run(args: argparse.Namespace) -> None:
    module = COMMANDS[args.command][0]
    figures = module.run(args, config.resolve(config.given(args)))
    facts = machine()
    where = f"{facts['processor']}, {facts['features']}, {facts['threads']} threads, torch {facts['torch']}"
    print(printable(f"{module.format_figures(figures)}\n\n{where}{', ' * ('gpu' in facts)}{facts.get('gpu', '')}"))
    if args.output:
        write_json(args.output, {"command": sys.argv[1:], "machine": facts, "figures": figures})


if __name__ == "__main__":
    sys.exit(main())
