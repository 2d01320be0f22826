"""Several processes that train one model together (`torchrun`, DDP): which one this is, and waiting for one another."""

import os
from datetime import timedelta

LONGEST_WAIT = timedelta(days=7)  # while the first process prepares a large dataset, or measures on held-out clips


def process_count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this process reads, prepares, prints and saves for all; true if it is the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_for_all() -> None:
    """Return when every process has called this; at once if there is only one."""
    if process_count() == 1:
        return
    import torch
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT).wait_for_everyone()
