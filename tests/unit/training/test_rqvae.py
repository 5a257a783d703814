"""The RQ-VAE as a quantiser: what it learns, what it keeps, what it refuses."""

from __future__ import annotations

import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from sklearn.metrics import normalized_mutual_info_score

from genrec.errors import ConfigError, DataError, TrainingError
from genrec.quantization.rqvae import RqVae
from genrec.training.rqvae import RqVaeOptions, RqVaeQuantizer, _forward, _Stream
from genrec.training.tokenizer_task import TokenizerTask

TINY = RqVaeOptions(
    codebook_sizes=(8, 6),
    latent_width=4,
    hidden=(12,),
    epochs=4,
    pretrain_epochs=1,
    batch_size=32,
    learning_rate=1e-2,
    codebook_update="gradient",
    accelerator="cpu",
)
VARIANTS = {
    "gradient": TINY,
    "ema": replace(TINY, codebook_update="ema", ema_decay=0.9),
    "sinkhorn": replace(TINY, sinkhorn="all", sinkhorn_iterations=5, seed=3),
    "cosine": replace(TINY, distance="cosine", codebook_update="ema", ema_decay=0.9),
    "diverse": replace(TINY, diversity_weight=1e-2),
}


def normal(num_vectors: int, seed: int = 0, width: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num_vectors, width)).astype(np.float32)


def planted() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors of 16 clusters times 16 shifts, with both labels."""
    rng = np.random.default_rng(0)
    centres, shifts = 4 * rng.standard_normal((16, 24)), rng.standard_normal((16, 24))
    first, second = rng.integers(16, size=1000), rng.integers(16, size=1000)
    noise = 0.05 * rng.standard_normal((1000, 24))
    return (centres[first] + shifts[second] + noise).astype(np.float32), first, second


@pytest.mark.parametrize("update", [pytest.param("gradient", marks=pytest.mark.slow), "ema"])
def test_a_planted_mixture_is_recovered_without_dead_codes(update):
    vectors, first, second = planted()
    options = replace(TINY, codebook_sizes=(16, 16), latent_width=24, hidden=(), epochs=60, batch_size=256)
    options = replace(options, pretrain_epochs=0, learning_rate=2e-2, codebook_update=update)
    quantiser = RqVaeQuantizer(options).fit(vectors)
    codes = quantiser.encode(vectors)
    assert normalized_mutual_info_score(first, codes[:, 0]) > 0.99
    assert normalized_mutual_info_score(16 * first + second, 16 * codes[:, 0] + codes[:, 1]) > 0.99
    assert [len(np.unique(column)) for column in codes.T] == [16, 16]
    last = quantiser.history_[-1]
    assert [level["dead"] for level in last["levels"]] == [0, 0]
    error = np.square(vectors - quantiser.decode(codes)).mean() / np.square(vectors - vectors.mean(axis=0)).mean()
    assert error < 0.03
    assert last["reconstruction"] == pytest.approx(error, abs=0.005), "it is a share of the variance"
    assert last["collision_rate"] == pytest.approx(1 - 253 / 1000, abs=0.01)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_same_seed_gives_the_same_bits(options):
    vectors = normal(100)
    once = RqVaeQuantizer(options).fit(vectors)
    torch.manual_seed(99)  # the global generators must not matter
    again = RqVaeQuantizer(options).fit(vectors)
    other = RqVaeQuantizer(replace(options, seed=options.seed + 1)).fit(vectors)
    for name, array in once.state().items():
        np.testing.assert_array_equal(again.state()[name], array)
    assert again.history_ == once.history_
    assert any(not np.array_equal(array, other.state()[name]) for name, array in once.state().items())


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_saved_quantiser_encodes_alike(options):
    quantiser, more = RqVaeQuantizer(options).fit(normal(100)), normal(500, seed=1)
    restored = RqVaeQuantizer.from_state(load(save(quantiser.state())))
    codes = quantiser.encode(more)
    np.testing.assert_array_equal(restored.encode(more), codes)
    np.testing.assert_array_equal(restored.decode(codes), quantiser.decode(codes))
    assert restored.codebook_sizes == quantiser.codebook_sizes
    latents = (normal(100) - quantiser.mean_) / quantiser.scale_
    for at, (weight, bias) in enumerate(quantiser.encoder_):
        latents = (latents if at == 0 else np.maximum(latents, 0)) @ weight.T + bias
    for level, codes in enumerate(quantiser.encode(normal(100)).T):
        latents = latents - quantiser.codebooks_[level][codes]
        assert quantiser.mean_squared_residuals_[level] == pytest.approx(
            np.square(latents).sum(axis=1).mean(), rel=1e-4
        )


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_encoding_is_that_of_the_trained_module(distance):
    quantiser = RqVaeQuantizer(replace(TINY, distance=distance)).fit(normal(100))
    vectors = normal(400, seed=1)
    model = RqVae(
        width=6,
        latent_width=4,
        hidden=(12,),
        codebook_sizes=(8, 6),
        learn_codebooks=True,
        by_direction=distance == "cosine",
        generator=torch.Generator(),
    )
    model.initialise(quantiser.codebooks_)
    arrays = {"encoder": quantiser.encoder_, "decoder": quantiser.decoder_}
    with torch.no_grad():
        for name, layers in arrays.items():
            for at, (weight, bias) in enumerate(layers):
                getattr(model, name)[2 * at].weight.copy_(torch.from_numpy(weight))
                getattr(model, name)[2 * at].bias.copy_(torch.from_numpy(bias))
        decoded, _, quantised = model(torch.from_numpy((vectors - quantiser.mean_) / np.float32(quantiser.scale_)))
    codes = quantiser.encode(vectors)
    np.testing.assert_array_equal(codes, quantised.codes)
    np.testing.assert_allclose(quantiser.decode(codes), quantiser.mean_ + quantiser.scale_ * decoded.numpy(), atol=1e-5)


def test_every_epoch_has_every_item_once_in_an_order_of_its_own():
    stream = _Stream(normal(50), np.zeros(6, dtype=np.float32), 1.0, normal(50, 1, 3), replace(TINY, batch_size=16))
    orders = []
    for epoch in (0, 1, 0):
        stream.epoch = lambda epoch=epoch: epoch
        batches = list(stream)
        assert [len(batch["rows"]) for batch in batches] == [13, 13, 12, 12]
        orders.append(torch.cat([batch["rows"] for batch in batches]).tolist())
        np.testing.assert_array_equal(torch.cat([batch["vectors"] for batch in batches]), normal(50)[orders[-1]])
        np.testing.assert_array_equal(
            torch.cat([batch["collaborative"] for batch in batches]), normal(50, 1, 3)[orders[-1]]
        )
    assert sorted(orders[0]) == list(range(50))
    assert orders[0] == orders[2] != orders[1]


def test_the_record_of_an_epoch_and_the_progress():
    told = []
    quantiser = RqVaeQuantizer(TINY).fit(normal(100), progress=lambda *state: told.append(state))
    assert told == [("rqvae", epoch, 4) for epoch in range(1, 5)]
    assert [record["epoch"] for record in quantiser.history_] == [1, 2, 3, 4]
    free, *quantised = quantiser.history_
    assert free.keys() == {"epoch", "loss", "reconstruction"}
    assert free["loss"] == pytest.approx(free["reconstruction"])
    for record in quantised:
        total = record["reconstruction"] + record["codebook"] + record["commitment"]
        assert record["loss"] == pytest.approx(total)
        assert record["commitment"] == pytest.approx(0.25 * record["codebook"])
        for level, size in zip(record["levels"], TINY.codebook_sizes, strict=True):
            assert level["used"] + level["dead"] == size
            assert 1 <= level["perplexity"] <= level["used"] + 1e-9
    ema = RqVaeQuantizer(VARIANTS["ema"]).fit(normal(100)).history_[-1]
    assert ema["loss"] == pytest.approx(ema["reconstruction"] + ema["commitment"]), "no codebook term under ema"


def test_dead_codes_come_to_life_unless_they_are_left_alone():
    vectors = np.concatenate([normal(80), 50 + normal(80, seed=1)])
    dead = {}
    for every in (0, 1):
        options = replace(TINY, codebook_sizes=(30, 30), epochs=8, learning_rate=3e-2, reseed_every=every)
        history = RqVaeQuantizer(options).fit(vectors).history_
        dead[every] = sum(level["dead"] for record in history[2:] for level in record["levels"])
        reseeded = [sum(level["reseeded"] for level in record["levels"]) for record in history[1:]]
        assert (sum(reseeded) > 0) == (every > 0)
        assert reseeded[-1] == 0, "not after the last epoch"
    assert dead[1] < dead[0]


def test_a_loss_that_is_not_finite_stops_the_training():
    with pytest.raises(TrainingError, match=r"epoch \d+, batch \d: the loss .* lower tokenizer.learning_rate") as error:
        RqVaeQuantizer(replace(TINY, learning_rate=1e20)).fit(normal(100))
    assert "\n" not in str(error.value)


def test_an_interrupt_is_an_interrupt(monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *handler: None)  # Lightning would leave this process deaf to others

    def interrupt(*state: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RqVaeQuantizer(TINY).fit(normal(100), progress=interrupt)


def test_what_cannot_be_trained_is_refused():
    quantiser = RqVaeQuantizer(TINY)
    with pytest.raises(DataError, match="all equal"):
        quantiser.fit(np.ones((50, 6), dtype=np.float32))
    with pytest.raises(DataError, match="too few vectors for level 1"):
        quantiser.fit(np.repeat(normal(5), 20, axis=0))
    fitted = RqVaeQuantizer(TINY).fit(normal(100))
    state = fitted.state()
    for key in ("encoder.1.weight", "codebook.1", "decoder.0.bias"):
        with pytest.raises(DataError, match="damaged"):
            RqVaeQuantizer.from_state({**state, key: state[key][..., :2]})
    with pytest.raises(DataError, match="'distance' of the RQ-VAE is damaged"):
        RqVaeQuantizer.from_state({**state, "distance": np.array([2])})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("codebook_sizes", (8, 1)),
        ("codebook_sizes", ()),
        ("hidden", (0,)),
        ("latent_width", 0),
        ("epochs", 0),
        ("pretrain_epochs", 4),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("beta", -0.1),
        ("distance", "l1"),
        ("alignment_weight", -1.0),
        ("diversity_weight", np.inf),
        ("codebook_update", "sgd"),
        ("ema_decay", 1.0),
        ("sinkhorn", "first"),
        ("sinkhorn_epsilon", 0.0),
        ("reseed_every", -1),
        ("seed", -1),
    ],
)
def test_options_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        replace(TINY, **{name: value})


def test_the_moving_averages_of_the_task_follow_its_codebooks():
    random = torch.Generator().manual_seed(0)
    model = RqVae(width=6, latent_width=4, hidden=(), codebook_sizes=(5,), learn_codebooks=False, generator=random)
    task = TokenizerTask(
        model,
        num_items=40,
        beta=0.25,
        learning_rate=1e-3,
        assign=[lambda distances: distances.argmin(dim=1)],
        ema_decay=0.9,
        reseed_every=1,
    )
    task.start([normal(5, seed=2, width=4)])
    vectors = torch.from_numpy(normal(40))
    task.training_step({"vectors": vectors, "rows": torch.arange(40)}, 0)
    latents, codes = model.encoder(vectors).detach(), torch.from_numpy(task.codes[:, 0]).long()
    start = torch.from_numpy(normal(5, seed=2, width=4))
    for code in range(5):
        mine = latents[codes == code]
        expected = (0.9 * start[code] + 0.1 * mine.sum(dim=0)) / (0.9 + 0.1 * len(mine)) if len(mine) else start[code]
        torch.testing.assert_close(model.codebooks[0][code].detach(), expected)


def test_by_direction_residuals_shrink_from_level_to_level():
    vectors, first, _ = planted()
    options = replace(TINY, codebook_sizes=(16, 16), distance="cosine", latent_width=24, hidden=(), epochs=40)
    options = replace(options, batch_size=250, learning_rate=2e-2, codebook_update="ema", ema_decay=0.9)
    quantiser = RqVaeQuantizer(options).fit(vectors)
    codes = quantiser.encode(vectors)
    assert (np.diff(quantiser.mean_squared_residuals_) < 0).all()
    assert [len(np.unique(column)) for column in codes.T] == [16, 16]
    assert normalized_mutual_info_score(first, codes[:, 0]) > 0.9
    error = np.square(vectors - quantiser.decode(codes)).mean() / np.square(vectors - vectors.mean(axis=0)).mean()
    assert error < 0.1


@pytest.mark.parametrize("pretrain_epochs", [0, 2])
def test_codebooks_begin_as_residual_kmeans_of_the_latents_that_they_find(pretrain_epochs):
    """At a rate of next to nothing the latents stay, and so do codebooks by gradient."""
    options = replace(TINY, epochs=3, pretrain_epochs=pretrain_epochs, learning_rate=1e-9, reseed_every=0)
    quantiser = RqVaeQuantizer(options).fit(normal(100))
    assert ["levels" in record for record in quantiser.history_] == [epoch >= pretrain_epochs for epoch in range(3)]
    latents = np.concatenate([latents for _, latents in quantiser._residuals(normal(100))])
    residuals = latents
    for level, codebook in enumerate(quantiser.codebooks_):
        codes = quantiser.encode(normal(100))[:, level]
        means = np.stack([residuals[codes == code].mean(axis=0) for code in range(len(codebook))])
        np.testing.assert_allclose(codebook, means, atol=1e-4)
        residuals = residuals - codebook[codes]
    inputs = (normal(100) - quantiser.mean_) / quantiser.scale_
    sums = {True: latents, False: latents - residuals}  # without codes, and the sum of the codes
    for record in quantiser.history_:
        decoded = _forward(sums["levels" not in record], quantiser.decoder_)
        assert record["reconstruction"] == pytest.approx(np.square(inputs - decoded).mean(), rel=1e-4)


@pytest.mark.slow
def test_alignment_draws_the_codes_to_the_collaborative_vectors():
    """Two groups that the vectors hardly know of; items without a collaborative vector do not matter."""
    group = np.arange(200) % 2
    vectors = normal(200, width=6)
    vectors[:, 0] = 0.3 * (2 * group - 1)
    collaborative = np.eye(5, dtype=np.float32)[group] * 3
    collaborative[:20] = 0
    options = replace(TINY, codebook_sizes=(4, 4), epochs=30, batch_size=50, learning_rate=3e-2, alignment_weight=1.0)
    shared = []
    for target in (None, collaborative):
        quantiser = RqVaeQuantizer(options).fit(vectors, collaborative=target)
        shared.append(normalized_mutual_info_score(group, quantiser.encode(vectors)[:, 0]))
        assert ("alignment" in quantiser.history_[-1]) == (target is not None)
    assert shared[1] > shared[0] + 0.2
    assert quantiser.history_[-1]["alignment"] < quantiser.history_[1]["alignment"]
    again = RqVaeQuantizer.from_state(quantiser.state())  # holds nothing of the alignment
    np.testing.assert_array_equal(again.encode(vectors), quantiser.encode(vectors))


def test_collaborative_vectors_that_cannot_be_used_are_refused():
    wrong = normal(100, width=3)
    wrong[7, 1] = np.nan
    for vectors, message in (
        (normal(99), "collaborative vectors of other items .*expected 100 rows.*found 99"),
        (wrong, "not finite in row 7"),
        (normal(100).astype(np.float64), "wrong shape or type"),
    ):
        with pytest.raises(DataError, match=message):
            RqVaeQuantizer(TINY).fit(normal(100), collaborative=vectors)
    with pytest.raises(ConfigError, match=r"alignment of weight 0.*tokenizer.collaborative=null"):
        RqVaeQuantizer(replace(TINY, alignment_weight=0.0)).fit(normal(100), collaborative=normal(100))


def test_diversity_needs_codebooks_by_gradient():
    with pytest.raises(ConfigError, match=r"diversity.*tokenizer.codebook_update=gradient"):
        replace(VARIANTS["ema"], diversity_weight=1e-4)
    assert "diversity" in RqVaeQuantizer(VARIANTS["diverse"]).fit(normal(100)).history_[-1]
