from __future__ import annotations

import gzip
import json
import logging
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from examples import examples
from genrec.embeddings import rows
from genrec.embeddings.tfidf import embed_tfidf
from genrec.errors import ConfigError, DataError
from genrec.quantization import assignment
from genrec.quantization.diagnostics import check_gates, health, health_rows
from genrec.quantization.faiss_training import num_gpus, uses_gpu
from genrec.quantization.residual_kmeans import ResidualKMeans


def normal(num_vectors: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num_vectors, width)).astype(np.float32)


def encode_slowly(quantiser: ResidualKMeans, vectors: np.ndarray) -> np.ndarray:
    """The definition: all distances in float64, level after level."""
    residuals = vectors - quantiser.mean_
    codes = []
    for codebook in quantiser.codebooks_:
        distances = np.square(residuals[:, None].astype(np.float64) - codebook[None]).sum(axis=2)
        codes.append(distances.argmin(axis=1))
        residuals = residuals - codebook[codes[-1]]
    return np.stack(codes, axis=1)


def same(one: ResidualKMeans, other: ResidualKMeans) -> bool:
    states = one.state(), other.state()
    return states[0].keys() == states[1].keys() and all(
        np.array_equal(states[0][key], states[1][key]) for key in states[0]
    )


@settings(max_examples=examples(15), deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(2, 20), min_size=1, max_size=4),
    width=st.integers(2, 24),
    centre=st.booleans(),
    grid=st.booleans(),
)
def test_codes_are_those_of_brute_force(seed, sizes, width, centre, grid) -> None:
    vectors = normal(200, width, seed) * 3
    vectors = np.round(vectors) + normal(200, width, seed + 1) * (0 if grid and width > 4 else 1)
    quantiser = ResidualKMeans(codebook_sizes=sizes, num_iterations=5, centre=centre, seed=seed).fit(vectors)
    np.testing.assert_array_equal(quantiser.encode(vectors), encode_slowly(quantiser, vectors))
    assert [book.shape for book in quantiser.codebooks_] == [(size, width) for size in sizes]


@settings(max_examples=examples(15), deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(2, 12), min_size=1, max_size=4),
    initialisation=st.sampled_from(["random", "plus_plus"]),
    points=st.sampled_from([10, 256]),
)
def test_the_mean_squared_residual_falls_on_the_fitted_set(seed, sizes, initialisation, points) -> None:
    quantiser = ResidualKMeans(
        codebook_sizes=sizes, initialisation=initialisation, max_points_per_centroid=points, seed=seed
    ).fit(normal(300, 8, seed))
    assert (np.diff([quantiser.variance_, *quantiser.mean_squared_residuals_]) < 0).all()


def test_errors_are_those_of_the_decoded_prefixes() -> None:
    vectors = normal(500, 10)
    quantiser = ResidualKMeans(codebook_sizes=(16, 8, 4)).fit(vectors)
    codes = quantiser.encode(vectors)
    assert quantiser.variance_ == pytest.approx(np.square(vectors - vectors.mean(axis=0)).sum(axis=1).mean(), rel=1e-5)
    for depth, error in enumerate(quantiser.mean_squared_residuals_, start=1):
        decoded = quantiser.decode(codes[:, :depth])
        assert np.square(vectors - decoded).sum(axis=1).mean() == pytest.approx(error, rel=1e-5)


def test_restarts_keep_the_best() -> None:
    """The first of several trainings is the only one of one, so the best is never worse, and mostly better."""
    vectors = normal(400, 8)
    errors = np.empty((8, 2))
    for seed in range(8):
        for at, restarts in enumerate((1, 3)):
            quantiser = ResidualKMeans(codebook_sizes=(16,), num_restarts=restarts, num_iterations=3, seed=seed)
            errors[seed, at] = quantiser.fit(vectors).mean_squared_residuals_[0]
    assert (errors[:, 1] <= errors[:, 0]).all()
    assert (errors[:, 1] < errors[:, 0]).sum() >= 3


@pytest.mark.parametrize("initialisation", ["random", "plus_plus"])
def test_the_number_of_threads_does_not_matter(initialisation) -> None:
    vectors = normal(3000, 32)
    parameters: dict[str, Any] = {"codebook_sizes": (64, 64), "initialisation": initialisation}
    with threadpool_limits(1):
        alone = ResidualKMeans(**parameters).fit(vectors)
    assert same(ResidualKMeans(**parameters).fit(vectors), alone)
    assert not same(ResidualKMeans(**parameters, seed=1).fit(vectors), alone)


@pytest.mark.parametrize("balance", [None, 1.2])
def test_powers_of_two_scale_out(balance: float | None) -> None:
    vectors = normal(500, 12)
    quantiser = ResidualKMeans(codebook_sizes=(16, 16), balance=balance).fit(vectors)
    for scale in (np.float32(2.0**30), np.float32(2.0**-20)):
        scaled = ResidualKMeans(codebook_sizes=(16, 16), balance=balance).fit(vectors * scale)
        np.testing.assert_array_equal(scaled.encode(vectors * scale), quantiser.encode(vectors))
        np.testing.assert_array_equal(scaled.codebooks_[1], quantiser.codebooks_[1] * scale)


def test_memory_maps_and_chunks(tmp_path) -> None:
    """17 million numbers: two chunks of the mean, three of the codes."""
    vectors = normal(8500, 2000) + 5
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    parameters: dict[str, Any] = {"codebook_sizes": (4, 4), "num_iterations": 2, "max_points_per_centroid": 100}
    quantiser = ResidualKMeans(**parameters).fit(vectors)
    assert same(ResidualKMeans(**parameters).fit(mapped), quantiser)
    np.testing.assert_allclose(quantiser.mean_, vectors.mean(axis=0, dtype=np.float64), rtol=1e-6)
    codes = quantiser.encode(mapped)
    np.testing.assert_array_equal(quantiser.encode(vectors), codes)
    parts = [quantiser.encode(mapped[start : start + 1999]) for start in range(0, 8500, 1999)]
    np.testing.assert_array_equal(np.concatenate(parts), codes)
    decoded = quantiser.decode(codes)
    np.testing.assert_array_equal(decoded[-5:], quantiser.decode(codes[-5:]))
    broken = np.lib.format.open_memmap(tmp_path / "vectors.npy", mode="r+")
    broken[8499, 7] = np.nan
    for attempt in (ResidualKMeans(**parameters).fit, quantiser.encode):
        with pytest.raises(DataError, match="not finite in row 8499"):
            attempt(broken)


@pytest.mark.parametrize("options", [{}, {"whiten": 0.9}, {"balance": 1.5}], ids=["plain", "whitened", "balanced"])
def test_memory_is_that_of_the_sample(options: dict[str, Any], tmp_path, monkeypatch) -> None:
    """25.6 MB of vectors in a file, 820 kB in the sample; traced is all that NumPy allocates."""
    vectors = np.lib.format.open_memmap(tmp_path / "v.npy", mode="w+", dtype=np.float32, shape=(100_000, 64))
    vectors[:] = normal(1000, 64)[np.arange(100_000) % 1000] + np.linspace(0, 1, 100_000, dtype=np.float32)[:, None]
    monkeypatch.setattr(rows, "_CHUNK_BYTES", 2**18)
    monkeypatch.setattr(assignment, "_CHUNK_NUMBERS", 2**16)
    quantiser = ResidualKMeans(codebook_sizes=(16, 8), max_points_per_centroid=200, num_iterations=2, **options)
    quantiser.fit(vectors)  # imports are memory too
    tracemalloc.start()
    try:
        quantiser.fit(vectors)
        in_fit = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        codes = quantiser.encode(vectors)
        in_encode = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert in_fit < 0.3 * vectors.nbytes
    assert in_encode < codes.nbytes + 0.1 * vectors.nbytes


@pytest.mark.parametrize(
    ("sizes", "options"), [((1024, 512, 256), {}), ((16, 100, 3), {}), ((64, 20, 100), {"balance": 1.5})]
)
def test_levels_of_different_sizes(sizes: tuple[int, ...], options: dict[str, Any]) -> None:
    vectors = normal(2500, 16)
    quantiser = ResidualKMeans(codebook_sizes=sizes, num_iterations=3, **options).fit(vectors)
    codes = quantiser.encode(vectors)
    assert [book.shape for book in quantiser.codebooks_] == [(size, 16) for size in sizes]
    assert all(len(np.unique(column)) > 0.9 * size for column, size in zip(codes.T, sizes, strict=True))
    assert (np.diff([quantiser.variance_, *quantiser.mean_squared_residuals_]) < 0).all()
    restored = ResidualKMeans.from_state(quantiser.state())
    assert restored.codebook_sizes == sizes
    np.testing.assert_array_equal(restored.encode(vectors), codes)


def test_k_means_runs_where_it_is_told() -> None:
    assert [uses_gpu("auto", number) for number in (0, 1, 8)] == [False, True, True]
    assert [uses_gpu("cpu", number) for number in (0, 1)] == [False, False]
    assert uses_gpu("gpu", 2)
    with pytest.raises(ConfigError, match=r"FAISS sees no GPU .*found 0 GPUs\); set tokenizer.device=cpu"):
        uses_gpu("gpu", 0)
    with pytest.raises(ConfigError, match=r"wrong device .*expected auto, cpu, gpu, found tpu"):
        uses_gpu("tpu", 1)


@pytest.mark.skipif(num_gpus() > 0, reason="FAISS sees a GPU")
def test_without_a_gpu(caplog) -> None:
    vectors = normal(100, 4)
    with caplog.at_level(logging.INFO):
        automatic = ResidualKMeans(codebook_sizes=(4, 4)).fit(vectors)
    assert "k-means on 100 vectors, on the CPU" in caplog.text
    assert same(ResidualKMeans(codebook_sizes=(4, 4), device="cpu").fit(vectors), automatic)
    with pytest.raises(ConfigError, match="FAISS sees no GPU"):
        ResidualKMeans(codebook_sizes=(4, 4), device="gpu").fit(vectors)


def test_the_sample_bounds_the_work() -> None:
    vectors = normal(5000, 4)
    bounded = ResidualKMeans(codebook_sizes=(4, 8), max_points_per_centroid=20).fit(vectors)
    whole = ResidualKMeans(codebook_sizes=(4, 8), max_points_per_centroid=625).fit(vectors)
    np.testing.assert_array_equal(bounded.mean_, whole.mean_)  # of all vectors in both
    assert bounded.variance_ != whole.variance_
    assert same(ResidualKMeans(codebook_sizes=(4, 8), max_points_per_centroid=10**6).fit(vectors), whole)


@settings(max_examples=examples(20), deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_clusters=st.integers(2, 12),
    width=st.integers(2, 16),
    sizes=st.lists(st.integers(3, 30), min_size=12, max_size=12),
)
def test_separate_clusters_are_recovered(seed, num_clusters, width, sizes) -> None:
    """Centres at least 1 apart, noise of at most 1e-3: one code a cluster, one cluster a code."""
    rng = np.random.default_rng(seed)
    centres = np.zeros((num_clusters, width))
    centres[:, 0] = np.cumsum(1 + rng.random(num_clusters))
    centres[:, 1] = rng.standard_normal(num_clusters)
    cluster = rng.permutation(np.repeat(np.arange(num_clusters), sizes[:num_clusters]))
    vectors = (centres[cluster] + rng.uniform(-1e-3, 1e-3, (len(cluster), width)) / width).astype(np.float32)
    quantiser = ResidualKMeans(codebook_sizes=(num_clusters,), seed=seed).fit(vectors)
    codes = quantiser.encode(vectors)[:, 0]
    assert len(set(zip(codes.tolist(), cluster.tolist(), strict=True))) == num_clusters == len(set(codes.tolist()))


def test_a_planted_hierarchy_is_recovered() -> None:
    rng = np.random.default_rng(0)
    coarse, fine = np.eye(4) * 10, np.vstack([np.eye(3), -np.eye(3)])
    top, below = rng.integers(0, 4, 600), rng.integers(0, 6, 600)
    vectors = np.hstack([coarse[top], fine[below]]) + rng.standard_normal((600, 7)) * 0.01
    vectors = vectors.astype(np.float32)
    quantiser = ResidualKMeans(codebook_sizes=(4, 6)).fit(vectors)
    codes = quantiser.encode(vectors)
    assert len({(int(a), int(b)) for a, b in zip(codes[:, 0], top, strict=True)}) == 4
    assert len({(int(a), int(b)) for a, b in zip(codes[:, 1], below, strict=True)}) == 6
    assert quantiser.mean_squared_residuals_[1] < 0.01 * quantiser.mean_squared_residuals_[0]


@pytest.mark.parametrize("initialisation", ["random", "plus_plus"])
def test_many_equal_vectors(initialisation) -> None:
    """Rows of zeros, of both signs, are one point: they take one code and leave the others to the rest."""
    vectors = np.zeros((1000, 8), dtype=np.float32)
    vectors[::2] *= -1
    vectors[:100] = normal(100, 8)
    quantiser = ResidualKMeans(codebook_sizes=(16, 16), initialisation=initialisation).fit(vectors)
    codes = quantiser.encode(vectors)
    assert len(np.unique(codes[100:], axis=0)) == 1
    assert len(np.unique(codes[:, 0])) > 10


def test_too_few_different_vectors() -> None:
    vectors = np.repeat(normal(5, 4), 20, axis=0)
    with pytest.raises(
        DataError,
        match=r"level 1 of 2 .*at least 6 different ones .*found 5 different vectors\); lower tokenizer.codebook",
    ):
        ResidualKMeans(codebook_sizes=(6, 2)).fit(vectors)
    with pytest.raises(DataError, match=r"too few vectors for level 2 of 2 .*found 100 vectors"):
        ResidualKMeans(codebook_sizes=(6, 101)).fit(vectors)
    signs = np.array([[0.0], [-0.0], [1.0]], dtype=np.float32)
    with pytest.raises(DataError, match=r"found 2 different vectors"):
        ResidualKMeans(codebook_sizes=(3,), centre=False).fit(signs)


def test_levels_with_nothing_left() -> None:
    vectors = np.eye(4, dtype=np.float32)
    with pytest.raises(DataError, match=r"level 2 of 2 .*found nothing left to quantise.*use fewer levels"):
        ResidualKMeans(codebook_sizes=(4, 2)).fit(np.repeat(vectors, 2, axis=0))
    pairs = np.array([[0, 0], [0, 1], [9, 0], [9, 1]], dtype=np.float32)
    with pytest.raises(DataError, match=r"level 2 of 2 .*expected at least 3 .*found 2 different residuals"):
        ResidualKMeans(codebook_sizes=(2, 3)).fit(pairs)


def test_vectors_without_variance() -> None:
    for value in (0.0, 3.3, 1e5):
        with pytest.raises(DataError, match=r"all equal, or nearly so.*look at the embeddings"):
            ResidualKMeans(codebook_sizes=(2,)).fit(np.full((10, 3), value, dtype=np.float32))
    with pytest.raises(DataError, match="all equal, or nearly so"):
        ResidualKMeans(codebook_sizes=(2,)).fit(normal(10, 3) * np.float32(1e-12))
    with pytest.raises(DataError, match="found 1 different vectors"):
        ResidualKMeans(codebook_sizes=(2,), centre=False).fit(np.ones((10, 3), dtype=np.float32))


def test_numbers_too_large_for_float32_squares() -> None:
    vectors = normal(20, 3)
    vectors[4, 1] = -1e20
    with pytest.raises(DataError, match=r"too large in row 4 \(expected numbers up to 1e\+15.*rescale the vectors"):
        ResidualKMeans(codebook_sizes=(2,)).fit(vectors)


def test_a_failed_fit_leaves_the_former() -> None:
    vectors = normal(50, 3)
    quantiser = ResidualKMeans(codebook_sizes=(4, 4)).fit(vectors)
    codes = quantiser.encode(vectors)
    with pytest.raises(DataError):
        quantiser.fit(np.repeat(normal(4, 3, seed=1), 5, axis=0))
    np.testing.assert_array_equal(quantiser.encode(vectors), codes)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"codebook_sizes": ()}, r"wrong codebook_sizes \(expected at least one level, of at least 2 codes each"),
        ({"codebook_sizes": (4, 1)}, r"found \[4, 1\]"),
        ({"num_iterations": 0}, "wrong num_iterations"),
        ({"num_restarts": 0}, "wrong num_restarts"),
        ({"max_points_per_centroid": 0}, "wrong max_points_per_centroid"),
        ({"initialisation": "best"}, "expected plus_plus or random, found best"),
        ({"device": "tpu"}, "expected auto, cpu, gpu, found tpu"),
        ({"seed": -1}, "seed is out of range"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ResidualKMeans(**parameters)


def test_damaged_states() -> None:
    state = ResidualKMeans(codebook_sizes=(4, 4)).fit(normal(50, 3)).state()
    damaged = {
        "mean": np.array(1.0, dtype=np.float32),
        "codebook.1": state["codebook.1"][:, :2],
        "codebook.0": state["codebook.0"] * np.nan,
        "variance": np.array([1.0], dtype=np.float32),
        "mean_squared_residuals": np.ones(3),
    }
    for key, array in damaged.items():
        with pytest.raises(DataError, match="is damaged"):
            ResidualKMeans.from_state({**state, key: array})
    with pytest.raises(DataError, match="not the state of a residual k-means"):
        ResidualKMeans.from_state({**state, "codebook.7": state["codebook.0"]})


def test_progress_and_log(caplog) -> None:
    calls: list[tuple[str, int, int]] = []
    vectors = normal(50, 3)
    with caplog.at_level(logging.INFO):
        quantiser = ResidualKMeans(codebook_sizes=(4, 4), num_restarts=2)
        quantiser.fit(vectors, progress=lambda *call: calls.append(call))
    quantiser.encode(vectors, progress=lambda *call: calls.append(call))
    assert calls == [*(("residual k-means", done, 4) for done in (1, 2, 3, 4)), ("encode", 50, 50)]
    assert "level 2 of 2: mean squared residual" in caplog.text
    assert "0 of 4 codes unused on 50 vectors, which are few: below 39 a code" in caplog.text


def test_office_titles(data_root) -> None:
    with gzip.open(data_root / "apao_office" / "Office.item.json.gz", "rt", encoding="utf-8") as file:
        items = [item for _, item in sorted(json.load(file).items(), key=lambda entry: int(entry[0]))]
    vectors = embed_tfidf([item["title"] for item in items])
    categories = [[name.strip() for name in item["categories"].split(",")] for item in items]
    quantiser = ResidualKMeans(codebook_sizes=(256, 256, 256)).fit(vectors)
    codes = quantiser.encode(vectors)
    report = health(
        codes, codebook_sizes=(256, 256, 256), vectors=vectors, decode=quantiser.decode, categories=categories
    )
    check_gates(report)
    assert not [row for row in health_rows(report) if row[2].startswith("warn")]
    assert report["collisions"]["rate"] < 0.25
    assert report["collisions"]["largest_bucket"] < 64
    last = report["purity"]["last"]["depths"][0]
    assert last["nmi"] > last["by_chance"] + 0.1
    assert report["neighbours"]["depths"][0]["lift"] > 30
    assert report["levels"][2]["mean_squared_residual"] == pytest.approx(quantiser.mean_squared_residuals_[2], rel=1e-4)
