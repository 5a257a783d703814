"""Ranking of cases, what an empty history gets, the report, and the artifact."""

from __future__ import annotations

import itertools
import json

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.artifacts import write_artifact
from genrec.baselines.base import recommend
from genrec.baselines.scores import BackoffScores
from genrec.data.sequences import Cases, Ragged
from genrec.errors import ArtifactError, ConfigError, DataError
from genrec.evaluation.evaluate import (
    Evaluation,
    evaluate_models,
    load_evaluation,
    rank_cases,
    save_evaluation,
    score_metrics,
    score_model,
)
from genrec.evaluation.list_metrics import coverage, gini
from genrec.evaluation.metrics import ranks
from genrec.evaluation.summary import SummaryOptions, check_protocol, report_rows, summarise
from oracles import ranking_oracle

TRAIN_COUNTS = np.array([5, 3, 3, 1, 0, 2])
NUM_ITEMS = len(TRAIN_COUNTS)


class Last:
    """Scores by distance of the index from the last item; fails on an empty history."""

    def scores(self, histories: Ragged) -> np.ndarray:
        last = np.array([row[-1] for row in histories])
        return -np.abs(np.arange(NUM_ITEMS) - last[:, None]).astype(float)


class Only:
    """Recommends one item to everybody."""

    def __init__(self, item: int, score: float = 1.0) -> None:
        self.item, self.score = item, score

    def scores(self, histories: Ragged) -> sp.csr_matrix:
        rows = np.arange(len(histories))
        return sp.csr_matrix((np.full(len(rows), self.score), (rows, np.full(len(rows), self.item))), (len(rows), 6))


def make_cases(pairs: list[tuple[int, list[int]]]) -> Cases:
    targets, histories = zip(*pairs, strict=True)
    return Cases(np.arange(len(pairs)) * 10, np.array(targets, dtype=np.int32), Ragged.from_lists(histories))


PAIRS = [(2, [1, 3]), (4, [4, 4]), (0, []), (-1, [2]), (1, [5, 1, 0]), (4, [3])]

case_lists = st.lists(
    st.tuples(st.integers(-1, NUM_ITEMS - 1), st.lists(st.integers(0, NUM_ITEMS - 1), max_size=4)), min_size=1
)


@given(case_lists, st.integers(1, 4))
def test_every_row_is_the_oracle_of_its_case(pairs, batch_size):
    frame = rank_cases({"last": Last()}, make_cases(pairs), train_counts=TRAIN_COUNTS, batch_size=batch_size)
    assert frame.height == len(pairs)
    for row, (target, history) in zip(frame.iter_rows(named=True), pairs, strict=True):
        scores = [-abs(i - history[-1]) for i in range(NUM_ITEMS)] if history else TRAIN_COUNTS.tolist()
        for suffix, seen in (("", set()), ("_masked", set(history))):
            expected = ranking_oracle.rank_counts(dict(enumerate(scores)), target, seen) or (NUM_ITEMS, 0)
            assert (row[f"num_greater{suffix}"], row[f"num_tied{suffix}"]) == expected


def test_columns_and_order():
    frame = rank_cases({"b": Last(), "a": Only(2)}, make_cases(PAIRS), train_counts=TRAIN_COUNTS)
    assert frame.columns == [
        *("model", "case_index", "user_index", "target", "history_length"),
        *("num_greater", "num_tied", "num_greater_masked", "num_tied_masked"),
        *("target_popularity", "history_length_bucket", "target_novelty"),
    ]
    assert frame["model"].to_list() == ["b"] * 6 + ["a"] * 6
    assert frame["case_index"].to_list() == [*range(6), *range(6)]
    first = frame.head(6)
    assert first["user_index"].to_list() == [0, 10, 20, 30, 40, 50]
    assert first["target_popularity"].to_list() == ["middle", "unseen", "head", "outside", "middle", "unseen"]
    assert first["history_length_bucket"].to_list() == ["1-5", "1-5", "0", "1-5", "1-5", "1-5"]
    assert first["target_novelty"].to_list() == ["new", "repeat", "new", "new", "repeat", "new"]


def test_progress_reaches_the_end_of_every_model():
    calls = []
    cases = make_cases(PAIRS)
    rank_cases(
        {"a": Only(1), "b": Only(2)},
        cases,
        train_counts=TRAIN_COUNTS,
        batch_size=2,
        progress=lambda *c: calls.append(c),
    )
    assert [call for call in calls if call[1] == call[2]] == [("a", 6, 6), ("b", 6, 6)]
    assert len(calls) == 6


def test_the_report_counts_what_is_special():
    models = {"last": Last(), "only": Only(2)}
    report = evaluate_models(
        models,
        make_cases(PAIRS),
        train_counts=TRAIN_COUNTS,
        cutoffs=(1, 5),
        num_resamples=100,
        seed=3,
        reference="last",
    ).report
    assert report["models"] == ["last", "only"]
    assert report["num_cases"] == report["num_users"] == 6
    assert report["num_empty_history"] == 1
    assert report["num_target_unseen_in_train"] == 2
    assert report["num_target_outside_catalogue"] == 1
    assert report["num_target_in_history"] == 2
    assert report["num_fewer_candidates"] == 3
    assert report["protocol"]["num_items"] == 6
    assert report["protocol"]["primary_cutoff"] == 5
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_metrics_of_the_report_are_means_over_all_cases():
    """By hand: `only` puts item 2 first and hits case 0; the empty history of case 2 gets item 0, the most popular."""
    report = evaluate_models(
        {"only": Only(2)}, make_cases(PAIRS), train_counts=TRAIN_COUNTS, cutoffs=(1,), num_resamples=100, reference=None
    ).report
    rows = {row["mask"]: row["metrics"]["recall@1"] for row in report["rows"]}
    for mask in ("none", "seen"):
        assert rows[mask]["mean"] == pytest.approx(2 / 6)
        assert rows[mask]["low"] <= 2 / 6 <= rows[mask]["high"]
    assert report["comparisons"] == []


@given(case_lists, st.sampled_from(["pessimistic", "mid", "expected", "optimistic"]))
def test_tie_bounds_enclose_the_metric(pairs, tie_rule):
    report = evaluate_models(
        {"last": Last()},
        make_cases(pairs),
        train_counts=TRAIN_COUNTS,
        cutoffs=(2,),
        num_resamples=10,
        tie_rule=tie_rule,
        reference=None,
    ).report
    for row in report["rows"]:
        for name, bounds in row["tie_bounds"].items():
            assert bounds["pessimistic"] <= bounds["mid"] <= bounds["optimistic"]
            assert bounds["pessimistic"] <= bounds["expected"] <= bounds["optimistic"]
            assert row["metrics"][name]["mean"] == bounds[tie_rule]


class Mixed:
    """Some items over a base that all share, with many equal scores."""

    def scores(self, histories: Ragged) -> BackoffScores:
        last = np.array([row[-1] for row in histories])
        entries = sp.csr_matrix((np.ones(len(last)), (np.arange(len(last)), last)), (len(last), NUM_ITEMS))
        return BackoffScores(entries, np.array([0.5, 0.5, 0.0, 2.0, 1.0, 0.5]))


@settings(max_examples=20)
@given(case_lists, st.integers(1, 4))
def test_the_lists_are_those_that_are_recommended(pairs, batch_size):
    """Counted in the pass that ranks; an empty history gets the popular items."""
    models, cases = {"last": Last(), "only": Only(2), "mixed": Mixed()}, make_cases(pairs)
    report = evaluate_models(
        models,
        cases,
        train_counts=TRAIN_COUNTS,
        batch_size=batch_size,
        cutoffs=(1, 4),
        num_resamples=10,
        num_permutations=10,
        reference=None,
    ).report
    served = cases.take(np.flatnonzero(cases.histories.lengths > 0)).histories
    popular = np.argsort(-TRAIN_COUNTS, kind="stable")
    found = {(row["model"], row["mask"], row["cutoff"]): row for row in report["lists"]}
    assert list(found) == [(name, mask, k) for name in models for mask in ("none", "seen") for k in (1, 4)]
    for (name, mask, k), row in found.items():
        items = recommend(models[name], served, k, exclude_seen=mask == "seen")[0]
        counts = np.bincount(items[items >= 0], minlength=NUM_ITEMS)
        counts[popular[:k]] += len(pairs) - len(served)
        assert (row["coverage"], row["gini"]) == (coverage(counts), gini(counts))
        assert row["mean_length"] == pytest.approx(counts.sum() / len(pairs))
        assert row["average_popularity"] == pytest.approx(counts @ TRAIN_COUNTS / max(1, counts.sum()))
        assert row["diversity"] is None


def test_categories_of_targets_are_slices_like_the_others():
    categories = ["pens", "pens", "ink", None, "ink", "paper"]
    options = SummaryOptions(cutoffs=(1, 5), num_resamples=10, num_permutations=10, reference=None)
    models, cases = {"last": Last(), "only": Only(2)}, make_cases(PAIRS)
    evaluation = evaluate_models(models, cases, train_counts=TRAIN_COUNTS, categories=categories, **options)
    assert evaluation.cases["target_category"].to_list() == ["ink", "ink", "pens", "outside", "pens", "ink"] * 2
    rows = [row for row in evaluation.report["slices"] if row["slice"] == "target_category"]
    for model, mask in itertools.product(models, ("none", "seen")):
        sizes = {row["label"]: row["num_cases"] for row in rows if (row["model"], row["mask"]) == (model, mask)}
        assert sizes == {"ink": 3, "pens": 2, "outside": 1}
    assert {row["label"]: row["recall@5"] for row in rows if row["model"] == "only"}["outside"] == 0
    plain = evaluate_models(models, cases, train_counts=TRAIN_COUNTS, **options)
    assert "target_category" not in plain.cases.columns
    with pytest.raises(DataError, match=r"one category an item \(expected 6, found 2"):
        rank_cases({"last": Last()}, make_cases(PAIRS), train_counts=TRAIN_COUNTS, categories=["pens", "ink"])


def test_an_item_twice_in_a_list_is_refused_whatever_the_form():
    """Unsorted columns hide a repeat from the check of the form."""

    class Twice:
        def scores(self, histories: Ragged) -> sp.csr_matrix:
            rows = len(histories)
            columns = np.tile([4, 1, 4], rows)
            return sp.csr_matrix((np.tile([3.0, 2.0, 1.0], rows), columns, 3 * np.arange(rows + 1)), (rows, NUM_ITEMS))

    with pytest.raises(DataError, match=r"model 'twice': an item is twice in one list"):
        evaluate_models(
            {"twice": Twice()}, make_cases([(1, [0])]), train_counts=TRAIN_COUNTS, cutoffs=(5,), reference=None
        )


def random_evaluation(seed: int = 0, num_cases: int = 400) -> Evaluation:
    rng = np.random.default_rng(seed)
    pairs = [
        (int(rng.integers(NUM_ITEMS)), rng.integers(NUM_ITEMS, size=rng.integers(0, 9)).tolist())
        for _ in range(num_cases)
    ]
    models = {"last": Last(), "only": Only(4), "twin": Last()}
    return evaluate_models(
        models, make_cases(pairs), train_counts=TRAIN_COUNTS, cutoffs=(1, 3), num_resamples=200, reference="last"
    )


def test_slices_partition_the_cases_and_average_to_the_whole():
    evaluation = random_evaluation()
    for kind in ("target_popularity", "history_length_bucket", "target_novelty"):
        for row in evaluation.report["rows"]:
            parts = [
                part
                for part in evaluation.report["slices"]
                if part["slice"] == kind and (part["model"], part["mask"]) == (row["model"], row["mask"])
            ]
            assert sum(part["num_cases"] for part in parts) == 400
            total = sum(part["num_cases"] * part["recall@3"] for part in parts)
            assert total / 400 == pytest.approx(row["metrics"]["recall@3"]["mean"])


def test_comparisons_are_paired_differences_to_the_reference():
    evaluation = random_evaluation()
    rows = {(row["model"], row["mask"]): row["metrics"] for row in evaluation.report["rows"]}
    comparisons = evaluation.report["comparisons"]
    assert {(row["model"], row["mask"], row["metric"]) for row in comparisons} == {
        (model, mask, metric)
        for model in ("only", "twin")
        for mask in ("none", "seen")
        for metric in ("recall@3", "ndcg@3")
    }
    for row in comparisons:
        mine, other = rows[row["model"], row["mask"]], rows["last", row["mask"]]
        assert row["difference"] == pytest.approx(mine[row["metric"]]["mean"] - other[row["metric"]]["mean"])
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["p_permutation"] <= row["p_holm"] <= 1
    twins = [row for row in comparisons if row["model"] == "twin"]
    assert all((row["difference"], row["low"], row["high"], row["p_holm"]) == (0, 0, 0, 1) for row in twins)
    assert not any(row["is_significant"] for row in twins)
    assert all(row["smallest_detectable_effect"] == 0 for row in twins)
    apart = [row for row in comparisons if row["model"] == "only" and row["mask"] == "none"]
    assert all(row["is_significant"] and row["difference"] < 0 for row in apart)


def test_an_evaluation_is_deterministic_and_its_seed_matters():
    first, again = random_evaluation(), random_evaluation()
    assert first.report == again.report
    assert first.cases.equals(again.cases)
    options = SummaryOptions(cutoffs=(1, 3), num_resamples=200, reference="last")
    lists = {"lists": first.report["lists"]}
    assert summarise(first.cases, num_items=NUM_ITEMS, **options) | lists == first.report
    options["seed"] = 1
    assert summarise(first.cases, num_items=NUM_ITEMS, **options)["rows"] != first.report["rows"]


def test_score_model_is_the_mean_of_the_report():
    cases = make_cases(PAIRS)
    frame = rank_cases({"last": Last()}, cases, train_counts=TRAIN_COUNTS)
    for exclude_seen, suffix in ((False, ""), (True, "_masked")):
        rank = ranks(frame[f"num_greater{suffix}"].to_numpy(), frame[f"num_tied{suffix}"].to_numpy())
        value = score_model(Last(), cases, train_counts=TRAIN_COUNTS, metric="recall@2", exclude_seen=exclude_seen)
        assert value == np.mean(rank < 2)


def test_several_metrics_come_from_one_ranking():
    class Counting(Last):
        calls = 0

        def scores(self, histories: Ragged) -> np.ndarray:
            self.calls += 1
            return super().scores(histories)

    model, cases = Counting(), make_cases(PAIRS)
    options = {"train_counts": TRAIN_COUNTS, "exclude_seen": True, "tie_rule": "mid"}
    names = ("ndcg@2", "recall@5", "mrr@1")
    values = score_metrics(model, cases, metrics=names, **options)
    assert model.calls == 1
    assert tuple(values) == names
    assert values == {name: score_model(Last(), cases, metric=name, **options) for name in names}
    with pytest.raises(ConfigError, match="cut-off 7 is above"):
        score_metrics(model, cases, train_counts=TRAIN_COUNTS, metrics=("recall@1", "recall@7"))
    with pytest.raises(ConfigError, match="unknown tie rule"):
        score_metrics(model, cases, train_counts=TRAIN_COUNTS, metrics=names, tie_rule="kind")
    assert model.calls == 1  # refused before the work


def test_users_with_many_cases_are_one_unit_of_the_report():
    """Thirty copies of every case: the same means, intervals, tests and errors as without them."""
    evaluation = random_evaluation(num_cases=60)
    options = SummaryOptions(cutoffs=(1, 3), num_resamples=100, num_permutations=300, reference="last")
    once = summarise(evaluation.cases, num_items=NUM_ITEMS, **options)
    copies = evaluation.cases.select(pl.all().repeat_by(30).explode())
    report = summarise(copies, num_items=NUM_ITEMS, **options)
    assert (report["num_users"], report["num_cases"]) == (60, 1800)
    assert "over users" in report["protocol"]["intervals"]
    for kind in ("rows", "slices", "comparisons"):
        for many, few in zip(report[kind], once[kind], strict=True):
            assert numbers(many, but="num_cases") == pytest.approx(numbers(few, but="num_cases"), abs=1e-12)


def numbers(tree, but: str) -> list[float]:
    """The leaves that are numbers, in order; -1 for None."""
    if isinstance(tree, dict):
        return [leaf for key, part in tree.items() if key != but for leaf in numbers(part, but)]
    if tree is None:
        return [-1.0]
    return [float(tree)] if isinstance(tree, int | float) else []


def test_few_resamples_leave_the_tests_their_power():
    evaluation = random_evaluation()
    options = SummaryOptions(cutoffs=(1, 3), num_resamples=100, reference="last")
    report = summarise(evaluation.cases, num_items=NUM_ITEMS, **options)
    assert (report["protocol"]["num_resamples"], report["protocol"]["num_permutations"]) == (100, 10_000)
    found = {row["p_permutation"] for row in report["comparisons"] if row["model"] == "only" and row["mask"] == "none"}
    assert found == {1 / 10_001}
    fewer = summarise(evaluation.cases, num_items=NUM_ITEMS, num_permutations=50, **options)
    assert min(row["p_permutation"] for row in fewer["comparisons"]) == 1 / 51
    assert fewer["rows"] == report["rows"]


def test_the_table_has_a_header_and_a_row_for_every_model_and_mask():
    table = report_rows(random_evaluation().report)
    metrics = ("R@3", "R@3 95 %", "N@3", "N@3 95 %")
    assert table[0] == ("model", "seen mask", *metrics, "R@3 vs last", "p (Holm)")
    assert len(set(table[0])) == 8
    assert [row[:2] for row in table[1:]] == [(m, k) for m in ("last", "only", "twin") for k in ("none", "seen")]
    assert {len(row) for row in table} == {8}
    assert table[1][-2:] == ("", "")
    assert table[5][-2:] == ("+.0000", "1.000")


def test_the_table_names_its_level_and_leaves_comparisons_out_where_there_are_none():
    cases = random_evaluation().cases
    report = summarise(cases, num_items=NUM_ITEMS, cutoffs=(1, 3), num_resamples=10, confidence=0.999, reference=None)
    table = report_rows(report)
    assert table[0] == ("model", "seen mask", "R@3", "R@3 99.9 %", "N@3", "N@3 99.9 %")
    assert {len(row) for row in table} == {6}
    assert report["comparisons"] == []
    assert report["protocol"]["reference"] is None


def test_an_evaluation_comes_back_from_its_artifact(tmp_path):
    with write_artifact(tmp_path / "dataset", kind="dataset") as writer:
        writer.path("x.json").write_text("1")
    evaluation = random_evaluation()
    artifact = save_evaluation(tmp_path / "evaluation", evaluation, parents={"dataset": writer.artifact})
    assert artifact.kind == "evaluation"
    assert artifact.parents == {"dataset": writer.artifact.identity}
    loaded = load_evaluation(tmp_path / "evaluation")
    assert loaded.report == evaluation.report
    assert loaded.cases.equals(evaluation.cases)
    assert loaded.cases.schema == evaluation.cases.schema
    again = summarise(loaded.cases, num_items=NUM_ITEMS, cutoffs=(1, 3), num_resamples=200, reference="last")
    assert again | {"lists": loaded.report["lists"]} == loaded.report
    with pytest.raises(ArtifactError):
        load_evaluation(tmp_path / "dataset")


def test_bad_input_is_refused_in_one_line():
    def evaluate(models=None, pairs=PAIRS, **options):
        models = {"last": Last()} if models is None else models
        options = {"cutoffs": (1, 5), "reference": None, "num_resamples": 10, **options}
        evaluate_models(models, make_cases(pairs), train_counts=TRAIN_COUNTS, **options)

    with pytest.raises(ConfigError, match=r"cut-off 50 is above the number of candidates.*; set cutoffs=\[1,5\]$"):
        evaluate(cutoffs=(1, 5, 50))
    with pytest.raises(ConfigError, match="cut-off 50 is above the number of candidates"):
        evaluate_models({"last": Last()}, make_cases(PAIRS), train_counts=TRAIN_COUNTS, reference=None)
    with pytest.raises(ConfigError, match="no models"):
        evaluate(models={})
    with pytest.raises(
        ConfigError, match=r"reference is not among the models \(expected one of last, found.*; set reference=last"
    ):
        evaluate(reference="item_knn")
    with pytest.raises(ConfigError, match="unknown tie rule"):
        evaluate(tie_rule="kind")
    with pytest.raises(ConfigError, match="wrong confidence"):
        evaluate(confidence=95)
    with pytest.raises(ConfigError, match=r"too few resamples: num_permutations \(expected at least 1, found 0\)"):
        evaluate(num_permutations=0)
    with pytest.raises(ConfigError, match=r"model 'last' is given twice; name it once, as in models=\[last,only\]"):
        check_protocol(["last", "only", "last"], num_items=6, cutoffs=(1,), reference="last")
    with pytest.raises(DataError, match=r"target outside the catalogue \(expected item_index -1 to 5, found 0 to 6"):
        evaluate(pairs=[(6, [0]), (0, [1])])
    with pytest.raises(DataError, match="history item outside the catalogue"):
        evaluate(pairs=[(0, [0, -1])])
    with pytest.raises(DataError, match="model 'nan': scores are not finite"):
        evaluate(models={"nan": Only(2, score=np.nan)})
    with pytest.raises(DataError, match="model 'lost': scores are not finite"):
        evaluate(models={"lost": Only(2, score=-np.inf)})
    with pytest.raises(DataError, match=r"model 'small': wrong shape of scores \(expected \(1, 7\), found \(1, 6\)"):
        rank_cases({"small": Last()}, make_cases([(0, [0])]), train_counts=np.ones(7))
    no_cases = Cases(np.zeros(0), np.zeros(0), Ragged.from_lists([]))
    with pytest.raises(DataError, match="no evaluation cases"):
        rank_cases({"only": Only(1)}, no_cases, train_counts=TRAIN_COUNTS)
    with pytest.raises(DataError, match="no evaluation cases"):
        score_model(Only(1), no_cases, train_counts=TRAIN_COUNTS, metric="recall@1")


def test_what_an_earlier_version_wrote_can_still_be_read_and_summarised(tmp_path):
    """No lists, no categories, no figures of semantic IDs, three tie rules."""
    options = SummaryOptions(cutoffs=(1, 3), num_resamples=20, num_permutations=20, reference="last")
    models = {"last": Last(), "only": Only(4)}
    evaluation = evaluate_models(models, make_cases(PAIRS), train_counts=TRAIN_COUNTS, **options)
    old = {key: value for key, value in evaluation.report.items() if key != "lists"}
    for row in old["rows"]:
        for bounds in row["tie_bounds"].values():
            del bounds["expected"]
    save_evaluation(tmp_path / "old", Evaluation(evaluation.cases, old))
    loaded = load_evaluation(tmp_path / "old")
    assert loaded.report == old
    assert report_rows(loaded.report) == report_rows(evaluation.report)
    again = summarise(loaded.cases, num_items=NUM_ITEMS, **options)
    assert again["slices"] == old["slices"]


def test_models_ranked_on_different_cases_cannot_be_compared():
    cases = make_cases(PAIRS)
    first = rank_cases({"a": Only(1)}, cases, train_counts=TRAIN_COUNTS)
    second = rank_cases({"b": Only(1)}, cases.take(slice(1, None)), train_counts=TRAIN_COUNTS)
    with pytest.raises(DataError, match="models 'a' and 'b' were ranked on different cases"):
        summarise(pl.concat([first, second]), num_items=NUM_ITEMS, cutoffs=(1,), reference=None)
    with pytest.raises(DataError, match="no evaluation cases"):
        summarise(first.clear(), num_items=NUM_ITEMS, cutoffs=(1,), reference=None)
