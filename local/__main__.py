"""Command line: python3 -m local up | down | status | images | kubeconfig | tools."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from local.builders import find_builder
from local.down import down
from local.errors import LocalError
from local.packages import extend_path
from local.places import Places
from local.status import status
from local.steps import Step, Steps
from local.tools import ensure_test_tools
from local.up import ensure_tools, image_steps, our_images, up


def alone(command: Callable[[Places], None]) -> Callable[[Places], None]:
    """Wrap a command that must not run twice at a time."""

    def run(places: Places) -> None:
        with places.held():
            command(places)

    return run


_COMMANDS: dict[str, tuple[Callable[[Places], object], str]] = {
    "up": (alone(up), "bring up a Kubernetes (or use the current one) with the demo installed"),
    "down": (alone(down), "remove everything that up made; the build cache stays"),
    "status": (status, "say what runs, where, and how healthy it is"),
    "images": (lambda places: build_images(places), "build our three images into the cache"),
    "kubeconfig": (lambda places: print(places.kubeconfig), "print the kubeconfig's path"),
    "tools": (lambda places: ensure_test_tools(places), "install what the tests need"),
}


def build_images(places: Places) -> None:
    """Build the project's images without any cluster and print where each is."""
    places.make()
    builder = find_builder(places)
    wanted = our_images(places, builder)
    packages = Step("packages", lambda work: ensure_tools(places, builder, work))
    Steps(places.logs).run([packages, *image_steps(places, builder, wanted, None)])
    for image in wanted.values():
        print(f"{image.name}  {image.archive}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0 well, 1 not, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python3 -m local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, text) in _COMMANDS.items():
        commands.add_parser(name, help=text)
    chosen = parser.parse_args(arguments).command
    extend_path()
    try:
        return int(_COMMANDS[chosen][0](Places.from_environment()) is False)
    except LocalError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except PermissionError as error:
        print(
            f"\n{error.filename} may not be written: run as root, or, to use a kubectl context,"
            " set COMET_CACHE and COMET_STATE to folders of yours",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("\nstopped; `up` goes on from here when it is run again", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
