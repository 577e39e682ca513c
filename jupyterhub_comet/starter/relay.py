"""The hub's API on a loopback port: whose requests pass, which pass, and how."""

from __future__ import annotations

import http.client
import http.server
import os
import re
import socket
import socketserver
import sys
import threading
import time
from pathlib import Path

from .base import EX_CANTCREAT, EX_UNAVAILABLE, Stop

# A request waits so many seconds for a tunnel that is down; tornado's clients wait 20.
PATIENCE_S = 15.0

# Other spellings of a path: dot segments, empty segments, and encoded dot, slash, backslash,
# percent sign and NUL. No path of the hub's API needs one.
TRICKS = re.compile(r"//|/\.{1,2}(/|$)|\\|%(2e|2f|5c|25|00)", re.IGNORECASE)

HOP_BY_HOP = {
    *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"),
    *("upgrade", "expect", "host", "content-length"),
}


class HubConnection(http.client.HTTPConnection):
    """HTTP to the hub through ssh's socket.

    Args:
        path: ssh's socket.
        timeout: seconds for each read.
        patience: seconds to wait for a tunnel that is not up.
    """

    def __init__(self, path: Path, *, timeout: float, patience: float) -> None:
        super().__init__("hub", 8081, timeout=timeout)
        self._path = str(path)
        self._deadline = time.monotonic() + patience

    def connect(self) -> None:
        """Open the socket; raises OSError when the tunnel stays down."""
        while True:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            try:
                self.sock.connect(self._path)
                return
            except (FileNotFoundError, ConnectionRefusedError):
                self.sock.close()
                if time.monotonic() >= self._deadline:
                    raise
            time.sleep(0.2)


def peer_uid(peer: tuple[str, int], own: tuple[str, int]) -> int | None:
    """Uid of the process at the other end of a loopback connection; None: there is none.

    Its end is the row of /proc/net/tcp whose local address is our peer. A row without an inode
    belongs to no process any more (and would say uid 0).
    """
    for table, prefix in (("tcp", ""), ("tcp6", "::ffff:")):
        ends = [_kernel_form(prefix + host, port) for host, port in (peer, own)]
        try:
            with Path("/proc/net", table).open(encoding="ascii") as rows:
                for row in rows:
                    fields = row.split()
                    if fields[1:3] == ends and fields[9] != "0":
                        return int(fields[7])
        except OSError:
            continue
    return None


def _kernel_form(host: str, port: int) -> str:
    """An address as /proc/net/tcp writes it: 32-bit words in the machine's byte order."""
    packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    words = [packed[i : i + 4] for i in range(0, len(packed), 4)]
    return "".join(f"{int.from_bytes(w, sys.byteorder):08X}" for w in words) + f":{port:04X}"


def path_allowed(target: str, prefix: str) -> bool:
    """Whether a request's target is the hub's API, spelled in the one plain way."""
    path = target.partition("?")[0]
    if not target.isascii() or not target.isprintable() or "#" in target or TRICKS.search(path):
        return False
    return path == prefix.rstrip("/") or path.startswith(prefix)


class RelayHandler(http.server.BaseHTTPRequestHandler):
    """One request on one connection: checked, sent to the hub, answered, closed."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    server: Relay

    def relay(self) -> None:
        """Check the request and pass it on."""
        self.close_connection = True
        # self.path has been tidied (// became /), which would hide a trick.
        target = self.requestline.split()[1]
        lengths = self.headers.get_all("Content-Length") or ["0"]
        if not path_allowed(target, self.server.prefix):
            self.send_error(403, "Only the hub's API is served here")
        elif self.request_version not in ("HTTP/1.0", "HTTP/1.1"):
            self.send_error(505)
        elif "Transfer-Encoding" in self.headers:
            self.send_error(411)
        elif len(lengths) > 1 or not re.fullmatch(r"[0-9]{1,12}", lengths[0]):
            self.send_error(400, "Bad Content-Length")
        else:
            self._pass_on(target, int(lengths[0]))

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = relay  # noqa: N815

    def _pass_on(self, target: str, length: int) -> None:
        hub = HubConnection(self.server.hub_socket, timeout=60, patience=PATIENCE_S)
        try:
            try:
                response = self._ask(hub, target, length)
            except (OSError, http.client.HTTPException, ValueError):
                self.send_error(503, "The hub cannot be reached through the tunnel")
                return
            self._answer(response)
        except (OSError, http.client.HTTPException):
            return  # broken off in the middle: the peer sees that the answer is cut
        finally:
            hub.close()

    def _ask(self, hub: HubConnection, target: str, length: int) -> http.client.HTTPResponse:
        hub.connect()
        hub.putrequest(self.command, target, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP_BY_HOP:
                hub.putheader(name, " ".join(value.split()))
        if length or self.command in ("POST", "PUT", "PATCH"):
            hub.putheader("Content-Length", str(length))
        hub.putheader("Connection", "close")
        hub.endheaders()
        while length > 0:
            data = self.rfile.read(min(length, 65536))
            if not data:
                raise ConnectionResetError("the peer left before its request was whole")
            hub.send(data)
            length -= len(data)
        return hub.getresponse()

    def _answer(self, response: http.client.HTTPResponse) -> None:
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Connection", "close")
        length = response.headers.get("Content-Length")
        empty = self.command == "HEAD" or response.status in (204, 304)
        chunked = length is None and not empty and self.request_version == "HTTP/1.1"
        if length is not None:
            self.send_header("Content-Length", length)
        elif chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while not empty and (data := response.read1(65536)):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *args: object) -> None:
        """Nothing: the hub logs its requests itself."""


class Relay(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """The loopback port, held and served from the first moment to close().

    Args:
        hub_socket: ssh's socket to the hub.
        prefix: path of the hub's API, with a slash at both ends.

    Raises:
        Stop: no port, or the kernel does not tell whose a connection is.
    """

    daemon_threads = True
    allow_reuse_address = False
    request_queue_size = 128

    def __init__(self, hub_socket: Path, prefix: str) -> None:
        self.hub_socket = hub_socket
        self.prefix = prefix
        try:
            super().__init__(("127.0.0.1", 0), RelayHandler)
            with socket.create_connection(("127.0.0.1", self.server_port), timeout=10) as probe:
                seen = peer_uid(probe.getsockname(), probe.getpeername())
        except OSError as exc:
            raise Stop(EX_CANTCREAT, f"no loopback port can be held: {exc.strerror}") from exc
        if seen != os.getuid():
            raise Stop(
                EX_UNAVAILABLE,
                "this node's /proc/net/tcp does not tell whose a connection is, "
                "so the hub's API could not be kept from other users",
            )
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def server_bind(self) -> None:
        """Bind, without HTTPServer's look-up of a name in the DNS."""
        socketserver.TCPServer.server_bind(self)
        self.server_port = self.server_address[1]

    def verify_request(self, _request: object, client_address: tuple[str, int]) -> bool:
        """Only processes of this user are served; anybody else is cut."""
        return peer_uid(client_address, ("127.0.0.1", self.server_port)) == os.getuid()

    def handle_error(self, _request: object, _client_address: object) -> None:
        """Nothing: a peer that went away is no change of state."""

    @property
    def url(self) -> str:
        """What stands for the hub in the notebook's environment."""
        return f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        """Serve nobody any more and give the port back."""
        self.shutdown()
        self.server_close()
