"""Run commands on a login node over SSH, as the user, by a certificate made for that.

Nothing of a command runs before the last byte of its input has arrived (see wrapper.py), so an
error before that is ClusterUnreachable, and ReplyLost is kept for what may have taken effect.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path

import asyncssh

from jupyterhub_comet.errors import ClusterUnreachable, OutputUnreadable, ReplyLost
from jupyterhub_comet.settings import LoginSettings
from jupyterhub_comet.transport import Result
from jupyterhub_comet.transport.connections import Connections, Kept
from jupyterhub_comet.transport.hosts import LoginHosts
from jupyterhub_comet.transport.wrapper import (
    COMMAND,
    STOPPED,
    has_begun,
    parse_output,
    render_input,
)

# 50,000 jobs of squeue are about 10 MB.
_STDOUT_LIMIT = 64 * 2**20
# Of what goes wrong the last words count.
_STDERR_LIMIT = 64 * 2**10
_CHUNK = 2**16
# The command is stopped on the login node first; past that the connection itself is silent.
_MARGIN_S = 8.0
_ATTEMPTS = 3


class SSHTransport:
    """A `Transport` over SSH.

    Args:
        login: hosts, pinned host keys and limits.
        ca_path: private half of the login CA.
    """

    def __init__(self, login: LoginSettings, ca_path: Path) -> None:
        self._connections = Connections(
            LoginHosts(login, ca_path),
            idle_s=login.idle_seconds,
            limit=login.max_connections,
            wait_s=login.connect_timeout_seconds,
        )

    async def run(
        self, account: str, argv: Sequence[str], *, stdin: str = "", timeout_s: float = 20.0
    ) -> Result:
        """See `Transport.run`."""
        mark = secrets.token_hex(16)
        try:
            body = render_input(argv, stdin=stdin, mark=mark, timeout_s=timeout_s)
        except ValueError as exc:
            raise OutputUnreadable(f"{argv[0]} cannot be called with {exc}") from exc
        for attempt in range(_ATTEMPTS):
            async with self._connections.session(account) as kept:
                try:
                    process = await self._open(kept, timeout_s)
                except asyncssh.ChannelOpenError as exc:
                    # Lost connections come as this too; a second login tells which it is.
                    self._connections.refused(kept)
                    if attempt == _ATTEMPTS - 1:
                        raise ClusterUnreachable(
                            f"{kept.host} opens no session for {account}: {exc.reason}."
                        ) from exc
                    continue
                return await self._talk(kept, process, argv[0], body, mark, timeout_s)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def close(self) -> None:
        """Close all connections."""
        await self._connections.close()

    async def _open(self, kept: Kept, timeout_s: float) -> asyncssh.SSHClientProcess[bytes]:
        try:
            async with asyncio.timeout(timeout_s):
                return await kept.connection.create_process(COMMAND, encoding=None)
        except TimeoutError as exc:
            self._connections.retire(kept)
            raise ClusterUnreachable(
                f"{kept.host} opened no session for {kept.account} within {timeout_s:g} s."
            ) from exc
        except asyncssh.ChannelOpenError:
            raise
        except (asyncssh.Error, OSError) as exc:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, str(exc)) from exc

    async def _talk(
        self,
        kept: Kept,
        process: asyncssh.SSHClientProcess[bytes],
        program: str,
        body: bytes,
        mark: str,
        timeout_s: float,
    ) -> Result:
        where = f"{program} on {kept.host} as {kept.account}"
        errors = asyncio.create_task(_read_tail(process.stderr))
        output = bytearray()
        try:
            async with asyncio.timeout(timeout_s + _MARGIN_S):
                process.stdin.write(body)
                process.stdin.write_eof()
                await _read_into(output, process.stdout)
                stderr = (await errors).decode(errors="replace")
                await process.wait_closed()
        except TimeoutError as exc:
            # A silent connection is not used again.
            self._connections.retire(kept)
            raise ReplyLost(f"No answer to {where} within {timeout_s + _MARGIN_S:g} s.") from exc
        except (asyncssh.Error, OSError) as exc:
            raise ReplyLost(f"The connection broke during {where}: {exc}.") from exc
        finally:
            errors.cancel()
            process.close()
        return _result(bytes(output), stderr, mark, where, timeout_s, process.exit_status)


async def _read_into(output: bytearray, reader: asyncssh.SSHReader[bytes]) -> None:
    while chunk := await reader.read(_CHUNK):
        output += chunk
        if len(output) > _STDOUT_LIMIT:
            raise OutputUnreadable(f"a command printed more than {_STDOUT_LIMIT >> 20} MiB")


async def _read_tail(reader: asyncssh.SSHReader[bytes]) -> bytes:
    tail = bytearray()
    while chunk := await reader.read(_CHUNK):
        tail += chunk
        del tail[:-_STDERR_LIMIT]
    return bytes(tail)


def _result(
    output: bytes, stderr: str, mark: str, where: str, timeout_s: float, ended: int | None
) -> Result:
    found = parse_output(output, mark)
    if found is not None:
        status, stdout = found
        if status in STOPPED:
            raise ReplyLost(f"{where} took longer than {timeout_s:g} s and was stopped.")
        return Result(status, stdout, stderr)
    if has_begun(output, mark) or ended is None:
        raise ReplyLost(f"{where} ended without its answer: {_first_words(stderr, output)}.")
    # /etc/nologin, an expired password, a login shell that is none.
    raise ClusterUnreachable(
        f"The login shell did not start {where}: {_first_words(stderr, output)}."
    )


def _first_words(stderr: str, output: bytes) -> str:
    lines = [*stderr.splitlines(), *output.decode(errors="replace").splitlines()]
    said = next((line.strip() for line in lines if line.strip()), "it said nothing")
    return "".join(char if char.isprintable() else "?" for char in said[:200]).rstrip(".")
