"""`tools`: what the tests need on this machine besides Python packages."""

from __future__ import annotations

import os
import shutil

from local import binaries
from local.commands import Work
from local.errors import LocalError
from local.packages import find_go, install_packages
from local.places import Places
from local.steps import Step, Steps


def ensure_test_tools(places: Places) -> None:
    """Install Slurm and its neighbours, a browser, helm and kubectl. Raises LocalError."""
    if os.geteuid() != 0:
        raise LocalError("packages are installed as root: run `sudo make tools`")
    places.make()
    script = places.repository / "tests" / "lab" / "install.sh"

    def lab(work: Work) -> str:
        work.run(["sh", str(script)], limit_s=3600, env={"COMET_CACHE": str(places.cache)})
        return "Slurm, sshd, node and notebook environments"

    # One after the other: both use apt, which lets only one in.
    steps = [
        Step("process lab", lab),
        Step("browser", _browser, ("process lab",)),
        Step("go", _go, ("browser",)),
        Step("helm", lambda work: binaries.ensure_program(places, binaries.HELM, work), ("go",)),
        Step("kubectl", lambda work: binaries.ensure_program(places, binaries.KUBE, work), ("go",)),
    ]
    Steps(places.logs).run(steps)


def _browser(work: Work) -> str:
    if shutil.which("chromium"):
        return "chromium is there"
    install_packages(work, ["chromium"])
    return "chromium installed"


def _go(work: Work) -> str:
    try:
        find_go()
    except LocalError:
        install_packages(work, ["golang-go"])
    return "{}.{}".format(*find_go().version)
