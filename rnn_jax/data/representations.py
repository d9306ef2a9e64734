"""Words as vectors before they are learned: one-hot, bag of words, counts of neighbours."""

from collections.abc import Sequence

import numpy as np

from rnn_jax.data.words import DOCUMENT_END


def one_hot(ids: np.ndarray, size: int) -> np.ndarray:
    """[*N, V] float32 from ids [*N]: 1 at the number of the word. All words are equally far apart."""
    return (np.asarray(ids)[..., None] == np.arange(size)).astype(np.float32)


def bag_of_words(ids: np.ndarray, size: int) -> np.ndarray:
    """[V] float32: how often each word occurs in ids [N]. The sum of their one-hot vectors; the order is lost."""
    ids = np.asarray(ids)
    return np.bincount(ids[ids >= 0], minlength=size).astype(np.float32)


def mean_embedding(ids: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """[d] float32: the mean of the vectors of ids [N]; zeros for no word."""
    ids = np.asarray(ids)
    ids = ids[ids >= 0]
    return vectors[ids].mean(0).astype(np.float32) if len(ids) else np.zeros(vectors.shape[1], np.float32)


def context_counts(ids: np.ndarray, word: int, size: int, window: int) -> np.ndarray:
    """[V] float32: the bag of the words within `window` positions of each occurrence of `word`, by document.

    Args:
        ids: a corpus as `rnn_jax.data.words.encode_documents` gives it.
        word: the number of the word.
        size: V.
        window: positions on either side.
    """
    document = np.cumsum(ids == DOCUMENT_END)
    places = np.flatnonzero(ids == word)
    counts = np.zeros(size, np.float32)
    for offset in (*range(-window, 0), *range(1, window + 1)):
        near = places + offset
        inside = (near >= 0) & (near < len(ids))
        near, own = near[inside], places[inside]
        near = near[document[near] == document[own]]
        counts += bag_of_words(ids[near], size)
    return counts


def class_ratios(
    sequences: Sequence[np.ndarray], labels: np.ndarray, size: int, classes: int, smoothing: float | int = 2
) -> np.ndarray:
    """What each word, or piece of words, says of the class by itself: the weights of naive Bayes, [V, C] float32.

        r_wc = log p_wc - mean_c log p_wc,   p_wc = (α + n_wc) / Σ_w (α + n_wc)

    with n_wc the number of texts of class c that hold word w.

    Args:
        sequences: N texts, ids of words [T_n] or of their pieces [T_n, G].
        labels: [N], in 0..C-1.
        size: V.
        classes: C.
        smoothing: α; with 2, words that occur but a few times say less than with the 1 of Laplace.

    Source: Wang & Manning 2012 (Baselines and Bigrams), there for two classes.
    """
    counts = np.full((size, classes), float(smoothing))
    for ids, label in zip(sequences, labels, strict=True):
        counts[np.unique(ids), label] += 1
    logs = np.log(counts / counts.sum(0))
    return (logs - logs.mean(1, keepdims=True)).astype(np.float32)


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """The cosine of two vectors; 0 where one has no length."""
    scale = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / scale if scale > 0 else 0.0
