"""Fixtures of the gateway's own tests: a real tunnelbot and ssh, a double of the hub's API.

They need ssh and nothing else of the lab: no Slurm, no JupyterHub.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator

import pytest

from tests.lab.folder import Lab
from tests.lab.gateway import TOKEN, GatewayLab, HubDouble
from tests.lab.keys import CertificateAuthority
from tests.lab.ports import free_block
from tests.lab.tunnelbot import Tunnelbot


@pytest.fixture(scope="session")
def gateway_folder() -> Iterator[Lab]:
    """The folder of all gateways of this run; whatever is left in it is ended."""
    if shutil.which("ssh") is None:
        pytest.skip("needs OpenSSH's client")
    lab = Lab.create()
    try:
        yield lab
    finally:
        lab.remove()


def _make(lab: Lab, name: str) -> GatewayLab:
    root = lab.folder(name, 0o700)
    tunnel_ca, host_ca = (CertificateAuthority(root / n) for n in ("tunnel-ca", "host-ca"))
    hub = HubDouble()
    block = free_block()
    tunnelbot = Tunnelbot(
        lab,
        name,
        tunnel_ca=tunnel_ca,
        host_ca=host_ca,
        hub_port=hub.port,
        token=TOKEN,
        port_range=block,
    )
    ports = iter(range(block[0], block[1] + 1))
    return GatewayLab(root, tunnel_ca, host_ca, hub, tunnelbot, ports)


_names = (f"g{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def gateway(gateway_folder: Lab) -> Iterator[GatewayLab]:
    """One gateway for all tests of a module that leave it as it was."""
    made = _make(gateway_folder, next(_names))
    try:
        made.tunnelbot.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def fresh_gateway(gateway_folder: Lab) -> Iterator[GatewayLab]:
    """One gateway for a test that restarts, drains or breaks it."""
    made = _make(gateway_folder, next(_names))
    try:
        made.tunnelbot.start()
        yield made
    finally:
        made.close()
