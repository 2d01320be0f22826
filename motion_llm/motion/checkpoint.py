"""Reads the tensors of a checkpoint that torch.save wrote, and runs nothing that is pickled beside them.

A checkpoint is a zip of `data.pkl`, a pickle, and of the tensors' numbers. Here the pickle is not run: its steps are
followed, and whatever they would make is a `Stub` without content, but for tensors, containers, numbers and text. So
neither a training program's classes (omegaconf's, Lightning's) are needed, nor can harmful code do anything.
"""

import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from motion_llm.motion.codec import CodecError

STORAGES = {  # torch's name of a storage -> the numbers in it; bfloat16 is widened after reading
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "<u2",
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "|i1", "ByteStorage": "|u1",
    "BoolStorage": "|b1"}
# What following the steps of a broken pickle can raise.
BROKEN = (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Stub:
    """Stands for a class, a function or an object of the pickle. name: "module name" of the class or function."""

    name: str


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor's numbers are: in the zip's member `key`, from number `start` on, in steps of `strides`."""

    storage: str
    key: str
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Checkpoint:
    """content: what was saved, with a StoredTensor for each tensor and a Stub for each object of an unknown class."""

    path: Path
    folder: str
    content: object

    @staticmethod
    def read(path: Path) -> "Checkpoint":
        """Raises CodecError naming the file, and OSError."""
        try:
            with zipfile.ZipFile(path) as file:
                pickled = next((name for name in file.namelist() if name.split("/")[1:] == ["data.pkl"]), None)
                if pickled is None:
                    raise CodecError(f"{path} is no checkpoint: a zip without data.pkl, which torch.save writes")
                folder = pickled.removesuffix("data.pkl")
                if f"{folder}byteorder" in file.namelist() and file.read(f"{folder}byteorder") != b"little":
                    raise CodecError(f"{path} was saved on a big-endian machine: load it there and save it as float32 "
                                     "on a usual one")
                return Checkpoint(path, folder, _followed(_stored(file, pickled)))
        except zipfile.BadZipFile as error:
            raise CodecError(f"{path} is no checkpoint that torch.save wrote (torch 1.6 or later), or is damaged: "
                             f"{str(error)[:100]}") from None
        except CodecError:
            raise
        except BROKEN as error:
            raise CodecError(f"{path} is damaged: its pickle cannot be followed ({str(error)[:100]!r})") from None

    def arrays(self, tensors: Mapping[str, StoredTensor]) -> dict[str, np.ndarray]:
        """The numbers of these tensors; those of others are not read. Raises CodecError, OSError."""
        with zipfile.ZipFile(self.path) as file:
            return {name: self._array(file, name, tensor) for name, tensor in tensors.items()}

    def _array(self, file: zipfile.ZipFile, name: str, tensor: StoredTensor) -> np.ndarray:
        if tensor.storage not in STORAGES:
            raise CodecError(f"{self.path}: {name} is of {tensor.storage}, expected one of {', '.join(STORAGES)}")
        try:
            numbers = np.frombuffer(_stored(file, f"{self.folder}data/{tensor.key}"), STORAGES[tensor.storage])
        except (KeyError, ValueError, zipfile.BadZipFile) as error:
            raise CodecError(f"{self.path} is damaged: the numbers of {name} ({str(error)[:100]!r})") from None
        if tensor.storage == "BFloat16Storage":
            numbers = (numbers.astype("<u4") << 16).view("<f4")
        if prod(tensor.shape) == 0:
            return np.zeros(tensor.shape, numbers.dtype)
        last = tensor.start + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.strides, strict=True))
        if min(tensor.start, *tensor.shape, *tensor.strides, 0) < 0 or last >= len(numbers) or (
                prod(tensor.shape) > len(numbers)):  # strides of 0 repeat numbers
            raise CodecError(f"{self.path} is damaged: {name} is {tensor.shape}, of {len(numbers)} numbers")
        strides = [step * numbers.itemsize for step in tensor.strides]
        return np.lib.stride_tricks.as_strided(numbers[tensor.start:], tensor.shape, strides).copy()


def _stored(file: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of a member. torch.save packs none, and a packed one may have any size. Raises ValueError, KeyError."""
    if file.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name[:60]} is packed")
    return file.read(name)


def _followed(pickled: bytes) -> object:
    """What a pickle of protocol 2 to 5 holds. Raises one of BROKEN. Nothing of the pickle is imported or called."""
    stack, marks, memo = [], [], {}

    def to_mark() -> list:
        nonlocal stack
        items, stack = stack, marks.pop()
        return items

    for step, value, _ in pickletools.genops(pickled):
        match step.name:
            case "STOP":
                return stack.pop()
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                marks.append(stack)
                stack = []
            case "POP":
                stack.pop()
            case "POP_MARK":
                to_mark()
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[step.name])
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_SET":
                stack.append({"TUPLE": tuple, "LIST": list, "DICT": dict, "SET": set}[step.name[6:]]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(step.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE" | "FROZENSET":
                items = to_mark()
                stack.append(tuple(items) if step.name == "TUPLE" else frozenset(items))
            case "APPEND" | "APPENDS":
                items = [stack.pop()] if step.name == "APPEND" else to_mark()
                if isinstance(stack[-1], list):  # else a Stub, which stays without content
                    stack[-1].extend(items)
            case "ADDITEMS":
                items = to_mark()
                if isinstance(stack[-1], set):
                    stack[-1].update(items)
            case "SETITEM" | "SETITEMS":
                items = to_mark() if step.name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                if isinstance(stack[-1], dict):
                    stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                memo[value] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[value])
            case "GLOBAL":
                stack.append(Stub(value))
            case "STACK_GLOBAL":
                stack[-2:] = [Stub(f"{stack[-2]} {stack[-1]}")]
            case "REDUCE" | "NEWOBJ":
                arguments = stack.pop()
                stack.append(_made(stack.pop(), arguments))
            case "NEWOBJ_EX":
                stack[-3:] = [Stub(str(stack[-3]))]
            case "BUILD":  # the object's state: a Stub has none, and what else is made here needs none
                stack.pop()
            case "BINPERSID":  # (b"storage" or "storage", its class, key, device, number of numbers)
                stack.append(stack.pop())
            case _ if not step.stack_before and value is not None:  # a number or a text
                stack.append(value)
            case _:
                raise ValueError(f"step {step.name}")
    raise ValueError("no end")


def _made(function: object, arguments: object) -> object:
    """What stands for the object that this function or class would make."""
    name = function.name if isinstance(function, Stub) else ""
    if name == "collections OrderedDict":
        return {}
    if name in ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state"):
        return arguments[0]
    if name == "torch._utils _rebuild_tensor_v2":
        (_, storage, key, *_), start, shape, strides = arguments[:4]
        if not (isinstance(storage, Stub) and all(type(size) is int for size in (start, *shape, *strides))):
            raise ValueError("a tensor without storage or shape")
        return StoredTensor(storage.name.rpartition(" ")[2], str(key), start, tuple(shape), tuple(strides))
    return Stub(name)
