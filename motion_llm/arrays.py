"""Numbers from .npy and .npz files, which may come from strangers: nothing is unpickled, and no header is believed."""

import math
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

MOST_BYTES = 2**32  # of one array in an .npz file, which may be packed a thousandfold
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def load_npy(path: str | Path, error: type[ValueError]) -> np.ndarray:
    """The array of a .npy file. Raises `error` naming the file and what it is instead; OSError."""
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(10)
    if not start.startswith(b"\x93NUMPY"):
        kinds = {b"HIERARCHY": "a BVH file", b"PK": "an archive of several arrays (.npz)"}
        kind = next((name for first, name in kinds.items() if start.startswith(first)), f"bytes such as {start!r}")
        raise error(f"{path}: {kind if start else 'an empty file'}, expected a .npy file of one array of numbers")
    try:
        # Mapped first, as that refuses a header that announces more than the file has.
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, EOFError, MemoryError) as reason:
        raise error(f"{path}: a damaged .npy file, or one of objects, which are not read ({str(reason)[:60]}); "
                    "expected one array of numbers") from None


class Archive:
    """The arrays of an .npz file, each read when it is taken. names: of the arrays. Raises `error` naming the file."""

    def __init__(self, path: str | Path, error: type[ValueError]):
        self.path, self.error = Path(path), error
        try:
            self.zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile as reason:
            raise error(f"{path}: no .npz file, or damaged ({str(reason)[:60]}); expected several named "
                        "arrays") from None
        self.names = {name.removesuffix(".npy") for name in self.zip.namelist() if name.endswith(".npy")}

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *exception) -> None:
        self.zip.close()

    def __getitem__(self, name: str) -> np.ndarray:
        """Raises `error` for an array that is missing, pickled, damaged or larger than MOST_BYTES."""
        if name not in self.names:
            self.fail(f"no {name} among {', '.join(sorted(self.names))[:120] or 'no arrays'}")
        info = self.zip.getinfo(f"{name}.npy")
        shape, dtype = self._read(info, _header)
        if dtype.hasobject:
            self.fail(f"{name} is pickled, which is not read for safety: save it as a plain array")
        size = math.prod(shape) * dtype.itemsize
        if size > min(info.file_size, MOST_BYTES):
            self.fail(f"{name} announces {shape} of {dtype}, {size:,} bytes; the file has {info.file_size:,}, and at "
                      f"most {MOST_BYTES:,} are read")
        return self._read(info, np.lib.format.read_array)

    def _read(self, info: zipfile.ZipInfo, read: Callable):
        try:
            with self.zip.open(info) as member:
                return read(member)
        except (ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as reason:
            self.fail(f"{info.filename.removesuffix('.npy')} is damaged or locked ({str(reason)[:60]})")

    def fail(self, text: str):
        raise self.error(f"{self.path}: {text}")


def _header(file) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and type that an array announces. KeyError for a version that no array of numbers has."""
    shape, _, dtype = HEADERS[np.lib.format.read_magic(file)](file)
    return shape, dtype
