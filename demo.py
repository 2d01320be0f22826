"""A page in the browser where a sentence becomes a moving figure: `python demo.py`.

It needs Gradio (`pip install -r requirements-demo.txt`), and serves on this machine alone unless --host says otherwise.
The implementation is in motion_llm/demo.
"""

import argparse
import importlib.util
import logging
import sys
import threading
from pathlib import Path

import config
from motion_llm.command_line import Parser, exit_status, start_log
from motion_llm.network.folder import read_motion_config

log = logging.getLogger("demo")

HOST, PORT = "127.0.0.1", 7860


def _parser() -> Parser:
    parser = Parser(description="A local page where a sentence becomes a moving figure.")
    parser.add_argument("--model_path", default=None, help="a trained stage's folder. Default: WORK_DIR/stage3_t2m_sft")
    parser.add_argument("--host", default=HOST, help=f"the address to serve on; 0.0.0.0 lets other machines in. "
                                                     f"Default: {HOST}, this machine alone")
    parser.add_argument("--port", type=int, default=PORT, help=f"Default: {PORT}")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="Default: a GPU where there is one")
    return parser


def run(args: argparse.Namespace, stop: threading.Event | None = None) -> None:
    """Serve until `stop` is set. Raises ValueError (subclasses included) and OSError."""
    model_path = args.model_path or str(Path(config.resolve({})["WORK_DIR"]) / "stage3_t2m_sft")
    content = read_motion_config(model_path)
    config.check(content["settings"], f"{model_path}/motion_config.json")
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("the page needs Gradio: pip install -r requirements-demo.txt")
    log.info("loading %s", model_path)
    # These import torch and Gradio, which take seconds that --help should not.
    from motion_llm.demo.models import Models, decode
    from motion_llm.demo.page import serve
    from motion_llm.demo.worker import Worker

    models = Models(model_path, args.device)
    worker = Worker(decode)
    try:
        page, address = serve(models, worker, args.host, args.port)
        log.info("the page is at %s (Ctrl-C ends it)", address)
        try:
            (stop or threading.Event()).wait()
        finally:
            page.blocks.close(verbose=False)
    finally:
        worker.close()


def main() -> int:
    args = _parser().parse_args()
    start_log()
    return exit_status("demo.py", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
