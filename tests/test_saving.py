"""Files and folders written aside: what was there stays until the new one is whole, and errors name the file."""

import multiprocessing
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from motion_llm.saving import clear_leftovers, locked, naming, remove, saving, saving_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Files


def test_a_file_takes_its_place_at_the_end_and_keeps_its_suffix_meanwhile(tmp_path):
    path = tmp_path / "new" / "walk.bvh"
    with saving(path) as temporary:
        assert not path.exists() and temporary.suffix == ".bvh" and temporary.parent == path.parent
        temporary.write_text("HIERARCHY")
    assert path.read_text() == "HIERARCHY" and names(path.parent) == ["walk.bvh"]


def test_after_an_error_what_was_there_has_stayed(tmp_path):
    path = tmp_path / "walk.bvh"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), saving(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "before" and names(tmp_path) == ["walk.bvh"]


def test_other_users_may_read_weights(tmp_path):
    """safetensors writes files that only the owner reads, so that another user's command would miss them."""
    path = tmp_path / "weights.safetensors"
    mask = os.umask(0o022)
    try:
        with saving(path) as temporary:
            save_file({"a": np.ones(3)}, temporary)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644 and load_file(path)["a"].tolist() == [1, 1, 1]


# Folders


def test_a_folder_replaces_the_earlier_one_whole_and_readable_for_others(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    mask = os.umask(0o022)
    try:
        with saving_folder(folder) as temporary:
            save_file({"a": np.ones(3)}, temporary / "weights.safetensors")
            assert names(folder) == ["old.txt"]
    finally:
        os.umask(mask)
    assert names(folder) == ["weights.safetensors"] and names(tmp_path) == ["model"]
    assert stat.S_IMODE((folder / "weights.safetensors").stat().st_mode) == 0o644


def test_a_folder_that_fails_leaves_the_earlier_one(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(ValueError), saving_folder(folder) as temporary:
        (temporary / "half.txt").write_text("half")
        raise ValueError
    assert names(tmp_path) == ["model"] and names(folder) == []


def test_what_a_kill_left_is_removed_with_a_line(tmp_path, caplog):
    for kind in ("saving", "before", "removing"):
        (tmp_path / f".model.{kind}").mkdir()
        (tmp_path / f".model.{kind}" / "weights").write_text("half")
    (tmp_path / "model").mkdir()
    with caplog.at_level("INFO"):
        clear_leftovers(tmp_path / "model")
    assert names(tmp_path) == ["model"]
    assert [record.message.split(",")[0].split(".model.")[1] for record in caplog.records] == [
        "saving", "before", "removing"]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path):
    (tmp_path / ".model.before").mkdir()
    (tmp_path / ".model.before" / "weights").write_text("whole")
    clear_leftovers(tmp_path / "model")
    assert names(tmp_path) == ["model"] and names(tmp_path / "model") == ["weights"]


def test_a_removed_folder_is_gone_with_what_an_earlier_kill_left(tmp_path):
    for name in ("model", ".model.removing"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text("")
    remove(tmp_path / "model")
    assert names(tmp_path) == []


# One process at a time


def _write(folder: Path, ready, go) -> None:
    with saving_folder(folder) as temporary:
        ready.set()
        go.wait(30)
        (temporary / "of.txt").write_text("first")


def test_a_second_process_that_writes_a_folder_is_refused_by_name(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, go = context.Event(), context.Event()
    first = context.Process(target=_write, args=(tmp_path / "served", ready, go))
    first.start()
    assert ready.wait(30)
    with pytest.raises(OSError, match="served: another process is writing it"), saving_folder(tmp_path / "served"):
        pass
    go.set()
    first.join(30)
    assert (tmp_path / "served" / "of.txt").read_text() == "first" and names(tmp_path) == ["served"]


def test_what_another_process_is_writing_is_no_leftover(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, go = context.Event(), context.Event()
    first = context.Process(target=_write, args=(tmp_path / "evaluator", ready, go))
    first.start()
    assert ready.wait(30)
    clear_leftovers(tmp_path / "evaluator")
    go.set()
    first.join(30)
    assert first.exitcode == 0 and names(tmp_path) == ["evaluator"]


def _hold(path: Path, ready) -> None:
    with locked(path, busy=None):
        ready.set()
        multiprocessing.Event().wait(30)


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / ".lock", ready))
    holder.start()
    assert ready.wait(30)
    with pytest.raises(ValueError, match="in use"), locked(tmp_path / ".lock", ValueError("in use")):
        pass
    holder.kill()
    holder.join(30)
    with locked(tmp_path / ".lock", ValueError("in use")):
        assert names(tmp_path) == [".lock"]
    assert names(tmp_path) == []


# A full disk


FULL = "/dev/full"  # every write to it fails as on a full disk


@pytest.mark.skipif(not Path(FULL).exists(), reason=f"no {FULL} here")
@pytest.mark.parametrize("write", [
    lambda: Path(FULL).write_text("a" * 10_000_000),
    lambda: np.savez(open(FULL, "wb"), a=np.ones(1_000_000)),
    lambda: torch.save(torch.ones(1_000_000), open(FULL, "wb"))])
def test_a_full_disk_names_the_file(write):
    with pytest.raises(OSError, match="codec/codebook.npz"), naming(Path("codec/codebook.npz")):
        write()


def test_an_error_of_the_disk_in_rust_names_the_file():
    with pytest.raises(OSError, match="model/weights: .*No space left"), naming(Path("model/weights")):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_other_errors_stay_what_they_are():
    with pytest.raises(ValueError, match="^no clips$"), naming(Path("walk.bvh")):
        raise ValueError("no clips")
    with pytest.raises(FileNotFoundError, match="'elsewhere'"), naming(Path("walk.bvh")):
        open("elsewhere").close()
