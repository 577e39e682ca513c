"""Audit lines: one ``key=value`` line per decision, safe to read in a terminal.

Values come from the network: control characters are escaped, long ones cut. Keys, tokens and
certificates are never passed here.
"""

import json
import logging
import re

log = logging.getLogger("tunnelbot.audit")

_PLAIN = re.compile(r"[A-Za-z0-9._:/@+-]+")
_LENGTH = 64


def audit(event: str, **fields: object) -> None:
    """Log one event; fields whose value is None or empty are left out."""
    parts = [f"event={event}"]
    parts += [
        f"{name}={_shown(value)}" for name, value in fields.items() if value not in (None, "")
    ]
    log.info("%s", " ".join(parts))


def _shown(value: object) -> str:
    text = str(value)
    if len(text) > _LENGTH:
        text = text[: _LENGTH - 3] + "..."
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
