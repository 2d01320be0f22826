"""notebooks/quickstart.ipynb: its cells run in order and show what the text says."""

import ast
import json
import re
from pathlib import Path

import pytest

from motion_llm.decoding.request import Caption
from motion_llm.motion.bvh import read_bvh
from motion_llm.viewer.page import NotebookView

PATH = Path(__file__).parent.parent / "notebooks" / "quickstart.ipynb"
NOTEBOOK = json.loads(PATH.read_text(encoding="utf-8"))
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def value_of(cell: str, names: dict) -> object:
    """Runs a cell and returns the value of its last line, if that is an expression, as a notebook does."""
    *before, last = ast.parse(cell).body
    if not isinstance(last, ast.Expr):
        before, last = [*before, last], None
    exec(compile(ast.Module(before, []), PATH.name, "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), PATH.name, "eval"), names)


@pytest.fixture(scope="module")
def run_notebook(run_with_codec, unsloth):
    """The value of each cell, and the variables afterwards. The tiny model has other captions and participants."""
    names: dict = {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTION_RUN", str(run_with_codec))
        patch.chdir(PATH.parent)
        return [value_of(cell, names) for cell in CELLS], names


def test_it_generates_captions_and_shows(run_notebook):
    values, names = run_notebook
    (motion,) = (value for value in values if isinstance(value, str))
    (caption,) = (value for value in values if isinstance(value, Caption))
    assert re.fullmatch(r"\d+( \d+)*", motion) and caption.text and 0 < caption.share <= 1
    views = [value for value in values if isinstance(value, NotebookView)]
    assert [len(view.clips) for view in views] == [1, 4, len(names["people"])]
    assert all(view._repr_html_().startswith("<iframe") for view in views)
    assert [clip.caption for clip in views[2].clips] == list(names["people"]) != []


def test_the_motion_that_it_shows_is_the_one_that_it_writes(run_notebook):
    _, names = run_notebook
    motion = read_bvh(names["path"])
    assert motion.skeleton.names and motion.fps == 30 and len(motion) % 4 == 0


def test_it_is_kept_without_outputs():
    code = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert NOTEBOOK["nbformat"] == 4 and len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
