"""Load balancer addresses and volumes of the local cluster."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local import versions
from local.loadbalancer import Service, parse_service, plan
from local.storage import is_released, is_waiting, make_volume

pytestmark = pytest.mark.unit

NETWORK = IPv4Network("10.250.0.0/24")
SMALL = IPv4Network("10.250.0.0/29")  # six usable addresses


def addresses(services: list[Service], network: IPv4Network = NETWORK) -> dict[str, str]:
    """The addresses that all Services have after the plan, by name; "" for none."""
    result = {service.name: "".join(service.given) for service in services}
    return result | {change.service.name: change.address for change in plan(services, network)}


def test_new_service_gets_the_same_address_whoever_else_is_there() -> None:
    door = Service("comet", "tunnelbot")
    alone = addresses([door])["tunnelbot"]
    together = addresses([Service("comet", "proxy-public"), door])["tunnelbot"]
    assert alone == together
    assert IPv4Address(alone) in NETWORK


def test_given_address_stays_and_needs_no_change() -> None:
    assert plan([Service("comet", "door", given=("10.250.0.9",))], NETWORK) == []


def test_requested_address_is_given_and_taken_from_nobody_who_asked_for_it() -> None:
    holder = Service("comet", "z-holder", requested="10.250.0.9", given=("10.250.0.9",))
    late = Service("comet", "a-late", requested="10.250.0.9")
    assert addresses([late, holder]) == {"z-holder": "10.250.0.9", "a-late": ""}
    (change,) = plan([late, holder], NETWORK)
    assert "belongs to comet/z-holder" in change.reason


def test_request_beats_an_address_that_was_only_picked() -> None:
    picked = Service("comet", "picked", given=("10.250.0.9",))
    asked = Service("comet", "asked", requested="10.250.0.9")
    result = addresses([picked, asked])
    assert result["asked"] == "10.250.0.9"
    assert result["picked"] not in ("", "10.250.0.9")


@pytest.mark.parametrize("request_", ["192.0.2.1", "10.250.0.0", "10.250.0.255", "door", "::1"])
def test_address_outside_the_range_is_refused_with_the_range(request_: str) -> None:
    (change,) = plan([Service("comet", "door", requested=request_)], NETWORK)
    assert change.address == ""
    assert "10.250.0.0/24" in change.reason


def test_service_that_is_none_any_more_loses_its_address() -> None:
    (change,) = plan([Service("comet", "door", wants=False, given=("10.250.0.9",))], NETWORK)
    assert change.address == ""
    assert change.reason == ""


def test_full_range_leaves_the_last_without_and_says_so() -> None:
    result = plan([Service("comet", f"s{number}") for number in range(7)], SMALL)
    without = [change for change in result if not change.address]
    assert len(without) == 1
    assert "no address is left" in without[0].reason


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["", "10.250.0.3", "10.250.0.4"])),
        unique_by=lambda pair: pair[0],
    )
)
def test_no_two_services_share_an_address_and_a_second_plan_changes_nothing(
    pairs: list[tuple[str, str]],
) -> None:
    services = [Service("comet", name, requested=asked) for name, asked in pairs]
    first = addresses(services, SMALL)
    given_ = [address for address in first.values() if address]
    assert len(given_) == len(set(given_))
    again = [
        Service("comet", name, requested=asked, given=(first[name],) if first[name] else ())
        for name, asked in pairs
    ]
    assert addresses(again, SMALL) == first


def test_service_of_another_class_is_left_alone() -> None:
    item = {
        "metadata": {"namespace": "comet", "name": "door"},
        "spec": {"type": "LoadBalancer", "loadBalancerClass": "example.org/other"},
        "status": {"loadBalancer": {"ingress": [{"hostname": "door.example.org"}]}},
    }
    service = parse_service(item)
    assert not service.wants
    assert plan([service], NETWORK) == []


def claim(**spec: object) -> dict[str, object]:
    """A PersistentVolumeClaim as the API sends it."""
    return {
        "metadata": {"namespace": "comet", "name": "hub-db-dir", "uid": "0123456789ab"},
        "spec": {
            "storageClassName": versions.STORAGE_CLASS,
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
            **spec,
        },
    }


def test_volume_belongs_to_one_claim_and_two_claims_of_a_name_never_share_a_folder() -> None:
    volume = make_volume(claim(), Path("/volumes"))
    assert volume["spec"]["claimRef"]["uid"] == "0123456789ab"
    assert volume["spec"]["hostPath"]["path"] == "/volumes/comet-hub-db-dir-01234567"


def test_claim_waits_only_while_it_is_ours_and_unbound() -> None:
    assert is_waiting(claim())
    assert not is_waiting(claim(volumeName="v"))
    assert not is_waiting(claim(storageClassName="other"))


@pytest.mark.parametrize(
    ("phase", "released"), [("Bound", False), ("Available", False), ("Released", True)]
)
def test_only_a_released_volume_is_removed(phase: str, released: bool) -> None:
    volume = {"spec": {"storageClassName": versions.STORAGE_CLASS}, "status": {"phase": phase}}
    assert is_released(volume) is released
