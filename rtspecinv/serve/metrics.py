"""Metrics of a server, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
_PUSH_SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


class Metrics:
    """Metrics of one server; each attribute is a metric of prometheus_client.

    n_streams: function that returns the number of streams.
    n_waiting: function that returns the number of frames whose hop has not been sent.
    """

    def __init__(self, n_streams: Callable[[], float], n_waiting: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self._add(Gauge, "streams", "Streams at this moment").set_function(n_streams)
        self._add(Gauge, "waiting_frames", "Frames whose hop has not been sent").set_function(n_waiting)
        self.frames: Counter = self._add(Counter, "frames", "Received frames")
        self.hops: Counter = self._add(Counter, "hops", "Hops that were sent")
        self.late: Counter = self._add(
            Counter, "late_hops", "Hops sent later than one hop's duration after their frame"
        )
        self.refused: Counter = self._add(Counter, "refused_streams", "Rejected clients")
        self.errors: Counter = self._add(Counter, "errors", "Messages that were answered with an error")
        self.push_seconds: Histogram = self._add(
            Histogram, "push_seconds", "Time of a push of up to 16 streams", buckets=_PUSH_SECONDS
        )

    def _add(self, metric: type, name: str, help_: str, **options: object) -> Any:
        return metric(f"rtspecinv_{name}", help_, registry=self._registry, **options)

    def text(self) -> bytes:
        """Return all metrics as the body of a response to `/metrics`."""
        return generate_latest(self._registry)

    def values(self) -> dict[str, float]:
        """Return the values of all metrics by name, without the buckets of histograms."""
        samples = (sample for family in self._registry.collect() for sample in family.samples)
        return {s.name: s.value for s in samples if not s.labels and not s.name.endswith("_created")}
