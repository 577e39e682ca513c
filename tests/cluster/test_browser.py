"""alice and bob in a real Chromium, through the LoadBalancer.

Screenshots go to COMET_ARTIFACTS (default: the system's temporary folder), outside the
repository.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.lab.components import missing
from tests.lab.hub_api import HubAPI

from . import site as installed

pytestmark = [pytest.mark.cluster, pytest.mark.browser, pytest.mark.usefixtures("tidy")]

CELL = "import os, subprocess; print(os.environ['SLURMD_NODENAME'], subprocess.getoutput('id -un'), os.environ['SLURM_JOB_ID'])"  # noqa: E501


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """Folder for screenshots."""
    folder = Path(
        os.environ.get("COMET_ARTIFACTS") or Path(tempfile.gettempdir()) / "comet-artifacts"
    )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """The system's own Chromium; nothing of it reaches out by itself."""
    path = shutil.which("chromium")
    if path is None:
        missing("chromium is missing: `make tools` installs it")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-first-run",
            ],
        )
        yield browser
        await browser.close()


async def log_in(page: Page, base_url: str, user: str) -> None:
    await page.goto(f"{base_url}/hub/login?next=%2Fhub%2Fspawn")
    await page.get_by_label("Username").fill(user)
    await page.get_by_label("Password").fill(installed.DEMO_PASSWORD)
    await page.get_by_role("button", name="Sign in").click()


async def run_cell(page: Page) -> str:
    """Open a notebook in JupyterLab, run CELL and return what it printed."""
    await page.locator(".jp-LauncherCard[data-category='Notebook']").first.click(timeout=60_000)
    await page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)
    await page.locator(".jp-Notebook .jp-Cell .cm-content").first.click()
    await page.keyboard.insert_text(CELL)
    await page.keyboard.press("Shift+Enter")
    output = page.locator(".jp-OutputArea-output pre").first
    await output.wait_for(timeout=60_000)
    return (await output.inner_text()).strip()


async def start_and_run(page: Page, base_url: str, user: str, artifacts: Path) -> str:
    """From the login to the output of a cell."""
    await log_in(page, base_url, user)
    await page.get_by_label("Shared, some cores of a node").check()
    fieldset = page.locator("fieldset", has=page.locator("#profile-shared"))
    await fieldset.get_by_label("Cores", exact=True).select_option("2")
    await page.screenshot(path=artifacts / f"{user}-1-form.png", full_page=True)
    await page.get_by_role("button", name="Start").click()
    await expect(page.locator("#progress-message, .jp-Launcher").first).to_be_visible(
        timeout=60_000
    )
    await page.screenshot(path=artifacts / f"{user}-2-pending.png")
    await page.wait_for_url(f"**/user/{user}/lab**", timeout=120_000)
    # What an earlier run left open is not restored.
    await page.goto(f"{base_url}/user/{user}/lab?reset")
    try:
        return await run_cell(page)
    finally:
        await page.screenshot(path=artifacts / f"{user}-3-lab.png")


async def test_alice_and_bob_run_a_cell_in_their_own_jobs(
    site: HubAPI, browser: Browser, artifacts: Path
) -> None:
    printed = {}
    for user in ("alice", "bob"):
        context = await browser.new_context()
        printed[user] = (
            await start_and_run(await context.new_page(), site.base_url, user, artifacts)
        ).split()
    for user, (node, who, job_id) in printed.items():
        (job,) = installed.queue(user)
        assert (node, who, job_id) == (job["nodes"], user, job["job_id"])
        assert (job["partition"], job["cpus"], job["limit"]) == ("shared", "2", "1:00:00")
    assert printed["alice"][0] == printed["bob"][0], "both on one node"


async def test_pending_page_says_why_it_waits(
    site: HubAPI, browser: Browser, artifacts: Path
) -> None:
    installed.slurm(
        "sbatch", "--uid=bob", "--gid=bob", "--chdir=/tmp", "-p", "compute", "--exclusive",
        "-N", "2", "--wrap", "sleep 600",
    )  # fmt: skip
    page = await (await browser.new_context()).new_page()
    await log_in(page, site.base_url, "alice")
    await page.get_by_label("Standard, a whole compute node").check()
    await page.get_by_role("button", name="Start").click()
    await expect(page.locator("#progress-message")).to_contain_text("waits", timeout=60_000)
    await page.screenshot(path=artifacts / "alice-4-queued.png")


async def test_refused_option_is_said_on_the_form(
    site: HubAPI, browser: Browser, artifacts: Path
) -> None:
    page = await (await browser.new_context()).new_page()
    await log_in(page, site.base_url, "alice")
    await page.get_by_label("Shared, some cores of a node").check()
    fieldset = page.locator("fieldset", has=page.locator("#profile-shared"))
    await fieldset.get_by_label("Account", exact=True).fill("$(id)")
    await page.get_by_role("button", name="Start").click()
    await expect(page.locator("body")).to_contain_text("account", timeout=30_000)
    await page.screenshot(path=artifacts / "alice-5-refused.png", full_page=True)
    assert installed.queue("alice") == []
