"""How far the codes keep what the vectors and the categories say: nearest neighbours and purity of prefixes.

Knows arrays only. Depth d is the prefix (c_1..c_d).
"""
# N items, E width, L levels, Q queries, k neighbours

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from genrec.embeddings.rows import row_chunks
from genrec.seeding import generator

NUM_NEIGHBOURS = 10
MAX_PAIRS = 10**10  # of (query, item) whose distance is looked at: minutes on two cores at width 768
_QUERIES, _SHUFFLE = 0, 1  # what a seed is for


def prefix_indices(codes: np.ndarray) -> list[Int64[np.ndarray, "N"]]:
    """For each depth 1..L the node of every item, numbered from 0 in the order of the sorted prefixes.

    >>> [nodes.tolist() for nodes in prefix_indices(np.array([[1, 0], [0, 5], [1, 0], [1, 2]]))]
    [[1, 0, 1, 1], [1, 0, 1, 2]]
    """
    nodes = np.zeros(len(codes), dtype=np.int64)
    indices = []
    for column in codes.T:
        nodes = nodes * (int(column.max()) + 1) + column.astype(np.int64)
        nodes = np.unique(nodes, return_inverse=True)[1].astype(np.int64)
        indices.append(nodes)
    return indices


def nearest_neighbours(vectors: np.ndarray, queries: Int64[np.ndarray, "Q"], k: int) -> Int64[np.ndarray, "Q k"]:
    """The k nearest other rows of some rows, by exact L2 search (FAISS), nearest first, equals by row.

    Reads the vectors in chunks; takes their mean off, so that large common offsets cost no digits.
    Which of several at the same distance come last into the list is left to FAISS.

    Args:
        vectors: float32 [N, E], N > k; may be a memory map.
        queries: rows, Q of them.
        k: how many.

    >>> nearest_neighbours(np.array([[0.0], [1.0], [3.0], [7.0]], dtype=np.float32), np.array([1, 3]), 2).tolist()
    [[0, 2], [2, 1]]
    """
    import faiss  # a third of a second, not at the start of every command

    mean = mean_row(vectors)
    wanted = vectors[queries] - mean
    # one more than k, since a row finds itself, maybe not first
    distances = np.full((len(queries), k + 1), np.inf, dtype=np.float32)
    rows = np.full((len(queries), k + 1), -1, dtype=np.int64)
    for chunk in row_chunks(vectors):
        found, index = faiss.knn(wanted, vectors[chunk] - mean, min(k + 1, chunk.stop - chunk.start))
        found, index = np.hstack([distances, found]), np.hstack([rows, index + chunk.start])
        order = np.lexsort((index, found))[:, : k + 1]
        distances, rows = np.take_along_axis(found, order, axis=1), np.take_along_axis(index, order, axis=1)
    is_other = rows != queries[:, None]
    is_other[is_other.all(axis=1), -1] = False  # hidden behind k + 1 equal ones
    return rows[is_other].reshape(len(queries), k)


def mean_row(vectors: np.ndarray) -> Float32[np.ndarray, "E"]:
    """The mean of the rows, summed in float64 chunk by chunk."""
    total = np.zeros(vectors.shape[1])
    for rows in row_chunks(vectors):
        total += vectors[rows].sum(axis=0, dtype=np.float64)
    return (total / len(vectors)).astype(np.float32)


def prefix_purity(labels: Sequence[str | None], prefixes: Sequence[np.ndarray], seed: int) -> dict[str, Any] | None:
    """Normalised mutual information (arithmetic mean) of a label and the prefixes, as found and by chance.

    Args:
        labels: N of them; None: unknown, the item is left out.
        prefixes: of each depth from 1, the node of every item.
        seed: of the shuffle of the labels that tells what chance gives.

    Returns:
        num_items, num_classes, depths (those of `similarity`); None for fewer than two classes.
    """
    known = np.flatnonzero([label is not None for label in labels])
    classes, of_item = np.unique(np.array([label for label in labels if label is not None]), return_inverse=True)
    if len(classes) < 2:
        return None
    return {
        "num_items": len(known),
        "num_classes": len(classes),
        "depths": [
            {"depth": depth, **similarity(of_item, nodes[known], seed)} for depth, nodes in enumerate(prefixes, start=1)
        ],
    }


def similarity(one: np.ndarray, other: np.ndarray, seed: int) -> dict[str, float]:
    """How alike two partitions of the same items are.

    Args:
        one: the class of every item.
        other: its class in the other partition.
        seed: of the shuffle of `one` that tells what chance gives.

    Returns:
        nmi: normalised mutual information (arithmetic mean, scikit-learn), 1 for equal partitions; by_chance: the same
        with the items of `one` shuffled, which is far from 0 where classes are small; adjusted: the part of the way
        from chance to 1, (nmi - by_chance) / (1 - by_chance), 0 where chance gives 1.
    """
    from sklearn.metrics import normalized_mutual_info_score  # a second, not at the start of every command

    nmi = float(normalized_mutual_info_score(one, other))
    chance = float(normalized_mutual_info_score(generator(seed, _SHUFFLE).permutation(one), other))
    return {"nmi": nmi, "by_chance": chance, "adjusted": (nmi - chance) / (1 - chance) if chance < 1 - 1e-9 else 0.0}


def neighbour_overlap(
    vectors: np.ndarray, prefixes: Sequence[np.ndarray], max_queries: int, seed: int
) -> dict[str, Any]:
    """How many of the nearest neighbours share the prefix, against all pairs of items.

    Args:
        vectors: float32 [N, E], N >= 2; may be a memory map.
        prefixes: of each depth from 1, the node of every item.
        max_queries: items whose neighbours are looked up; fewer where there are more than `MAX_PAIRS` / N.
        seed: of the sample of queries.

    Returns:
        num_queries, num_neighbours, depths (depth, share, by_chance, lift = share / by_chance or None).
    """
    num_items = len(vectors)
    num_queries = max(1, min(max_queries, num_items, MAX_PAIRS // num_items))
    num_neighbours = min(NUM_NEIGHBOURS, num_items - 1)
    queries = np.sort(generator(seed, _QUERIES).choice(num_items, num_queries, replace=False, shuffle=False))
    neighbours = nearest_neighbours(vectors, queries, num_neighbours)
    depths = []
    for depth, nodes in enumerate(prefixes, start=1):
        counts = np.bincount(nodes).astype(np.float64)
        share = float((nodes[neighbours] == nodes[queries][:, None]).mean())
        chance = float((counts * (counts - 1)).sum() / (num_items * (num_items - 1.0)))
        lift = share / chance if chance > 0 else None
        depths.append({"depth": depth, "share": share, "by_chance": chance, "lift": lift})
    return {"num_queries": num_queries, "num_neighbours": num_neighbours, "depths": depths}
