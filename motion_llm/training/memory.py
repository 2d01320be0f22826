"""How many positions may go through the network at once in training, given the free memory."""

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from model import MotionLanguageModel
from motion_llm.network.folder import ModelError

log = logging.getLogger(__name__)

USABLE = 0.6  # of the free memory; the rest is for temporary tensors of one layer, and for other programs
ENOUGH_ON_CPU = 640  # positions: eight clips of 80; more are hardly faster and take more memory (docs/log.md)
MOST_ON_GPU = 65536
ADAMW_BYTES = 12  # for each trainable value: its gradient and AdamW's two averages, in float32


@dataclass(frozen=True)
class Room:
    """tokens: positions, padding included, in one forward and backward pass. checkpointing: whether layers are
    computed again in the backward pass instead of kept. needed, free: bytes."""

    tokens: int
    checkpointing: bool
    needed: int
    free: int


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take, on the GPU or of the machine's (or its container's) memory."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    free = psutil.virtual_memory().available
    for limit, used in (("memory.max", "memory.current"),
                        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):  # cgroup version 2, 1
        with contextlib.suppress(OSError, ValueError):  # no container, or no limit ("max")
            limit_bytes = int((Path("/sys/fs/cgroup") / limit).read_text())
            free = min(free, limit_bytes - int((Path("/sys/fs/cgroup") / used).read_text()))
    return max(free, 0)


def saved_bytes(model: MotionLanguageModel, length: int) -> int:
    """Bytes that autograd keeps for the backward pass of one example of `length` positions."""
    model_storages = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, int] = {}  # address of a storage -> its bytes

    def record(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in model_storages:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.full((1, length), model.vocabulary.first_motion_id, device=model.device)
    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        loss = model(ids, torch.ones_like(ids), ids)["loss"]
    del loss
    return sum(saved.values())


@dataclass(frozen=True)
class _Growth:
    """Bytes for one example of T positions: linear * T + square * T^2 (the attention's weights)."""

    linear: float
    square: float

    @classmethod
    def of(cls, model: MotionLanguageModel) -> "_Growth":
        short, long = saved_bytes(model, 64), saved_bytes(model, 128)
        square = max((long - 2 * short) / (128**2 - 2 * 64**2), 0.0)
        return cls(short / 64 - 64 * square, square)

    def bytes(self, length: int) -> float:
        return self.linear * length + self.square * length**2


def make_room(model: MotionLanguageModel, positions: int, free: int | None = None) -> Room:
    """The positions that fit into memory. Turns gradient checkpointing on if an example of `positions` (MAX_SEQ_LEN)
    does not fit without.

    free: bytes, instead of the measured free memory. Raises ModelError, with the settings to change, if such an example
    does not fit even with checkpointing.
    """
    config = model.network.config.get_text_config()
    model.network.gradient_checkpointing_disable()  # an earlier stage may have it on, which would lower the measurement
    growth = _Growth.of(model)
    layers = config.num_hidden_layers
    free = free_memory(model.device) if free is None else free
    trainable = sum(p.numel() for p in model.network.parameters() if p.requires_grad)
    usable = USABLE * free - ADAMW_BYTES * trainable
    plain = growth.bytes(positions)
    # Checkpointed: the input of each layer, and everything of one layer at a time.
    inputs = layers * config.hidden_size * model.network.dtype.itemsize
    checkpointed = plain / layers + inputs * positions
    needed, checkpointing = (plain, False) if plain <= usable else (checkpointed, True)
    if needed > usable:
        fits = int(positions * max(usable, 0) / checkpointed)
        raise ModelError(
            f"memory: an example of MAX_SEQ_LEN {positions} needs about {(needed + ADAMW_BYTES * trainable) / 1e9:.1f} "
            f"GB with {model.model_config.model_name}, even with gradient checkpointing, and {USABLE:.0%} of what is "
            f"free are {USABLE * free / 1e9:.1f} GB: set MAX_SEQ_LEN to {fits} or less, take a smaller MODEL_NAME, or "
            "free some memory")
    tokens = max(MOST_ON_GPU if model.device.type == "cuda" else ENOUGH_ON_CPU, positions)
    while tokens > positions and tokens * needed / positions > usable:  # halved, so that the number rarely differs
        tokens = max(tokens // 2, positions)
    if checkpointing:
        model.network.gradient_checkpointing_enable({"use_reentrant": False})
    log.info("  memory: up to %d positions at once take about %.1f of %.1f GB free%s", tokens,
             tokens * needed / positions / 1e9, free / 1e9, ", with gradient checkpointing" * checkpointing)
    return Room(tokens, checkpointing, int(tokens * needed / positions), free)
