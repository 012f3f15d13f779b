"""Which name a region has: its embedding against the text embeddings of all names."""

import numpy as np

from plgen_ddp.records import Similarity


def best_names(
    embeddings: np.ndarray, text_embeddings: np.ndarray, similarity: Similarity, novel: int
) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest novel name of each region.

    Args:
        embeddings: (n, d), unit length up to rounding.
        text_embeddings: float32 (c, d), unit length.
        similarity: a softmax is over all c names; a sigmoid is of each name alone.
        novel: number of novel names. They come first, and only they can be chosen; the others take their share of a
            softmax.

    Returns:
        (index int64 (n,) into the novel names, its probability float64 (n,)).
    """
    logits = cosines(embeddings, text_embeddings).astype(np.float64) / similarity.temperature
    rows = np.arange(len(logits))
    if similarity.rule == "sigmoid":
        best = logits[:, :novel].argmax(axis=1)
        return best, 1 / (1 + np.exp(-(logits[rows, best] + similarity.bias)))
    logits -= logits.max(axis=1, keepdims=True)
    likelihoods = np.exp(logits)
    best = likelihoods[:, :novel].argmax(axis=1)
    return best, likelihoods[rows, best] / likelihoods.sum(axis=1)


def cosines(embeddings: np.ndarray, text_embeddings: np.ndarray) -> np.ndarray:
    """Cosines float32 (n, c) of regions (n, d) and names (c, d).

    A product sums in another order for another number of rows. Summed in float64 and rounded to float32, a cosine
    hides that, so a region's name does not depend on the other regions of its image.
    """
    regions = embeddings.astype(np.float64)
    regions /= np.maximum(np.linalg.norm(regions, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return (regions @ text_embeddings.T.astype(np.float64)).astype(np.float32)
