"""Recall@10 of seed 0 and of item-kNN from parts of the history, on validation and test; needs work/ of run.sh."""

from pathlib import Path

from genrec.baselines.base import count_items
from genrec.baselines.item_knn import DirectedItemKnn
from genrec.data.dataset import Dataset
from genrec.data.sequences import Cases
from genrec.evaluation.evaluate import score_model
from genrec.evaluation.search_ranker import GeneratorRanker
from genrec.pipeline.recommenders import build_generator, load_recommender

WORK = Path(__file__).resolve().parent / "work"


def main() -> None:
    dataset = Dataset.load(WORK / "office")
    _, model = load_recommender(WORK / "nodes_0" / "recommender", dataset)
    counts = count_items(dataset.train(), dataset.num_items)
    knn = DirectedItemKnn().fit(dataset.train(), num_items=dataset.num_items)
    ranker = GeneratorRanker(build_generator(model, dataset, counts, beam_width=20, batch_size=256), 20)
    for split in ("validation", "test"):
        cases = dataset.cases(split)
        for length in (1, 3, 10, 50):
            part = Cases(cases.user_index, cases.target, cases.histories.tail(length))
            scores = [score_model(each, part, train_counts=counts) for each in (ranker, knn)]
            print(f"{split}, last {length}: model {scores[0]:.4f}, item-kNN {scores[1]:.4f}")


if __name__ == "__main__":
    main()
