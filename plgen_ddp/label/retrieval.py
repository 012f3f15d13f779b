"""One linear classifier a name, trained on the boxes of the whole store that are nearest to the name's text embedding.

LP-OVOD (WACV 2024; VinAIResearch/LP-OVOD, retrieval/run.py) takes the 100 nearest boxes of objectness 0.5 or more for
each name and trains a linear sigmoid classifier on them. Here the negatives of a name are the boxes of the other
names, base names among them.
"""

from dataclasses import dataclass

import numpy as np

from plgen_ddp.label.logistic import fit_logistic

NEAREST = 100
"""Boxes a name."""
MIN_OBJECTNESS = 0.5


@dataclass(frozen=True, slots=True)
class NearestBoxes:
    """Boxes near each of c names, up to `NEAREST` a name, nearest first.

    Attributes:
        cosine: a float64 (k,) for each name, falling.
        embeddings: a float16 (k, d) for each name.
    """

    cosine: tuple[np.ndarray, ...]
    embeddings: tuple[np.ndarray, ...]


def nearest_boxes(cosine: np.ndarray, embeddings: np.ndarray) -> NearestBoxes:
    """The nearest of some boxes. cosine: float64 (n, c). embeddings: float16 (n, d)."""
    order = [np.argsort(-cosine[:, name], kind="stable")[:NEAREST] for name in range(cosine.shape[1])]
    return NearestBoxes(
        tuple(cosine[rows, name] for name, rows in enumerate(order)), tuple(embeddings[rows] for rows in order)
    )


def merge(one: NearestBoxes, other: NearestBoxes) -> NearestBoxes:
    """The nearest boxes of two parts; of equally near ones those of the first."""
    cosines, embeddings = [], []
    for name in range(len(one.cosine)):
        both = np.concatenate([one.cosine[name], other.cosine[name]])
        rows = np.argsort(-both, kind="stable")[:NEAREST]
        cosines.append(both[rows])
        embeddings.append(np.concatenate([one.embeddings[name], other.embeddings[name]])[rows])
    return NearestBoxes(tuple(cosines), tuple(embeddings))


@dataclass(frozen=True, slots=True)
class NameClassifiers:
    """A linear classifier a name: probability = sigmoid(weights . embedding + bias).

    weights: float64 (c, d). biases: float64 (c,).
    """

    weights: np.ndarray
    biases: np.ndarray

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """Probabilities float64 (n, c) of embeddings (n, d)."""
        # Rounded as cosines are, so that a box does not depend on the others of its image.
        logits = (embeddings.astype(np.float64) @ self.weights.T).astype(np.float32).astype(np.float64) + self.biases
        return 1 / (1 + np.exp(-logits))


def train_names(nearest: NearestBoxes) -> NameClassifiers:
    """Trains each name's classifier on its own boxes against those of the other names.

    A name without boxes, or whose boxes are the only ones, gets a probability near 0 everywhere.
    """
    rows = np.concatenate(nearest.embeddings).astype(np.float64)
    owner = np.repeat(np.arange(len(nearest.cosine)), [len(found) for found in nearest.cosine])
    weights, biases = np.zeros((len(nearest.cosine), rows.shape[1])), np.full(len(nearest.cosine), -20.0)
    for name in np.unique(owner).tolist():
        if (owner != name).any():
            weights[name], biases[name] = fit_logistic(rows, owner == name, inverse_penalty=100.0, balanced=True)
    return NameClassifiers(weights, biases)
