"""Exported models and real servers, for the tests that `make test-vllm` runs in the environment that has vLLM."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
START_SECONDS = 300  # at most until a server is ready
QUIET = {
    "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "UNSLOTH_DISABLE_STATISTICS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),  # more threads than cores would wait for each other
}
os.environ.update(QUIET)


def training_python(*arguments: str) -> None:
    """Run a script in the environment that has Unsloth; the variable MOTION_PYTHON names its interpreter."""
    python = os.environ.get("MOTION_PYTHON", str(ROOT / ".venv" / "bin" / "python"))
    done = subprocess.run([python, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{python} {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """"tiny", "streams" (tiny, of two streams) or "sample" -> the folder of its export. The sample model is
    MOTION_MODEL, or output/stage3_t2m_sft."""
    folders = {}

    def folder(name: str) -> Path:
        if name not in folders:
            parent = tmp_path_factory.mktemp(name) / "export"
            if name in ("tiny", "streams"):
                training_python("tests/serving/engines/make_tiny.py", str(parent), *["streams"] * (name == "streams"))
            else:
                stage = Path(os.environ.get("MOTION_MODEL", ROOT / "output" / "stage3_t2m_sft"))
                if not (stage / "motion_config.json").is_file():
                    pytest.skip(f"no trained model in {stage}: `make train` trains it, MOTION_MODEL names another")
                training_python("export.py", "--model_path", str(stage), "--output", str(parent / "served"))
            folders[name] = parent / "served"
        return folders[name]

    return folder


class Server:
    """vLLM's own server of an exported folder on loopback, as the export's README starts it."""

    def __init__(self, folder: Path, log: Path, *options: str, plugin: bool = True):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        positions = json.loads((folder / "motion_config.json").read_text())["settings"]["MAX_SEQ_LEN"]
        self.url, self.log = f"http://127.0.0.1:{port}", log
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder),
                   "--served-model-name", "motion", "--host", "127.0.0.1", "--port", str(port),
                   "--max-model-len", str(positions), "--structured-outputs-config", '{"backend": "guidance"}',
                   "--no-enable-chunked-prefill", "--enforce-eager", *options]
        if plugin:
            command += ["--logits-processors", "end_shift:EndShift"]
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command, cwd=log.parent, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                env=os.environ | {"PYTHONPATH": str(folder / "plugin")})

    def wait(self) -> "Server":
        started = time.monotonic()
        while True:
            assert self.process.poll() is None, f"the server ended:\n{self.log.read_text()[-4000:]}"
            assert time.monotonic() - started < START_SECONDS, f"no server:\n{self.log.read_text()[-4000:]}"
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return self
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.5)

    def stop(self) -> None:
        """End it with all its processes, which are their own process group."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


@pytest.fixture(scope="session")
def server(exported, tmp_path_factory):
    """server("tiny") -> a Server that is ready. One server runs at a time, and the last one is stopped at the end."""
    running = {}

    def start(name: str, *options: str, plugin: bool = True) -> Server:
        key = name, options, plugin
        if key not in running:
            while running:
                running.popitem()[1].stop()
            folder = exported(name)
            running[key] = Server(folder, tmp_path_factory.mktemp("server") / "log", *options, plugin=plugin)
            running[key].wait()
        return running[key]

    yield start
    while running:
        running.popitem()[1].stop()
