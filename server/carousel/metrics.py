"""Every metric of the server, declared once on a given registry. Passive: other code reports, this module never asks.

Labels are bounded sets (method, code, reason); ids and text never appear in them.
"""

from typing import Protocol, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

Exemplar: TypeAlias = dict[str, str] | None  # names the trace of a measured call, in OpenMetrics alone
_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STEP = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_LAG = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_LANES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class StepFacts(Protocol):
    """The facts of an engine step that the metrics count."""

    @property
    def num_lanes(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...


class Metrics:
    """The server's metrics. One instance per registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"carousel_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"carousel_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"carousel_{name}", text, labels, buckets=buckets, registry=registry)

        self.registry = registry
        self._requests = counter("requests", "Finished calls.", "method", "code")
        self._latency = histogram(
            "request_seconds", "From call to answer, by method and code.", _LATENCY, "method", "code"
        )
        self._running = gauge("running_requests", "Calls in progress.", "method")
        self._refusals = counter("refusals", "Calls refused at a bound, by the bound's name.", "reason")
        self._items = counter("refused_items", "Items of PredictMany that failed.", "method", "code")
        self._audit_failures = counter("audit_failures", "Lines of the audit log that could not be written.")
        self._of_principals = counter("principal_requests", "Calls of each principal.", "principal", "code")
        self._principal_tokens = counter("principal_tokens", "Tokens that the model read for them.", "principal")
        self._first_token = histogram("time_to_first_token_seconds", "From call to first generated token.", _LATENCY)
        self._between = histogram(
            "time_between_tokens_seconds", "Between generated tokens of one call, a mean a message.", _STEP
        )
        self._consumed = counter("consumed_tokens", "Tokens fed to the model, generated ones included.")
        self._generated = counter("generated_tokens", "Tokens generated.")
        self._step = histogram("step_seconds", "Duration of an engine step.", _STEP)
        self._lanes = histogram("step_lanes", "Lanes busy in an engine step.", _LANES)
        self._held_turns = counter("held_turns", "Turns of sessions that streams hold.")
        self._held = gauge("held_sessions", "Sessions that streams hold now, and those that are just being given back.")
        self._in_loop = gauge("steps_in_event_loop", "1 while steps of held sequences run in the event loop, else 0.")
        self._failures = counter("step_failures", "Engine steps in which the model raised.", "error")
        self._depth = gauge("queued_turns", "Turns waiting for a lane.")
        self._wait = histogram("queue_wait_seconds", "From the arrival of a turn to its lane.", _LATENCY)
        self._files_read = counter("files_read", "Attempts to read changed files.", "setting", "outcome")
        self._valid_until = gauge("tls_certificate_valid_until", "Last second of the server's certificate, since 1970.")
        self._drain = gauge("drain_until", "By when the drain is to be over, since 1970; 0 while there is none.")
        self._live = gauge("live_sessions", "Sessions that exist now.")
        self._bytes = gauge("session_bytes", "What sessions take; 0 in Redis, which does not tell.")
        self._busy = gauge("busy_lanes", "Turns that run now, short ones included.")
        self._limits = gauge("limit", "What the settings allow, by the setting's name.", "name")
        self._created = counter("sessions_created", "Sessions created.")
        self._ended = counter("sessions_ended", "Sessions that are gone, by reason.", "reason")
        self._store_up = gauge("store_up", "1 while the session store answers, else 0.")
        self._restarts = counter("task_restarts", "Tasks of the server that died and were begun anew.", "task")
        self._lag = histogram("event_loop_lag_seconds", "From when a task was due to when the event loop ran it.", _LAG)
        self._build = gauge("build_info", "Always 1; labels describe the server.", "version", "onnxruntime")
        self._model = gauge(
            "model_info", "Always 1; labels describe the model.", "name", "digest", "cell", "precision", "provider"
        )

    def build_info(self, **labels: str) -> None:
        self._build.labels(**labels).set(1)

    def model_info(self, **labels: str) -> None:
        self._model.labels(**labels).set(1)

    def request_started(self, method: str) -> None:
        self._running.labels(method).inc()

    def request_done(self, method: str, code: str, seconds: float, exemplar: Exemplar = None) -> None:
        self._running.labels(method).dec()
        self._requests.labels(method, code).inc()
        self._latency.labels(method, code).observe(seconds, exemplar)

    def audit_failed(self) -> None:
        self._audit_failures.inc()

    def principal_called(self, principal: str, code: str) -> None:
        """`principal` is a name in the file of principals, so there are few."""
        self._of_principals.labels(principal, code).inc()

    def principal_used(self, principal: str, num_tokens: int) -> None:
        self._principal_tokens.labels(principal).inc(num_tokens)

    def refused(self, reason: str) -> None:
        self._refusals.labels(reason).inc()

    def item_refused(self, method: str, code: str) -> None:
        self._items.labels(method, code).inc()

    def tokens_generated(self, num_tokens: int, seconds: float, *, is_first: bool, exemplar: Exemplar = None) -> None:
        """Counts tokens that share a message. `seconds` is the time since the call for the first ones, since the last
        message for the others; it counts once, as their mean."""
        if is_first:
            self._first_token.observe(seconds, exemplar)
        else:
            self._between.observe(seconds / num_tokens)
        self._generated.inc(num_tokens)

    def step_done(self, seconds: float, step: StepFacts, num_queued: int) -> None:
        self._step.observe(seconds)
        self._lanes.observe(step.num_lanes)
        self._consumed.inc(step.num_tokens)
        self._depth.set(num_queued)

    def held_turns_done(self, num_turns: int) -> None:
        self._held_turns.inc(num_turns)

    def num_held_sessions(self, num_held: int) -> None:
        self._held.set(num_held)

    def steps_run_in_loop(self, is_in_loop: bool) -> None:
        self._in_loop.set(is_in_loop)

    def step_failed(self, error: Exception) -> None:
        self._failures.labels(type(error).__name__).inc()

    def queue_depth(self, num_queued: int) -> None:
        self._depth.set(num_queued)

    def waited(self, seconds: float, exemplar: Exemplar = None) -> None:
        self._wait.observe(seconds, exemplar)

    def session_created(self) -> None:
        self._created.inc()

    def session_ended(self, reason: str) -> None:
        self._ended.labels(reason).inc()

    def num_live_sessions(self, num_live: int) -> None:
        self._live.set(num_live)

    def num_session_bytes(self, num_bytes: int) -> None:
        self._bytes.set(num_bytes)

    def num_busy_lanes(self, num_busy: int) -> None:
        self._busy.set(num_busy)

    def limit_is(self, name: str, value: int) -> None:
        """`name` is a setting's name."""
        self._limits.labels(name).set(value)

    def store_is_up(self, is_up: bool) -> None:
        self._store_up.set(is_up)

    def files_read(self, setting: str, is_good: bool) -> None:
        """Files of a setting have changed. Where they are bad, what was read before stays in use."""
        self._files_read.labels(setting, "taken" if is_good else "refused").inc()

    def certificate_is_valid_until(self, moment: float) -> None:
        self._valid_until.set(moment)

    def drain_lasts_until(self, moment: float) -> None:
        self._drain.set(moment)

    def task_restarted(self, task: str) -> None:
        """`task` is one of the server's own names."""
        self._restarts.labels(task).inc()

    def loop_lagged(self, seconds: float) -> None:
        self._lag.observe(seconds)
