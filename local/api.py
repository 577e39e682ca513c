"""A small client of the Kubernetes API, with the standard library and a client certificate."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from local import versions
from local.errors import LocalError

Json = dict[str, Any]  # a Kubernetes object as the API sends it


class ApiError(LocalError):
    """The API server could not be asked, or answered with an error."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status  # of HTTP; 0 if there was no answer


class Api:
    """Requests to this machine's API server as one client of pki.CLIENTS."""

    def __init__(self, keys: Path, client: str, *, limit_s: float = 10.0) -> None:
        self._context = ssl.create_default_context(cafile=str(keys / "ca.crt"))
        self._context.load_cert_chain(keys / f"{client}.crt", keys / f"{client}.key")
        self._limit_s = limit_s

    def get(self, path: str) -> Json:
        """Return an object or a list."""
        return self._json("GET", path)

    def post(self, path: str, body: Json) -> Json:
        """Create an object."""
        return self._json("POST", path, body)

    def patch(self, path: str, body: Json) -> Json:
        """Merge some fields into an object."""
        return self._json("PATCH", path, body, content_type="application/merge-patch+json")

    def delete(self, path: str) -> Json:
        """Delete an object."""
        return self._json("DELETE", path)

    def is_ready(self) -> bool:
        """Whether the API server says so itself."""
        try:
            return self._request("GET", "/readyz") == b"ok"
        except ApiError:
            return False

    def watch(self, path: str, resource_version: str, *, seconds: int) -> Iterator[Json]:
        """Yield the events after a list, until the server ends the watch after so many seconds."""
        connection = self._connect(limit_s=seconds + 5.0)
        query = f"watch=true&resourceVersion={resource_version}&timeoutSeconds={seconds}"
        try:
            connection.request("GET", f"{path}?{query}", headers={"Accept": "application/json"})
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise ApiError(f"watch of {path}: HTTP {response.status}", response.status)
            while line := response.readline():
                yield json.loads(line)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ApiError(f"watch of {path}: {error}") from error
        finally:
            connection.close()

    def _connect(self, limit_s: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(
            versions.NODE_ADDRESS, versions.API_PORT, timeout=limit_s, context=self._context
        )

    def _json(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        content_type: str = "application/json",
    ) -> Json:
        text = self._request(method, path, body, content_type)
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise ApiError(f"{method} {path}: not JSON") from error
        if not isinstance(answer, dict):
            raise ApiError(f"{method} {path}: not an object")
        return answer

    def _request(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        connection = self._connect(self._limit_s)
        headers = {"Accept": "application/json", "Content-Type": content_type}
        data = None if body is None else json.dumps(body)
        try:
            connection.request(method, path, body=data, headers=headers)
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(f"{method} {path}: {error}") from error
        finally:
            connection.close()
        if response.status >= http.client.BAD_REQUEST:
            reason = text[:300].decode("utf-8", "replace")
            raise ApiError(f"{method} {path}: HTTP {response.status} {reason}", response.status)
        return text
