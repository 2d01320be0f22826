"""benchmarks/faults.py: what is damaged and how an answer is judged; one trial of each kind runs on the tiny model."""

import ast
import json
import os
import random
import select
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from motion_llm.benchmarks import fault_kinds, faults
from motion_llm.benchmarks.fault_commands import BY_NAME, COMMANDS, files_read, is_own
from motion_llm.benchmarks.fault_judge import CODES, changes, invalid_result, judge, tree_of
from motion_llm.benchmarks.fault_server import PROGRAM, Outcome
from motion_llm.benchmarks.fault_stock import make_stock
from motion_llm.benchmarks.fault_trials import KINDS, Trial, Trials

ROOT = Path(__file__).parents[2]
TRACE = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\n'


# What is thought of an answer


def judged(status: int, stderr: str = "", stdout: str = "", difference: str = "", own: bool = False,
           names: tuple = ("codec.json",), invalid: str = "", own_flag: bool = False, **outcome) -> tuple[str, str]:
    judgement = judge(Outcome(status, stdout, stderr, **outcome), "view", names, difference, own, invalid, own_flag)
    return judgement.verdict, judgement.why


@pytest.mark.parametrize(("verdict", "why", "answer"), [
    ("same", "", dict(status=0, stderr="a line of the log\n")),
    ("different", "a.json has other content", dict(status=0, difference="a.json has other content")),
    ("accepted", "", dict(status=0, difference="a.json has other content", own=True)),
    ("different", "a code of 99", dict(status=0, difference="other", own=True, invalid="a code of 99")),
    ("refused", "is damaged", dict(status=1, stderr="log\nview.py: c/codec.json is damaged\n")),
    ("refused", "--fps", dict(status=2, stderr="usage: view.py\nview.py: error: argument --fps: 'x'\n",
                              names=("--fps",))),
    ("refused", "--codes", dict(status=2, stderr="usage: view.py fit\nview.py fit: error: argument --codes: 'x'\n",
                                names=("--codes",))),
    ("refused", "row 3", dict(status=1, stdout="codec.json\n  row 3 is odd\n", stderr="log\n")),
    ("unnamed", "none of codec.json", dict(status=1, stderr="log of codec.json\nview.py: Expecting value: line 1\n")),
    ("unnamed", "none of codec.json", dict(status=1, stderr="view.py: subcodec.json is damaged\n")),
    ("unnamed", "does not begin on a line", dict(status=1, stderr="50% |###  | 4/8 view.py: codec.json is bad\n")),
    ("unnamed", "no message", dict(status=1, stderr="codec.json\n")),
    ("unnamed", "14 lines", dict(status=1, stderr="view.py: codec.json" + "\n - a row" * 13)),
    ("unnamed", "characters", dict(status=1, stderr=f"view.py: codec.json {'a' * 4000}")),
    ("unnamed", "raw: '\\x1b'", dict(status=1, stderr="view.py: codec.json has \x1b[31mred\n")),
    ("same", "", dict(status=0, stderr="\x1b[1;33mwarning of a library\x1b[0m\n")),
    ("unnamed", "raw: '\\x92'", dict(status=0, stdout="caf\x92\n")),
    ("traceback", "KeyError: 'a'", dict(status=1, stderr=f"{TRACE}KeyError: 'a'\n")),
    ("traceback", "", dict(status=0, stderr=f"Exception ignored in: <generator>\n{TRACE}ValueError\n")),
    ("traceback", "signal 11", dict(status=-11)),
    ("traceback", "status 120", dict(status=120)),
    ("hung", "out of memory", dict(status=1, stderr=f"{TRACE}MemoryError\n")),
    ("hung", "no end after 60", dict(status=-9, timed_out=True, seconds=60.0)),
    ("hung", "", dict(status=-9, timed_out=True, own_flag=True, seconds=60.0, silent_seconds=59.0)),
    ("accepted", "progress", dict(status=-9, timed_out=True, own_flag=True, seconds=60.0, silent_seconds=1.0)),
])
def test_an_answer_is_judged(verdict, why, answer):
    found, reason = judged(**answer)
    assert found == verdict and why in reason


def test_other_other_missing_and_left_over_files_are_seen_and_times_are_not(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "empty").mkdir(parents=True)
        (tmp_path / name / "x.json").write_text(json.dumps({"seconds": name, "loss": [{"minutes": name, "nll": 1}]}))
        (tmp_path / name / "w.bin").write_bytes(b"w")
    expected = tree_of(tmp_path / "a")
    assert changes(expected, tree_of(tmp_path / "b")) == ""
    (tmp_path / "b" / "x.json").write_text(json.dumps({"seconds": 3, "loss": [{"minutes": 3, "nll": 2}]}))
    (tmp_path / "b" / "w.bin").unlink()
    (tmp_path / "b" / ".w.saving").mkdir()
    actual = tree_of(tmp_path / "b")
    assert changes(expected, actual) == ".w.saving is left over; w.bin is missing; x.json has other content"
    assert changes(expected, actual, but=["w.bin", ".w.saving"]) == "x.json has other content"


@pytest.mark.parametrize(("command", "stdout", "wrong"), [
    ("inference t2m", "3 4 5\n0 15\n", ""), ("inference t2m", f"3 {CODES}\n", "it printed"),
    ("inference t2m", "\n", "it printed nothing"), ("inference t2m", "-1 3\n", "it printed"),
    ("inference --prompts_file", '{"motion_tokens": "3 4"}\n', ""),
    ("inference --prompts_file", '{"motion_tokens": ""}\n', "it printed"),
    ("inference m2t", "a person walks\n", "")])
def test_tokens_outside_the_codebook_are_invalid(command, stdout, wrong, tmp_path):
    reason = invalid_result(BY_NAME[command], Outcome(0, stdout, ""), tmp_path)
    assert (wrong in reason) if wrong else reason == ""


def test_a_dataset_with_a_code_outside_the_codebook_is_invalid(tmp_path):
    for tokens, valid in (("3 4", True), ("3 99", False), ("", False)):
        (tmp_path / "new.json").write_text(json.dumps([{"text_query": "a", "motion_tokens": tokens}]))
        assert (invalid_result(BY_NAME["codec encode"], Outcome(0, "", ""), tmp_path) == "") == valid
        imported = invalid_result(BY_NAME["import_tokens"], Outcome(0, "", ""), tmp_path)
        assert (imported == "") == (tokens != "")  # a code may be anything there


# The faults


def damaged(change, content: bytes, seed: int, path: Path) -> tuple[bytes, str]:
    path.write_bytes(content)
    told = change(path, random.Random(seed))
    return path.read_bytes(), told


@pytest.mark.parametrize("change", [fault_kinds.flip, fault_kinds.truncate, fault_kinds.set_value])
def test_a_fault_follows_from_its_seed(change, tmp_path):
    content = json.dumps({"a": [1, 2, {"b": "text"}], "c": list(range(50))}).encode()
    first, again = ([damaged(change, content, seed, tmp_path / "x.json") for seed in range(20)] for _ in range(2))
    assert first == again and len({told for _, told in first}) > 5


@pytest.mark.parametrize("seed", range(5))
def test_flip_changes_the_bits_that_it_names(seed, tmp_path):
    content = bytes(range(200))
    now, told = damaged(fault_kinds.flip, content, seed, tmp_path / "x")
    bits = [f"byte {place}, bit {bit}" for place in range(200) for bit in range(8)
            if (now[place] ^ content[place]) >> bit & 1]
    assert len(now) == 200 and 1 <= len(bits) <= 3
    assert sorted(told.removeprefix("bits flipped: ").split(", byte ")) == sorted(
        bit if told.startswith(f"bits flipped: {bit}") else bit.removeprefix("byte ") for bit in bits)


def test_truncate_cuts_to_what_it_says_and_often_to_nothing(tmp_path):
    sizes = set()
    for seed in range(30):
        now, told = damaged(fault_kinds.truncate, bytes(range(100)), seed, tmp_path / "x")
        assert now == bytes(range(100))[:len(now)] and told == f"cut from 100 to {len(now)} bytes"
        sizes.add(len(now))
    assert 0 in sizes and len(sizes) > 5 and max(sizes) < 100


def values_of(content: object, place: str = "") -> dict[str, str]:
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return {place: repr(content)} | {
        name: value for key, part in pairs for name, value in values_of(part, f"{place} / {key}").items()}


def test_set_value_changes_one_value_of_a_json_file(tmp_path):
    content, kinds = {"a": 1, "b": {"c": "text", "d": [5, 6]}}, set()
    for seed in range(60):
        now, told = damaged(fault_kinds.set_value, json.dumps(content).encode(), seed, tmp_path / "x.json")
        place = told.removeprefix("value ").split(":")[0]
        if fault_kinds.shown(fault_kinds.DEEP) in told:
            assert b"[" * 100_000 in now
            continue
        before, after = values_of(content), values_of(json.loads(now))
        if place != "of the whole file":
            changed = {name for name in before if before[name] != after.get(name)}
            assert all(f" / {place}".startswith(name) or name.startswith(f" / {place}") for name in changed), told
        kinds.add(told.rpartition("replaced by ")[2])
    assert len(kinds) > 12


def test_set_value_changes_one_line_of_json_lines(tmp_path):
    content = b'{"a": 1}\n{"a": 2}\n{"a": 3}\n'
    now, _ = damaged(fault_kinds.set_value, content, 1, tmp_path / "x.jsonl")
    assert sum(a != b for a, b in zip(now.splitlines(), content.splitlines(), strict=True)) == 1


def test_an_empty_file_is_made_longer(tmp_path):
    for change in (fault_kinds.flip, fault_kinds.truncate):
        assert len(damaged(change, b"", 0, tmp_path / "x")[0]) > 0


def test_swap_takes_the_file_of_the_same_name_in_another_folder(tmp_path):
    for name in ("a/x.json", "b/x.json", "b/y.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert fault_kinds.others_of("a/x.json", ["a/x.json", "b/x.json", "b/y.json"]) == ["b/x.json"]
    assert fault_kinds.swap(tmp_path, "a/x.json", "b/x.json") == "replaced by b/x.json"
    assert (tmp_path / "a/x.json").read_text() == "b/x.json"


def test_odd_rows_are_those_that_are_named_and_follow_from_the_seed():
    rows = [{"text_query": f"caption {i}", "motion_tokens": "3 4"} for i in range(10)]
    told = set()
    for seed in range(40):
        odd, text = fault_kinds.odd_rows(rows, random.Random(seed))
        assert json.dumps(odd) == json.dumps(fault_kinds.odd_rows(rows, random.Random(seed))[0])
        other = [place for place in range(10) if odd[place] != rows[place]]
        assert other and all(f"row {place}" in text for place in other)
        told.add(text)
    assert len(told) > 30 and rows[0] == {"text_query": "caption 0", "motion_tokens": "3 4"}


def test_flags_that_take_a_value_are_read_from_help():
    text = ("usage: a.py [--b B]\n\noptions:\n  -h, --help  show\n  --model_path MODEL_PATH\n             a folder\n"
            "  --stream              print --all of it\n  --task {a,b}  one\n")
    assert fault_kinds.flags_in(text) == ["model_path", "task"]


def test_no_written_file_is_a_device():
    values = {fault_kinds.flag_value("output", random.Random(seed)) for seed in range(300)}
    assert "/dev/zero" not in values and "" in values
    assert not [value for value in fault_kinds.FLAG_VALUES if value.startswith(("/", "..")) and value != "/dev/zero"]


def test_a_users_own_files_may_change_a_result_and_those_with_digests_may_not():
    assert all(map(is_own, ("data.json", "clips/clip0_0.bvh", "base/model.safetensors", "layout/texts/a.txt")))
    assert not any(map(is_own, ("run/stage3_t2m_sft/motion_config.json", "codec/codec.json", "run/metrics.json",
                                "half/checkpoints/stage2_multitask/checkpoint-8/optimizer.pt")))


# Trials


class ScriptedServer:
    """Answers with these outcomes in turn; each may write a file first."""

    def __init__(self, folder: Path, *answers: tuple[Outcome, dict[str, str]]):
        self.folder, self.answers = folder, list(answers)

    def run(self, script, arguments, **options):
        outcome, files = self.answers.pop(0)
        for name, text in files.items():
            (self.folder / name).write_text(text)
        return outcome


DONE, KILLED = Outcome(0, "done\n", "", changes=5, seconds=1.0), Outcome(-9, "", "")
BUSY = Outcome(1, "", "codec.py: new.bvh holds something already\n")
FULL = Outcome(1, "", "codec.py: [Errno 27] File too large: 'new.bvh'\n")
WHOLE, PART = {"new.bvh": "whole"}, {"new.bvh": "part"}


@pytest.mark.parametrize(("kind", "verdict", "why", "answers"), [
    ("kill", "same", "", [(KILLED, PART), (DONE, WHOLE)]),
    ("kill", "different", "new.bvh has other content", [(KILLED, PART), (DONE, PART)]),
    ("kill", "different", "left over", [(KILLED, {".new.saving": "part"}), (DONE, WHOLE)]),
    ("kill", "different", "refused after the kill: codec.py: new.bvh holds", [(KILLED, PART), (BUSY, {})]),
    ("kill", "same", "written before", [(KILLED, WHOLE), (BUSY, {})]),
    ("kill", "same", "", [(DONE, WHOLE)]),
    ("kill", "different", "stdout has 'other' instead of 'done'", [(KILLED, {}), (Outcome(0, "other\n", ""), WHOLE)]),
    ("full disk", "refused", "new.bvh", [(FULL, {}), (DONE, WHOLE)]),
    ("full disk", "different", "with space again: different, .new.saving is left over",
     [(FULL, {".new.saving": "part"}), (DONE, WHOLE)]),
    ("full disk", "unnamed", "none of", [(Outcome(1, "", "codec.py: [Errno 27] File too large\n"), {})]),
    ("full disk", "different", "new.bvh has other content", [(DONE, PART)]),
    ("missing", "refused", "codebook.npz", [(Outcome(1, "", "codec.py: codec/codebook.npz is missing\n"), {})]),
    ("missing", "unnamed", "none of codebook.npz", [(Outcome(1, "", "codec.py: no such file\n"), {})])])
def test_what_a_trial_does_after_its_fault(kind, verdict, why, answers, tmp_path):
    for name in ("stock/codec", "trial"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "stock" / "codec" / "codebook.npz").write_bytes(b"vectors")
    trials = Trials(ScriptedServer(tmp_path / "trial", (DONE, WHOLE), *answers), tmp_path / "stock", seed=0)
    seed = next(seed for seed in range(9) if random.Random(seed).choice((1, 1, 2)) == 1)  # one kill
    trial = trials.run_kind(kind, BY_NAME["codec decode"], random.Random(seed))
    assert trial.verdict == verdict and why in trial.why, trial
    assert trials.server.answers == []


def rows_judged(tmp_path: Path, *answers: tuple[Outcome, dict[str, str]], rows: str = '[{"text_query": "a"}]'):
    """The verdict on a dataset with odd rows, where the commands answer so."""
    for name in ("stock", "trial"):
        (tmp_path / name).mkdir()
    (tmp_path / "stock" / "data.json").write_text(rows)
    trials = Trials(ScriptedServer(tmp_path / "trial", (DONE, {}), *answers), tmp_path / "stock", seed=0)
    trial = trials.run_kind("rows", BY_NAME["train"], random.Random(0))
    return trial.verdict, trial.why


def test_what_check_accepts_must_be_trained_evaluated_and_generated(tmp_path, monkeypatch):
    monkeypatch.setattr(fault_kinds, "odd_rows", lambda rows, rng: ([{"text_query": "odd"}], "row 0 is odd"))
    refusal = {name: (Outcome(1, "", f"{name}.py: data.json: row 0 is odd\n"), {})
               for name in ("train_pipeline", "evaluate", "inference")}
    for number, (verdict, why, answers) in enumerate([
            ("accepted", "", [(DONE, {})] * 4),
            ("refused", "data.json", [refusal["train_pipeline"]] * 2),
            ("different", "training accepts", [refusal["train_pipeline"], (DONE, {})]),
            ("different", "refused by evaluate.py", [(DONE, {})] * 2 + [refusal["evaluate"]]),
            ("different", "refused by inference.py", [(DONE, {})] * 3 + [refusal["inference"]])]):
        (tmp_path / str(number)).mkdir()
        found, reason = rows_judged(tmp_path / str(number), *answers)
        assert found == verdict and why in reason, (number, found, reason)


class FakeServer:
    """Answers without running anything."""

    def __init__(self, folder: Path):
        self.folder, self.lines = folder, []

    def run(self, script, arguments, **options):
        self.lines.append((script, tuple(arguments), tuple(options.items())))
        return Outcome(0, "  --tokens N  a number\n  --prompt TEXT  a sentence\n", "", changes=5, seconds=1.0)


def made_up(folder: Path, seed: int) -> list[tuple]:
    stock = folder / "stock"
    for name in ("data.json", "codec/codec.json", "other_codec/codec.json", "base/config.json", "clip.npy",
                 "run/stage3_t2m_sft/motion_config.json", "run/stage2_multitask/motion_config.json",
                 "clips/clip0_0.bvh", "captions.json"):
        (stock / name).parent.mkdir(parents=True, exist_ok=True)
        (stock / name).write_text(json.dumps([{"text_query": "a", "motion_tokens": "3 4"}] * 3))
    (folder / "trial").mkdir()
    trials = Trials(FakeServer(folder / "trial"), stock, seed)
    return [(trial.kind, trial.command, trial.line, trial.fault) for trial in map(trials.run, range(60))]


def test_the_same_seed_gives_the_same_trials(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    first = made_up(tmp_path / "a", 1)
    assert made_up(tmp_path / "b", 1) == first != made_up(tmp_path / "c", 2)
    assert {kind for kind, *_ in first} == set(KINDS)


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    """Real trials, without the commands that need an evaluation."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "trial").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faults, "make_stock", lambda server: make_stock(server, evaluated=False))
        with faults.prepared(ROOT, folder) as server:
            yield Trials(server, folder / "stock", seed=0)


def test_the_stock_has_files_for_every_command(trials):
    for command in COMMANDS:
        for pattern in command.reads:
            if "evaluat" not in command.name:
                assert list(trials.stock.glob(pattern)), (command.name, pattern)
    assert list((trials.stock / "half" / "checkpoints" / "stage2_multitask").glob("checkpoint-*"))
    assert files_read(BY_NAME["codec decode"], trials.stock) == ["codec/codebook.npz", "codec/codec.json"]


@pytest.mark.parametrize(("kind", "command", "seed"), [
    ("kill", "export", 0), ("kill", "train resumed", 1), ("flip", "codec decode", 0), ("truncate", "inference t2m", 0),
    ("missing", "inference denoise", 0), ("value", "codec decode", 1), ("swap", "inference html", 0),
    ("flag", "view bvh", 0), ("full disk", "codec encode", 0), ("rows", "train", 0)])
def test_one_trial_of_each_kind_runs(kind, command, seed, trials):
    stock = tree_of(trials.stock)
    trial = trials.run_kind(kind, BY_NAME[command], random.Random(seed))
    assert trial.verdict in ("same", "accepted", "refused"), trial
    assert trial.fault and trial.seconds > 0 and tree_of(trials.stock) == stock
    if kind in ("flip", "truncate", "missing"):
        assert trial.verdict == "refused"  # a digest stands for each of these files


def test_a_silent_loss_is_seen(trials, monkeypatch):
    """A command whose answer depends on a file that is not the user's, and that no digest guards."""
    monkeypatch.setattr("motion_llm.benchmarks.fault_trials.is_own", lambda path: False)
    monkeypatch.setattr(fault_kinds, "flip", lambda path, rng: path.write_text("a person bows\n") and "other text")
    command = BY_NAME["inference --prompts_file"]
    monkeypatch.setattr(trials, "_files", lambda kind, command: ["prompts.txt"])
    trial = trials.run_kind("flip", command, random.Random(0))
    assert trial.verdict == "different" and "answers.jsonl has other content" in trial.why


def test_the_server_kills_before_a_change_and_limits_time_files_and_memory(trials):
    command, server = BY_NAME["codec decode"], trials.server

    def run(**options):
        shutil.rmtree(server.folder)
        shutil.copytree(trials.stock, server.folder)
        return server.run(command.script, command.arguments, **options)

    whole = run()
    assert whole.status == 0 and whole.changes > 1 and (server.folder / "new.bvh").is_file()
    assert run(kill_at_change=1).status == -9 and not (server.folder / "new.bvh").exists()
    assert run(kill_at_change=whole.changes + 1).status == 0
    late = run(seconds=0.0)
    assert late.timed_out and late.status == -9
    full = run(largest_file=10)
    assert full.status == 1 and "new.bvh" in full.stderr and not (server.folder / "new.bvh").exists()
    command = BY_NAME["inference t2m"]
    assert judge(run(memory=0), "inference", (), "", own=False).verdict == "hung"  # loading the model needs some


# The table


def test_the_table_counts_and_shows_one_of_each_sort():
    done = [Trial(0, "flip", "export", "export.py", "x: bits", "same"),
            Trial(1, "flip", "export", "export.py", "x: bits", "traceback", "KeyError: 'a'"),
            Trial(2, "kill", "export", "export.py", "at 3", "traceback", "KeyError: 'a'"),
            Trial(3, "kill", "codec fit", "codec.py fit", "at 3", "different", "x is \x1b left over")]
    figures = faults.figures_of(done)
    assert figures["kinds"] == {"kill": {"traceback": 1, "different": 1}, "flip": {"same": 1, "traceback": 1}}
    assert [trial["number"] for trial in figures["not_fine"]] == [1, 2, 3]
    text = faults.format_figures({"program": "p", "seed": 4} | figures)
    assert "4 trials, seed 4, of p" in text and "\x1b" not in text
    assert "--only 1: traceback: KeyError: 'a'\n  export.py\n  flip: x: bits" in text
    assert "--only 2" not in text and "--only 3: different: x is \\x1b left over" in text
    row = next(line for line in text.splitlines() if line.startswith("all "))
    assert row.split() == ["all", "4", "1", "-", "-", "-", "2", "-", "1"]


@pytest.mark.parametrize(("changed", "message"), [
    ({"minutes": 0.0}, "--minutes is 0"), ({"program": "tests"}, "has no train_pipeline.py")])
def test_what_cannot_be_tried_is_refused(changed, message):
    args = {"minutes": 1.0, "program": str(ROOT), "only": None, "folder": None, "trials": None} | changed
    with pytest.raises(ValueError, match=message):
        faults.run(SimpleNamespace(**args), {"SEED": 0})


# The process that forks


@pytest.mark.parametrize(("work", "seconds", "expected"), [
    (lambda out: os.write(out, b"last words"), 30, {"status": 0, "stdout": "last words", "timed_out": False}),
    (lambda out: (os.write(out, b"before"), time.sleep(30)), 0.2,
     {"status": -signal.SIGKILL, "stdout": "before", "timed_out": True})])
def test_what_a_command_wrote_last_is_read_after_its_end(work, seconds, expected):
    """Its end is noticed before its output is, as on a busy machine."""

    class SlowToRead:
        def __getattr__(self, name):
            return getattr(os, name)

        def wait4(self, pid, options):
            time.sleep(0.3)
            return os.wait4(pid, options)

    (parent,) = [node for node in ast.parse(PROGRAM).body if getattr(node, "name", "") == "parent"]
    names = {"os": SlowToRead(), "select": select, "signal": signal, "time": time}
    exec(compile(ast.Module([parent], []), "fault_server", "exec"), names)
    pipes, ends = zip(*(os.pipe() for _ in range(3)), strict=True)
    pid = os.fork()
    if not pid:
        os.setsid()
        work(ends[0])
        os._exit(0)
    for end in ends:
        os.close(end)
    outcome = names["parent"]({"seconds": seconds, "kill_after": None}, pid, list(pipes))
    assert {name: outcome[name] for name in expected} == expected
