"""Who may log in and what may be asked for. Pure: no I/O, no clock of its own.

Everything that a rule here does not allow is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from jupyterhub_comet.ssh.principal import is_spawn_id

# What every job asks for: `-R notebook:8888:SOCKET` and `-L SOCKET:hub:8081`. Both are names
# of a protocol, not of hosts: neither is ever looked up.
NOTEBOOK = ("notebook", 8888)
HUB = ("hub", 8081)

REMEMBERED_S = 24 * 3600  # how long a known spawn may return while the hub cannot be asked


class Reason(Enum):
    """Why a login or a request was refused, or a tunnel closed: for logs, metrics and clients."""

    USER_NAME = "user-name"  # not the form of a spawn id
    NOT_A_CERTIFICATE = "not-a-certificate"
    UNKNOWN_CA = "unknown-ca"
    PRINCIPALS = "principals"  # none, several, or not the user name
    CERTIFICATE = "certificate"  # expired, not yet valid, wrong type or source address
    SIGNATURE = "signature"  # shown without its private key
    TOO_MANY_TRIES = "too-many-tries"
    ENDED = "ended"  # the hub knows no such spawn (any more)
    REFUSED_BY_HUB = "refused-by-hub"  # for example: the job has not started yet
    HUB_UNREACHABLE = "hub-unreachable"  # and the spawn is not known from before
    PORT = "port"  # the hub's port cannot be used here
    REPLACED = "replaced"  # a newer connection of the same spawn
    DRAINING = "draining"
    STALLED = "stalled"  # the peer stopped reading or answering
    DESTINATION = "destination"
    LISTEN = "listen"
    CHANNELS = "channels"  # too many open at the same time
    TOO_MANY_REQUESTS = "too-many-requests"  # refused ones, in one connection


@dataclass(frozen=True)
class Admitted:
    """The spawn may have a tunnel, on this port.

    ``from_memory``: the hub could not be asked, the spawn was admitted before.
    """

    port: int
    from_memory: bool = False


@dataclass(frozen=True)
class NotAdmitted:
    """The spawn gets no tunnel now; ``detail`` is the hub's own word, if it gave one."""

    reason: Reason
    detail: str = ""


Decision = Admitted | NotAdmitted


@dataclass(frozen=True)
class HubAnswer:
    """The hub's answer about one spawn; ``known`` False: ended, or never existed."""

    known: bool
    admit: bool = False
    port: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Remembered:
    """A spawn admitted earlier, with the time (Unix seconds) at which the hub last had it."""

    port: int
    confirmed: float


def refuse_certificate(
    user_name: str, principals: Sequence[str], *, ca_trusted: bool
) -> Reason | None:
    """Return why a certificate does not open ``user_name``, or None.

    Times, type, source address and signature are asyncssh's to check. What it accepts and
    we do not: a certificate without principals, which would open every name (T9).
    """
    if not is_spawn_id(user_name):
        return Reason.USER_NAME
    if not ca_trusted:
        return Reason.UNKNOWN_CA
    if list(principals) != [user_name]:
        return Reason.PRINCIPALS
    return None


def may_connect(host: str, port: int) -> bool:
    """Say whether a job may open a connection to (host, port): only the fixed pair, as text."""
    return (host, port) == HUB


def may_listen(host: str, port: int) -> bool:
    """Say whether a job may ask for a listener on (host, port): only the constant pair."""
    return (host, port) == NOTEBOOK


def decide(answer: HubAnswer | None, remembered: Remembered | None, now: float) -> Decision:
    """Decide on a login.

    Args:
        answer: the hub's answer; None when it could not be asked.
        remembered: what is known of the spawn from before; None: nothing.
        now: Unix seconds.
    """
    if answer is None:
        if remembered is None or now - remembered.confirmed > REMEMBERED_S:
            return NotAdmitted(Reason.HUB_UNREACHABLE)
        return Admitted(remembered.port, from_memory=True)
    if not answer.known:
        return NotAdmitted(Reason.ENDED, answer.reason)
    if not answer.admit:
        return NotAdmitted(Reason.REFUSED_BY_HUB, answer.reason)
    return Admitted(answer.port)


def farewell(reason: Reason, detail: str = "") -> str:
    """Text of the SSH disconnect message, which ssh prints on the node.

    The starter (starter/tunnel.py) knows the words ``this server has ended``: it never comes
    back after them, and always after anything else.
    """
    words = "this server has ended" if reason is Reason.ENDED else "come back later"
    return f"tunnelbot: {words} ({detail or reason.value})"
