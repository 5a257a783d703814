"""What every tokenizer of the command line keeps, from its section of the configuration to a table and back.

The quantisers by themselves are in test_quantisers.py. Another tokenizer is one more line of SECTIONS.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from genrec.artifacts import write_artifact
from genrec.config import training
from genrec.config.load import to_plain
from genrec.errors import ConfigError, DataError
from genrec.pipeline.collisions import resolve_collisions
from genrec.pipeline.quantisers import BUILDERS, RESTORERS, build_quantiser, load_quantiser
from genrec.quantization import assignment
from genrec.semantic_ids.table import build_semantic_ids, load_semantic_ids, save_semantic_ids
from oracles.last_level_oracle import squared_error

WIDTH = 10
HERE: dict[str, Any] = {"embeddings": Path("e")}

# at least two levels, the first of 8 codes; trained in well under a second
SECTIONS = {
    "residual_kmeans": training.ResidualKMeansTokenizer(**HERE, codebook_sizes=(8, 6)),
    "residual_kmeans_whitened": training.ResidualKMeansTokenizer(**HERE, codebook_sizes=(8, 6), whiten=0.9),
    "residual_kmeans_balanced": training.ResidualKMeansTokenizer(**HERE, codebook_sizes=(8, 6, 3), balance=1.5),
    "product": training.ProductTokenizer(**HERE, codebook_sizes=(8, 8, 8), num_rotations=5),
    "faiss_residual": training.FaissResidualTokenizer(**HERE, codebook_sizes=(8, 4), beam_width=3),
    "rqvae": training.RqVaeTokenizer(
        **HERE, codebook_sizes=(8, 6), latent_width=4, hidden=(16,), epochs=30, batch_size=64, accelerator="cpu"
    ),
    "rqvae_cosine": training.RqVaeTokenizer(
        **HERE,
        codebook_sizes=(8, 6),
        latent_width=4,
        hidden=(16,),
        epochs=20,
        batch_size=64,
        learning_rate=2e-2,
        distance="cosine",
        codebook_update="gradient",
        diversity_weight=1e-4,
        accelerator="cpu",
    ),
}
CASES = pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS.keys())


def vectors_of(num_vectors: int, seed: int = 0, width: int = WIDTH) -> np.ndarray:
    """Items around ten centres, away from the origin, some directions much wider than others."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(5).standard_normal((10, width)) * 3
    noise = random.standard_normal((num_vectors, width)) * np.linspace(1.5, 0.2, width)
    return (centres[random.integers(10, size=num_vectors)] + noise + 2.0).astype(np.float32)


def all_errors(errors: Any, num_codes: int) -> np.ndarray:
    """Of every item at every last code."""
    num_items = len(errors.codes)
    return errors(np.arange(num_items), np.broadcast_to(np.arange(num_codes), (num_items, num_codes)))


def with_room(codes: np.ndarray, num_codes: int) -> np.ndarray:
    """The first items of each parent, no more than it has last codes."""
    below: Counter[tuple[int, ...]] = Counter()
    rows = []
    for row, parent in enumerate(map(tuple, codes[:, :-1].tolist())):
        below[parent] += 1
        if below[parent] <= num_codes:
            rows.append(row)
    return np.array(rows)


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

    def test_errors_at_other_last_codes(self, fitted, monkeypatch) -> None:
        """Of later items too; one by one as in all; and those of the fitted items have the mean that costs refer to."""
        section, quantiser = fitted
        for vectors in (vectors_of(200), vectors_of(60, seed=1)):
            codes = quantiser.encode(vectors)
            errors = quantiser.last_level_errors(vectors, codes)
            everywhere = all_errors(errors, section.codebook_sizes[-1])
            for item in range(0, len(vectors), 7):
                expected = [
                    squared_error(section.name, quantiser.state(), vectors[item], (*codes[item, :-1], code))
                    for code in range(everywhere.shape[1])
                ]
                np.testing.assert_allclose(everywhere[item], expected, rtol=1e-4)
            few = np.array([[2, 0], [1, 1], [0, 2]])
            np.testing.assert_allclose(errors(np.array([9, 4, 9]), few), everywhere[[[9], [4], [9]], few], rtol=1e-6)
            monkeypatch.setattr(assignment, "_CHUNK_NUMBERS", 500)
            np.testing.assert_allclose(all_errors(errors, everywhere.shape[1]), everywhere, rtol=1e-6)
            monkeypatch.undo()
        vectors = vectors_of(200)
        own = quantiser.last_level_errors(vectors, quantiser.encode(vectors))
        mean = all_errors(own, section.codebook_sizes[-1])[np.arange(200), own.codes[:, -1]].mean()
        assert mean == pytest.approx(own.mean_error, rel=1e-3)

    def test_no_other_last_code_is_nearer(self, fitted) -> None:
        """Exactly where levels are greedy; a beam compares all last codes of its last prefix, by rounded distances.

        Balanced codes cost their prices beside the distance.
        """
        section, quantiser = fitted
        if getattr(section, "distance", "l2") == "cosine":
            pytest.skip(
                "chosen by direction, while a move costs squared error: tests/unit/quantization/test_directional"
            )
        vectors = np.concatenate([vectors_of(200), vectors_of(300, seed=3)])
        codes = quantiser.encode(vectors)
        errors = all_errors(quantiser.last_level_errors(vectors, codes), section.codebook_sizes[-1])
        if getattr(section, "balance", None) is not None:
            errors = errors + quantiser.prices_[-1]
        rounding = np.zeros(len(vectors))
        if section.name == "faiss_residual":
            rounding = 2.0**-18 * np.square(vectors - quantiser.mean_).sum(axis=1)
        own = errors[np.arange(len(vectors)), codes[:, -1]]
        assert (own <= errors.min(axis=1) + rounding).all()

    def test_reassigned_rows_are_unique(self, fitted) -> None:
        """All but one of each bucket move, at a cost that is not negative where no last code is nearer."""
        section, quantiser = fitted
        vectors = vectors_of(200)
        codes = quantiser.encode(vectors)
        rows = with_room(codes, section.codebook_sizes[-1])
        vectors, codes = vectors[rows], codes[rows]
        distinct = len(np.unique(codes, axis=0))
        assert len(rows) - distinct > 3
        ids, report, facts = resolve_collisions(replace(section, collisions="reassign"), quantiser, vectors, codes)
        assert ids.codebook_sizes == section.codebook_sizes
        assert len(np.unique(ids.codes, axis=0)) == len(rows)
        assert report.num_moved == (ids.codes != codes).any(axis=1).sum() == len(rows) - distinct
        np.testing.assert_array_equal(ids.codes[:, :-1], codes[:, :-1])
        state = quantiser.state()
        for move in facts["moves"]["costliest"]:
            was, now = (
                squared_error(section.name, state, vectors[move["item_index"]], move[key])
                for key in ("old_codes", "new_codes")
            )
            assert move["cost"] == pytest.approx(now - was, rel=1e-3, abs=1e-4)
            if getattr(section, "balance", None) is None and getattr(section, "distance", "l2") == "l2":
                assert move["cost"] > -1e-4

    def test_beyond_the_limit_there_is_a_suffix(self, fitted) -> None:
        section, quantiser = fitted
        vectors = vectors_of(200)
        codes = quantiser.encode(vectors)
        section = replace(section, collisions="reassign_or_suffix", max_added_distortion=0.5)
        ids, report, facts = resolve_collisions(section, quantiser, vectors, codes)
        mean = quantiser.last_level_errors(vectors, codes).mean_error
        assert len(np.unique(ids.codes, axis=0)) == 200
        assert 0 < report.num_moved < report.num_moved + report.num_suffixed == 200 - report.num_buckets
        assert all(move["cost"] <= 0.5 * mean for move in facts["moves"]["costliest"])
        suffixed, _, none = resolve_collisions(replace(section, collisions="suffix"), quantiser, vectors, codes)
        assert (suffixed.codes[:, :-1] == codes).all()
        assert none == {}

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
