"""Every error that this package raises on purpose.

CometError
├── Refused                 the user can mend it; the text is shown to the user
│   ├── OptionRefused       one field of the options form or of the REST body
│   ├── SubmitRefused       sbatch said no
│   └── JobEnded            the job ended before its notebook answered
├── Unreachable             nothing is known; asking again later may help
│   ├── ClusterUnreachable  no login host, or no slurmctld, answered
│   │   └── ReplyLost       a command was sent, its answer lost: it may have taken effect
│   └── PortsExhausted      every listen port of the gateway is in use
└── Broken                  ours or the site's to mend; details go to the log
    ├── OutputUnreadable    a command answered, but not in a form we know
    ├── KeyBroken           a key, certificate or trust set cannot be used
    └── SettingsBroken      comet.yaml or the hub's configuration is wrong

A message names the thing, the cause and the next step. Library exceptions become one of
these at the edge where they appear; code further in never sees asyncssh's or tornado's.
"""


class CometError(Exception):
    """Base of all errors raised on purpose by jupyterhub-comet."""


class Refused(CometError):
    """The user asked for something that cannot be had and can ask for something else.

    JupyterHub shows ``jupyterhub_message`` on the spawn page.
    """

    @property
    def jupyterhub_message(self) -> str:
        """The sentence for the user."""
        return str(self)


class OptionRefused(Refused):
    """One option is not allowed.

    Args:
        field: the option's name as the form and the REST API have it, for example ``walltime``.
        message: a sentence that says what is allowed.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class SubmitRefused(Refused):
    """sbatch refused the job; nothing was submitted."""


class JobEnded(Refused):
    """The job ended before its notebook answered; the message says why."""


class Unreachable(CometError):
    """Somebody did not answer, so nothing is known: never a reason to end a server."""

    @property
    def jupyterhub_message(self) -> str:
        """The sentence for the user."""
        return str(self)


class ClusterUnreachable(Unreachable):
    """No login host of a cluster answered, or Slurm behind it did not."""


class ReplyLost(ClusterUnreachable):
    """A command was sent and its answer lost: whether it took effect is unknown.

    After a submit a job may exist: look for it by its spawn id, never submit again blindly.
    """


class PortsExhausted(Unreachable):
    """No listen port of the gateway is free for one more server."""


class Broken(CometError):
    """Something that the user cannot mend."""


class OutputUnreadable(Broken):
    """A command's output has no form that we know; treated as unknown, never as gone."""


class KeyBroken(Broken):
    """A key, certificate or trust set is missing, unreadable or of the wrong kind."""


class SettingsBroken(Broken):
    """comet.yaml or the hub's configuration is wrong; the message names the key."""
