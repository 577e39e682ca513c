"""Our errors as JupyterHub shows them, the same for the form, the REST API and the pages."""

from __future__ import annotations

from tornado.web import HTTPError

from .errors import CometError, Refused, Unreachable


def http_error(exc: CometError) -> HTTPError:
    """400 for what the user can mend, 503 for what may pass, 500 for what is ours to mend.

    What is broken may name files and keys: the user only learns that it is.
    """
    if isinstance(exc, Refused):
        status, message = 400, str(exc)
    elif isinstance(exc, Unreachable):
        status, message = 503, str(exc)
    else:
        status, message = 500, "The hub's own settings are broken: tell its staff."
    error = HTTPError(status, message)
    error.jupyterhub_message = message
    return error
