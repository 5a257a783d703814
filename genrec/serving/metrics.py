"""What Prometheus reads at /metrics. One registry a server, nothing global, nothing sent anywhere."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from genrec.serving.swap import Versions, age

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server.

    Args:
        versions: what answers.
        waiting: histories in the queue now.
    """

    def __init__(self, versions: Versions, waiting: Callable[[], int]) -> None:
        self._versions = versions
        self.registry = registry = CollectorRegistry()
        self.seconds = Histogram(
            "genrec_request_seconds",
            "time from request to answer",
            ["route", "status"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batches = Histogram("genrec_batch_rows", "histories searched together", buckets=ROWS, registry=registry)
        self.empty = Counter("genrec_empty_answers", "histories that got no item", registry=registry)
        self.unknown = Counter("genrec_unknown_items", "ids of requests that the catalogue lacks", registry=registry)
        self.unknown_tags = Counter("genrec_unknown_tags", "tags of requests that no item has", registry=registry)
        self.errors = Counter("genrec_errors", "requests refused or failed", ["status"], registry=registry)
        self.swaps = Counter("genrec_swaps", "new bundles, taken or refused", ["outcome"], registry=registry)
        catalogue_age = Gauge("genrec_catalogue_age_seconds", "since the bundle was written", registry=registry)
        catalogue_age.set_function(lambda: age(versions.current))
        Gauge("genrec_waiting_rows", "histories in the queue", registry=registry).set_function(waiting)
        self._answers = Gauge("genrec_version", "1: what answers now", ["model", "catalogue"], registry=registry)
        ProcessCollector(registry=registry)

    def text(self) -> bytes:
        """The exposition format."""
        self._answers.clear()
        self._answers.labels(self._versions.current.model, self._versions.current.catalogue).set(1)
        return generate_latest(self.registry)
