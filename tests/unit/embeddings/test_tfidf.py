"""TF-IDF vectors against a dense oracle, on planted text and on real titles."""

from __future__ import annotations

import gzip
import json
import logging
import math
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

from genrec.data.synthetic import PlantedCatalogue
from genrec.embeddings.rows import is_zero_row
from genrec.embeddings.tfidf import embed_tfidf, fit_tfidf
from genrec.errors import ConfigError, DataError


def slow_tfidf(texts: list[str], min_document_frequency: int, max_ngram: int, sublinear: bool) -> np.ndarray:
    """Rows of tf x (1 + ln((1 + n) / (1 + df))), of length one."""
    documents = []
    for text in texts:
        words = re.findall(r"\b\w\w+\b", text.lower())
        grams = range(1, max_ngram + 1)
        documents.append(Counter(" ".join(words[i : i + n]) for n in grams for i in range(len(words) - n + 1)))
    frequency = Counter(term for document in documents for term in document)
    vocabulary = sorted(term for term, count in frequency.items() if count >= min_document_frequency)
    rows = []
    for document in documents:
        row = [
            (1 + math.log(document[term]) if sublinear else document[term])
            * (1 + math.log((1 + len(texts)) / (1 + frequency[term])))
            if document[term]
            else 0.0
            for term in vocabulary
        ]
        length = math.sqrt(sum(value**2 for value in row)) or 1.0
        rows.append([value / length for value in row])
    return np.array(rows)


def planted_texts(num_items: int = 500) -> tuple[PlantedCatalogue, list[str]]:
    catalogue = PlantedCatalogue.create(num_items=num_items)
    return catalogue, catalogue.items["title"].to_list()


@pytest.mark.parametrize(
    ("min_document_frequency", "max_ngram", "sublinear"), [(1, 1, False), (2, 2, True), (3, 3, True)]
)
def test_equals_the_dense_oracle_up_to_sign(min_document_frequency: int, max_ngram: int, sublinear: bool) -> None:
    texts = [f"{title} pen pen" if i % 3 else title for i, title in enumerate(planted_texts(120)[1])]
    vectors = embed_tfidf(
        texts,
        dimensions=20,
        min_document_frequency=min_document_frequency,
        max_ngram=max_ngram,
        sublinear=sublinear,
        normalise=False,
    )
    left, values, _ = np.linalg.svd(slow_tfidf(texts, min_document_frequency, max_ngram, sublinear))
    expected = left[:, :20] * values[:20]
    signs = np.sign(np.sum(vectors * expected, axis=0))
    np.testing.assert_allclose(vectors, expected * signs, atol=2e-5)


def test_is_deterministic_and_normalised() -> None:
    _, texts = planted_texts()
    vectors = embed_tfidf(texts)
    assert vectors.shape == (500, 128)
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, embed_tfidf(texts))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(vectors, embed_tfidf(texts, seed=5), atol=1e-5)


def test_same_category_is_closer() -> None:
    catalogue, texts = planted_texts()
    vectors = embed_tfidf(texts)
    cosine = vectors @ vectors.T
    sub = catalogue.subcategory
    same_sub = sub[:, None] == sub
    same_category = (sub[:, None] // 3 == sub // 3) & ~same_sub
    np.fill_diagonal(same_sub, False)
    other = sub[:, None] // 3 != sub // 3
    assert cosine[same_sub].mean() > cosine[same_category].mean() + 0.05
    assert cosine[same_category].mean() > cosine[other].mean() + 0.05
    np.fill_diagonal(cosine, -1.0)
    assert (sub[cosine.argmax(axis=1)] == sub).mean() > 0.6


def test_empty_texts_are_zero_rows_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    _, texts = planted_texts(100)
    with caplog.at_level(logging.WARNING):
        vectors = embed_tfidf([*texts, "", None, "  ", "unheard-of"], dimensions=10)
    assert np.flatnonzero(is_zero_row(vectors)).tolist() == [100, 101, 102, 103]
    assert "4 of 104 item texts are empty or hold no known term" in caplog.text


def test_too_small_for_the_dimensions() -> None:
    _, texts = planted_texts(100)
    with pytest.raises(
        DataError, match=r"TF-IDF of the item texts: .*expected 128, .*; set embedding.dimensions=100 or fewer"
    ):
        embed_tfidf(texts)
    with pytest.raises(
        DataError, match=r"expected 4, found 100 non-empty rows and 2 columns\); set embedding.dimensions=2"
    ):
        embed_tfidf(["red", "blue"] * 50, dimensions=4)
    with pytest.raises(DataError, match="expected 3, found rank 2"):
        embed_tfidf(["red pen", "blue ink"] * 50, dimensions=3, max_ngram=1)


def test_no_vocabulary() -> None:
    for texts in ([""] * 5, ["one", "two", "three"], ["a b c"] * 4, ["one"]):
        with pytest.raises(
            DataError,
            match=r"no term is left of the item texts.*set embedding.min_document_frequency=1, or embedding=cooc",
        ):
            embed_tfidf(texts, dimensions=1)


@pytest.mark.parametrize("option", ["min_document_frequency", "max_ngram", "dimensions"])
def test_numbers_out_of_range(option: str) -> None:
    options: dict[str, Any] = {option: 0}
    with pytest.raises(ConfigError, match=f"{option} is out of range"):
        embed_tfidf(["red pen", "red ink"], **options)


def test_office_titles(data_root) -> None:
    with gzip.open(data_root / "apao_office" / "Office.item.json.gz", "rt", encoding="utf-8") as file:
        items = json.load(file)
    texts = [" ".join(items[str(index)][key] for key in ("title", "categories")) for index in range(len(items))]
    vectors = embed_tfidf(texts)
    assert vectors.shape == (2420, 128)
    assert np.isfinite(vectors).all()
    leaf = np.array([items[str(index)]["categories"].split(",")[-1].strip() for index in range(len(items))])
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -1.0)
    assert (leaf[cosine.argmax(axis=1)] == leaf).mean() > 0.6


@pytest.mark.parametrize("normalise", [True, False])
def test_a_fitted_text_folded_in_again_has_its_vector(normalise: bool) -> None:
    """Also where all singular vectors are asked for; a text without known words has none."""
    items = PlantedCatalogue.create(num_items=60, num_categories=5).items
    texts = [*(f"{title} {more}" for title, more in zip(items["title"], items["description"], strict=True)), ""]
    for dimensions in (3, 20):
        fitted = fit_tfidf(texts, dimensions=dimensions, normalise=normalise)
        assert np.array_equal(fitted.vectors, embed_tfidf(texts, dimensions=dimensions, normalise=normalise))
        again = fitted.fold_in([*texts[::-1], None, "zzzz qqqq"])
        np.testing.assert_allclose(again[:61], fitted.vectors[::-1], atol=1e-5)
        assert is_zero_row(again[61:]).all()
        twice = fitted.fold_in([f"{texts[0]} zzzz"])
        np.testing.assert_allclose(twice[0], fitted.vectors[0], atol=1e-5)
