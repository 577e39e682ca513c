"""The loop that plays the cloud: load balancer addresses and folders for volumes.

It lists, acts, and watches until something changes; nothing is kept in memory, so it may be
killed at any time. Run as `python3 -m local.controller --keys FOLDER --volumes FOLDER`.
"""

from __future__ import annotations

import argparse
import queue
import threading
import time
from collections.abc import Sequence
from ipaddress import IPv4Network
from pathlib import Path

from local import loadbalancer, storage, versions
from local.api import Api, ApiError

_NETWORK = IPv4Network(versions.LOADBALANCER_RANGE)
_KINDS = (loadbalancer.SERVICES, storage.CLAIMS, storage.VOLUMES)
_WATCH_S = 60  # a missed event is repaired after this time at the latest
_RETRY_S = 1.0


def act(api: Api, volumes: Path) -> list[str]:
    """Look at everything once and repair what differs; return lines for the log."""
    services, claims, existing = (api.get(kind)["items"] for kind in _KINDS)
    lines = loadbalancer.reconcile(api, map(loadbalancer.parse_service, services), _NETWORK)
    return lines + storage.reconcile(api, claims, existing, volumes)


def notify(api: Api, kind: str, changed: queue.Queue[str]) -> None:
    """Put a word into the queue at every change of a kind, for ever."""
    while True:
        try:
            version = api.get(f"{kind}?limit=1")["metadata"]["resourceVersion"]
            changed.put(kind)  # what happened while nobody watched
            for _ in api.watch(kind, version, seconds=_WATCH_S):
                changed.put(kind)
        except ApiError as error:
            print(f"watch: {error}", flush=True)
            time.sleep(_RETRY_S)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run for ever; only a signal ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=Path, required=True, help="folder of the client certificate")
    parser.add_argument("--volumes", type=Path, required=True, help="folder of the volumes")
    options = parser.parse_args(arguments)
    api = Api(options.keys, "controller")
    changed: queue.Queue[str] = queue.Queue()
    for kind in _KINDS:
        threading.Thread(target=notify, args=(api, kind, changed), daemon=True).start()
    while True:
        changed.get()
        while not changed.empty():  # one look answers every word that is there
            changed.get_nowait()
        try:
            for line in act(api, options.volumes):
                print(line, flush=True)
        except ApiError as error:
            print(f"again in {_RETRY_S:.0f} s: {error}", flush=True)
            time.sleep(_RETRY_S)
            changed.put("retry")


if __name__ == "__main__":
    main()
