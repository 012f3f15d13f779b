"""Which name a region has: cosines of its embedding with names, as a probability for each name.

Three rules, chosen by `label.class_score`. All take cosines and give, for each region, one of the names that are asked
for and its probability. Names are asked for as columns, so the same rules also score base names as if they were novel.
"""

import numpy as np

from plgen_ddp.records import Similarity

# Rows of a block: their float64 copy fits into a core's cache.
_BLOCK = 256


def cosines(embeddings: np.ndarray, text_embeddings: np.ndarray) -> np.ndarray:
    """Cosines float64 (n, c) of regions (n, d) and names float32 (c, d), each a float32 value.

    A product sums in another order for another number of rows. Summed in float64 and rounded to float32, a cosine
    hides that, so a region's name does not depend on the other regions of its image.
    """
    texts = text_embeddings.T.astype(np.float64)
    found = np.empty((len(embeddings), texts.shape[1]), np.float32)
    for start in range(0, len(embeddings), _BLOCK):
        regions = embeddings[start : start + _BLOCK].astype(np.float64)
        regions /= np.maximum(np.linalg.norm(regions, axis=1, keepdims=True), np.finfo(np.float64).tiny)
        found[start : start + _BLOCK] = regions @ texts
    return found.astype(np.float64)


def probabilities(cosine: np.ndarray, similarity: Similarity) -> np.ndarray:
    """Probabilities float64 (n, c) of cosines float64 (n, c): a softmax over the columns, or a sigmoid of each."""
    logits = cosine / similarity.temperature
    if similarity.rule == "sigmoid":
        with np.errstate(over="ignore"):  # of a low temperature: 1 / infinity is 0
            return 1 / (1 + np.exp(-(logits + similarity.bias)))
    logits -= logits.max(axis=1, keepdims=True)
    likelihoods = np.exp(logits)
    return likelihoods / likelihoods.sum(axis=1, keepdims=True)


def best_names(probability: np.ndarray, asked: int) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest of the first `asked` names.

    Args:
        probability: float64 (n, c).

    Returns:
        (index int64 (n,), its probability float64 (n,)).
    """
    best = probability[:, :asked].argmax(axis=1)
    return best, probability[np.arange(len(best)), best]


def hierarchical(
    probability: np.ndarray,
    super_probability: np.ndarray,
    super_of: np.ndarray,
    sub_probability: np.ndarray,
    sub_of: np.ndarray,
) -> np.ndarray:
    """Probabilities that rise where super names, names and sub names agree and fall where they do not.

    HCC (arXiv 2604.23344): z(n) is the largest probability of n's own words in one softmax over all words of a level;
    r(n) = p(n) z(n) / sum over m of p(m) z(m); the result is the mean of r over the two levels.

    Args:
        probability: float64 (n, c), of the names.
        super_probability, sub_probability: float64 (n, words), each level's own softmax.
        super_of, sub_of: int64 (words,), whose word it is, an index into the names. Every name has at least one.

    Returns:
        float64 (n, c).
    """
    upper = confirmed(probability, super_probability, super_of)
    return (upper + confirmed(probability, sub_probability, sub_of)) / 2


def confirmed(probability: np.ndarray, of_words: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """HCC's r of one level: how likely a name is once the level's words have confirmed or contradicted it.

    Args:
        probability: float64 (n, c), of the names.
        of_words: float64 (n, words), the level's own softmax.
        owner: int64 (words,), whose word it is. Every name has at least one.

    Returns:
        float64 (n, c).
    """
    order = np.argsort(owner, kind="stable")
    largest = np.maximum.reduceat(of_words[:, order], np.searchsorted(owner[order], np.arange(probability.shape[1])), 1)
    joint = probability * largest
    return joint / np.maximum(joint.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
