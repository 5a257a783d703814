"""Published-protocol rows on real data, to four digits, straight from the raw files.

Office Products, leave-one-out: the last item is the target of the test, the last but one that of the validation.
"""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from genrec.baselines.item_knn import DirectedItemKnn
from genrec.baselines.markov import LastItemMarkov
from genrec.baselines.popularity import Popularity
from genrec.data.sequences import Cases, Ragged
from genrec.evaluation.evaluate import evaluate_models

NUM_ITEMS = 2420

# (tie rule, places held out, model) -> R@10 / N@10 without and R@10 / N@10 with the seen items masked
ROWS = {
    ("pessimistic", 1, "item_knn"): (0.0972, 0.0586, 0.1021, 0.0615),
    ("mid", 1, "markov"): (0.0748, 0.0464, 0.0765, 0.0475),
    ("mid", 1, "popularity"): (0.0006, 0.0002, 0.0012, 0.0004),
    ("pessimistic", 2, "item_knn"): (0.1211, 0.0714, 0.1270, 0.0755),
}


@pytest.fixture(scope="module")
def office(data_root) -> Ragged:
    path = data_root / "apao_office" / "Office.inter.json.gz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    with gzip.open(path) as file:
        return Ragged.from_lists(list(json.load(file).values()))


@pytest.mark.parametrize(
    ("tie_rule", "held_out"),
    [
        ("pessimistic", 1),
        pytest.param("mid", 1, marks=pytest.mark.slow),
        pytest.param("pessimistic", 2, marks=pytest.mark.slow),
    ],
)
def test_rows_of_office(office, tie_rule, held_out):
    train = Ragged(office.values, office.starts, office.ends - 2)
    cut = office.ends - held_out
    cases = Cases(np.arange(len(office)), office.values[cut], Ragged(office.values, office.starts, cut))
    models = {
        model.name: model.fit(train, num_items=NUM_ITEMS)
        for model in (Popularity(), LastItemMarkov(), DirectedItemKnn())
    }
    report = evaluate_models(
        models,
        cases,
        train_counts=np.bincount(train.flat()[1], minlength=NUM_ITEMS),
        tie_rule=tie_rule,
        num_resamples=100,
    ).report
    assert report["num_cases"] == 4905
    found = {
        (row["model"], row["mask"]): [round(row["metrics"][name]["mean"], 4) for name in ("recall@10", "ndcg@10")]
        for row in report["rows"]
    }
    for (rule, place, model), expected in ROWS.items():
        if (rule, place) == (tie_rule, held_out):
            assert (*found[model, "none"], *found[model, "seen"]) == expected
