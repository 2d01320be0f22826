"""`python bench.py faults --minutes 5 --seed N`: random faults in files, flags and processes; each answer is judged.

It makes a tiny model and everything around it once, by the project's own commands (fault_stock.py). A trial then takes
a fresh copy, damages one thing (fault_kinds.py), runs a command (fault_commands.py) and judges the answer
(fault_judge.py): the same result as without the fault, or a few lines that name the file or the flag; never a
traceback, a hang or another result. The commands run in forks of one process (fault_server.py), so a second has several
trials. --program tries another checkout, by its command lines alone.
"""

import contextlib
import json
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from motion_llm.benchmarks.fault_judge import FINE, VERDICTS
from motion_llm.benchmarks.fault_server import FaultServer
from motion_llm.benchmarks.fault_stock import make_stock
from motion_llm.benchmarks.fault_trials import KINDS, Trial, Trials

log = logging.getLogger(__name__)

HERE = Path(__file__).resolve().parents[2]
MOST_EXAMPLES = 20


def add_arguments(parser) -> None:
    parser.add_argument("--minutes", type=float, default=5.0, metavar="X", help="of trials. Default: 5")
    parser.add_argument("--only", type=int, metavar="TRIAL", help="run this trial alone, and show what it wrote")
    parser.add_argument("--program", default=str(HERE), metavar="DIR", help="the checkout of this project whose "
                        "commands are tried. Default: this one")
    parser.add_argument("--folder", metavar="DIR", help="keep the files of the trials there, and use those that an "
                        "earlier start has made. Default: a temporary folder")
    parser.add_argument("--trials", metavar="FILE", help="write every trial there as it ends, as JSON Lines")


def run(args, settings: Mapping) -> dict:
    """The figures. Raises ValueError where an undamaged command fails."""
    if not args.minutes > 0:
        raise ValueError(f"--minutes is {args.minutes:g}, expected a number above 0")
    program = Path(args.program).resolve()
    if not (program / "train_pipeline.py").is_file():
        raise ValueError(f"--program {args.program} has no train_pipeline.py, expected a checkout of this project")
    with _folder(args.folder) as folder, prepared(program, folder) as server:
        trials = Trials(server, folder / "stock", settings["SEED"])
        if args.only is not None:
            done = [trials.run(args.only)]
            log.info("%s\n%s", done[0].line, done[0].stderr)
        else:
            done = list(_until(trials, time.monotonic() + 60 * args.minutes, args.trials))
    return {"program": str(program), "seed": settings["SEED"], **figures_of(done)}


@contextlib.contextmanager
def _folder(path: str | None) -> Iterator[Path]:
    if path is None:
        with tempfile.TemporaryDirectory(prefix="motion-llm-faults-") as name:
            yield Path(name).resolve()
    else:
        Path(path).mkdir(parents=True, exist_ok=True)
        yield Path(path).resolve()


@contextlib.contextmanager
def prepared(program: Path, folder: Path) -> Iterator[FaultServer]:
    """A server of the program's commands, with `folder`/stock, which is made where it does not exist."""
    (folder / "trial").mkdir(exist_ok=True)
    log.info("starting a process that has imported %s", program)
    with contextlib.closing(FaultServer(program, folder / "trial")) as server:
        if not (folder / "stock").is_dir():
            log.info("making the undamaged files")
            make_stock(server)
            (folder / "trial").rename(folder / "stock")
            (folder / "trial").mkdir()
        yield server


def _until(trials: Trials, end: float, path: str | None) -> Iterator[Trial]:
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(path, "w", encoding="utf-8")) if path else None
        number, told = 0, time.monotonic()
        while time.monotonic() < end:
            trial = trials.run(number)
            if file is not None:
                file.write(json.dumps(asdict(trial)) + "\n")
                file.flush()
            number += 1
            if time.monotonic() > told + 30:
                told = time.monotonic()
                log.info("  %d trials, %.1f minutes to go", number, max(0, end - told) / 60)
            yield trial


def figures_of(trials: Sequence[Trial]) -> dict:
    """Counts of verdicts by kind of fault and by command, and every trial that was not fine."""
    def counts(name: str) -> dict:
        groups: dict[str, Counter] = {}
        for trial in trials:
            groups.setdefault(getattr(trial, name), Counter())[trial.verdict] += 1
        return {group: dict(count) for group, count in groups.items()}

    kinds = counts("kind")
    return {"trials": len(trials), "kinds": {kind: kinds[kind] for kind in KINDS if kind in kinds},
            "commands": dict(sorted(counts("command").items())),
            "not_fine": [asdict(trial) | {"stderr": trial.stderr[-2000:]} for trial in trials
                         if trial.verdict not in FINE]}


def format_figures(figures: Mapping) -> str:
    titles = ("tried", *VERDICTS)
    head = f"{'':<24}" + "".join(f"{title:>11}" for title in titles)
    lines = [f"{figures['trials']} trials, seed {figures['seed']}, of {figures['program']}"]
    for name in ("kinds", "commands"):
        lines += ["", head.replace(" " * 24, f"{'fault' if name == 'kinds' else 'command':<24}", 1), "-" * len(head)]
        lines += [_row(group, counts) for group, counts in figures[name].items()]
        if name == "kinds":
            total = sum((Counter(counts) for counts in figures[name].values()), Counter())
            lines.append(_row("all", total))
    return "\n".join([*lines, *_examples(figures["not_fine"])])


def _row(name: str, counts: Mapping[str, int]) -> str:
    numbers = [sum(counts.values()), *(counts.get(verdict, 0) for verdict in VERDICTS)]
    return f"{name:<24}" + "".join(f"{number or '-':>11}" for number in numbers)


def _examples(not_fine: Sequence[Mapping]) -> list[str]:
    """One of each sort of what was not fine, at most MOST_EXAMPLES."""
    sorts: dict[tuple, Mapping] = {}
    for trial in not_fine:
        sorts.setdefault((trial["verdict"], trial["command"], trial["why"][:40]), trial)
    lines = []
    for trial in list(sorts.values())[:MOST_EXAMPLES]:
        lines += ["", f"--only {trial['number']}: {trial['verdict']}: {ascii(trial['why'])[1:-1]}",
                  f"  {trial['line']}", f"  {trial['kind']}: {trial['fault']}"]
    return lines
