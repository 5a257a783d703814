"""Sentence embeddings: the package is an extra, so the encoder itself is any function here."""

from __future__ import annotations

import importlib.util
import logging

import numpy as np
import pytest

from genrec.embeddings.sentence import embed_sentences, encode_texts
from genrec.errors import ConfigError, DataError, StorageError

IS_INSTALLED = importlib.util.find_spec("sentence_transformers") is not None


@pytest.mark.skipif(IS_INSTALLED, reason="sentence-transformers is installed")
def test_missing_package_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"sentence-transformers; pip install 'genrec\[sentence\]'$"):
        embed_sentences(["a pen"])


@pytest.mark.skipif(not IS_INSTALLED, reason="needs the extra `sentence`")
def test_folder_without_a_model(tmp_path) -> None:
    with pytest.raises(StorageError, match="cannot load the sentence model"):
        embed_sentences(["a pen"], model=str(tmp_path))


def letters(batch: list[str]) -> np.ndarray:
    return np.array([[len(text), text.count("a")] for text in batch], dtype=np.float64)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 100])
def test_chunks_and_empty_texts(chunk_size: int, caplog: pytest.LogCaptureFixture) -> None:
    texts = ["", "banana", None, "a", "  ", "kiwi", "papaya"]
    calls: list[tuple[int, int]] = []
    with caplog.at_level(logging.WARNING):
        vectors = encode_texts(
            texts, letters, chunk_size=chunk_size, progress=lambda done, total: calls.append((done, total))
        )
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[0, 0], [6, 3], [0, 0], [1, 1], [0, 0], [4, 0], [6, 3]]
    assert calls == [(min(done, 4), 4) for done in range(chunk_size, 4 + chunk_size, chunk_size)]
    assert "3 of 7 item texts are empty" in caplog.text


def test_all_empty() -> None:
    with pytest.raises(DataError, match=r"all item texts are empty \(found 2 items\)"):
        encode_texts(["", None], letters)
