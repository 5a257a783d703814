"""Item text -> vectors by TF-IDF and truncated SVD (latent semantic analysis): the embedding that needs no download.

Knows text and scikit-learn, and nothing of datasets, files or configuration.
"""
# N items, E width, V terms, M later texts

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sparse
from jaxtyping import Float32, Float64

from genrec.embeddings.rows import is_zero_row, normalise_rows
from genrec.embeddings.svd import truncated_svd
from genrec.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


def embed_tfidf(
    texts: Sequence[str | None],
    *,
    dimensions: int = 128,
    min_document_frequency: int = 2,
    max_ngram: int = 2,
    sublinear: bool = True,
    normalise: bool = True,
    seed: int = 0,
) -> Float32[np.ndarray, "N E"]:
    """The vectors of `fit_tfidf`; arguments and errors as there.

    >>> pens = embed_tfidf(["blue pen", "red pen", "blue ink", "red ink", ""], dimensions=2, max_ngram=1)
    >>> pens.shape, is_zero_row(pens).tolist()
    ((5, 2), [False, False, False, False, True])
    """
    return fit_tfidf(
        texts,
        dimensions=dimensions,
        min_document_frequency=min_document_frequency,
        max_ngram=max_ngram,
        sublinear=sublinear,
        normalise=normalise,
        seed=seed,
    ).vectors


@dataclass(frozen=True, eq=False)
class FittedTfidf:
    """Vectors of the texts that were fitted, and what gives later texts theirs.

    Attributes:
        vectors: of the N fitted texts.
        vectorizer: text -> row of TF-IDF, with the vocabulary and the idf of the fitted texts (scikit-learn's).
        projection: the right singular vectors.
        normalise: rows of length one.
    """

    vectors: Float32[np.ndarray, "N E"]
    vectorizer: Any
    projection: Float64[np.ndarray, "V E"]
    normalise: bool

    def fold_in(self, texts: Sequence[str | None]) -> Float32[np.ndarray, "M E"]:
        """x V of later texts (Deerwester et al. 1990): the vector that a fitted text has, up to rounding.

        Terms outside of the vocabulary count for nothing; a text without any other gives a row of zeros.

        >>> fitted = fit_tfidf(["blue pen", "red pen", "blue ink", "red ink"], dimensions=2, max_ngram=1)
        >>> bool(np.allclose(fitted.fold_in(["red pen", "green"]), [fitted.vectors[1], [0, 0]], atol=1e-6))
        True
        """
        matrix = sparse.csr_array(self.vectorizer.transform(["" if text is None else text for text in texts]))
        vectors = matrix @ self.projection
        return normalise_rows(vectors) if self.normalise else vectors.astype(np.float32)


def fit_tfidf(
    texts: Sequence[str | None],
    *,
    dimensions: int = 128,
    min_document_frequency: int = 2,
    max_ngram: int = 2,
    sublinear: bool = True,
    normalise: bool = True,
    seed: int = 0,
) -> FittedTfidf:
    """U S of the truncated SVD U S V' of the TF-IDF matrix (rows of length one, smoothed idf: scikit-learn's).

    Words are lower-cased runs of two or more letters or digits. A text that is empty, or holds no term of the
    vocabulary, gives a row of zeros; `rows.is_zero_row` finds them and the log counts them.

    Args:
        texts: N texts; None is an empty one.
        dimensions: E; an error, never fewer, if the texts have not that many.
        min_document_frequency: terms in fewer texts are left out.
        max_ngram: terms are runs of 1 to max_ngram words.
        sublinear: 1 + ln(count) in place of the count.
        normalise: rows of length one.
        seed: of the SVD; the same seed gives the same vectors.

    Raises:
        ConfigError: a number is below 1.
        DataError: no vocabulary is left, or it cannot fill the dimensions.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # half a second, not at the start of every command

    for name, value in (("min_document_frequency", min_document_frequency), ("max_ngram", max_ngram)):
        if value < 1:
            raise ConfigError(f"embedding.{name} is out of range", expected="at least 1", found=value)
    vectorizer = TfidfVectorizer(min_df=min_document_frequency, ngram_range=(1, max_ngram), sublinear_tf=sublinear)
    try:
        matrix = sparse.csr_array(vectorizer.fit_transform(["" if text is None else text for text in texts]))
    except ValueError as error:  # empty vocabulary, before or after pruning
        others = "embedding=cooccurrence, or embedding=precomputed"
        raise DataError(
            "no term is left of the item texts",
            expected=f"words that occur in at least {min_document_frequency} texts",
            found=f"{len(texts)} texts without",
            fix="set " + ("embedding.min_document_frequency=1, or " if min_document_frequency > 1 else "") + others,
        ) from error
    left, values = truncated_svd(matrix, dimensions, seed=seed, where="TF-IDF of the item texts")
    vectors = left * values
    vectors = normalise_rows(vectors) if normalise else vectors.astype(np.float32)
    num_zero = int(is_zero_row(vectors).sum())
    if num_zero:
        logger.warning("%d of %d item texts are empty or hold no known term: their vectors are 0", num_zero, len(texts))
    projection = (matrix.T @ left) / values
    return FittedTfidf(vectors, vectorizer, projection, normalise)
