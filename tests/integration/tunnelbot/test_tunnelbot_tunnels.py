"""A tunnel's life: traffic, reports, replacement, restarts of gateway and hub, the end."""

from __future__ import annotations

import http.client
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.lab.gateway import GatewayLab, Job, Spawn, visit
from tests.lab.waiting import wait_for

pytestmark = pytest.mark.integration


def reported(lab: GatewayLab, job: Job) -> tuple[str, int] | None:
    """What the hub knows of the job's tunnel."""
    return lab.hub.tunnels.get(job.spawn)


def listening(port: int) -> bool:
    """Whether somebody takes connections on the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# Traffic


def test_large_bodies_pass_whole_in_both_directions(gateway: GatewayLab) -> None:
    job, port = gateway.job()
    job.up(port)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = bytes(range(256)) * 4 * 20_000  # 20 MB
    connection.request("POST", "/echo", body)
    answer = connection.getresponse().read()
    assert len(answer) == len(body)
    assert answer == body
    connection.request("GET", "/bytes/30000000")  # the same connection: nothing was lost
    assert len(connection.getresponse().read()) == 30_000_000
    connection.close()


def test_thirty_visitors_at_once_get_their_own_answers(gateway: GatewayLab) -> None:
    job, port = gateway.job()
    job.up(port)
    answers: list[tuple[int, str]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(visit(port, "/bytes/100000")))
        for _ in range(30)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [status for status, _ in answers] == [200] * 30


class CutServer:
    """A UNIX server that sends the first half of an answer without a length, and waits."""

    def __init__(self, path: Path) -> None:
        path.unlink()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._taken: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        taken, _ = self._socket.accept()
        self._taken.append(taken)
        taken.recv(1000)
        taken.sendall(b"HTTP/1.0 200 OK\r\n\r\nhalf")

    def close(self) -> None:
        """Close what is open: not before, or the answer would have an end."""
        for sock in (self._socket, *self._taken):
            sock.close()


def test_a_broken_tunnel_resets_its_visitors(gateway: GatewayLab) -> None:
    """A clean close would let half an answer pass for a whole one."""
    job, port = gateway.job()
    job.up(port)
    job.notebook.close()
    server = CutServer(job.folder / "nb.sock")
    with socket.create_connection(("127.0.0.1", port), 10) as visitor:
        visitor.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b"half" in wait_for(lambda: visitor.recv(100), "half an answer", limit_s=10)
        job.hang_up()
        with pytest.raises(ConnectionResetError):
            visitor.recv(100)
    server.close()


def test_a_notebook_that_does_not_listen_gives_503_at_once(gateway: GatewayLab) -> None:
    job, port = gateway.job()
    job.up(port)
    job.notebook.close()
    (job.folder / "nb.sock").unlink()
    begun = time.monotonic()
    assert visit(port)[0] == 503
    assert time.monotonic() - begun < 3


# No tunnel


def test_without_a_tunnel_a_request_is_held_and_then_answered_503(gateway: GatewayLab) -> None:
    job, port = gateway.job()
    job.up(port)
    job.hang_up()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    begun = time.monotonic()
    connection.request("POST", "/echo", b"x" * 500_000)  # more than any buffer takes at once
    response = connection.getresponse()
    text = response.read().decode()
    assert 8 < time.monotonic() - begun < 13
    assert response.status == 503
    assert response.getheader("Retry-After") == "5"
    assert int(response.getheader("Content-Length", "0")) == len(text) > 0
    job.up(port)


def test_a_held_request_is_served_when_the_tunnel_comes_back(gateway: GatewayLab) -> None:
    job, port = gateway.job()
    job.up(port)
    job.hang_up()
    body = b"y" * 300_000
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    begun = time.monotonic()
    threading.Timer(2, job.dial).start()
    connection.request("POST", "/echo", body)
    response = connection.getresponse()
    assert response.status == 200
    assert response.read() == body
    assert 1.5 < time.monotonic() - begun < 8


# Reports


def test_a_tunnel_is_reported_at_once_and_in_full_later(gateway: GatewayLab) -> None:
    job, port = gateway.job()
    begun = time.monotonic()
    job.up(port)
    wait_for(lambda: reported(gateway, job) == ("127.0.0.1", port), "the report", limit_s=2)
    assert time.monotonic() - begun < 4  # reportSeconds is 5
    count = len(gateway.hub.reports)
    wait_for(
        lambda: any(
            r["full"] and any(t["spawn"] == job.spawn for t in r["tunnels"])
            for r in gateway.hub.reports[count:]
        ),
        "a full report",
        limit_s=8,
    )
    job.hang_up()
    wait_for(lambda: reported(gateway, job) is None, "the report of its end", limit_s=2)


def test_a_rejected_report_is_sent_again(gateway: GatewayLab) -> None:
    job, port = gateway.job()
    gateway.hub.rejects[job.spawn] = "wrong-address"
    job.up(port)
    wait_for(
        lambda: f"event=report-rejected spawn={job.spawn} reason=wrong-address" in gateway.log(),
        "the rejection",
        limit_s=5,
    )
    assert reported(gateway, job) is None
    gateway.hub.rejects.clear()
    wait_for(lambda: reported(gateway, job) is not None, "the report", limit_s=6)


# Replacement and end


def test_f10_the_newest_connection_wins_within_a_second(gateway: GatewayLab) -> None:
    job, port = gateway.job()
    job.up(port)
    old = job.process
    assert old is not None
    twin = Job(gateway.folder / f"twin-{port}", gateway, job.spawn)
    gateway.jobs.append(twin)
    twin.notebook.name = "twin"
    begun = time.monotonic()
    twin.dial()
    wait_for(lambda: visit(port) == (200, "twin"), "the newest", limit_s=10)
    _, text = old.communicate(timeout=1)
    assert time.monotonic() - begun < 3  # of these, ssh's own start takes the most
    assert "come back later (replaced)" in text
    job.process = None
    wait_for(lambda: reported(gateway, job) == ("127.0.0.1", port), "the report", limit_s=2)
    twin.hang_up()
    job.up(port)


def test_f10_a_frozen_client_is_replaced_too(gateway: GatewayLab) -> None:
    job, port = gateway.job()
    job.up(port)
    frozen = job.process
    assert frozen is not None
    frozen.send_signal(signal.SIGSTOP)  # nothing is answered any more, nothing closed
    job.process = None
    try:
        job.up(port, limit_s=8)
    finally:
        frozen.kill()
        frozen.communicate(timeout=10)


def test_t20_a_spawn_that_ends_loses_tunnel_and_port(gateway: GatewayLab) -> None:
    job, port = gateway.job()
    other, other_port = gateway.job()
    job.up(port)
    other.up(other_port)
    begun = time.monotonic()
    gateway.hub.put({job.spawn: None})
    assert "this server has ended" in job.ended(5).text
    wait_for(lambda: not listening(port), "the port to be free", limit_s=5)
    assert time.monotonic() - begun < 5
    assert "this server has ended" in job.run("-N").text  # the certificate is still valid in time
    assert visit(other_port) == (200, other.spawn)


def test_t42_a_port_that_the_hub_moves_moves_at_once(gateway: GatewayLab) -> None:
    job, port = gateway.job()
    job.up(port)
    new = next(gateway.ports)
    gateway.hub.put({job.spawn: Spawn(new)})
    wait_for(lambda: visit(new, limit_s=2) == (200, job.spawn), "the new port", limit_s=5)
    assert not listening(port)
    wait_for(lambda: reported(gateway, job) == ("127.0.0.1", new), "the report", limit_s=2)


def test_t42_two_ports_may_be_swapped(gateway: GatewayLab) -> None:
    (one, one_port), (two, two_port) = gateway.job(), gateway.job()
    one.up(one_port)
    two.up(two_port)
    gateway.hub.put({one.spawn: Spawn(two_port), two.spawn: Spawn(one_port)})
    wait_for(lambda: visit(two_port, limit_s=2) == (200, one.spawn), "the swap", limit_s=5)
    assert visit(one_port) == (200, two.spawn)


def test_t42_a_port_in_use_by_another_is_never_shared(gateway: GatewayLab) -> None:
    holder, port = gateway.job()
    holder.up(port)
    late = gateway.stranger()
    gateway.hub.put({late.spawn: Spawn(port)})
    assert "come back later (port)" in late.run("-N").text
    assert visit(port) == (200, holder.spawn)


# Restarts


def test_f1_t42_a_killed_gateway_serves_the_same_ports_again(fresh_gateway: GatewayLab) -> None:
    """Many servers of two users return in another order; nobody meets the other's notebook."""
    lab = fresh_gateway
    jobs = [lab.job() for _ in range(8)]
    for job, port in jobs:
        job.up(port)
    lab.tunnelbot.kill()
    for job, _ in jobs:
        job.ended()
    lab.tunnelbot.start()
    assert not any(listening(port) for _, port in jobs)  # nobody has been admitted yet
    for job, port in reversed(jobs):
        job.up(port)
        for other, other_port in jobs:
            status, text = visit(other_port, limit_s=0.2)
            assert status == 0 or text == other.spawn
    for job, port in jobs:
        wait_for(
            lambda job=job, port=port: reported(lab, job) == ("127.0.0.1", port),  # type: ignore[misc]
            "the report",
            limit_s=8,
        )


def test_f15_a_hub_restart_disturbs_no_tunnel(fresh_gateway: GatewayLab) -> None:
    lab = fresh_gateway
    job, port = lab.job()
    job.up(port)
    lab.hub.stop()
    lab.hub.tunnels.clear()  # a restarted hub knows none
    assert visit(port) == (200, job.spawn)
    assert lab.tunnelbot.admin("/readyz")[0] == 200
    lab.hub.start()
    wait_for(lambda: reported(lab, job) == ("127.0.0.1", port), "the report", limit_s=20)


def test_f22_with_the_hub_down_known_spawns_return_to_a_restarted_gateway(
    fresh_gateway: GatewayLab,
) -> None:
    lab = fresh_gateway
    known, port = lab.job()
    pending, _ = lab.job(verdict="refuse", reason="pending")
    known.up(port)
    pending.run("-N")
    lab.hub.stop()
    lab.tunnelbot.restart()
    assert lab.tunnelbot.admin("/readyz")[0] == 200  # or hub and gateway wait for each other
    known.up(port)
    assert "outcome=admitted-from-memory" in lab.log()
    assert "come back later (hub-unreachable)" in pending.run("-N").text
    # Back with a table that has the spawn no more: it has ended meanwhile.
    lab.hub.spawns.clear()
    lab.hub.start()
    assert "this server has ended" in known.ended(30).text
    lab.hub.stop()
    assert "come back later (hub-unreachable)" in known.run("-N").text  # forgotten, too


def test_f22_a_new_pod_without_memory_admits_nobody_while_the_hub_is_down(
    fresh_gateway: GatewayLab,
) -> None:
    lab = fresh_gateway
    job, port = lab.job()
    job.up(port)
    lab.hub.stop()
    lab.tunnelbot.restart(keep_state=False)
    assert "come back later (hub-unreachable)" in job.run("-N").text
    lab.hub.start()
    job.up(port)


def test_f2_sigterm_drains(fresh_gateway: GatewayLab) -> None:
    lab = fresh_gateway
    lab.tunnelbot.config["drainSeconds"] = 3
    lab.tunnelbot.restart()
    jobs = [lab.job() for _ in range(3)]
    for job, port in jobs:
        job.up(port)
    process = lab.tunnelbot.process
    process.signal(signal.SIGTERM)
    wait_for(lambda: lab.tunnelbot.admin("/readyz")[0] == 503, "readiness to go", limit_s=1)
    assert "draining" in lab.tunnelbot.admin("/readyz")[1]
    assert lab.tunnelbot.admin("/healthz")[0] == 200
    ends = []
    for job, _ in jobs:
        assert "come back later (draining)" in job.ended(5).text
        ends.append(time.monotonic())
    begun = time.monotonic()
    if process.running:
        assert visit(jobs[0][1])[0] in (503, 0)  # not held: nobody comes back to this pod
        assert time.monotonic() - begun < 2
    wait_for(lambda: not process.running, "the end", limit_s=8)
    assert process._popen is not None
    assert process._popen.returncode == 0
    assert lab.hub.tunnels == {}
    assert "drained" in lab.log()


# Files that change


def test_a_renewed_token_is_read_again(fresh_gateway: GatewayLab) -> None:
    lab = fresh_gateway
    lab.hub.token = "another-token"
    lab.tunnelbot.token_file.write_text("another-token\n")
    job, port = lab.job()
    job.up(port)
    assert lab.hub.refused_tokens > 0
    wait_for(lambda: reported(lab, job) is not None, "the report", limit_s=10)


def test_f35_f37_keys_are_taken_from_changed_files_and_broken_ones_are_not(
    fresh_gateway: GatewayLab,
) -> None:
    lab = fresh_gateway
    old, port = lab.job()
    old.up(port)
    trusted = lab.tunnelbot.keys_folder / "trusted-user-cas"
    good = trusted.read_text()
    trusted.write_text("this is no key\n")
    wait_for(lambda: lab.tunnelbot.admin("/readyz")[0] == 503, "readiness to go", limit_s=10)
    text = lab.tunnelbot.admin("/readyz")[1]
    assert "keysFolder" in text
    assert "trusted-user-cas: line 1 is not a public key" in text
    old.hang_up()
    old.up(port)  # the old keys stay in force
    # A second CA beside the first.
    new, new_port = lab.job()
    new.sign(lab.host_ca)
    assert "Permission denied" in new.run("-N").text
    trusted.write_text(good + lab.host_ca.public_line + "\n")
    wait_for(lambda: lab.tunnelbot.admin("/readyz")[0] == 200, "readiness", limit_s=10)
    new.up(new_port)
    assert visit(port) == (200, old.spawn)
    # The first one is taken back: live tunnels stay, new logins are refused.
    trusted.write_text(lab.host_ca.public_line + "\n")
    wait_for(lambda: lab.log().count("event=keys-reloaded") == 2, "the reload", limit_s=10)
    assert visit(port) == (200, old.spawn)
    old.hang_up()
    assert "Permission denied" in old.run("-N").text


def test_without_a_token_it_is_alive_and_not_ready(fresh_gateway: GatewayLab) -> None:
    lab = fresh_gateway
    token = lab.tunnelbot.token_file.read_text()
    lab.tunnelbot.token_file.write_text("")
    lab.tunnelbot.restart()
    assert lab.tunnelbot.admin("/healthz")[0] == 200
    status, text = lab.tunnelbot.admin("/readyz")
    assert status == 503
    assert "hub.tokenFile" in text
    lab.tunnelbot.token_file.write_text(token)
    wait_for(lambda: lab.tunnelbot.admin("/readyz")[0] == 200, "readiness", limit_s=10)


def test_t41_no_secret_is_logged(gateway: GatewayLab) -> None:
    job, port = gateway.job()
    job.up(port)
    log = gateway.log()
    assert gateway.hub.token not in log
    assert "PRIVATE KEY" not in log
    assert job.certificate.read_text().split()[1] not in log
