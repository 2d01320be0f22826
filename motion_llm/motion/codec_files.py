"""The files of a codec's folder, read and checked: codec.json, codebook.npz and, of a network, weights.safetensors."""

import re
from pathlib import Path

import numpy as np

from motion_llm.arrays import Archive, load_weights
from motion_llm.digests import digest_of_json
from motion_llm.json_files import check_form, read_json
from motion_llm.motion.look_ahead import MOST_CODES, MOST_WINDOW, CodecError
from motion_llm.motion.skeleton import Skeleton
from motion_llm.streams import FORMS, StreamError, Streams

CONFIG_FILE, CODEBOOK_FILE, WEIGHTS_FILE = "codec.json", "codebook.npz", "weights.safetensors"
FILES = (CONFIG_FILE, CODEBOOK_FILE, WEIGHTS_FILE)
QUANTISERS = ("vqvae", "kmeans")  # the first is the default: its measured error is lower (docs/log.md)
CODEBOOK = "codebook"  # the array of a codec of one stream; of several each has one, such as codebook_left_hand
FORM = {  # of codec.json
    "skeleton": {"names": [str], "parents": [range(-1, 100_000)], "offsets": [[slice(-1e6, 1e6)]]},
    "kind": re.compile("|".join(QUANTISERS)), "codes": range(2, MOST_CODES + 1), "window": range(1, MOST_WINDOW + 1),
    "fps": slice(1e-6, 1e6), "pads?": bool, "files?": {str: re.compile("[0-9a-f]{64}")},
    "digest?": str, "parts?": {str: [str]},
    "streams?": {"names": [str], "sizes": [range(2, MOST_CODES + 1)], "form": re.compile("|".join(FORMS[1:]))}}


def read_config(folder: Path) -> dict:
    """codec.json, with a Skeleton as "skeleton" and Streams as "streams". Raises CodecError naming the file."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CodecError(f"{folder} has no {CONFIG_FILE}, so it is no codec's folder")
    content = read_json(path, CodecError)
    if missing := [name for name in FORM if name[-1] != "?" and name not in content]:
        raise CodecError(f"{path} has no {missing[0]!r}: it is damaged, or no codec's file")
    written = content
    content = {"files": {}, "layout": None, "pads": False} | content  # folders of earlier versions lack them
    place, layout = f"{path} is damaged:", content["layout"]
    check_form(content, FORM, place, CodecError)
    if unknown := set(content["files"]) - set(FILES):
        raise CodecError(f"{place} files has {min(unknown)[:60]!r}, expected {', '.join(FILES[1:])}")
    skeleton = content["skeleton"]
    if layout is not None:
        joint = range(len(skeleton["names"]))
        check_form(layout, {"centre": joint}, f"{place} layout", CodecError)
        if layout.get("across") is not None:
            check_form(layout, {"across": [joint]}, f"{place} layout", CodecError)
        content["layout"] = {"across": None} | layout
    try:
        content["skeleton"] = Skeleton(tuple(skeleton["names"]), tuple(skeleton["parents"]),
                                       np.array(skeleton["offsets"], dtype=float))
        content["streams"] = _streams(content)
    except ValueError as error:  # also of numpy: rows of several lengths
        raise CodecError(f"{place} {error}") from None
    if "digest" in written and written.pop("digest") != digest_of_json(written):
        raise CodecError(f"{place} a value was changed since it was saved. Put the file back, or fit the codec anew")
    return content


def _streams(content: dict) -> Streams:
    """The streams of a codec.json. Raises StreamError for some that its codes or parts contradict."""
    if "streams" not in content:
        return Streams.one(content["codes"])
    streams = Streams.from_dict(content["streams"])
    if streams.size != content["codes"]:
        raise StreamError(f"codes is {content['codes']}, expected {streams.size}, those of its streams together")
    if set(content.get("parts", streams.names)) != set(streams.names):
        raise StreamError(f"parts are {', '.join(content['parts'])[:120]}, expected those of its streams, "
                          f"{', '.join(streams.names)[:120]}")
    return streams


def array_of(streams: Streams, stream: int) -> str:
    """The name of a stream's array in codebook.npz."""
    return CODEBOOK if streams.count == 1 else f"{CODEBOOK}_{streams.names[stream]}"


def read_codebooks(path: Path, streams: Streams) -> dict[str, np.ndarray]:
    """Stream -> (K, D). Raises CodecError naming the file."""
    codebooks = {}
    for stream, (name, codes) in enumerate(zip(streams.names, streams.sizes, strict=True)):
        try:
            with Archive(path, ValueError) as arrays:
                codebook = arrays[array_of(streams, stream)]
        except FileNotFoundError:
            raise CodecError(f"{path} is missing: the folder is damaged") from None
        except (ValueError, OSError) as error:
            raise CodecError(f"{path} is damaged: {error}") from None
        if codebook.ndim != 2 or len(codebook) != codes or codebook.dtype.kind != "f" or not np.isfinite(
                codebook).all():
            raise CodecError(f"{path} is damaged: {codebook.dtype} {codebook.shape}, expected {codes} rows of numbers")
        codebooks[name] = codebook
    return codebooks


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Raises CodecError naming the file."""
    try:
        return load_weights(path, CodecError)
    except FileNotFoundError:
        raise CodecError(f"{path} is missing: the folder is damaged") from None
