"""The ledger: what it says is what was published, every cell of it can be run, and what is recorded is on record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genrec.config.losses import CrossEntropyLoss, PrefixPairwiseLoss, PrefixPointwiseLoss
from genrec.config.models import DecoderOnlyModel, EncoderDecoderModel, SasrecModel
from genrec.config.named import named_configs
from genrec.config.reproduce import ClaimSection, NamedSection, NumbersSection, ReproduceConfig
from genrec.config.training import ImportedTokenizer, RqVaeTokenizer
from genrec.errors import ConfigError
from genrec.files import read_json
from genrec.pipeline.ledger import ROW, changes, claim_of, describe, ledger_table, numbers_of, read_ledger, resolve

PROJECT = Path(__file__).resolve().parent.parent.parent.parent
LEDGER = read_ledger()
PLANS = {name: resolve(config) for name, config in LEDGER.items()}
R, N = "recall@10", "ndcg@10"


def both(r: float, n: float) -> dict[str, float]:
    return {R: r, N: n}


# Typed once more from where they were read: (no mask, seen items masked).
PUBLISHED: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "popularity-office": (both(0.0006, 0.0002), both(0.0012, 0.0004)),
    "popularity-beauty": (both(0.0120, 0.0055), both(0.0120, 0.0056)),
    "markov-office": (both(0.0748, 0.0464), both(0.0765, 0.0475)),
    "markov-beauty": (both(0.0661, 0.0428), both(0.0670, 0.0440)),
    "item-knn-office": (both(0.0972, 0.0586), both(0.1021, 0.0615)),
    "item-knn-beauty": (both(0.0794, 0.0484), both(0.0851, 0.0534)),
    "item-knn-office-validation": ({R: 0.1211}, {}),
    "item-knn-beauty-validation": ({R: 0.0970}, {}),
    "sasrec-office": (both(0.0942, 0.0476), both(0.1054, 0.0581)),
    "apao-office-t5-ce": ({R: 0.0608}, {}),
    "apao-office-t5-pointwise": ({R: 0.0667}, {}),
    "apao-office-t5-pairwise": ({R: 0.0671}, {}),
    "apao-office-llama-ce": ({R: 0.0469}, {}),
    "apao-office-llama-pointwise": ({R: 0.0559}, {}),
    "apao-office-llama-pairwise": ({R: 0.0557}, {}),
    "apao-beauty-t5-ce": ({R: 0.0611}, {}),
    "apao-beauty-t5-pointwise": ({R: 0.0637}, {}),
    "apao-beauty-t5-pairwise": ({R: 0.0639}, {}),
    "apao-beauty-llama-ce": (both(0.0516, 0.0274), {}),
    "apao-beauty-llama-pointwise": (both(0.0564, 0.0300), {}),
    "apao-beauty-llama-pointwise-even": ({N: 0.0286}, {}),
    "apao-beauty-llama-pairwise": ({R: 0.0548}, {}),
    "tiger-beauty": (both(0.0648, 0.0384), {}),
    "sasrec-beauty-quoted": (both(0.0605, 0.0318), {}),
    "sasrec-beauty-sampled-softmax": ({}, both(0.0921, 0.0531)),
    "sasrec-ml-1m-sampled-softmax": ({}, both(0.2853, 0.1603)),
}
# beta and eta that the authors found; those of T5 stand in for Llama's pairwise ones.
RATES = {
    "office-t5-pointwise": (0.3, 1e-4),
    "beauty-t5-pointwise": (0.1, 1e-5),
    "office-llama-pointwise": (0.4, 5e-4),
    "beauty-llama-pointwise": (0.3, 1e-4),
    "office-t5-pairwise": (0.2, 3e-5),
    "beauty-t5-pairwise": (0.1, 1e-4),
    "office-llama-pairwise": (0.2, 3e-5),
    "beauty-llama-pairwise": (0.1, 1e-4),
}


def test_every_number_is_the_published_one() -> None:
    published = {name: plan.claim.published for name, plan in PLANS.items()}
    found = {name: (numbers.none, numbers.seen) for name, numbers in published.items()}
    assert found == PUBLISHED


@pytest.mark.parametrize("name", LEDGER)
def test_every_cell_can_be_run(name: str) -> None:
    config = LEDGER[name]
    plan = PLANS[name]
    assert config.cell == name, "the file has the name of its cell"
    assert plan.prepare.expect is not None, "another version of the data would not be noticed"
    assert (plan.train is None) == (plan.row != ROW)
    assert plan.claim.cost.startswith(("CPU: ", "GPU "))
    assert changes(config) == []
    assert describe(plan)["ours"].startswith(plan.evaluate.split)
    if plan.train is not None:
        first, second = plan.seeded(0), plan.seeded(1)
        assert (first[0].seed, second[0].seed) == (0, 1)
        assert first[0].run != second[0].run
        assert second[1].recommenders == {ROW: second[0].run / "recommender"}
        assert replace(first[0], run=second[0].run, seed=1) == second[0], "seeds differ in nothing else"


@pytest.mark.parametrize("name", [name for name in LEDGER if name.startswith("apao-")])
def test_cells_of_apao_follow_its_protocol(name: str) -> None:
    plan = PLANS[name]
    assert plan.train is not None
    assert plan.tokenize is not None
    _, data, network, loss, *_ = name.split("-")
    assert isinstance(plan.tokenize.tokenizer, ImportedTokenizer)
    assert plan.tokenize.tokenizer.collisions == "keep"
    assert {"office": 4905, "beauty": 22363}[data] == plan.prepare.expect.users  # type: ignore[union-attr]
    assert (plan.evaluate.split, plan.evaluate.search.beam_width, plan.evaluate.ties) == ("test", 20, "optimistic")
    model, optimizer = plan.train.model, plan.train.optimizer
    assert isinstance(model, EncoderDecoderModel if network == "t5" else DecoderOnlyModel)
    assert (model.normalisation, model.node_embeddings, model.item_embeddings) == ("vocabulary", False, False)
    assert (model.width, model.hidden, model.history_length, model.dropout) == (128, 1024, 20, 0.1)
    if isinstance(model, EncoderDecoderModel):
        assert (model.encoder_layers, model.decoder_layers, model.num_heads, model.head_width) == (4, 4, 6, 64)
    if isinstance(model, DecoderOnlyModel):
        assert (model.num_layers, model.num_heads) == (8, 8)
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.warmup, optimizer.batch_size) == (
        5e-4,
        0.01,
        0.01,
        1024,
    )
    assert (plan.train.samples, plan.train.precision, plan.train.stopping.max_epochs, plan.train.stopping.patience) == (
        *("pairs", "32-true"),
        *(200, 20),
    )
    trained = plan.train.loss
    if loss == "ce":
        assert trained == CrossEntropyLoss()
    elif name.endswith("-even"):
        assert trained == PrefixPointwiseLoss(beta=0.3, eta=0.0, weights="persistent")
    else:
        beta, eta = RATES[f"{data}-{network}-{loss}"]
        kind = {"pointwise": PrefixPointwiseLoss, "pairwise": PrefixPairwiseLoss}[loss]
        assert trained == kind(beta=beta, eta=eta, weights="stateless")


def test_the_other_trained_cells_are_what_they_say() -> None:
    quoted, sampled, movies, tiger = (
        PLANS[name]
        for name in (
            "sasrec-beauty-quoted",
            "sasrec-beauty-sampled-softmax",
            "sasrec-ml-1m-sampled-softmax",
            "tiger-beauty",
        )
    )
    for plan, loss in ((quoted, "gbce"), (sampled, "sampled_softmax"), (movies, "sampled_softmax")):
        assert plan.train is not None
        assert isinstance(plan.train.model, SasrecModel)
        assert plan.train.loss.name == loss
        assert plan.tokenize is None
        assert plan.train.semantic_ids is None
    assert tiger.tokenize is not None
    assert isinstance(tiger.tokenize.tokenizer, RqVaeTokenizer)
    assert tiger.tokenize.tokenizer.codebook_sizes == (256, 256, 256)
    assert tiger.embed is not None
    assert tiger.tokenize.tokenizer.embeddings == tiger.embed.output


@pytest.mark.parametrize("name", [name for name, config in LEDGER.items() if PLANS[name].claim.recorded is not None])
def test_what_is_recorded_is_in_the_file_that_is_named(name: str) -> None:
    recorded, ties = PLANS[name].claim.recorded, PLANS[name].evaluate.ties
    assert recorded is not None
    rows = {(row["model"], row["mask"]): row for row in read_json(PROJECT / recorded.where)["rows"]}
    assert recorded.none or recorded.seen
    ties = "pessimistic" if "apao" in name else ties  # which those runs were printed under
    for mask in ("none", "seen"):
        for metric, value in getattr(recorded, mask).items():
            found = rows[str(recorded.row), mask]["tie_bounds"][metric][ties]
            assert value == pytest.approx(found, abs=5.1e-5), (mask, metric)


def test_the_table_has_a_row_for_each_cell() -> None:
    table = ledger_table(PLANS.values())
    assert [row[0].splitlines()[0] for row in table.rows] == list(LEDGER) == sorted(named_configs("reproduce"))
    shown = {row[0].splitlines()[0]: row for row in table.rows}
    assert shown["item-knn-office"][2].splitlines()[2] == "R@10* .1021 ±.00005"
    assert "-" in shown["tiger-beauty"][3]


def tiny(**changed: Any) -> ReproduceConfig:
    claim = ClaimSection(
        source="here",
        trust="measured",
        model="popularity",
        protocol="ours",
        published=NumbersSection(none={R: 0.1}),
        tolerance={R: 0.01},
        tolerance_reason="a test",
        cost="CPU: seconds",
    )
    config = ReproduceConfig(
        cell="tiny", claim=claim, prepare={"source": "synthetic"}, evaluate={"models": ["popularity"]}
    )
    return replace(config, **changed)


def claim_with(**changed: Any) -> ClaimSection:
    return replace(claim_of(tiny())[1], **changed)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"evaluate": {"models": ["popularity", "markov"]}}, "compares one baseline"),
        ({"evaluate": {"models": ["popularity"], "cutoffs": [5]}}, "recall@10 is published, and not measured"),
        (
            {"evaluate": {"models": ["popularity"], "tie": "mid"}},
            "section 'evaluate': unknown key 'tie'; did you mean 'ties'",
        ),
        ({"prepare": {"source": "synthetic", "output": "x"}}, "key 'prepare.output' is decided by the cell"),
        ({"named": NamedSection(prepare="offise")}, "key 'named.prepare': 'offise' is neither"),
        ({"claim": claim_with(tolerance={})}, "a published number has no tolerance"),
        ({"claim": claim_with(tolerance={R: -0.01})}, "a published number has no tolerance"),
        ({"claim": claim_with(published=NumbersSection())}, "a cell without a published number"),
        ({"claim": claim_with(published=NumbersSection(none={"recal@10": 0.1}))}, "unknown metric"),
        ({"train": {"model": "sasrec"}, "seeds": ()}, "a training needs seeds that differ"),
        ({"train": {"model": "sasrec"}, "seeds": (1, 1)}, "a training needs seeds that differ"),
        ({"train": {"model": "sasrec", "seed": 3}}, "key 'train.seed' is decided by the cell"),
        ({"cell": None}, "a cell needs a name"),
        ({"claim": None}, "nothing is known of this cell but its name"),
    ],
)
def test_what_cannot_be_run_is_refused(changed: dict[str, object], expected: str) -> None:
    assert resolve(tiny()).row == "popularity"
    with pytest.raises(ConfigError) as caught:
        resolve(tiny(**changed))
    assert expected in str(caught.value)


def test_changes_of_a_cell_are_named() -> None:
    config = LEDGER["apao-office-t5-pointwise"]
    faster = replace(
        config,
        train={**config.train, "stopping": {"max_epochs": 2}, "accelerator": "cpu"},
        seeds=(5,),
        output=Path("elsewhere"),
    )
    assert changes(faster) == ["train.stopping.max_epochs=2"]
    assert changes(tiny()) == []
    assert [number.mask for number in numbers_of(PLANS["sasrec-office"].claim)] == [
        "none",
        "none",
        "seen",
        "seen",
    ]
