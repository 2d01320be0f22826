"""Who may import whom, and what no file may do: read from the syntax trees, nothing is imported here."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENTRY_SCRIPTS = {"train_pipeline", "inference", "bench", "export", "evaluate"}
# main() with flags of its own
THIN_MAINS = {"sample_data", "client", "bench_vllm", "view", "codec", "humanml3d", "import_tokens"}

# module -> the modules of this project that it imports. A new edge is a decision: make it here first.
EDGES = {
    # ground
    "config": set(),
    "templates": set(),
    "metrics": set(),
    "intervals": set(),
    "caption_metrics": {"intervals"},
    "charts": set(),
    "embedding_metrics": set(),
    "joint_metrics": set(),
    "rows": set(),
    "reader": set(),
    "caption_index": set(),
    "length_regression": set(),
    "lengths": {"length_regression", "rows"},
    "fit": {"rows", "templates"},
    "model_folder": set(),
    "fused": set(),
    "fuse": {"fused"},
    "processes": set(),
    "code_vectors": set(),
    "collators": {"templates"},
    "recogniser": set(),
    "motion": set(),
    "stick_figure": {"motion"},
    "view_figure": {"motion"},
    "view_raster": {"motion", "view_figure"},
    "view_video": {"view_figure", "view_raster"},
    "grammar": {"templates"},
    "end_shift": set(),
    "client": {"grammar", "lengths", "rows", "templates"},
    "kinematics": {"motion"},
    "bvh": {"kinematics", "motion"},
    "codec_features": {"kinematics", "motion"},
    "codec_kmeans": {"codec_features"},
    # material
    "codec_vqvae": {"codec_features", "codec_kmeans"},
    "codec": {"bvh", "codec_features", "codec_kmeans", "codec_vqvae", "kinematics", "model_folder", "motion"},
    "sample_data": {"codec", "motion", "stick_figure"},
    "checks": {"reader", "rows", "templates"},
    "data": {"checks", "reader", "rows"},
    "wordings": {"rows"},
    "splits": {"rows"},
    "prepared": {"data", "rows", "splits"},
    "work_folder": {"codec", "data", "model_folder", "splits"},
    "import_tokens": {"data", "rows"},
    "model": {"code_vectors", "collators", "fuse", "model_folder", "templates"},
    "memory": {"model", "model_folder"},
    "motion_request": {"lengths", "templates"},
    "lost_tokens": {"motion_request"},
    "constraints": {"lengths", "motion_request", "templates"},
    "cached_network": {"model_folder"},
    "view": {"bvh", "codec", "motion", "stick_figure", "view_figure", "view_video"},
    "humanml3d_network": set(),
    "humanml3d": {"bvh", "codec", "humanml3d_network", "kinematics", "motion"},
    "evaluator": {"model", "model_folder", "rows"},
    "evaluation_data": {"caption_index", "data", "prepared", "rows", "splits"},
    "generated_clips": {"data", "evaluation_data"},
    # work
    "decoding": {"cached_network", "constraints", "lengths", "model", "motion_request"},
    "stage_trainer": {"collators", "model", "model_folder"},
    "train": {"collators", "memory", "model", "rows", "stage_trainer"},
    "jobs": {"decoding", "lengths", "motion_request", "templates"},
    "generate": {"cached_network", "codec", "constraints", "data", "decoding", "jobs", "lengths", "model",
                 "model_folder", "motion_request", "templates", "view", "vllm_engine"},
    "report": {"caption_index", "generate", "metrics", "rows"},
    "gallery": {"generate", "motion_request", "rows", "view"},
    "vllm_engine": {"grammar", "lengths", "model_folder", "motion_request", "templates"},
    "bench_vllm": {"lengths", "vllm_engine"},
    "bench_data": {"collators", "data", "fit", "lengths", "model", "model_folder", "prepared", "rows", "splits",
                   "templates"},
    "bench_curve": {"model_folder"},
    "bench_decode": {"bench_train", "constraints", "generate", "lengths", "model", "motion_request"},
    "bench_requests": {"generate", "model", "motion_request"},
    "bench_tasks": {"data", "generate", "lost_tokens", "metrics", "model", "motion_request", "prepared"},
    "bench_codec": {"codec", "codec_features", "kinematics", "motion"},
    "bench_train": {"collators", "data", "memory", "model", "rows", "splits", "templates"},
    "bench_wordings": {"data", "generate", "model", "model_folder", "prepared", "recogniser", "rows", "train",
                       "wordings"},
    "joint_judge": {"codec", "codec_features", "embedding_metrics", "joint_metrics", "metrics"},
    "evaluation": {"embedding_metrics", "evaluation_data", "evaluator", "intervals", "joint_judge", "lost_tokens",
                   "metrics", "recogniser"},
    "evaluation_tasks": {"caption_metrics", "evaluation", "evaluation_data", "generate", "intervals", "jobs",
                         "lost_tokens", "metrics", "model", "model_folder", "motion_request"},
    "findings": {"embedding_metrics", "evaluation", "intervals", "metrics"},
    "report_page": {"charts", "evaluation", "evaluation_data", "findings", "metrics"},
    "evaluation_run": {"codec", "data", "evaluation", "evaluation_data", "evaluation_tasks", "evaluator", "findings",
                       "generate", "generated_clips", "joint_judge", "lengths", "model", "model_folder",
                       "report_page"},
    # entry scripts: no more than this
    "train_pipeline": {"code_vectors", "codec", "config", "data", "evaluation_run", "fit", "gallery", "generate",
                       "lengths", "model", "model_folder", "prepared", "processes", "report", "splits", "templates",
                       "train", "work_folder"},
    "inference": {"config", "generate", "model", "model_folder", "motion_request", "view", "view_video"},
    "evaluate": {"config", "evaluation_run", "model_folder", "rows"},
    "export": {"client", "config", "grammar", "lengths", "model", "model_folder", "rows", "templates"},
    "bench": {"bench_codec", "bench_curve", "bench_data", "bench_decode", "bench_requests", "bench_tasks",
              "bench_train", "bench_wordings", "config"},
}
MODULES = sorted(path.stem for path in ROOT.glob("*.py"))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(tree: ast.AST) -> set[str]:
    """First parts of the names of all that is imported, inside functions as well; "." for a relative import."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." if node.level else node.module.split(".")[0])
    return names


def python_files() -> list[Path]:
    """Tracked files; in a copy without git, those of the project's two folders."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
        return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    return [*ROOT.glob("*.py"), *ROOT.glob("tests/*.py")]


# Edges


def test_every_module_stands_in_the_table_and_no_other():
    assert set(MODULES) == set(EDGES)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_what_the_table_says(name):
    found = imported(tree_of(ROOT / f"{name}.py"))
    assert "." not in found  # modules are flat
    edges, allowed = found & set(MODULES), EDGES.get(name, set())
    assert edges <= allowed if name in ENTRY_SCRIPTS else edges == allowed


def test_imports_run_one_way():
    done: set[str] = set()
    while left := set(EDGES) - done:
        free = {name for name in left if EDGES[name] <= done}
        assert free, f"these import each other in a ring: {sorted(left)}"
        done |= free


def test_config_is_read_by_entry_scripts_alone_and_entry_scripts_by_no_one():
    assert {name for name, edges in EDGES.items() if "config" in edges} == ENTRY_SCRIPTS
    assert not any(edges & ENTRY_SCRIPTS for edges in EDGES.values())


def test_config_needs_the_standard_library_alone():
    assert imported(tree_of(ROOT / "config.py")) <= set(sys.stdlib_module_names)


def test_generate_and_metrics_do_not_know_each_other():
    def below(name: str) -> set[str]:
        return EDGES[name].union(*(below(other) for other in EDGES[name]))

    assert "metrics" not in below("generate") and "generate" not in below("metrics")


@pytest.mark.parametrize("name", MODULES)
def test_no_import_is_hidden_from_the_walk(name):
    calls = [node.func for node in ast.walk(tree_of(ROOT / f"{name}.py")) if isinstance(node, ast.Call)]
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
    names = ("config, templates, metrics, lengths, data, splits, prepared, recogniser, wordings, bench, view, codec, "
             "humanml3d, motion_request")
    code = WATCHED_IMPORT.replace("import NAME", f"import {names}")
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


@pytest.mark.parametrize("name", sorted(set(MODULES) - ENTRY_SCRIPTS))
def test_only_scripts_print(name):
    assert prints(tree_of(ROOT / f"{name}.py")) <= ({"main"} if name in THIN_MAINS else set())


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
            for name in imported(node) & {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve"}:
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
    assert {ROOT / f"{name}.py" for name in ENTRY_SCRIPTS} <= set(files)
    assert {str(path.relative_to(ROOT)): offences(tree_of(path)) for path in files if offences(tree_of(path))} == {}
