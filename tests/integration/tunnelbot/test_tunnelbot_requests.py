"""What may be asked for inside a tunnel: rows T12 to T14, each beside its twin."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

import pytest

from tests.lab.gateway import GatewayLab, Job, visit
from tests.lab.waiting import wait_for

pytestmark = pytest.mark.integration


class UnixHTTP(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("hub", timeout=10)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(self._path)


def ask_hub(path: Path) -> tuple[int, str]:
    """GET /hub/api/ through ssh's local socket; (0, reason) if nothing answers."""
    connection = UnixHTTP(path)
    try:
        connection.request("GET", "/hub/api/")
        response = connection.getresponse()
        return response.status, response.read().decode()
    except (OSError, http.client.HTTPException) as exc:
        return 0, repr(exc)
    finally:
        connection.close()


@pytest.fixture(scope="module")
def job(gateway: GatewayLab) -> Job:
    """A job with both forwards up."""
    job, port = gateway.job()
    job.up(port)
    return job


@pytest.mark.parametrize(
    "listen",
    [
        pytest.param("notebook:8889:{folder}/nb.sock", id="T12-another-port"),
        pytest.param("notebook:0:{folder}/nb.sock", id="T12-port-0"),
        pytest.param("0.0.0.0:8888:{folder}/nb.sock", id="T12-all-addresses"),
        pytest.param("*:8888:{folder}/nb.sock", id="T12-star"),
        pytest.param("localhost:8888:{folder}/nb.sock", id="T12-loopback"),
        pytest.param("8888:{folder}/nb.sock", id="T12-no-host"),
        pytest.param("notebook.:8888:{folder}/nb.sock", id="T12-dot-at-end"),
        pytest.param("/tmp/x.sock:{folder}/nb.sock", id="T12-unix-path"),
    ],
)
def test_t12_no_other_listener(gateway: GatewayLab, listen: str) -> None:
    job, port = gateway.job()
    said = job.run("-N", forwards=("-R", listen))
    assert said.status == 255
    assert "remote port forwarding failed" in said.text
    job.up(port)


def test_t13_the_hub_is_reached_through_the_fixed_pair(job: Job) -> None:
    status, text = wait_for(
        lambda: ask_hub(job.folder / "hub.sock"), "the hub through the tunnel", limit_s=10
    )
    assert status == 200
    assert '"version": "5.5"' in text


@pytest.mark.parametrize(
    "destination",
    [
        pytest.param("169.254.169.254:80", id="T13-metadata"),
        pytest.param("10.96.0.1:443", id="T13-kube-api"),
        pytest.param("kubernetes.default.svc:443", id="T13-kube-api-name"),
        pytest.param("proxy-api:8001", id="T13-proxy-api"),
        pytest.param("127.0.0.1:8080", id="T13-admin-port"),
        pytest.param("HUB:8081", id="T13-capitals"),
        pytest.param("hub.:8081", id="T13-dot-at-end"),
        pytest.param("hub:8082", id="T13-other-port"),
        pytest.param("/var/run/docker.sock", id="T13-unix-path"),
    ],
)
def test_t13_nothing_else_is_reached(gateway: GatewayLab, job: Job, destination: str) -> None:
    other, _ = gateway.job()
    other.dial("-v", forwards=("-L", f"{{folder}}/x.sock:{destination}"))
    assert other.process is not None
    wait_for((other.folder / "x.sock").exists, "ssh's socket", limit_s=15)
    status, _ = ask_hub(other.folder / "x.sock")
    assert status == 0
    other.process.kill()
    text = other.ended().text
    assert "open failed" in text
    assert "connect failed" in text or "administratively prohibited" in text
    assert ask_hub(job.folder / "hub.sock")[0] == 200


def test_t13_w_is_refused_too(gateway: GatewayLab) -> None:
    job, _ = gateway.job()
    said = job.run("-W", "169.254.169.254:80", forwards=())
    assert "administratively prohibited" in said.text
    assert "reason=destination" in gateway.log()


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        pytest.param(("-tt",), (), id="T14-shell-with-pty"),
        pytest.param(("-T",), (), id="T14-shell"),
        pytest.param(("-T",), ("id",), id="T14-exec"),
        pytest.param(("-s",), ("sftp",), id="T14-sftp"),
        pytest.param(("-A", "-T"), ("id",), id="T14-agent"),
        pytest.param(("-X", "-T"), ("id",), id="T14-x11"),
    ],
)
def test_t14_no_session_of_any_kind(
    gateway: GatewayLab, extra: tuple[str, ...], command: tuple[str, ...]
) -> None:
    job, port = gateway.job()
    said = job.run(*extra, forwards=(), command=command)
    assert said.status == 255
    assert "open failed: connect failed: Session refused" in said.text
    job.up(port)


def test_the_unix_socket_of_the_job_is_its_own(job: Job) -> None:
    assert (job.folder / "hub.sock").stat().st_mode & 0o777 == 0o600


def test_the_notebook_is_reached_with_its_own_host_header(gateway: GatewayLab) -> None:
    job, port = gateway.job()
    job.up(port)
    assert visit(port) == (200, job.spawn)
