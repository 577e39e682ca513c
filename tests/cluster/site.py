"""The installed chart, as an operator (kubectl) and as users (the proxy's address) meet it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from tests.lab.hub_api import HubAPI
from tests.lab.waiting import LabBroken

NAMESPACE = "comet"
DEMO_PASSWORD = "demo"
_CACHE = Path(os.environ.get("COMET_CACHE", "/var/cache/jupyterhub-comet"))
_STATE = Path(os.environ.get("COMET_STATE", "/var/lib/jupyterhub-comet"))


def tool(name: str) -> str:
    """Path of kubectl or helm: the one that `make up` built, else the machine's.

    Raises:
        LabBroken: there is none.
    """
    built = _CACHE / "bin" / name
    found = str(built) if built.exists() else shutil.which(name)
    if found is None:
        raise LabBroken(f"{name} is missing: run `make up` or install it")
    return found


def environment() -> dict[str, str]:
    """Environment for kubectl and helm: the kubeconfig of `make up` where there is one."""
    kubeconfig = _STATE / "kubeconfig"
    return {**os.environ, **({"KUBECONFIG": str(kubeconfig)} if kubeconfig.exists() else {})}


def run(*argv: str, stdin: str | None = None, limit_s: float = 120) -> str:
    """Standard output of a command that must succeed.

    Raises:
        LabBroken: it failed; the message holds its standard error.
    """
    done = subprocess.run(
        argv, input=stdin, capture_output=True, text=True, timeout=limit_s,
        env=environment(), check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise LabBroken(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def kubectl(*argv: str, stdin: str | None = None, limit_s: float = 120) -> str:
    """kubectl in the release's namespace."""
    return run(tool("kubectl"), "--namespace", NAMESPACE, *argv, stdin=stdin, limit_s=limit_s)


def wait_for(what: str, ask: Callable[[], bool], *, limit_s: float = 60) -> None:
    """Ask until the answer is yes.

    Raises:
        LabBroken: not within the limit; names `what`.
    """
    deadline = time.monotonic() + limit_s
    while not ask():
        if time.monotonic() > deadline:
            raise LabBroken(f"waited {limit_s:g} s for {what}")
        time.sleep(0.5)


def pods(selector: str, *, ready: bool = False) -> list[str]:
    """Names of the pods of one component that are not on their way out."""
    items = json.loads(kubectl("get", "pods", "-l", selector, "-o", "json"))["items"]
    return [
        item["metadata"]["name"]
        for item in items
        if "deletionTimestamp" not in item["metadata"]
        and (not ready or _condition(item, "Ready") == "True")
    ]


def _condition(pod: dict[str, Any], name: str) -> str:
    conditions = pod["status"].get("conditions", [])
    return next((c["status"] for c in conditions if c["type"] == name), "Unknown")


HUB = "component=hub"
TUNNELBOT = "app.kubernetes.io/component=tunnelbot"
LOGIN = "app.kubernetes.io/component=demo-login"


def delete_pods(*selectors: str) -> None:
    """Delete pods at once, all together, and wait for ready successors."""
    names = [name for selector in selectors for name in pods(selector)]
    kubectl("delete", "pod", "--now", "--wait=false", *names)
    for selector in selectors:
        wait_for(
            f"a ready new pod of {selector}",
            lambda selector=selector: bool(set(pods(selector, ready=True)) - set(names)),
            limit_s=120,
        )


def slurm(*argv: str) -> str:
    """A command in the demo's login pod, as root."""
    return kubectl("exec", "deploy/comet-login", "--", *argv)


def queue(user: str) -> list[dict[str, str]]:
    """A user's jobs: job_id, user, partition, cpus, limit, state, nodes."""
    fields = ["job_id", "user", "partition", "cpus", "limit", "state", "nodes"]
    lines = slurm("squeue", "--noheader", "-u", user, "-o", "%i|%u|%P|%C|%l|%T|%N").splitlines()
    return [dict(zip(fields, line.split("|"), strict=True)) for line in lines]


def job_state(job_id: str) -> str:
    """What accounting says of a job, for example ``CANCELLED by 10001``."""
    lines = slurm("sacct", "-n", "-X", "-P", "-j", job_id, "-o", "State").splitlines()
    return lines[0] if lines else ""


def service_address(name: str) -> str:
    """The LoadBalancer's address of a Service."""
    service = json.loads(kubectl("get", "service", name, "-o", "json"))
    ingress = service["status"]["loadBalancer"].get("ingress") or []
    if not ingress:
        raise LabBroken(f"service {name} has no LoadBalancer address")
    return str(ingress[0].get("ip") or ingress[0].get("hostname"))


async def log_in(base_url: str, user: str) -> HubAPI:
    """The hub's REST API with a token that the user made after a login with the password."""
    jar = aiohttp.CookieJar(unsafe=True)  # an address has no domain that cookies could name
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        await session.get(f"{base_url}/hub/login")
        xsrf = next(cookie.value for cookie in jar if cookie.key == "_xsrf")
        form = {"username": user, "password": DEMO_PASSWORD, "_xsrf": xsrf}
        async with session.post(f"{base_url}/hub/login", data=form, allow_redirects=False) as page:
            if page.status != 302:
                raise LabBroken(f"login as {user}: {page.status}")
        await session.get(f"{base_url}/hub/home")
        xsrf = next(cookie.value for cookie in jar if cookie.key == "_xsrf")
        async with session.post(
            f"{base_url}/hub/api/users/{user}/tokens",
            json={"expires_in": 7200},
            headers={"X-XSRFToken": xsrf, "Referer": f"{base_url}/hub/token"},
        ) as answer:
            body: dict[str, Any] = await answer.json()
            if answer.status != 201:
                raise LabBroken(f"token for {user}: {answer.status} {body}")
    return HubAPI(base_url, str(body["token"]))


async def wait_hub_up(base_url: str, *, limit_s: float = 90) -> None:
    """Wait until the hub answers through the proxy."""
    async with asyncio.timeout(limit_s), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{base_url}/hub/health") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.5)
