"""Numbers from .npy, .npz and .safetensors files, which may come from strangers: nothing is unpickled, and no header is
believed."""

import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from motion_llm.input_files import check_regular

MOST_BYTES = 2**32  # of one array in an .npz file, which may be packed a thousandfold
FREELY, MOST_PACKED = 2**26, 100  # bytes that any array may have; a larger one may be packed that many times
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# What reading a damaged header raises in numpy, which reads it as a Python literal.
BROKEN = (ValueError, TypeError, EOFError, KeyError, OverflowError, SyntaxError, RecursionError, MemoryError,
          tokenize.TokenError)


def load_npy(path: str | Path, error: type[ValueError]) -> np.ndarray:
    """The array of a .npy file. Raises `error` naming the file and what it is instead; OSError."""
    path = Path(path)
    check_regular(path, error)
    with path.open("rb") as file:
        start = file.read(10)
    if not start.startswith(b"\x93NUMPY"):
        kinds = {b"HIERARCHY": "a BVH file", b"PK": "an archive of several arrays (.npz)"}
        kind = next((name for first, name in kinds.items() if start.startswith(first)), f"bytes such as {start!r}")
        raise error(f"{path}: {kind if start else 'an empty file'}, expected a .npy file of one array of numbers")
    try:
        # Mapped first, as that refuses a header that announces more than the file has.
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except BROKEN as reason:
        raise error(f"{path}: a damaged .npy file, or one of objects, which are not read ({str(reason)[:60]}); "
                    "expected one array of numbers") from None


class Archive:
    """The arrays of an .npz file, each read when it is taken. names: of the arrays. Raises `error` naming the file."""

    def __init__(self, path: str | Path, error: type[ValueError]):
        self.path, self.error = Path(path), error
        check_regular(path, error)
        try:
            self.zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as reason:
            raise error(f"{path}: no .npz file, or damaged ({str(reason)[:60]}); expected several named "
                        "arrays") from None
        self.names = {name.removesuffix(".npy") for name in self.zip.namelist() if name.endswith(".npy")}

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *exception) -> None:
        self.zip.close()

    def __getitem__(self, name: str) -> np.ndarray:
        """Raises `error` for an array that is missing, pickled, damaged, larger than MOST_BYTES or packed too much."""
        if name not in self.names:
            self.fail(f"no {name[:60]} among {', '.join(sorted(self.names))[:120] or 'no arrays'}")
        info = self.zip.getinfo(f"{name}.npy")
        shape, dtype = self._read(info, _header)
        if dtype.hasobject:
            self.fail(f"{name} is pickled, which is not read for safety: save it as a plain array")
        size = math.prod(shape) * dtype.itemsize
        most = min(MOST_BYTES, max(FREELY, MOST_PACKED * info.compress_size))
        if min(shape, default=0) < 0 or size > min(info.file_size, most):
            self.fail(f"{name} announces {str(shape)[:60]} of {str(dtype)[:40]}, {size:.10g} bytes; the file has "
                      f"{info.file_size:,}, packed to {info.compress_size:,}, and at most {most:,} are read")
        return self._read(info, np.lib.format.read_array)

    def _read(self, info: zipfile.ZipInfo, read: Callable):
        try:
            with self.zip.open(info) as member:
                return read(member)
        except (*BROKEN, RuntimeError, OSError, zipfile.BadZipFile, zlib.error) as reason:
            self.fail(f"{info.filename.removesuffix('.npy')[:60]} is damaged or locked ({str(reason)[:60]})")

    def fail(self, text: str):
        raise self.error(f"{self.path}: {text}")


def _header(file) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and type that an array announces. KeyError for a version that no array of numbers has."""
    shape, _, dtype = HEADERS[np.lib.format.read_magic(file)](file)
    return shape, dtype


def load_weights(path: str | Path, error: type[ValueError]) -> dict[str, np.ndarray]:
    """Name -> tensor of a .safetensors file, of types that numpy has. Raises `error` naming the file, and the tensor
    that is damaged, of another type or not finite; OSError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    check_regular(path, error)
    try:
        tensors = load_file(path)  # it checks length and offsets against the file before it takes memory
    except (SafetensorError, *BROKEN) as reason:
        raise error(f"{path} is damaged: {str(reason)[:120]}; expected a .safetensors file") from None
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise error(f"{path} is damaged: tensor {name[:60]} holds values that are not finite")
    return tensors
