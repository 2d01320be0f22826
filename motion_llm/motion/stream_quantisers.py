"""Quantisers of several streams: one for each part of a figure, or levels, each of what the ones before it leave.

Both take the features of the whole figure and give flat codes (see motion_llm/streams.py), Q for each window.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from motion_llm.motion.kmeans import KMeans, kmeans, nearest, points_of, windows_of
from motion_llm.motion.look_ahead import CodecError
from motion_llm.motion.part_features import PartFeatures
from motion_llm.streams import ABSENT, OBJECT, STEPS, Streams, level_names

LEVELS = range(1, 7)  # of a residual quantiser; 1 is none


class PartQuantiser:
    """features: of the parts; quantisers: one for each part, in their order, all of one kind and window."""

    def __init__(self, features: PartFeatures, quantisers: Sequence):
        self.features, self.quantisers = features, tuple(quantisers)
        self.window = quantisers[0].window
        self.streams = Streams(features.names, tuple(len(quantiser.codebook) for quantiser in quantisers), OBJECT)

    @staticmethod
    def fit(kind: type, clips: Sequence[np.ndarray], sizes: Sequence[int], window: int, seed: int,
            features: PartFeatures, fps: float, **options) -> "PartQuantiser":
        """kind: class of the quantisers. clips: of what features.split makes. sizes: codes of each part."""
        return PartQuantiser(features, [
            kind.fit([clip[:, columns] for clip in clips], size, window, seed, layout, fps, **options)
            for size, columns, layout in zip(sizes, features.slices, features.layouts, strict=True)])

    def encode(self, features: np.ndarray) -> np.ndarray:
        """Flat codes (T // window * Q,) of features (T, F)."""
        parts = self.features.split(features)
        return self.streams.flat(np.stack([quantiser.encode(parts[:, columns]) for quantiser, columns in zip(
            self.quantisers, self.features.slices, strict=True)], 1))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Features (n * window, F) of flat codes (n * Q,). A part that is absent stands in its rest pose."""
        steps = self.streams.steps(codes).astype(np.int64)
        rest = np.broadcast_to(self.features.rest, (len(steps) * self.window, len(self.features.rest)))
        return self.features.joined([rest[:, columns] if absent else quantiser.decode(steps[:, stream])
                                     for stream, (quantiser, columns, absent) in enumerate(zip(
                                         self.quantisers, self.features.slices, absent_streams(steps, self.streams),
                                         strict=True))])

    @property
    def codebooks(self) -> dict[str, np.ndarray]:
        """Stream -> (K, D)"""
        return {name: quantiser.codebook for name, quantiser in zip(self.streams.names, self.quantisers, strict=True)}

    def tensors(self) -> dict[str, np.ndarray]:
        """Those of all parts; the names begin with the part's number, from 0."""
        return {f"{place}.{name}": array for place, quantiser in enumerate(self.quantisers)
                for name, array in quantiser.tensors().items()}

    @staticmethod
    def restore(kind: type, features: PartFeatures, codebooks: Mapping[str, np.ndarray],
                tensors: Mapping[str, np.ndarray], window: int) -> "PartQuantiser":
        """Raises ValueError naming the part and what does not fit."""
        quantisers = []
        own: list[dict] = [{} for _ in features.names]
        for name, tensor in tensors.items():
            place, _, rest = name.partition(".")
            if place not in map(str, range(len(own))):
                raise ValueError(f"tensor {name[:60]} is of none of the {len(own)} parts")
            own[int(place)][rest] = tensor
        for name, layout, of_part in zip(features.names, features.layouts, own, strict=True):
            try:
                quantisers.append(kind.restore(codebooks[name], of_part, window, layout.width))
            except ValueError as error:
                raise ValueError(f"part {name}: {error}") from None
        return PartQuantiser(features, quantisers)


class LevelQuantiser:
    """A residual quantiser (Juang and Gray 1982), as RVQ-VAEs have it: a window's features are the sum of one centre
    of each level. quantisers: k-means of each level; those after the first are of what the levels before leave."""

    def __init__(self, quantisers: Sequence[KMeans]):
        self.quantisers, self.window = tuple(quantisers), quantisers[0].window
        self.streams = Streams(level_names(len(quantisers)), tuple(quantiser.codes for quantiser in quantisers), STEPS)

    @staticmethod
    def check_kind(kind: type) -> None:
        """Raises CodecError for another kind of quantiser than k-means."""
        if kind is not KMeans:
            raise CodecError("--levels are fitted by kind kmeans alone: the network of kind vqvae has one codebook. "
                             "Leave --kind out, or --levels")

    @staticmethod
    def fit(clips: Sequence[np.ndarray], sizes: Sequence[int], window: int, seed: int) -> "LevelQuantiser":
        """clips: features (T, F). sizes: codes of each level."""
        residual, quantisers = points_of(clips, max(sizes), window, seed), []
        for size in sizes:
            centres = kmeans(residual, size, seed)
            residual = residual - centres[nearest(residual, centres)]
            quantisers.append(KMeans(centres.reshape(size, window, -1)))
        return LevelQuantiser(quantisers)

    def encode(self, features: np.ndarray) -> np.ndarray:
        """Flat codes (T // window * Q,) of features (T, F): of each level the nearest."""
        residual, steps = windows_of(features * self.quantisers[0].weights, self.window, self.window), []
        for quantiser in self.quantisers:
            steps.append(nearest(residual, quantiser.codebook))
            residual = residual - quantiser.codebook[steps[-1]]
        return self.streams.flat(np.stack(steps, 1))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Features (n * window, F) of flat codes (n * Q,). Levels that are absent add nothing. Raises CodecError where
        the first one is."""
        steps = self.streams.steps(codes).astype(np.int64)
        absent = absent_streams(steps, self.streams)
        if absent[0]:
            raise CodecError(f"level {self.streams.names[0]} is absent, expected its codes: the others refine them")
        return sum(quantiser.decode(steps[:, level]) for level, quantiser in enumerate(self.quantisers)
                   if not absent[level])

    @property
    def codebooks(self) -> dict[str, np.ndarray]:
        """Level -> (K, window * F)"""
        return {name: quantiser.codebook for name, quantiser in zip(self.streams.names, self.quantisers, strict=True)}

    def tensors(self) -> dict[str, np.ndarray]:
        return {}

    @staticmethod
    def restore(codebooks: Mapping[str, np.ndarray], window: int, width: int) -> "LevelQuantiser":
        """Raises ValueError naming the level and what does not fit."""
        quantisers = []
        for name, codebook in codebooks.items():
            try:
                quantisers.append(KMeans.restore(codebook, {}, window, width))
            except ValueError as error:
                raise ValueError(f"level {name}: {error}") from None
        return LevelQuantiser(quantisers)


def absent_streams(steps: np.ndarray, streams: Streams) -> list[bool]:
    """Of each stream of steps (n, Q), whether it is absent. Raises CodecError for one that is in some steps alone, and
    where all are."""
    absent = steps == ABSENT
    for stream, name in enumerate(streams.names):
        if absent[:, stream].any() and not absent[:, stream].all():
            raise CodecError(f"{name} is absent in step {int(absent[:, stream].argmax())} and not in others, expected "
                             "it in all or in none")
    if absent.all():
        raise CodecError(f"all of {', '.join(streams.names)} are absent, expected the codes of one or more")
    return absent.all(0).tolist()
