"""Initial embedding rows of the codes: similar codes start with similar rows.

With random rows, training first has to learn which codes are similar. The clips tell this beforehand: two codes with
the same neighbours in time are similar movements, as words with the same neighbours have similar meanings. Where the
codec's codebook is available, its vectors tell it directly.
"""

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from motion_llm.arrays import Archive, load_npy
from motion_llm.streams import ABSENT, TEXT, Streams

NEIGHBOURS = {1: 1.0, 2: 0.5, 3: 0.33}  # distance in tokens -> weight
ENOUGH_TOKENS = 2_000_000  # of the clips; more tokens do not change the statistics
DIMENSIONS = 64
NAMES = ("centers", "centres", "codebook", "embedding")  # of a codebook in a .npz file


def cooccurrence_vectors(clips: Iterable[Sequence[int]], codebook: Streams | int, seed: int) -> torch.Tensor:
    """Vectors (K, min(K, DIMENSIONS)), similar where two codes have similar neighbours; 0 for unused codes.

    Positive pointwise mutual information of following and of preceding codes, each a sparse matrix (K, K), and their
    truncated singular value decomposition (Levy, Goldberg and Dagan 2015, for words). Mean square length 1. clips: flat
    codes; of several streams each has neighbours in its own, and dimensions of its own.
    """
    sampled, tokens = [], 0
    for clip in clips:
        sampled.append(np.asarray(clip, dtype=np.int64))
        tokens += len(sampled[-1])
        if tokens >= ENOUGH_TOKENS:
            break
    if isinstance(codebook, int):
        return _vectors(sampled, codebook, seed)
    own = [codebook.steps(clip).astype(np.int64) for clip in sampled]
    return torch.block_diag(*(
        _vectors([steps[:, stream] for steps in own if (steps[:, stream] != ABSENT).all()], size, seed)
        for stream, size in enumerate(codebook.sizes)))


def _vectors(clips: Sequence[np.ndarray], codebook_size: int, seed: int) -> torch.Tensor:
    """`cooccurrence_vectors` of one stream's own codes."""
    following = _positive_information(clips, codebook_size)
    neighbours = torch.cat([following, following.transpose(0, 1)], dim=1).coalesce()  # (K, 2K)
    size = min(DIMENSIONS, codebook_size)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        u, s, _ = torch.svd_lowrank(neighbours, q=size, niter=4)
    vectors = u * s
    used = torch.zeros(codebook_size, dtype=torch.bool)
    used[np.unique(np.concatenate(clips))] = True
    vectors[used] -= vectors[used].mean(0)
    vectors[~used] = 0
    return vectors / vectors[used].square().sum(1).mean().sqrt().clamp(min=1e-12)


def codebook_vectors(path: str | Path, codebook: Streams | int) -> torch.Tensor:
    """The codec's own vectors (K, d), row i for code i, from a .npy file or the one fitting array of a .npz file; of
    several streams from a .npz file with an array of each one's name, and each stream has dimensions of its own.

    Their mean is subtracted, their mean square length is 1. Arrays with a name of NAMES take precedence; dimensions
    after the first are flattened. Raises ValueError naming the file and what it holds.
    """
    path = Path(path)
    arrays = _arrays(path)
    if isinstance(codebook, int) or codebook.form == TEXT:
        size = codebook if isinstance(codebook, int) else codebook.size
        return _centred(arrays[_fitting(arrays, size, path)], size, path)
    vectors = []
    for name, size in zip(codebook.names, codebook.sizes, strict=True):
        array = arrays.get(f"codebook_{name}", arrays.get(name))  # as codec.py writes it, or of another program
        if array is None:
            raise ValueError(f"CODEBOOK_PATH {path} holds {', '.join(arrays) or 'nothing'}, expected an array for each "
                             f"stream: it has none called {name}")
        if array.ndim < 2 or len(array) < size or not np.issubdtype(array.dtype, np.number):
            raise ValueError(f"CODEBOOK_PATH {path} holds {name} {array.shape}, expected {size} rows (codes) or more")
        vectors.append(_principal(_centred(array, size, path)))
    return torch.block_diag(*vectors)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError(f"CODEBOOK_PATH {path}: there is no such file")
    try:
        if zipfile.is_zipfile(path):
            with Archive(path, ValueError) as archive:
                return {name: archive[name] for name in sorted(archive.names)}
        return {"": load_npy(path, ValueError)}
    except (ValueError, OSError) as error:
        raise ValueError(f"CODEBOOK_PATH {path}: it is no .npy or .npz file of numbers (no pickles)") from error


def _fitting(arrays: Mapping[str, np.ndarray], codebook_size: int, path: Path) -> str:
    """The name of the array that is the codebook. Raises ValueError."""
    fitting = [name for name, array in arrays.items() if array.ndim > 1 and array.shape[0] >= codebook_size
               and np.issubdtype(array.dtype, np.number)]
    candidates = [name for name in NAMES if name in fitting] or fitting
    if len(candidates) != 1:
        shapes = ", ".join(f"{name or 'array'} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"CODEBOOK_PATH {path} holds {shapes}: expected one array of {codebook_size} rows (codes) or "
                         f"more, or one called {', '.join(NAMES)}")
    return candidates[0]


def _centred(array: np.ndarray, codebook_size: int, path: Path) -> torch.Tensor:
    """The array's first rows as vectors (codebook_size, d), their mean subtracted, their mean square length 1."""
    rows = array[:codebook_size].reshape(codebook_size, -1)
    vectors = torch.from_numpy(rows.astype(np.float32))
    if not torch.isfinite(vectors).all():
        raise ValueError(f"CODEBOOK_PATH {path}: it holds numbers that are not finite")
    vectors = vectors - vectors.mean(0)
    return vectors / vectors.square().sum(1).mean().sqrt().clamp(min=1e-12)


def _principal(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors (K, d) on their principal axes, at most DIMENSIONS of them, so that many streams fit a row."""
    if vectors.shape[1] <= DIMENSIONS:
        return vectors
    u, s, _ = torch.linalg.svd(vectors, full_matrices=False)
    return u[:, :DIMENSIONS] * s[:DIMENSIONS]


def joined(*vectors: torch.Tensor) -> torch.Tensor:
    """Several sets of vectors of the codes, each (K, d_i), concatenated with equal weights, (K, sum of d_i)."""
    return torch.cat([part / len(vectors)**0.5 for part in vectors], dim=1)


def _positive_information(clips: Sequence[np.ndarray], codebook_size: int) -> torch.Tensor:
    """max(0, log p(a, b) / (p(a) p(b))) for code b up to 3 tokens after code a (NEIGHBOURS), sparse (K, K)."""
    pairs, weights = [], []
    for distance, weight in NEIGHBOURS.items():
        per_clip = [clip[:-distance] * codebook_size + clip[distance:] for clip in clips if len(clip) > distance]
        pair, count = np.unique(np.concatenate(per_clip or [np.zeros(0, np.int64)]), return_counts=True)
        pairs.append(pair)
        weights.append(weight * count)
    pair, inverse = np.unique(np.concatenate(pairs), return_inverse=True)
    joint = np.bincount(inverse, np.concatenate(weights), minlength=len(pair))
    first, second = np.divmod(pair, codebook_size)
    before, after = (np.bincount(part, joint, minlength=codebook_size) for part in (first, second))
    information = np.log(joint * joint.sum() / (before[first] * after[second]).clip(min=1e-12))
    return torch.sparse_coo_tensor(np.stack([first, second]), information.clip(min=0).astype(np.float32),
                                   (codebook_size, codebook_size), check_invariants=True)


def as_rows(vectors: torch.Tensor, width: int, seed: int) -> torch.Tensor:
    """Vectors (K, d) as rows (K, width): a random rotation, which keeps their angles and favours no dimension. The mean
    square of the values is 1. Codes without a vector (0) get random rows."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(vectors.shape[0], width, generator=generator)
    size = min(vectors.shape[1], width)
    axes, _ = torch.linalg.qr(torch.randn(width, size, generator=generator))  # (width, size), orthonormal
    rows = vectors[:, :size].float() @ axes.T * width**0.5
    return torch.where(rows.abs().sum(1, keepdim=True) > 0, rows, drawn)
