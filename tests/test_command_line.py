import os
import subprocess
import sys
from pathlib import Path

import pytest

from motion_llm.command_line import exit_status, keep_inputs


def raising(error):
    def command():
        raise error
    return command


class UsageError(ValueError):
    pass


@pytest.mark.parametrize(("error", "status", "message"), [
    (ValueError("row 3 is empty"), 1, "view.py: row 3 is empty\n"),
    (FileNotFoundError(2, "No such file", "walk.bvh"), 1, "view.py: [Errno 2] No such file: 'walk.bvh'\n"),
    (ModuleNotFoundError("", name="torch"), 1, "view.py: the package torch is missing: run it with .venv/bin/python\n"),
    (KeyboardInterrupt(), 130, "view.py: stopped\n"),
    (UsageError("unknown flag"), 2, "view.py: unknown flag\n"),
])
def test_what_the_user_can_mend_is_one_line_on_stderr(error, status, message, capsys):
    assert exit_status("view.py", raising(error), usage_error=UsageError) == status
    assert capsys.readouterr() == ("", message)


def test_a_defect_keeps_its_traceback():
    with pytest.raises(KeyError):
        exit_status("view.py", raising(KeyError("codes")))


def test_a_command_names_its_own_status():
    assert [exit_status("view.py", lambda: None), exit_status("view.py", lambda: 1)] == [0, 1]


def test_a_console_that_is_not_utf8_gets_an_escape_instead_of_an_error():
    code = "from motion_llm.command_line import start_log; start_log(); print('\u6b69\u304f walks')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=Path(__file__).parent.parent,
                          env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout.split()) == (0, [b"\\u6b69\\u304f", b"walks"])


def test_a_file_that_is_read_is_not_written_over(tmp_path):
    (tmp_path / "captions.json").write_text("[]")
    (tmp_path / "link.json").symlink_to(tmp_path / "captions.json")
    for output in ("captions.json", "link.json"):
        with pytest.raises(ValueError, match=f"--output .*{output} is a file that is read, and would be lost"):
            keep_inputs(tmp_path / output, None, tmp_path / "missing.json", tmp_path / "captions.json")
    keep_inputs(tmp_path / "new.json", tmp_path / "captions.json", None)
