"""Addresses for Services of type LoadBalancer, as a cloud would give them.

Which Service gets which address is a pure function of the Services alone: an address once in a
Service's status stays; a new one starts at a place given by the Service's name, so that the same
Service gets the same address after the cluster was built anew. kube-proxy serves every address
that it finds in a status.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from local.api import Api, ApiError, Json

SERVICES = "/api/v1/services"


@dataclass(frozen=True)
class Service:
    """What matters here of a Service."""

    namespace: str
    name: str
    wants: bool = True  # is of type LoadBalancer, and of no other load balancer's class
    requested: str = ""  # spec.loadBalancerIP
    given: tuple[str, ...] = ()  # status.loadBalancer.ingress

    @property
    def path(self) -> str:
        """Path of the Service's status in the API."""
        return f"/api/v1/namespaces/{self.namespace}/services/{self.name}/status"


@dataclass(frozen=True)
class Change:
    """A status to be written: an address, or none; reason says why there is none."""

    service: Service
    address: str
    reason: str = ""

    @property
    def wanted(self) -> tuple[str, ...]:
        """The addresses as they would be in Service.given."""
        return (self.address,) if self.address else ()


def parse_service(item: Json) -> Service:
    """Take a Service from the API's JSON."""
    spec = item.get("spec", {})
    ingress = item.get("status", {}).get("loadBalancer", {}).get("ingress", [])
    return Service(
        namespace=item["metadata"]["namespace"],
        name=item["metadata"]["name"],
        wants=spec.get("type") == "LoadBalancer" and not spec.get("loadBalancerClass"),
        requested=spec.get("loadBalancerIP", ""),
        given=tuple(each["ip"] for each in ingress if "ip" in each),
    )


def plan(services: Sequence[Service], network: IPv4Network) -> list[Change]:
    """Return what must change so that every Service that wants an address has its own (pure).

    Requests come first, kept addresses second, new ones last; of two equal requests the Service
    that has the address keeps it. A request that cannot be met gets no address, as in a cloud.
    """
    taken: dict[str, Service] = {}
    answer: dict[Service, tuple[str, str]] = {}
    asking = [service for service in services if service.wants and service.requested]
    for service in sorted(asking, key=lambda each: (each.requested not in each.given, _key(each))):
        reason = _why_not(service.requested, network, taken)
        if not reason:
            taken[service.requested] = service
        answer[service] = ("" if reason else service.requested, reason)
    others = [service for service in services if service.wants and not service.requested]
    for service in sorted(others, key=lambda each: (not each.given, _key(each))):
        wanted = (*service.given[:1], *_sequence(service, network))
        free = next((ip for ip in wanted if not _why_not(ip, network, taken)), "")
        if free:
            taken[free] = service
        answer[service] = (free, "" if free else f"no address is left in {network}")
    changes = [Change(service, *answer.get(service, ("", ""))) for service in services]
    return [each for each in changes if each.reason or each.service.given != each.wanted]


def reconcile(api: Api, services: Iterable[Service], network: IPv4Network) -> list[str]:
    """Write the statuses that plan asks for; return a line on each for the log."""
    lines = []
    for change in plan(list(services), network):
        name = f"{change.service.namespace}/{change.service.name}"
        # A Service of another class or type is left with what its owner wrote.
        if not change.address and not (change.reason or _is_ours(change.service, network)):
            continue
        if change.wanted != change.service.given:
            ingress = [{"ip": change.address, "ipMode": "VIP"}] if change.address else None
            try:
                api.patch(change.service.path, {"status": {"loadBalancer": {"ingress": ingress}}})
            except ApiError as error:
                lines.append(f"{name}: {error}")
                continue
        lines.append(f"{name}: {change.address or 'no address'} {change.reason}".rstrip())
    return lines


def _is_ours(service: Service, network: IPv4Network) -> bool:
    return any(_is_usable(ip, network) for ip in service.given)


def _key(service: Service) -> tuple[str, str]:
    return service.namespace, service.name


def _is_usable(ip: str, network: IPv4Network) -> bool:
    try:
        address = IPv4Address(ip)
    except ValueError:
        return False
    first, last = network.network_address, network.broadcast_address
    return address in network and address not in (first, last)


def _why_not(ip: str, network: IPv4Network, taken: dict[str, Service]) -> str:
    if not _is_usable(ip, network):
        return f"{ip} is not in {network}"
    if ip in taken:
        return f"{ip} belongs to {taken[ip].namespace}/{taken[ip].name}"
    return ""


def _sequence(service: Service, network: IPv4Network) -> Iterable[str]:
    """Yield every usable address once, from a place given by the Service's name onwards."""
    usable = network.num_addresses - 2
    digest = hashlib.sha256(f"{service.namespace}/{service.name}".encode()).digest()
    start = int.from_bytes(digest[:4], "big") % usable
    for step in range(usable):
        yield str(network.network_address + 1 + (start + step) % usable)
