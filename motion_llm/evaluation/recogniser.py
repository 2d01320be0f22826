"""A classifier of clips by their codes, such as by action: counts of code n-grams and multinomial logistic regression.

It measures generated motion. It is trained on real clips only, and its accuracy on unseen real clips is the most that
generated clips can be expected to reach.
"""

import random
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

Codes = Sequence[int]
LONGEST = 2  # codes of an n-gram; 3 classified real clips no better
LEAST_CLIPS = 2  # clips that must have an n-gram; one of a single clip says nothing about others
STRENGTH = 3e-6  # of the L2 penalty on the weights, added to the mean cross entropy
ITERATIONS = 200
EDGE = -1  # put before the first and after the last code, so that the start and end of a clip count


def ngrams(clip: Codes) -> Counter[tuple[int, ...]]:
    """How often each run of 1 to LONGEST codes occurs in a clip (T,), its edges included."""
    codes = (EDGE, *map(int, clip), EDGE)
    counts = Counter(codes[i:i + n] for n in range(1, LONGEST + 1) for i in range(len(codes) - n + 1))
    del counts[(EDGE,)]
    return counts


class ActionRecogniser:
    """Predicts labels of clips, after fit(). Deterministic."""

    def fit(self, clips: Sequence[Codes], labels: Sequence[Hashable]) -> "ActionRecogniser":
        """Raises ValueError without clips, if clips and labels differ in number, or for a single label."""
        if len(clips) != len(labels):
            raise ValueError(f"{len(clips)} clips but {len(labels)} labels")
        self.labels = sorted(set(labels))
        if len(self.labels) < 2:
            raise ValueError(f"{len(clips)} clips with {len(self.labels)} different labels, expected two or more")
        counts = [ngrams(clip) for clip in clips]
        clips_with = Counter(gram for count in counts for gram in count)
        frequent = sorted(gram for gram, number in clips_with.items() if number >= LEAST_CLIPS)
        self.vocabulary = {gram: i for i, gram in enumerate(frequent)}
        index = {label: i for i, label in enumerate(self.labels)}
        self.weights, self.bias = _logistic_regression(
            self._features(counts), np.array([index[label] for label in labels]), len(self.labels))
        return self

    def _features(self, counts: Sequence[Counter]) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]:
        """Sparse rows of log(1 + count), scaled to unit length: row indices, column indices, values, shape."""
        rows, columns, values = [], [], []
        for row, count in enumerate(counts):
            entries = [(self.vocabulary[gram], np.log1p(n)) for gram, n in count.items() if gram in self.vocabulary]
            length = np.sqrt(sum(value * value for _, value in entries))
            for column, value in entries:
                rows.append(row)
                columns.append(column)
                values.append(value / length)
        return (np.array(rows, dtype=np.int64), np.array(columns, dtype=np.int64), np.array(values),
                (len(counts), len(self.vocabulary)))

    def predict(self, clips: Sequence[Codes]) -> list:
        """The likeliest label of each clip; by the bias alone for a clip without an n-gram of the vocabulary."""
        rows, columns, values, shape = self._features([ngrams(clip) for clip in clips])
        scores = np.tile(self.bias, (shape[0], 1))
        np.add.at(scores, rows, values[:, None] * self.weights[columns])
        return [self.labels[i] for i in scores.argmax(axis=1)]

    def accuracy(self, clips: Sequence[Codes], labels: Sequence[Hashable]) -> float:
        """Share of the clips whose label is predicted. Raises ValueError without clips."""
        if len(clips) != len(labels) or not clips:
            raise ValueError(f"{len(clips)} clips and {len(labels)} labels, expected as many, and one at least")
        return sum(guess == label for guess, label in zip(self.predict(clips), labels, strict=True)) / len(clips)


def _logistic_regression(features: tuple, targets: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (features, labels) and bias (labels,) with the least mean cross entropy + STRENGTH * squared weights."""
    import torch

    rows, columns, values, shape = features
    data = torch.sparse_coo_tensor(torch.from_numpy(np.stack([rows, columns])), torch.from_numpy(values), shape,
                                   check_invariants=False).coalesce()
    weights = torch.zeros(shape[1], count, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    target = torch.from_numpy(targets)
    solver = torch.optim.LBFGS([weights, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss():
        solver.zero_grad()
        value = torch.nn.functional.cross_entropy(torch.sparse.mm(data, weights) + bias, target)
        value = value + STRENGTH * weights.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    return weights.detach().numpy(), bias.detach().numpy()


def cross_validate(clips: Sequence[Codes], labels: Sequence[Hashable], folds: int = 5, seed: int = 0) -> list:
    """The label of each clip as predicted by a recogniser fitted on the other folds; `seed` draws the folds."""
    order = list(range(len(clips)))
    random.Random(seed).shuffle(order)
    predicted: list = [None] * len(clips)
    for fold in range(folds):
        held_out, rest = order[fold::folds], [i for k, i in enumerate(order) if k % folds != fold]
        recogniser = ActionRecogniser().fit([clips[i] for i in rest], [labels[i] for i in rest])
        for i, label in zip(held_out, recogniser.predict([clips[i] for i in held_out]), strict=True):
            predicted[i] = label
    return predicted
