"""One trial of `bench.py faults`: a fresh copy of the stock, one random fault, a command, and what is thought of it."""

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from motion_llm.benchmarks import fault_kinds
from motion_llm.benchmarks.fault_commands import BY_NAME, COMMANDS, Command, files_read, is_own
from motion_llm.benchmarks.fault_judge import (
    FINE,
    Expected,
    Judgement,
    changes,
    invalid_result,
    judge,
    other_text,
    refusal_of,
    tree_of,
)
from motion_llm.benchmarks.fault_server import FaultServer, Outcome
from motion_llm.benchmarks.fault_stock import read_rows_of

# Kind -> how often it is tried.
KINDS = {"kill": 4, "flip": 4, "truncate": 2, "missing": 2, "value": 6, "swap": 2, "flag": 4, "full disk": 2, "rows": 1}
ENDLESS = ("max_minutes", "device")  # flags that rightly take as long as they say, or say nothing on a CPU
HEADS = ("motion_config.json", "codec.json", "evaluator.json", "fingerprint.json", "files.json")  # they keep digests
LIMITS = (0, 10, 300, 2000, 10_000, 20_000, 50_000, 100_000)  # bytes of the largest file, for a full disk


@dataclass
class Trial:
    """A trial; fault: in words; line: the command; why: of the verdict; stderr: of the command that was judged."""

    number: int
    kind: str
    command: str
    line: str = ""
    fault: str = ""
    verdict: str = ""
    why: str = ""
    seconds: float = 0.0
    stderr: str = ""


class Trials:
    """Trials on copies of `stock`; every trial follows from the seed and its number."""

    def __init__(self, server: FaultServer, stock: Path, seed: int):
        self.server, self.stock, self.seed = server, stock, seed
        self._expected: dict[str, Expected] = {}
        self._flags: dict[tuple, list[str]] = {}

    def run(self, number: int) -> Trial:
        rng = random.Random(f"{self.seed} {number}")
        kind = rng.choices(list(KINDS), KINDS.values())[0]
        command = BY_NAME["train"] if kind == "rows" else self._command(kind, rng)
        return self.run_kind(kind, command, rng, number)

    def run_kind(self, kind: str, command: Command, rng: random.Random, number: int = 0) -> Trial:
        expected = self.expected(command)
        self._copy()
        trial = Trial(number, kind, command.name, command.line())
        methods = {"kill": self._kill, "flag": self._flag, "full disk": self._full_disk, "rows": self._rows}
        judgement = methods.get(kind, self._file)(trial, command, expected, rng)
        trial.verdict, trial.why = judgement.verdict, judgement.why
        return trial

    def expected(self, command: Command) -> Expected:
        """The undamaged run of the command. Raises ValueError where that fails."""
        if command.name not in self._expected:
            self._copy()
            outcome = self.server.run(command.script, command.arguments, seconds=300)
            if outcome.status != 0:
                raise ValueError(f"the undamaged {command.line()} ended with status {outcome.status}: "
                                 f"{outcome.stderr[-2000:]}")
            self._expected[command.name] = Expected(outcome, tree_of(self.server.folder))
        return self._expected[command.name]

    def _command(self, kind: str, rng: random.Random) -> Command:
        suited = [command for command in COMMANDS if self._suits(kind, command)]
        return rng.choices(suited, [1 if command.slow else 2 for command in suited])[0]

    def _suits(self, kind: str, command: Command) -> bool:
        if kind in ("kill", "full disk"):
            return bool(command.outputs)
        return kind == "flag" or bool(self._files(kind, command))

    def _files(self, kind: str, command: Command) -> list[str]:
        """The files of the command that the kind of fault can damage."""
        files = files_read(command, self.stock)
        if kind == "value":
            return [path for path in files if fault_kinds.is_json(path) and (self.stock / path).stat().st_size]
        if kind == "swap":
            return [path for path in files if fault_kinds.others_of(path, self._all_files())]
        return files

    def _all_files(self) -> list[str]:
        return sorted(path.relative_to(self.stock).as_posix() for path in self.stock.rglob("*") if path.is_file())

    def _copy(self) -> None:
        shutil.rmtree(self.server.folder)
        shutil.copytree(self.stock, self.server.folder)

    def _start(self, trial: Trial, command: Command, extra: Sequence[str] = (), **options) -> Outcome:
        usual = self._expected[command.name].outcome.seconds if command.name in self._expected else 0
        outcome = self.server.run(command.script, [*command.arguments, *extra],
                                  seconds=max(60.0, 8 * usual), **options)
        trial.seconds += outcome.seconds
        trial.stderr = outcome.stderr
        return outcome

    def _difference(self, command: Command, outcome: Outcome, paths: Sequence[str] = ()) -> str:
        expected = self._expected[command.name]
        difference = changes(expected.tree, tree_of(self.server.folder), paths)
        if not difference and command.script != "train_pipeline":  # whose text has minutes
            return other_text(expected.outcome.stdout, outcome.stdout)
        return difference

    # ------------------------------------------------------------ the kinds of fault

    def _file(self, trial: Trial, command: Command, expected: Expected, rng: random.Random) -> Judgement:
        """A damaged, missing or swapped file."""
        folder, path = self.server.folder, rng.choice(self._files(trial.kind, command))
        if trial.kind == "swap":
            done = fault_kinds.swap(folder, path, rng.choice(fault_kinds.others_of(path, self._all_files())))
        else:
            change = {"flip": fault_kinds.flip, "truncate": fault_kinds.truncate, "missing": fault_kinds.remove,
                      "value": fault_kinds.set_value}[trial.kind]
            done = change(folder / path, rng)
        trial.fault = f"{path}: {done}"
        outcome = self._start(trial, command)
        own = is_own(path)
        return judge(outcome, command.script, self._names(path), self._difference(command, outcome, [path]), own,
                     invalid_result(command, outcome, folder) if own and outcome.status == 0 else "")

    def _names(self, path: str) -> list[str]:
        """Texts that name a damaged file."""
        folder, _, name = path.rpartition("/")
        if path.startswith(("clips/", "layout/")):
            return [name, name.rpartition(".")[0]]  # an id
        if name in HEADS:  # with a wrong digest, the other file is as likely the damaged one
            return [name, folder, *(other.name for other in (self.stock / folder).iterdir() if other.is_file())]
        return [name]

    def _kill(self, trial: Trial, command: Command, expected: Expected, rng: random.Random) -> Judgement:
        """One or two kills, by time or before a change of a file; then the same command."""
        for _ in range(rng.choice((1, 1, 2))):
            if rng.random() < 0.4:
                options = {"kill_after": rng.random() * expected.outcome.seconds}
            else:
                options = {"kill_at_change": 1 + rng.randrange(max(1, expected.outcome.changes))}
            name, value = next(iter(options.items()))
            trial.fault += f"{'; ' if trial.fault else ''}{name} {value:.3g} of {expected.outcome.seconds:.3g} s, " \
                           f"{expected.outcome.changes} changes"
            outcome = self._start(trial, command, **options)
            if outcome.status != -9 or outcome.timed_out:
                trial.fault += " (it had ended)"
                return judge(outcome, command.script, (), self._difference(command, outcome), own=False)
        before = changes(expected.tree, tree_of(self.server.folder))
        outcome = self._start(trial, command)
        judgement = judge(outcome, command.script, (), self._difference(command, outcome), own=False)
        if outcome.status in (1, 2) and judgement.verdict not in ("traceback", "hung"):
            if not before:
                return Judgement("same", "all was written before the kill")
            return Judgement("different", f"refused after the kill: {refusal_of(outcome, command.script)}"[:400])
        return judgement

    def _flag(self, trial: Trial, command: Command, expected: Expected, rng: random.Random) -> Judgement:
        flag = rng.choice(self.flags(command))
        value = fault_kinds.flag_value(flag, rng)
        trial.fault = f"--{flag}={fault_kinds.shown(value)}"
        trial.line = command.line([trial.fault])
        outcome = self._start(trial, command, [f"--{flag}={value}"])
        names = [f"--{flag}", flag.upper(), flag.replace("_", " "), flag.removesuffix("_id")]
        if value.strip():  # such as the path of a file that is not there
            names += [value, ascii(value)[1:-1], repr(value)[1:-1]]
        return judge(outcome, command.script, names, self._difference(command, outcome), own=True, own_flag=True,
                     invalid=invalid_result(command, outcome, self.server.folder) if outcome.status == 0 else "")

    def flags(self, command: Command) -> list[str]:
        """The command's flags that take a value."""
        key = command.script, *command.subcommand
        if key not in self._flags:
            outcome = self.server.run(command.script, [*command.subcommand, "--help"])
            self._flags[key] = [flag for flag in fault_kinds.flags_in(outcome.stdout) if flag not in ENDLESS]
        return self._flags[key]

    def _full_disk(self, trial: Trial, command: Command, expected: Expected, rng: random.Random) -> Judgement:
        """Files that cannot grow beyond a limit; then the same command without it."""
        before = tree_of(self.server.folder)
        written = [path for path, digest in expected.tree.items() if before.get(path) != digest]
        names = sorted({part for path in (*written, *command.outputs) for part in path.split("/")})
        limit = rng.choice(LIMITS)
        trial.fault = f"no file can have more than {limit} bytes"
        outcome = self._start(trial, command, largest_file=limit)
        judgement = judge(outcome, command.script, names, self._difference(command, outcome), own=False)
        if outcome.status == 0 or judgement.verdict not in FINE:
            return judgement
        stderr = trial.stderr
        outcome = self._start(trial, command)
        again = judge(outcome, command.script, (), self._difference(command, outcome), own=False)
        if again.verdict == "same":
            trial.stderr = stderr
            return judgement
        return Judgement("traceback" if again.verdict == "traceback" else "different",
                         f"with space again: {again.verdict}, {again.why}")

    def _rows(self, trial: Trial, command: Command, expected: Expected, rng: random.Random) -> Judgement:
        """A dataset with odd rows: what --check accepts must train, be evaluated and be asked for."""
        folder, check = self.server.folder, BY_NAME["train --check"]
        rows, trial.fault = fault_kinds.odd_rows(read_rows_of(self.stock), rng)
        fault_kinds.write_rows(folder / "data.json", rows)
        checked = self._start(trial, check)
        judgement = judge(checked, check.script, ["data.json"], "other rows", own=True)
        if judgement.verdict not in FINE:
            return judgement
        trained = self._start(trial, command)
        if checked.status and not trained.status:
            return Judgement("different", "training accepts what --check refuses")
        if trained.status and (folder / "new" / "stage1_mlm").is_dir():
            return Judgement("different", f"trained, and then refused: {trained.stderr[-300:]}")
        judgement = judge(trained, command.script, ["data.json"], "other rows", own=True)
        if judgement.verdict not in FINE or trained.status:
            return judgement
        return self._ask_for_rows(trial, rows) or judgement

    def _ask_for_rows(self, trial: Trial, rows: list) -> Judgement | None:
        """None if the evaluation and generation accept the captions that were trained."""
        model = "--model_path=new/stage3_t2m_sft"
        usual = {row["text_query"] for row in read_rows_of(self.stock)}
        captions = [row["text_query"] for row in rows if isinstance(row, dict) and isinstance(row["text_query"], str)]
        captions = sorted({*captions} - usual)
        asked = [(BY_NAME["inference t2m"], [model, f"--prompt={caption}"]) for caption in captions]
        for command, extra in [(BY_NAME["evaluate"], [model]), *asked]:
            if any("\0" in argument for argument in extra):
                continue  # no command line has one
            outcome = self._start(trial, command, extra)
            judgement = judge(outcome, command.script, (), "other rows", own=True)
            if outcome.status in (1, 2) and judgement.verdict == "unnamed":
                judgement = Judgement("different", f"trained, but refused by {command.script}.py: {judgement.why}")
            if judgement.verdict not in FINE:
                trial.line = command.line(map(ascii, extra))
                return judgement
        return None
