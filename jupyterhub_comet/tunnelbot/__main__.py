"""``python3 -m jupyterhub_comet.tunnelbot --config FILE``: run the gateway."""

import argparse
import asyncio
import logging
import resource
import sys
from pathlib import Path

import uvloop

from jupyterhub_comet.errors import CometError
from jupyterhub_comet.tunnelbot.app import GatewayApp
from jupyterhub_comet.tunnelbot.settings import GatewaySettings, load_settings

log = logging.getLogger("tunnelbot")


def main(argv: list[str] | None = None) -> int:
    """Run the gateway; return 0 after a drain, 1 when it cannot start."""
    parser = argparse.ArgumentParser(prog="tunnelbot", description=__doc__)
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("/etc/tunnelbot/config/tunnelbot.yaml"),
        help="settings file (default: %(default)s)",
    )
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING"])
    arguments = parser.parse_args(argv)
    logging.basicConfig(
        stream=sys.stderr,
        level=arguments.log_level,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    # Its own lines carry names chosen by strangers; ours say the same, escaped and cut.
    logging.getLogger("asyncssh").setLevel(logging.CRITICAL)
    # A tunnel takes a file and each visitor two.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        settings = load_settings(arguments.config)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(settings))
    except (CometError, OSError) as exc:
        log.error("tunnelbot cannot start: %s", exc)
        return 1
    return 0


async def _run(settings: GatewaySettings) -> None:
    await GatewayApp(settings).run()


if __name__ == "__main__":
    sys.exit(main())
