"""One page of metrics from those of the workers, with the series that a single server has.

Counts are added, and what a worker has counted stays in the sum when the worker has ended: a sum that falls would look
to Prometheus as if all of it were counted anew. `GAUGES` says what becomes of each gauge. What describes a process has
the label `worker`. Of the exemplars of a bucket, the newest stays.
"""

import copy
import enum
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from carousel.workers.division import DIVIDED


class How(enum.Enum):
    """How the series of several workers become one."""

    SUM = "sum"
    MOST = "max"
    LEAST = "min"
    EACH = "each"  # they stay several: each has the label `worker`


GAUGES: Mapping[str, How] = {
    "carousel_running_requests": How.SUM,
    "carousel_held_sessions": How.SUM,
    "carousel_queued_turns": How.SUM,
    "carousel_busy_lanes": How.SUM,
    "carousel_limit": How.MOST,  # the divided ones are added
    "carousel_live_sessions": How.MOST,  # those of the store, which all share
    "carousel_session_bytes": How.MOST,
    "carousel_store_up": How.LEAST,
    "carousel_tls_certificate_valid_until": How.LEAST,
    "carousel_drain_until": How.MOST,
    "carousel_steps_in_event_loop": How.EACH,
    "carousel_build_info": How.MOST,
    "carousel_model_info": How.MOST,
    "carousel_workers": How.SUM,  # the supervisor alone has these two
    "carousel_ready_workers": How.SUM,
}
_LABEL = "worker"
_OF_PROCESSES = ("process_", "python_")
_COUNTS = ("counter", "histogram", "summary")
_CREATED = "_created"  # samples that say since when a series counts

_JOINS: Mapping[How, Callable[[Iterable[float]], float]] = {How.SUM: sum, How.MOST: max, How.LEAST: min, How.EACH: max}
_Key = tuple[str, tuple[tuple[str, str], ...]]  # a sample's name and its labels


class Merged:
    """The families of one page, of pages that are added one by one. It is a Collector."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}  # without samples
        self._samples: dict[str, dict[_Key, Sample]] = {}  # by family

    def copy(self) -> "Merged":
        other = Merged()
        other._families = dict(self._families)
        other._samples = {name: copy.copy(samples) for name, samples in self._samples.items()}
        return other

    def add(self, page: str | Iterable[Metric], worker: str, *, counts_only: bool = False) -> None:
        """`page` is in OpenMetrics. With `counts_only`, what a process that has ended leaves behind: sums alone."""
        for family in _parse(page) if isinstance(page, str) else page:
            how = choose(family)
            if counts_only and (how is not How.SUM or family.type not in _COUNTS):
                continue
            for sample in family.samples:
                self._add(family, sample, how, worker)

    def collect(self) -> Iterable[Metric]:
        for name, family in self._families.items():
            metric = Metric(family.name, family.documentation, family.type, family.unit)
            metric.samples = list(self._samples[name].values())
            yield metric

    def _add(self, family: Metric, sample: Sample, how: How, worker: str) -> None:
        self._families.setdefault(family.name, family)
        if how is How.EACH:
            sample = sample._replace(labels={**sample.labels, _LABEL: worker})
        samples = self._samples.setdefault(family.name, {})
        key = (sample.name, tuple(sorted(sample.labels.items())))
        samples[key] = _join(samples[key], sample, how) if key in samples else sample


def choose(family: Metric) -> How:
    """A gauge that the table does not have stays one for each worker, which is never wrong."""
    if family.name.startswith(_OF_PROCESSES):
        return How.EACH
    if family.type in _COUNTS:
        return How.SUM
    return GAUGES.get(family.name, How.EACH)


def _parse(page: str) -> Iterator[Metric]:
    yield from text_string_to_metric_families(page)  # type: ignore[no-untyped-call]


def _join(one: Sample, other: Sample, how: How) -> Sample:
    if one.name.endswith(_CREATED):
        how = How.LEAST
    elif one.labels.get("name") in DIVIDED and one.name == "carousel_limit":
        how = How.SUM
    exemplars = [sample.exemplar for sample in (one, other) if sample.exemplar is not None]
    newest = max(exemplars, key=lambda exemplar: exemplar.timestamp or 0, default=None)
    return one._replace(value=_JOINS[how]((one.value, other.value)), exemplar=newest)
