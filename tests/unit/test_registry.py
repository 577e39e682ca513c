"""The hub's table of spawns, ports and tunnels."""

import asyncio

import pytest

from jupyterhub_comet.errors import PortsExhausted
from jupyterhub_comet.registry import Registry, Reported
from jupyterhub_comet.settings import PortRange

pytestmark = pytest.mark.unit

POD, OTHER_POD = "10.0.0.1", "10.0.0.2"


class Clock:
    """A clock that moves when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(clock: Clock) -> Registry:
    return Registry(PortRange(first=20000, last=20002), quarantine_s=600, clock=clock)


def up(spawn: str, port: int, *, address: str = POD, since: float = 1) -> Reported:
    return Reported(spawn, address, port, since)


def test_ports_of_live_spawns_are_unique(registry: Registry) -> None:
    ports = {registry.assign(f"t-{n}", "alice", str(n)) for n in range(3)}
    assert ports == {20000, 20001, 20002}
    with pytest.raises(PortsExhausted, match="all 3 listen ports"):
        registry.assign("t-3", "bob", "")


def test_T42_freed_port_is_in_quarantine(registry: Registry, clock: Clock) -> None:
    for n in range(3):
        registry.assign(f"t-{n}", "alice", str(n))
    registry.end("t-1")
    clock.now = 599
    with pytest.raises(PortsExhausted):
        registry.assign("t-3", "bob", "")
    clock.now = 600
    assert registry.assign("t-3", "bob", "") == 20001


def test_restored_spawn_keeps_its_port(registry: Registry) -> None:
    registry.restore("t-old", 20001, "alice", "")
    assert registry.live() == {"t-old": 20001}
    assert {registry.assign("t-a", "bob", ""), registry.assign("t-b", "bob", "b")} == {20000, 20002}
    with pytest.raises(ValueError, match="already held by t-old"):
        registry.restore("t-other", 20001, "bob", "c")


def test_report_of_unassigned_port_is_refused(registry: Registry) -> None:
    port = registry.assign("t-a", "alice", "")
    for line, reason in [
        (up("t-a", port + 1), "wrong-port"),
        (up("t-x", port), "unknown"),
        (up("t-a", port, address=OTHER_POD), "wrong-address"),
    ]:
        changed, refused = registry.report([line], [], address=POD, full=False)
        assert (changed, list(refused.values())) == ([], [reason])
    changed, refused = registry.report([up("t-a", port)], [], address=POD, full=False)
    assert refused == {}
    assert changed[0].tunnel is not None
    assert changed[0].tunnel.address == POD


def test_newest_tunnel_wins_over_two_pods(registry: Registry) -> None:
    port = registry.assign("t-a", "alice", "")
    registry.report([up("t-a", port, since=1)], [], address=POD, full=False)
    registry.report(
        [up("t-a", port, address=OTHER_POD, since=2)], [], address=OTHER_POD, full=False
    )
    # The old pod has not noticed yet and repeats itself, then lets go.
    registry.report([up("t-a", port, since=1)], [], address=POD, full=True)
    registry.report([], ["t-a"], address=POD, full=False)
    entry = registry.get("t-a")
    assert entry is not None
    assert entry.tunnel is not None
    assert entry.tunnel.address == OTHER_POD


def test_full_report_takes_down_what_it_does_not_name(registry: Registry) -> None:
    port = registry.assign("t-a", "alice", "")
    registry.report([up("t-a", port)], [], address=POD, full=True)
    registry.report([], [], address=OTHER_POD, full=True)
    assert registry.tunnel("t-a") is not None
    changed, _ = registry.report([], [], address=POD, full=True)
    assert changed == [registry.get("t-a")]
    assert registry.tunnel("t-a") is None


def test_silent_pod_holds_no_tunnels(registry: Registry, clock: Clock) -> None:
    port = registry.assign("t-a", "alice", "")
    registry.report([up("t-a", port)], [], address=POD, full=True)
    clock.now = 59
    assert registry.tunnel("t-a") is not None
    clock.now = 60
    assert registry.tunnel("t-a") is None
    registry.report([up("t-a", port)], [], address=POD, full=True)
    assert registry.tunnel("t-a") is not None


def test_ended_spawn_is_unknown_at_once(registry: Registry) -> None:
    registry.assign("t-a", "alice", "")
    version = registry.version
    registry.end("t-a")
    registry.end("t-a")
    assert registry.get("t-a") is None
    assert registry.version == version + 1
    assert registry.count("alice") == 0


async def test_waiting_for_a_version_ends_with_the_next_change(registry: Registry) -> None:
    known = registry.version
    waiter = asyncio.create_task(registry.wait_for_version(known, timeout_s=30))
    await asyncio.sleep(0)
    assert not waiter.done()
    registry.assign("t-a", "alice", "")
    await asyncio.wait_for(waiter, 5)
    await asyncio.wait_for(registry.wait_for_version(known, timeout_s=30), 5)


async def test_waiting_for_a_tunnel_ends_when_the_spawn_does(registry: Registry) -> None:
    registry.assign("t-a", "alice", "")
    waiter = asyncio.create_task(registry.wait_for_tunnel_change("t-a", timeout_s=30))
    await asyncio.sleep(0)
    registry.end("t-a")
    await asyncio.wait_for(waiter, 5)
