"""The keys hook: before an install or upgrade, make the random Secrets that are missing.

Runs as a Job with a Role that lets it read and add to these Secrets only (chart/templates/hooks/
keys). Idempotent; ends with 0 when all is complete, with 1 and one sentence otherwise. What it
prints names Secrets and keys, never their content.
"""

from __future__ import annotations

import argparse
import base64
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import kubernetes
import urllib3
from keyset import Contents, Names, missing, utc_now

from jupyterhub_comet.errors import Broken, CometError, Unreachable

log = logging.getLogger("keys")

# A new pod may start before its NetworkPolicy is in force everywhere.
_API_LIMIT_S = 60.0
_REQUEST_LIMIT_S = 10.0
_RACES = 5


class SecretChanged(CometError):
    """Somebody else wrote a Secret between our look and our write."""


@dataclass(frozen=True)
class Found:
    """One Secret as it is: its content, and the version that a write must still meet."""

    content: dict[str, bytes]
    version: str


class SecretStore:
    """Secrets of one namespace, over the Kubernetes API.

    Args:
        namespace: the release's namespace.

    Raises:
        Unreachable: the API server does not answer.
        Broken: it refuses.
    """

    def __init__(self, namespace: str) -> None:
        kubernetes.config.load_config()
        self._api = kubernetes.client.CoreV1Api()
        self._namespace = namespace

    def read(self, name: str) -> Found | None:
        """One Secret, or None where there is none."""
        deadline = time.monotonic() + _API_LIMIT_S
        while True:
            try:
                secret = self._api.read_namespaced_secret(
                    name, self._namespace, _request_timeout=_REQUEST_LIMIT_S
                )
            except kubernetes.client.ApiException as exc:
                if exc.status == 404:
                    return None
                raise _refusal("read", name, exc) from exc
            except urllib3.exceptions.HTTPError as exc:
                if time.monotonic() > deadline:
                    raise Unreachable(
                        f"the Kubernetes API did not answer for {_API_LIMIT_S:.0f} s ({exc}); "
                        "look at networkPolicy.apiServerPorts in the values"
                    ) from exc
                log.info("the Kubernetes API does not answer yet; asking again")
                time.sleep(1)
            else:
                data = secret.data or {}
                content = {key: base64.b64decode(value) for key, value in data.items()}
                return Found(content, secret.metadata.resource_version)

    def add(self, name: str, keys: dict[str, bytes], found: Found | None) -> None:
        """Write keys into a Secret, which is made if ``found`` is None.

        Raises:
            SecretChanged: it is no longer as it was found; look again.
        """
        data = {key: base64.b64encode(value).decode() for key, value in keys.items()}
        metadata: dict[str, object] = {"name": name}
        try:
            if found is None:
                metadata["labels"] = {
                    "app.kubernetes.io/name": "jupyterhub-comet",
                    "app.kubernetes.io/component": "keys",
                    "app.kubernetes.io/managed-by": "jupyterhub-comet-keys-hook",
                }
                self._api.create_namespaced_secret(
                    self._namespace,
                    {"metadata": metadata, "type": "Opaque", "data": data},
                    _request_timeout=_REQUEST_LIMIT_S,
                )
            else:
                metadata["resourceVersion"] = found.version
                self._api.patch_namespaced_secret(
                    name,
                    self._namespace,
                    {"metadata": metadata, "data": data},
                    _request_timeout=_REQUEST_LIMIT_S,
                )
        except kubernetes.client.ApiException as exc:
            if exc.status == 409:
                raise SecretChanged(name) from exc
            raise _refusal("write", name, exc) from exc
        except urllib3.exceptions.HTTPError as exc:
            raise Unreachable(f"the Kubernetes API went away while writing {name}") from exc


def _refusal(verb: str, name: str, exc: kubernetes.client.ApiException) -> Broken:
    hint = "; the hook's Role must name it" if exc.status == 403 else ""
    return Broken(f"Kubernetes does not let the hook {verb} Secret {name}: {exc.reason}{hint}")


def complete(store: SecretStore, names: Names) -> Contents:
    """Make what is missing; returns what was made.

    Raises:
        CometError: it cannot be completed; the message says why.
    """
    made: Contents = {}
    for _ in range(_RACES):
        found = {name: store.read(name) for name in names.in_order()}
        contents = {name: secret.content for name, secret in found.items() if secret}
        try:
            for name, keys in missing(contents, names, utc_now()).items():
                store.add(name, keys, found[name])
                made.setdefault(name, {}).update(keys)
                log.info("Secret %s: made %s", name, ", ".join(sorted(keys)))
        except SecretChanged as exc:
            log.info("Secret %s was written by somebody else meanwhile; looking again", exc)
        else:
            return made
    raise Broken(f"the Secrets changed under the hook {_RACES} times in a row; install again")


def parse_arguments(argv: Sequence[str]) -> tuple[str, Names]:
    """Namespace and names from the command line of the Job."""
    parser = argparse.ArgumentParser(description="Make the random Secrets that are missing.")
    parser.add_argument("--namespace", required=True)
    for option in ("tunnel-ca", "host-ca", "tunnelbot", "login", "hub"):
        parser.add_argument(f"--{option}", required=True, help="name of the Secret")
    parser.add_argument("--host-key-alias", required=True, help="principal of the host certificate")
    parser.add_argument("--key-type", default="ed25519", choices=["ed25519", "ecdsa-p256"])
    parser.add_argument("--check-only", default="", help="Secrets to fill not, joined by commas")
    parser.add_argument("--demo", default="", help="Secret of the demo cluster")
    parser.add_argument("--demo-login-host", default="", help="host name of the demo login node")
    given = vars(parser.parse_args(argv))
    namespace: str = given.pop("namespace")
    check_only = frozenset(filter(None, given.pop("check_only").split(",")))
    return namespace, Names(check_only=check_only, **given)


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # The client's own warnings repeat each refused connection.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    namespace, names = parse_arguments(argv)
    try:
        made = complete(SecretStore(namespace), names)
    except CometError as exc:
        log.error("%s", exc)
        return 1
    if not made:
        log.info("all Secrets are complete; nothing was changed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
