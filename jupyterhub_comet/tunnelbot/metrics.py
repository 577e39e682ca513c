"""What /metrics tells, in Prometheus' text form; names begin with ``comet_tunnelbot_``."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)


class Metrics:
    """All counters of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, CPU, open files
        prefix = "comet_tunnelbot_"
        self.connections = Counter(
            prefix + "connections",
            "TCP connections taken, by what became of them before a login was tried.",
            ["outcome"],
            registry=registry,
        )
        self.logins = Counter(
            prefix + "logins", "Logins, by outcome and reason.", ["outcome"], registry=registry
        )
        self.refused = Counter(
            prefix + "refused_requests",
            "Requests inside a tunnel that no rule allows.",
            ["reason"],
            registry=registry,
        )
        self.closed = Counter(
            prefix + "tunnels_closed", "Tunnels that ended.", ["reason"], registry=registry
        )
        self.tunnels = Gauge(
            prefix + "tunnels", "Tunnels that serve a notebook now.", registry=registry
        )
        self.listeners = Gauge(
            prefix + "listeners", "Listen ports held for servers.", registry=registry
        )
        self.handshakes = Gauge(
            prefix + "handshakes", "SSH handshakes under way.", registry=registry
        )
        self.requests = Counter(
            prefix + "notebook_connections",
            "Connections to notebooks, by what became of them.",
            ["outcome"],
            registry=registry,
        )
        self.hub_requests = Counter(
            prefix + "hub_requests",
            "Requests to the hub's API, by what and outcome.",
            ["what", "outcome"],
            registry=registry,
        )
        self.hub_up = Gauge(
            prefix + "hub_up", "1 when the last request to the hub was answered.", registry=registry
        )
        self.rejected = Counter(
            prefix + "reports_rejected", "Tunnels that the hub did not take.", registry=registry
        )
        self.login_seconds = Histogram(
            prefix + "login_seconds",
            "From the client's first bytes to a login admitted.",
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
            registry=registry,
        )
        self.loop_lag = Gauge(
            prefix + "loop_lag_seconds",
            "How late the event loop came to its last beat.",
            registry=registry,
        )
        self.host_certificate_ends = Gauge(
            prefix + "host_certificate_ends_timestamp_seconds",
            "When the host certificate runs out.",
            registry=registry,
        )

    def render(self) -> bytes:
        """Return the page."""
        return generate_latest(self._registry)
