"""Who may import whom, and what no file may do: read from the syntax trees, nothing is imported here."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "motion_llm"
# Scripts that people type. A door may import every room and config, and nothing imports a door.
DOORS = {"train_pipeline", "inference", "evaluate", "export", "bench", "codec", "view", "import_tokens",
         "humanml3d", "demo"}
# Room (a module at the top, a wing or module of motion_llm) -> the rooms that it imports, from the ground up: each may
# import only what stands above it here. A new arrow is a decision: make it here first.
ROOMS = {
    "config": "",
    "streams": "",
    "templates": "streams",
    "metrics": "",
    "saving": "",
    "input_files": "",
    "json_files": "input_files saving",
    "command_line": "",
    "digests": "",
    "arrays": "input_files",
    "motion": "arrays digests input_files json_files saving streams",
    "viewer": "json_files motion saving streams",
    "sample": "motion",
    "dataset": "arrays digests input_files json_files saving streams templates",
    "network": "arrays json_files saving streams",
    "data": "dataset streams",
    "collators": "streams templates",
    "model": "collators digests json_files network saving streams templates",
    "decoding": "arrays dataset json_files model network saving streams templates",
    "serving": "command_line dataset decoding json_files network streams templates",
    "generate": "data dataset decoding model network serving streams viewer",
    "inference/": "command_line decoding json_files motion network viewer",
    "demo/": "dataset decoding generate motion network streams viewer",
    "training": "collators dataset decoding digests generate json_files metrics model motion network "
                "saving templates viewer",
    "train": "collators dataset model training",
    "evaluation": "data dataset decoding digests generate json_files metrics model motion network saving streams "
                  "viewer",
    "benchmarks": "collators data dataset decoding evaluation generate json_files metrics model motion network sample "
                  "serving streams templates train training",
}
READ_CONFIG = {"train_pipeline", "inference", "evaluate", "export", "bench", "demo", "codec"}


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the project, without tests."""
    paths = [*ROOT.glob("*.py"), *(ROOT / PACKAGE).rglob("*.py")]
    return {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path for path in paths}


TREES = {name: tree_of(path) for name, path in modules().items()}


def imported(tree: ast.AST) -> Iterator[tuple[str, ast.stmt]]:
    """The dotted name of everything that is imported, inside functions as well, with its statement; "." for a relative
    import. `from package import name` gives package.name, which may be a module or something inside it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (("." if node.level else f"{node.module}.{alias.name}", node) for alias in node.names)


def room_of(name: str) -> str:
    """motion_llm.dataset.rows.Row -> dataset; model.load -> model; a relative import is a room of its own. The wing
    behind a door of its name ends with a stroke: motion_llm.demo.page -> demo/."""
    parts = name.split(".") if name != "." else [name]
    if parts[0] != PACKAGE or len(parts) == 1:
        return parts[0]
    return f"{parts[1]}/" if parts[1] in DOORS else parts[1]


def arrows(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Room -> the other rooms of the project that it imports."""
    found: dict[str, set[str]] = {room_of(name): set() for name in trees if name != f"{PACKAGE}.__init__"}
    for name, tree in trees.items():
        targets = {room_of(target) for target, _ in imported(tree)} & {*found, "."}
        if targets:
            found[room_of(name)] |= targets - {room_of(name)}
    return found


def forbidden(found: dict[str, set[str]]) -> list[str]:
    """Arrows that are not in the table."""
    return sorted(f"{room} -> {target}" for room, targets in found.items() for target in targets
                  if target in DOORS or room not in DOORS and target not in ROOMS[room].split()
                  or target == "config" and room not in READ_CONFIG)


def python_files() -> list[Path]:
    """Tracked files; in a copy without git, those of the project's folders."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
        return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    return [*modules().values(), *(ROOT / "tests").rglob("*.py")]


# Arrows


def test_every_room_stands_in_the_table_and_no_other():
    assert set(arrows(TREES)) == set(ROOMS) | DOORS


def test_no_arrow_is_forbidden():
    assert forbidden(arrows(TREES)) == []


def test_no_arrow_of_the_table_is_left_over():
    found = arrows(TREES)
    assert {room: set(targets.split()) for room, targets in ROOMS.items()} == {room: found[room] for room in ROOMS}


def test_the_table_runs_one_way():
    for place, (room, targets) in enumerate(ROOMS.items()):
        assert set(targets.split()) <= set(list(ROOMS)[:place]), room


@pytest.mark.parametrize(("module", "line", "arrow"), [
    ("motion_llm.motion.bvh", "from motion_llm.viewer.page import page", "motion -> viewer"),
    ("motion_llm.dataset.rows", "def f():\n    import model", "dataset -> model"),
    ("motion_llm.network.fuse", "from motion_llm.decoding import loop", "network -> decoding"),
    ("metrics", "import generate", "metrics -> generate"),
    ("motion_llm.evaluation.run", "import config", "evaluation -> config"),
    ("motion_llm.training.gallery", "from view import main", "training -> view"),
    ("view", "from config import SEED", "view -> config"),
    ("motion_llm.demo.worker", "import demo", "demo/ -> demo"),
    ("motion_llm.demo.page", "import config", "demo/ -> config"),
    ("templates", "from . import data", "templates -> ."),
])
def test_a_forbidden_arrow_is_seen(module, line, arrow):
    assert module in TREES
    source = modules()[module].read_text(encoding="utf-8")
    assert forbidden(arrows(TREES | {module: ast.parse(f"{source}\n{line}\n")})) == [arrow]


def test_modules_do_not_import_each_other_in_a_ring():
    """Inside a wing too, wherever the import stands."""
    done: set[str] = set()
    edges = {name: {target for full, _ in imported(tree) for target in (full, full.rpartition(".")[0])
                    if target in TREES and target != name} for name, tree in TREES.items()}
    while left := set(edges) - done:
        free = {name for name in left if edges[name] <= done}
        assert free, f"these import each other in a ring: {sorted(left)}"
        done |= free


def test_config_needs_the_standard_library_alone():
    assert {name.split(".")[0] for name, _ in imported(tree_of(ROOT / "config.py"))} <= set(sys.stdlib_module_names)


def test_a_wing_is_a_docstring_and_modules_that_are_no_scripts():
    for name, tree in TREES.items():
        if name.endswith("__init__"):
            assert ast.get_docstring(tree) and len(tree.body) == 1, name
        elif name.startswith(PACKAGE) and name != f"{PACKAGE}.sample.build":
            assert not any(isinstance(node, ast.Name) and node.id == "__name__"
                           for part in tree.body if isinstance(part, ast.If) for node in ast.walk(part.test)), name


@pytest.mark.parametrize("name", sorted(TREES))
def test_no_import_is_hidden_from_the_walk(name):
    calls = [node.func for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)]
    names = {func.id for func in calls if isinstance(func, ast.Name)}
    methods = {func.attr for func in calls if isinstance(func, ast.Attribute)}
    assert not names & {"__import__", "exec", "eval"}
    assert not (names | methods) & {"import_module", "run_path", "run_module"}
# Importing does nothing


WATCHED_IMPORT = """
import os, random, sys
import numpy
before = random.getstate(), repr(numpy.random.get_state()), dict(os.environ), os.getcwd()
made = []
def watch(event, args):
    if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        made.append((event, args[0]))
    elif event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "socket.connect", "subprocess.Popen"):
        made.append((event, args[0]))
sys.addaudithook(watch)
import NAME
after = random.getstate(), repr(numpy.random.get_state()), dict(os.environ), os.getcwd()
assert not made, made
assert before == after
slow = {"torch", "transformers", "unsloth", "datasets", "pandas"} & set(sys.modules)
assert not slow, f"imports {slow}, which takes seconds that --help and --check should not"
"""


def test_importing_makes_nothing_says_nothing_and_is_quick(tmp_path):
    names = ["config", "templates", "metrics", "data", "bench", "view", "codec", "import_tokens", "evaluate",
             "inference", "train_pipeline", "humanml3d", "demo", *(f"{PACKAGE}.{name}" for name in (
                 "dataset.lengths", "dataset.splits", "dataset.prepared", "evaluation.recogniser",
                 "benchmarks.wording_sets", "motion.humanml3d", "decoding.request", "demo.worker"))]
    code = WATCHED_IMPORT.replace("import NAME", f"import {', '.join(names)}")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PYTHON"))} | {
        "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


# What no file may do


def prints(node: ast.AST, function: str = "") -> set[str]:
    """Names of the functions in which print is called ("" for the module)."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        function = node.name
    found = {function} if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print" else set()
    return found.union(*(prints(child, function) for child in ast.iter_child_nodes(node)))


@pytest.mark.parametrize("name", sorted(set(TREES) - {"train_pipeline", "bench"}))
def test_only_main_prints(name):
    """train_pipeline prints its tables as they come, bench what it measured, and inference each token of --stream."""
    assert prints(TREES[name]) <= {"main" if name != "inference" else "print_and_save"}


def offences(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = {None if kind is None else ast.unparse(kind).removeprefix("builtins.") for kind in kinds}
            if names & {None, "Exception", "BaseException"}:
                found.append(f"line {node.lineno}: except for everything")
        elif isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
            if (node.arg, node.value.value) in [("trust_remote_code", True), ("allow_pickle", True),
                                                ("weights_only", False)]:
                found.append(f"line {node.value.lineno}: {node.arg}={node.value.value}")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = {name.split(".")[0] for name, _ in imported(node)}
            for name in names & {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve"}:
                found.append(f"line {node.lineno}: import of {name}")
    return found


@pytest.mark.parametrize("code", [
    "try: f()\nexcept: pass", "try: f()\nexcept Exception as e: raise", "try: f()\nexcept (OSError, Exception): pass",
    "try: f()\nexcept BaseException: pass", "f(trust_remote_code=True)", "import pickle", "from pickle import load",
    "np.load(p, allow_pickle=True)", "torch.load(p, weights_only=False)"])
def test_the_search_for_offences_finds(code):
    assert len(offences(ast.parse(code))) == 1


def test_no_blanket_except_no_remote_code_and_no_pickles():
    files = python_files()
    assert set(modules().values()) <= set(files)
    assert {str(path.relative_to(ROOT)): offences(tree_of(path)) for path in files if offences(tree_of(path))} == {}
