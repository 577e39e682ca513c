"""tunnelbot's small parts: settings, audit lines, memory of admissions, slots, cut of a flood."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from jupyterhub_comet.errors import SettingsBroken
from jupyterhub_comet.ssh.principal import new_spawn_id
from jupyterhub_comet.tunnelbot.admissions import Admissions
from jupyterhub_comet.tunnelbot.audit import audit
from jupyterhub_comet.tunnelbot.policy import REMEMBERED_S, Remembered
from jupyterhub_comet.tunnelbot.reporter import Backoff
from jupyterhub_comet.tunnelbot.server import Slots, source_of
from jupyterhub_comet.tunnelbot.settings import load_settings

pytestmark = pytest.mark.unit

GOOD: dict[str, Any] = {
    "listen": {"host": "0.0.0.0", "port": 2222},
    "admin": {"host": "0.0.0.0", "port": 8080},
    "hub": {
        "apiUrl": "http://hub:8081/hub/api",
        "forwardHost": "hub",
        "forwardPort": 8081,
        "tokenFile": "/etc/tunnelbot/token/token",
    },
    "keysFolder": "/etc/tunnelbot/keys",
    "stateFolder": "/var/lib/tunnelbot",
    "address": "10.1.2.3",
    "portRange": {"first": 20000, "last": 29999},
    "reportSeconds": 15,
    "drainSeconds": 10,
}


def write(folder: Path, data: object) -> Path:
    path = folder / "tunnelbot.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_settings_are_read(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, GOOD))
    assert settings.address == "10.1.2.3"
    assert settings.hub.forward_port == 8081
    assert 20000 in settings.port_range
    assert 29999 in settings.port_range
    assert 30000 not in settings.port_range


def test_the_address_comes_from_the_pod_if_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POD_IP", "2001:db8::7")
    assert load_settings(write(tmp_path, GOOD | {"address": ""})).address == "2001:db8::7"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param({"adress": "10.0.0.1"}, "adress", id="misspelled-key"),
        pytest.param({"address": "tunnelbot"}, "'tunnelbot' is not an IP", id="name-as-address"),
        pytest.param({"address": ""}, "POD_IP", id="no-address"),
        pytest.param({"portRange": {"first": 9, "last": 8}}, "portRange", id="range-upside-down"),
        pytest.param({"listen": {"port": 70000}}, "listen.port", id="port-too-large"),
        pytest.param({"reportSeconds": 0}, "reportSeconds", id="report-without-pause"),
    ],
)
def test_broken_settings_name_file_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], named: str
) -> None:
    monkeypatch.delenv("POD_IP", raising=False)
    path = write(tmp_path, GOOD | change)
    with pytest.raises(SettingsBroken, match=named) as raised:
        load_settings(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [\n"])
def test_settings_that_are_no_map_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tunnelbot.yaml"
    path.write_text(text)
    with pytest.raises(SettingsBroken):
        load_settings(path)


def test_t41_audit_lines_cannot_be_forged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    audit("login-refused", user_name="x\nevent=login \x1b[2J", source="1.2.3.4", detail=None)
    audit("login-refused", user_name="y" * 500)
    first, second = (record.getMessage() for record in caplog.records)
    assert first == 'event=login-refused user_name="x\\nevent=login \\u001b[2J" source=1.2.3.4'
    assert len(second) < 120


async def test_admissions_outlive_the_process(tmp_path: Path) -> None:
    kept, ended = new_spawn_id(), new_spawn_id()
    first = Admissions(tmp_path, 1000)
    await first.remember(kept, 20001, 1000)
    await first.remember(ended, 20002, 1000)
    await first.forget(ended, 1001)
    second = Admissions(tmp_path, 1002)
    assert second.recall(kept) == Remembered(20001, 1000)
    assert second.recall(ended) is None
    assert Admissions(tmp_path, 1001 + REMEMBERED_S).recall(kept) is None


async def test_the_hubs_table_renews_and_ends_what_is_remembered(tmp_path: Path) -> None:
    moved, ended, stranger = (new_spawn_id() for _ in range(3))
    admissions = Admissions(tmp_path, 1000)
    await admissions.remember(moved, 20001, 1000)
    await admissions.remember(ended, 20002, 1000)
    await admissions.confirm({moved: 20009, stranger: 20003}, 2000)
    for memory in (admissions, Admissions(tmp_path, 2000)):
        assert memory.recall(moved) == Remembered(20009, 2000)
        assert memory.recall(ended) is None
        assert memory.recall(stranger) is None  # live, but never admitted: it may be pending


@pytest.mark.parametrize("text", ["", "{", "[]", '{"spawns": {"t": 1}}', '{"spawns": 3}'])
def test_an_unreadable_memory_is_an_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "admissions.json").write_text(text)
    assert Admissions(tmp_path, 1000).recall(new_spawn_id()) is None


async def test_a_memory_that_cannot_be_written_refuses_nobody(tmp_path: Path) -> None:
    spawn = new_spawn_id()
    admissions = Admissions(tmp_path / "missing", 1000)
    await admissions.remember(spawn, 20001, 1000)
    assert admissions.recall(spawn) == Remembered(20001, 1000)


async def test_the_memory_holds_no_secret(tmp_path: Path) -> None:
    await Admissions(tmp_path, 1000).remember(new_spawn_id(), 20001, 1000)
    (entry,) = json.loads((tmp_path / "admissions.json").read_text())["spawns"].values()
    assert entry.keys() == {"port", "confirmed"}


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_sources(address: str, source: str) -> None:
    assert source_of(address) == source


async def test_a_crowd_of_one_source_leaves_slots_to_others() -> None:
    slots = Slots(total=4, per_source=2)
    held: list[str] = []

    async def hold(source: str) -> None:
        async with slots.hold(source):
            held.append(source)
            await asyncio.Event().wait()

    crowd = [asyncio.create_task(hold("crowd")) for _ in range(10)]
    await asyncio.sleep(0)
    others = [asyncio.create_task(hold(f"other{n}")) for n in range(3)]
    async with asyncio.timeout(5):
        while len(held) < 4:
            await asyncio.sleep(0)
    assert sorted(held) == ["crowd", "crowd", "other0", "other1"]
    for task in (*crowd, *others):
        task.cancel()
    await asyncio.gather(*crowd, *others, return_exceptions=True)
    async with slots.hold("late"):  # all were given back
        pass
    assert slots._sources == {}


def test_backoff_grows_to_its_limit_and_begins_anew() -> None:
    backoff = Backoff(1, 8)
    waits = [backoff.next() for _ in range(6)]
    assert 0.5 <= waits[0] <= 1
    assert all(4 <= wait <= 8 for wait in waits[4:])
    backoff.reset()
    assert backoff.next() <= 1
