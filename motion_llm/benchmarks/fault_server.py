"""A process that has imported a checkout of this project once and runs its commands in forks, for `bench.py faults`.

A command starts in milliseconds instead of seconds. It can be killed at a moment or at a change of a file, and it has
limits of memory, of file sizes and of time.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MEMORY = 4 << 30  # bytes that a command may have beyond what the server has
LARGEST_FILE = 1 << 30  # bytes of a file that a command writes, so that no fault fills the disk
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1",
               "UNSLOTH_DISABLE_STATISTICS": "1", "UNSLOTH_FORCE_CPU": "1", "TOKENIZERS_PARALLELISM": "false",
               "PYTHONDONTWRITEBYTECODE": "1"}

# It reads a job a line and answers each with a line. It is a text, because it imports the scripts of another checkout,
# and uses nothing of this one. No thread and no torch operation may run before a fork.
PROGRAM = r'''
import gc, glob, json, logging, os, resource, select, signal, sys, time, traceback

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what libraries print is no answer
sys.path[:] = [os.getcwd(), *(path for path in sys.path if path)]  # not the folder that a command is in
logging.basicConfig(level=logging.INFO, format="%(message)s")  # before Unsloth, whose import sets a handler
from model import start_unsloth
start_unsloth("cpu")
import torch
torch.set_num_threads(1)
import codec, evaluate, export, import_tokens, inference, train_pipeline, view
import generate, train  # what they import when they run
from motion_llm.evaluation import evaluator, run
from motion_llm.training import baselines, gallery

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod"}


def virtual_memory():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def watch_changes(job, tally):
    """Write a byte to `tally` at each change of a file in the job's folder, and end at the one to be killed at."""
    count = 0

    def watch(event, args):
        nonlocal count
        if event == "open":
            path, _, flags = args
            change = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        else:
            path, change = (args or [None])[0], event in CHANGES
        if change and isinstance(path, (str, os.PathLike)) and os.path.abspath(path).startswith(job["folder"]):
            count += 1
            os.write(tally, b".")
            appeared = job["kill_when"] and glob.glob(job["kill_when"], root_dir=job["folder"])
            if appeared or count == job["kill_at_change"]:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def child(job, stdout, stderr, tally):
    os.setsid()
    os.chdir(job["folder"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0), os.dup2(stdout, 1), os.dup2(stderr, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (virtual_memory() + job["memory"], resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (job["largest_file"], resource.RLIM_INFINITY))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write fails with an error instead
    sys.stdout, sys.stderr = (open(fd, "w", buffering=size) for fd, size in ((1, -1), (2, 1)))
    logging.getLogger().handlers.clear()  # it wrote to the server's stderr
    sys.argv = [job["script"] + ".py", *job["arguments"]]
    watch_changes(job, tally)
    try:
        status = sys.modules[job["script"]].main() or 0
    except SystemExit as error:
        status = error.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    gc.collect()  # so that errors of generators and finalisers are printed
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(status)  # an ordinary end takes seconds, because it takes apart all that was imported


def parent(job, pid, pipes):
    """Wait for the command, kill it where the job says so, and return what became of it."""
    started = last = time.monotonic()
    texts, timed_out, ended = {fd: bytearray() for fd in pipes}, False, 0
    while True:
        if not ended:  # its last output may come after it has been waited for
            ended, status, usage = os.wait4(pid, os.WNOHANG)
        ready = select.select(pipes, [], [], 0 if ended else 0.01)[0]
        read = {fd: os.read(fd, 1 << 16) for fd in ready}
        for fd, text in read.items():
            texts[fd] += text[:max(0, (4 << 20) - len(texts[fd]))]
            last = time.monotonic() if text and fd != pipes[2] else last
        now = time.monotonic() - started
        if ended and not any(read.values()):
            break
        timed_out = timed_out or not ended and now > job["seconds"]
        if not ended and (timed_out or job["kill_after"] is not None and now > job["kill_after"]):
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        os.killpg(pid, signal.SIGKILL)  # what it has started
    except ProcessLookupError:
        pass
    out, err, tally = (texts[fd] for fd in pipes)
    return {"status": os.waitstatus_to_exitcode(status), "stdout": out.decode("utf-8", "backslashreplace"),
            "stderr": err.decode("utf-8", "backslashreplace"), "changes": len(tally), "timed_out": timed_out,
            "seconds": time.monotonic() - started, "silent_seconds": time.monotonic() - last,
            "memory": usage.ru_maxrss * 1024}


gc.freeze()  # a child then copies no page of memory only to look for garbage
print(json.dumps("ready"), file=answers, flush=True)
for line in sys.stdin:
    job = json.loads(line)
    ends = [os.pipe() for _ in range(3)]
    sys.stdout.flush(), sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        child(job, *(write for _, write in ends))
    for _, write in ends:
        os.close(write)
    print(json.dumps(parent(job, pid, [read for read, _ in ends])), file=answers, flush=True)
    for read, _ in ends:
        os.close(read)
'''


@dataclass(frozen=True)
class Outcome:
    """What became of a command. status: negative for a signal; changes: of files; memory: the most, in bytes;
    silent_seconds: since it wrote something."""

    status: int
    stdout: str
    stderr: str
    changes: int = 0
    timed_out: bool = False
    seconds: float = 0.0
    silent_seconds: float = 0.0
    memory: int = 0


class FaultServer:
    """Runs the commands of the checkout in `program`, one at a time, each in `folder`."""

    def __init__(self, program: Path, folder: Path):
        self.folder = folder
        self._log = (folder.parent / "server.log").open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], cwd=program, env=os.environ | ENVIRONMENT, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self._log, text=True, encoding="utf-8")
        self._answer()

    def run(self, script: str, arguments: Sequence[str], *, seconds: float = 60, kill_after: float | None = None,
            kill_at_change: int = 0, kill_when: str = "", largest_file: int = LARGEST_FILE,
            memory: int = MEMORY) -> Outcome:
        """Run a script, such as "inference". kill_after: seconds; kill_at_change: kill it before the n-th change of a
        file; kill_when: at the first change of a file after a path of this pattern has appeared."""
        job = {"script": script, "arguments": list(arguments), "folder": str(self.folder), "memory": memory,
               "largest_file": largest_file, "seconds": seconds, "kill_after": kill_after,
               "kill_at_change": kill_at_change, "kill_when": kill_when}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return Outcome(**self._answer())

    def _answer(self):
        if line := self._process.stdout.readline():
            return json.loads(line)
        raise RuntimeError(f"the process of the commands has ended:\n{Path(self._log.name).read_text()[-2000:]}")

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._log.close()
