"""Many clients at once at a page that runs: `python tests/demo/load.py http://127.0.0.1:7860 --pid PID`.

Needs gradio_client, which comes with Gradio. Prints for each round how many questions were answered, the waiting times,
and the memory of the page's process.
"""

import argparse
import threading
import time
from pathlib import Path

from gradio_client import Client

SENTENCES = ("a person walks forward", "a person jumps", "someone sits down", "a person turns left", "a person waves")


def ask(address: str, sentence: str, count: int, waits: list[float], texts: list[str], variants: int = 1) -> None:
    """One client asks one question after the other; the seconds of each, and the tokens of its first clip."""
    client = Client(address, verbose=False)
    for _ in range(count):
        started = time.monotonic()
        answer = client.predict(text=sentence, clips=variants, seed="", api_name="/sentence")
        waits.append(time.monotonic() - started)
        texts.append(tokens_of(answer))
    client.close()


def tokens_of(answer: tuple) -> str:
    """The text of the element "Tokens", the fifth output of the page."""
    return answer[4]["value"] if isinstance(answer[4], dict) else answer[4]


def crowd(address: str, clients: int, each: int) -> tuple[list[float], list[str]]:
    """(seconds, tokens) of every question of `clients` that ask at once, `each` times."""
    waits, texts = [], []
    threads = [threading.Thread(target=ask, args=(address, SENTENCES[i % len(SENTENCES)], each, waits, texts))
               for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return waits, texts


def memory_of(pid: int) -> float:
    """Resident memory in MB (Linux)."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("address")
    flags.add_argument("--pid", type=int, required=True)
    flags.add_argument("--clients", type=int, default=5)
    flags.add_argument("--each", type=int, default=10)
    flags.add_argument("--rounds", type=int, default=3)
    args = flags.parse_args()
    print(f"before: {memory_of(args.pid):.0f} MB", flush=True)
    for number in range(1, args.rounds + 1):
        started = time.monotonic()
        waits, texts = crowd(args.address, args.clients, args.each)
        print(f"round {number}: {sum(map(bool, texts))} of {args.clients * args.each} answered in "
              f"{time.monotonic() - started:.0f} s, longest wait {max(waits):.1f} s, middle "
              f"{sorted(waits)[len(waits) // 2]:.1f} s; memory {memory_of(args.pid):.0f} MB", flush=True)


if __name__ == "__main__":
    main()
