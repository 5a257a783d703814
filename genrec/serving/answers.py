"""From requests to answers: one batch, one generator, the calling thread. Knows no server and no clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

EXPLAINED_ITEMS = 10  # last items of a history that an explanation looks at
REASONS = 3  # of them, those that are told


Reasons = tuple[tuple[tuple[str, float], ...], ...]  # of each item, (item of the history, loss), most first


class Found(Protocol):
    """What a generator hands back, one entry a history."""

    item_ids: Any
    scores: Any
    num_unknown: Any
    is_popular: Any
    num_unknown_tags: Any


class Generator(Protocol):
    """The part of `genrec.serving.runtime.CandidateGenerator` that answers need."""

    def recommend(
        self,
        histories: list[list[str]],
        k: int,
        *,
        exclude: list[list[str]] | None = None,
        exclude_seen: list[bool] = ...,
        allow: list[list[str] | None] | None = None,
        allow_tags: list[list[str] | None] | None = None,
        deny_tags: list[list[str]] | None = None,
    ) -> Found:
        """The best items of each history, best first, at most k; unknown ids are skipped and counted."""
        ...


@dataclass(frozen=True)
class Request:
    """One history, and what is wanted for it.

    Attributes:
        history: item ids, oldest first.
        k: items wanted.
        exclude: item ids that must not come.
        allow: the only item ids that may come; None: all.
        explain: say which items of the history each answer is due to.
        allow_tags: tags of which an item needs one of each column that is named; None: no tag is needed.
        deny_tags: tags of items that must not come.
        exclude_seen: leave out the items of the history.
    """

    history: tuple[str, ...]
    k: int
    exclude: tuple[str, ...] = ()
    allow: tuple[str, ...] | None = None
    explain: bool = False
    allow_tags: tuple[str, ...] | None = None
    deny_tags: tuple[str, ...] = ()
    exclude_seen: bool = False


@dataclass(frozen=True)
class Answer:
    """The items of one request, best first.

    Attributes:
        item_ids: at most k.
        scores: of each.
        num_unknown: ids of the request that the catalogue does not have.
        is_popular: no item of the history is known, so these are the most popular ones, and scores are counts.
        reasons: of each item, items of the history with what the score loses without them, most first; None: not asked.
        num_unknown_tags: tags of the request that no item of the catalogue has.
    """

    item_ids: tuple[str, ...]
    scores: tuple[float, ...]
    num_unknown: int
    is_popular: bool
    reasons: Reasons | None = None
    num_unknown_tags: int = 0


def answer(generator: Generator, requests: Sequence[Request], *, max_batch: int) -> list[Answer]:
    """One answer a request, in order; at most `max_batch` histories are searched at once.

    A request gets what it would have got alone: the generator's search is as wide whatever k is, so the first items of
    a longer list are the shorter list.
    """
    answers: list[Answer] = []
    for start in range(0, len(requests), max_batch):
        answers += _search(generator, requests[start : start + max_batch])
    return [
        replace(told, reasons=_explain(generator, request, told, max_batch)) if request.explain else told
        for request, told in zip(requests, answers, strict=True)
    ]


def _search(generator: Generator, batch: Sequence[Request]) -> Iterator[Answer]:
    found = generator.recommend(
        [list(request.history) for request in batch],
        max(request.k for request in batch),
        exclude=[list(request.exclude) for request in batch],
        exclude_seen=[request.exclude_seen for request in batch],
        allow=[None if request.allow is None else list(request.allow) for request in batch],
        allow_tags=[None if request.allow_tags is None else list(request.allow_tags) for request in batch],
        deny_tags=[list(request.deny_tags) for request in batch],
    )
    counts = zip(found.num_unknown, found.is_popular, found.num_unknown_tags, strict=True)
    rows = zip(batch, found.item_ids, found.scores, counts, strict=True)
    for request, items, scores, (num_unknown, is_popular, num_unknown_tags) in rows:
        cut = tuple(float(score) for score in scores[: request.k])
        yield Answer(
            tuple(items[: request.k]),
            cut,
            int(num_unknown),
            bool(is_popular),
            num_unknown_tags=int(num_unknown_tags),
        )


def _explain(generator: Generator, request: Request, told: Answer, max_batch: int) -> Reasons:
    """The generator's own word: it scores the same items for the history with one item left out.

    Only the recommended items are allowed, so that the search reaches each of them. A positive loss says that the item
    spoke for the recommendation; others are not told. Where no known item is left, scores are no longer of the same
    kind: a history of one known item gets no reasons.
    """
    history = request.history
    last = range(max(0, len(history) - EXPLAINED_ITEMS), len(history))
    if told.is_popular or not told.item_ids:
        return ((),) * len(told.item_ids)
    same = Request(history, request.k, allow=told.item_ids)
    without = [replace(same, history=history[:at] + history[at + 1 :]) for at in last]
    rests = answer(generator, without, max_batch=max_batch)
    reasons = []
    for item, score in zip(told.item_ids, told.scores, strict=True):
        losses = dict[str, float]()
        for at, rest in zip(last, rests, strict=True):
            if item in rest.item_ids and not rest.is_popular:
                loss = score - rest.scores[rest.item_ids.index(item)]
                losses[history[at]] = max(loss, losses.get(history[at], 0.0))
        best = sorted(losses.items(), key=lambda pair: -pair[1])[:REASONS]
        reasons.append(tuple((source, loss) for source, loss in best if loss > 0))
    return tuple(reasons)
