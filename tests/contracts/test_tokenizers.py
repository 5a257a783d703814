"""What every tokenizer of the command line keeps, from its section of the configuration to a table and back.

The quantisers by themselves are in test_quantisers.py. Another tokenizer is one more line of SECTIONS.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from genrec.artifacts import write_artifact
from genrec.config import training
from genrec.config.load import to_plain
from genrec.errors import ConfigError, DataError
from genrec.pipeline.quantisers import BUILDERS, RESTORERS, build_quantiser, load_quantiser
from genrec.quantization import assignment
from genrec.semantic_ids.table import build_semantic_ids, load_semantic_ids, save_semantic_ids

WIDTH = 10
HERE: dict[str, Any] = {"embeddings": Path("e")}

# at least two levels, the first of 8 codes; trained in well under a second
SECTIONS = {
    "residual_kmeans": training.ResidualKMeansTokenizer(**HERE, codebook_sizes=(8, 6)),
    "residual_kmeans_whitened": training.ResidualKMeansTokenizer(**HERE, codebook_sizes=(8, 6), whiten=0.9),
    "product": training.ProductTokenizer(**HERE, codebook_sizes=(8, 8, 8), num_rotations=5),
    "faiss_residual": training.FaissResidualTokenizer(**HERE, codebook_sizes=(8, 4), beam_width=3),
    "rqvae": training.RqVaeTokenizer(
        **HERE, codebook_sizes=(8, 6), latent_width=4, hidden=(16,), epochs=30, batch_size=64, accelerator="cpu"
    ),
}
CASES = pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS.keys())


def vectors_of(num_vectors: int, seed: int = 0, width: int = WIDTH) -> np.ndarray:
    """Items around ten centres, away from the origin, some directions much wider than others."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(5).standard_normal((10, width)) * 3
    noise = random.standard_normal((num_vectors, width)) * np.linspace(1.5, 0.2, width)
    return (centres[random.integers(10, size=num_vectors)] + noise + 2.0).astype(np.float32)


@pytest.fixture(scope="module", params=SECTIONS.keys())
def fitted(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """The section and its quantiser, fitted once."""
    section = SECTIONS[request.param]
    return section, build_quantiser(section).fit(vectors_of(200))


def test_every_tokenizer_is_here() -> None:
    kinds = get_args(get_type_hints(training.TokenizeConfig)["tokenizer"])
    names = {kind.__dataclass_fields__["name"].default for kind in kinds} - {"imported", "published"}
    assert names == BUILDERS.keys() == RESTORERS.keys() == {section.name for section in SECTIONS.values()}


@CASES
def test_fitting_again_changes_nothing(section) -> None:
    vectors = vectors_of(200)
    once = build_quantiser(section).fit(vectors)
    first = {name: array.copy() for name, array in once.state().items()}
    for quantiser in (once.fit(vectors), build_quantiser(section).fit(vectors)):
        assert quantiser.state().keys() == first.keys()
        for name, array in quantiser.state().items():
            np.testing.assert_array_equal(array, first[name])


class TestFitted:
    def test_codes_lie_within_their_levels(self, fitted) -> None:
        section, quantiser = fitted
        sizes = section.codebook_sizes
        codes = quantiser.encode(vectors_of(500, seed=1))
        assert quantiser.codebook_sizes == sizes
        assert (codes.shape, codes.dtype) == ((500, len(sizes)), np.int32)
        assert (codes >= 0).all()
        assert (codes < sizes).all()
        assert all(len(np.unique(column)) > 1 for column in codes.T)

    def test_codes_do_not_depend_on_chunks(self, fitted, monkeypatch) -> None:
        quantiser, vectors = fitted[1], vectors_of(120, seed=1)
        codes = quantiser.encode(vectors)
        np.testing.assert_array_equal(quantiser.encode(vectors), codes)
        np.testing.assert_array_equal(quantiser.encode(vectors[::-1])[::-1], codes)
        np.testing.assert_array_equal(np.vstack([quantiser.encode(vectors[i : i + 1]) for i in range(120)]), codes)
        monkeypatch.setattr(assignment, "_CHUNK_NUMBERS", 700)
        np.testing.assert_array_equal(quantiser.encode(vectors), codes)

    def test_decoding_is_nearer_than_the_mean(self, fitted) -> None:
        quantiser, vectors = fitted[1], vectors_of(200)
        codes = quantiser.encode(vectors)
        variance = np.square(vectors - vectors.mean(axis=0)).sum(axis=1).mean()
        errors = []
        for depth in range(1, codes.shape[1] + 1):
            decoded = quantiser.decode(codes[:, :depth])
            assert (decoded.shape, decoded.dtype) == (vectors.shape, np.float32)
            errors.append(np.square(vectors - decoded).sum(axis=1).mean())
        assert max(errors) < variance
        assert errors[-1] < 0.7 * variance
        assert errors[-1] < errors[0]

    def test_a_table_encodes_later_items_as_before(self, fitted, tmp_path) -> None:
        section, quantiser = fitted
        codes, more = quantiser.encode(vectors_of(200)), vectors_of(300, seed=2)
        with write_artifact(tmp_path / "d", kind="dataset", facts={}, parents={}) as writer:
            writer.path("x").write_text("x")
        ids, _ = build_semantic_ids(codes, quantiser.codebook_sizes, codebooks=quantiser.state())
        save_semantic_ids(
            tmp_path / "s",
            ids,
            parents={"dataset": writer.artifact},
            codebooks=quantiser.state(),
            health={"tokenizer": to_plain(section)},
        )
        artifact, again = load_semantic_ids(tmp_path / "s")
        restored = load_quantiser(artifact)
        assert again.identity == ids.identity
        assert restored.codebook_sizes == quantiser.codebook_sizes
        np.testing.assert_array_equal(restored.encode(more), quantiser.encode(more))
        np.testing.assert_array_equal(restored.decode(codes), quantiser.decode(codes))

    def test_other_vectors_are_refused(self, fitted) -> None:
        for wrong in (vectors_of(3, width=WIDTH + 1), vectors_of(3).astype(np.float64), vectors_of(3)[0]):
            with pytest.raises(DataError, match=r"wrong shape or type .*expected float32 \[N, 10\]"):
                fitted[1].encode(wrong)
        vectors = vectors_of(50)
        vectors[17, 3] = np.nan
        with pytest.raises(DataError, match="not finite in row 17"):
            fitted[1].encode(vectors)


@CASES
def test_unfit_data_are_one_line(section) -> None:
    vectors = vectors_of(100)
    vectors[31, 2] = np.nan
    cases = {
        r"not finite in row 31": vectors,
        r"too few vectors .*expected at least 8 .*found 7.*lower tokenizer.codebook_sizes": vectors_of(7),
        r"too few vectors|all equal": np.ones((50, WIDTH), dtype=np.float32),
        r"wrong shape or type": vectors_of(100).astype(np.float64),
    }
    for message, data in cases.items():
        with pytest.raises(DataError, match=message) as error:
            build_quantiser(section).fit(data)
        assert "\n" not in str(error.value)


@CASES
def test_the_seed_reaches_the_quantiser(section) -> None:
    vectors = vectors_of(200)
    found = [build_quantiser(replace(section, seed=seed)).fit(vectors).state() for seed in (0, 1)]
    assert any(not np.array_equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("name", ["product", "faiss_residual"])
def test_faiss_takes_powers_of_two(name) -> None:
    for sizes in ((8, 6), (3,), (2**17, 8)):
        with pytest.raises(ConfigError, match=r"power of two .*whole bits.*tokenizer=residual_kmeans"):
            build_quantiser(replace(SECTIONS[name], codebook_sizes=sizes))


def test_whitened_tables_take_suffixes_only() -> None:
    section = replace(SECTIONS["residual_kmeans_whitened"], collisions="reassign")
    with pytest.raises(ConfigError, match=r"expected tokenizer.collisions=suffix"):
        build_quantiser(section)
