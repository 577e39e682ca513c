"""The spawn id: SSH user name and only principal of one server's certificate.

Pure. A spawn id is random and new for every spawn: nothing of it comes from a user's or a
server's name, so two names can never clash in it and nobody can guess another's.
"""

import re
import secrets

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"  # RFC 4648 base32, lower case
_LENGTH = 26  # 130 random bits
_FORM = re.compile(f"t-[{_ALPHABET}]{{{_LENGTH}}}")


def new_spawn_id() -> str:
    """Return a new random spawn id, for example ``t-4xk2...`` (28 characters)."""
    return "t-" + "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))


def is_spawn_id(text: str) -> bool:
    """Say whether ``text`` has exactly the form of a spawn id; says nothing about its life."""
    return _FORM.fullmatch(text) is not None
