"""The keys hook: what is missing of the random Secrets, and what it makes of that."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncssh
import pytest
import yaml

from jupyterhub_comet.errors import KeyBroken
from jupyterhub_comet.ssh.keys import load_gateway_keys
from tests.unit.charts import CHECKOUT, Chart, one

# The hook's programs lie beside each other in the image and are no package.
sys.path.insert(0, str(CHECKOUT / "hooks"))

from keys import parse_arguments
from keyset import HOST_CERTIFICATE_LIFE, Contents, Names, missing

pytestmark = pytest.mark.unit

NOW = datetime.now(tz=UTC)
NAMES = Names()
DEMO = Names(demo="comet-demo", demo_login_host="comet-login")

CONTRACT = {
    "comet-tunnel-ca": {"ca", "ca.pub", "host-ca.pub"},
    "comet-host-ca": {"ca", "ca.pub"},
    "tunnelbot": {"ssh_host_key", "ssh_host_key-cert.pub", "trusted-user-cas"},
    "comet-login": {"ca", "ca.pub"},
    "comet-hub": {
        "hub.config.JupyterHub.cookie_secret",
        "hub.config.CryptKeeper.keys",
        "hub.services.tunnelbot.apiToken",
    },
}


def keys_of(contents: Contents) -> dict[str, set[str]]:
    return {name: set(keys) for name, keys in contents.items()}


def laid_over(below: Contents, above: Contents) -> Contents:
    return {n: {**below.get(n, {}), **above.get(n, {})} for n in {*below, *above}}


def without(contents: Contents, secret: str, *keys: str) -> Contents:
    kept = {k: v for k, v in contents[secret].items() if k not in keys}
    return {**contents, secret: kept}


@pytest.fixture(scope="module")
def complete() -> Contents:
    """All Secrets of an installation with the demo."""
    return missing({}, DEMO, NOW)


def test_an_empty_namespace_gets_all_of_the_contract() -> None:
    assert keys_of(missing({}, NAMES, NOW)) == CONTRACT


def test_the_demo_gets_its_secret_and_a_known_host(complete: Contents) -> None:
    expected = {**CONTRACT, "comet-login": {"ca", "ca.pub", "known_hosts"}}
    expected["comet-demo"] = {
        "munge.key",
        "ssh_host_ed25519_key",
        "ssh_host_ed25519_key.pub",
        "slurmdbd-password",
    }
    assert keys_of(complete) == expected
    public = complete["comet-demo"]["ssh_host_ed25519_key.pub"]
    assert complete["comet-login"]["known_hosts"] == b"comet-login " + public
    assert 32 <= len(complete["comet-demo"]["munge.key"]) <= 1024


def test_a_second_run_changes_nothing(complete: Contents) -> None:
    assert missing(complete, DEMO, NOW) == {}


def test_two_installations_share_nothing(complete: Contents) -> None:
    other = missing({}, DEMO, NOW)
    for secret, keys in complete.items():
        for key, value in keys.items():
            assert other[secret][key] != value, (secret, key)


def test_the_gateway_can_use_its_secret(complete: Contents, tmp_path: Path) -> None:
    for key, value in complete["tunnelbot"].items():
        (tmp_path / key).write_bytes(value)
    keys = load_gateway_keys(tmp_path)
    certificate = keys.host_certificate
    assert isinstance(certificate, asyncssh.public_key.SSHOpenSSHCertificate)
    assert list(certificate.principals) == ["comet-tunnelbot"]
    assert keys.trusted.trusts(asyncssh.import_public_key(complete["comet-tunnel-ca"]["ca.pub"]))
    assert abs(keys.host_certificate_ends - NOW - HOST_CERTIFICATE_LIFE) < timedelta(minutes=1)
    ca = asyncssh.import_public_key(complete["comet-tunnel-ca"]["host-ca.pub"])
    assert certificate.signing_key.public_data == ca.public_data


def test_what_z2jh_reads_is_hex_without_a_newline(complete: Contents) -> None:
    for value in complete["comet-hub"].values():
        assert len(bytes.fromhex(value.decode())) == 32
        assert value.decode().strip() == value.decode()


def test_the_gateway_holds_no_private_ca(complete: Contents) -> None:
    private = [complete[name]["ca"] for name in ("comet-tunnel-ca", "comet-host-ca", "comet-login")]
    assert not set(private) & set(complete["tunnelbot"].values())


@pytest.mark.parametrize(
    ("secret", "key"),
    [
        (s, k)
        for s, keys in CONTRACT.items()
        for k in sorted(keys)
        if k not in ("ca", "ssh_host_key")
    ],
)
def test_a_single_missing_key_is_added_alone(complete: Contents, secret: str, key: str) -> None:
    made = missing(without(complete, secret, key), DEMO, NOW)
    assert keys_of(made) == {secret: {key}}
    if key in ("ca.pub", "host-ca.pub", "trusted-user-cas"):
        assert made[secret][key] == complete[secret][key]


def test_an_empty_value_counts_as_missing(complete: Contents) -> None:
    emptied = laid_over(complete, {"comet-hub": {"hub.services.tunnelbot.apiToken": b""}})
    assert keys_of(missing(emptied, DEMO, NOW)) == {
        "comet-hub": {"hub.services.tunnelbot.apiToken"}
    }


CERTIFICATE = {"tunnelbot": {"ssh_host_key-cert.pub"}}
AGES = {
    "new": (timedelta(0), {}),
    "shortly before half": (HOST_CERTIFICATE_LIFE / 2 - timedelta(days=1), {}),
    "past half": (HOST_CERTIFICATE_LIFE / 2 + timedelta(days=1), CERTIFICATE),
    "run out": (HOST_CERTIFICATE_LIFE + timedelta(days=1), CERTIFICATE),
}


@pytest.mark.parametrize(("age", "expected"), AGES.values(), ids=AGES.keys())
def test_the_host_certificate_is_signed_again_past_half_of_its_life(
    complete: Contents, age: timedelta, expected: Mapping[str, set[str]]
) -> None:
    assert keys_of(missing(complete, DEMO, NOW + age)) == expected


def test_a_certificate_of_another_name_is_signed_again(complete: Contents) -> None:
    renamed = Names(demo="comet-demo", demo_login_host="comet-login", host_key_alias="other")
    assert keys_of(missing(complete, renamed, NOW)) == CERTIFICATE


def test_a_certificate_that_is_none_is_signed_again(complete: Contents) -> None:
    broken = laid_over(complete, {"tunnelbot": {"ssh_host_key-cert.pub": b"nonsense"}})
    assert keys_of(missing(broken, DEMO, NOW)) == CERTIFICATE


def test_a_certificate_of_another_ca_is_signed_again(complete: Contents) -> None:
    host_ca = missing({}, DEMO, NOW)["comet-host-ca"]
    changed = {"comet-host-ca": host_ca, "comet-tunnel-ca": {"host-ca.pub": host_ca["ca.pub"]}}
    assert keys_of(missing(laid_over(complete, changed), DEMO, NOW)) == CERTIFICATE


def test_a_certificate_of_another_key_is_signed_again(complete: Contents) -> None:
    key = missing({}, DEMO, NOW)["tunnelbot"]["ssh_host_key"]
    changed = laid_over(complete, {"tunnelbot": {"ssh_host_key": key}})
    assert keys_of(missing(changed, DEMO, NOW)) == CERTIFICATE


def swapped(complete: Contents) -> Contents:
    other = missing({}, DEMO, NOW)
    return laid_over(complete, {"comet-tunnel-ca": {"ca": other["comet-tunnel-ca"]["ca"]}})


BROKEN: dict[str, tuple[Callable[[Contents], Contents], list[str]]] = {
    "private key lost": (
        lambda c: without(c, "comet-tunnel-ca", "ca"),
        ["comet-tunnel-ca", "ca.pub but not ca", "delete the Secret"],
    ),
    "private key is none": (
        lambda c: laid_over(c, {"comet-login": {"ca": b"nonsense"}}),
        ["comet-login", "ca is no usable private key"],
    ),
    "halves of two keys": (swapped, ["comet-tunnel-ca", "ca.pub is not the public half"]),
    "new host CA, old copy": (
        lambda c: {n: k for n, k in c.items() if n != "comet-host-ca"},
        ["comet-tunnel-ca", "host-ca.pub does not hold the CA that signs now"],
    ),
    "new tunnel CA, old trust": (
        lambda c: {n: k for n, k in c.items() if n != "comet-tunnel-ca"},
        ["tunnelbot", "trusted-user-cas does not hold"],
    ),
    "new demo host key, old line": (
        lambda c: {n: k for n, k in c.items() if n != "comet-demo"},
        ["comet-login", "known_hosts"],
    ),
    "trusted CAs are no text": (
        lambda c: laid_over(c, {"tunnelbot": {"trusted-user-cas": b"\xff"}}),
        ["tunnelbot", "trusted-user-cas is not text"],
    ),
}


@pytest.mark.parametrize(("spoil", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_what_cannot_be_completed_stops_the_install_by_name(
    complete: Contents, spoil: Callable[[Contents], Contents], words: list[str]
) -> None:
    with pytest.raises(KeyBroken) as caught:
        missing(spoil(complete), DEMO, NOW)
    for word in words:
        assert word in str(caught.value)
    for keys in complete.values():
        for name, value in keys.items():
            if name != "munge.key" and b"PRIVATE" in value:
                assert value.decode() not in str(caught.value)


def test_a_second_trusted_ca_stays(complete: Contents) -> None:
    other = missing({}, NAMES, NOW)["comet-tunnel-ca"]["ca.pub"]
    both = complete["tunnelbot"]["trusted-user-cas"] + b"# the old one\n" + other
    assert missing(laid_over(complete, {"tunnelbot": {"trusted-user-cas": both}}), DEMO, NOW) == {}


def test_a_secret_of_somebody_else_is_checked_and_not_filled(complete: Contents) -> None:
    names = Names(check_only=frozenset({"comet-hub", "comet-login"}))
    assert missing(complete, names, NOW) == {}
    lacking = without(complete, "comet-hub", "hub.config.CryptKeeper.keys")
    with pytest.raises(KeyBroken, match=r"comet-hub lacks hub\.config\.CryptKeeper\.keys"):
        missing(lacking, names, NOW)


def test_a_hook_that_died_half_way_is_completed_by_the_next(complete: Contents) -> None:
    order = list(complete)
    assert order[:3] == ["comet-host-ca", "comet-tunnel-ca", "tunnelbot"]
    for written in range(len(order)):
        found = {name: complete[name] for name in order[:written]}
        made = missing(found, DEMO, NOW)
        assert list(made) == order[written:]
        assert missing(laid_over(found, made), DEMO, NOW) == {}


def test_fips_sites_get_keys_without_ed25519() -> None:
    made = missing({}, Names(key_type="ecdsa-p256"), NOW)
    assert made["comet-tunnel-ca"]["ca.pub"].startswith(b"ecdsa-sha2-nistp256 ")
    assert made["tunnelbot"]["ssh_host_key-cert.pub"].startswith(b"ecdsa-sha2-nistp256-cert")


@pytest.mark.parametrize("values", ["demo", "comet"])
def test_the_job_gives_arguments_that_the_program_takes(chart: Chart, values: str) -> None:
    job = one(chart.render([values]), "Job", "comet-keys-hook")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    python, program, *arguments = container["args"]
    assert python == "python3"
    assert (CHECKOUT / "hooks" / Path(program).name).is_file()
    namespace, names = parse_arguments(arguments)
    assert namespace == "comet"
    assert names == (DEMO if values == "demo" else NAMES)
    role = one(chart.render([values]), "Role", "comet-keys-hook")
    assert set(role["rules"][0]["resourceNames"]) == set(names.in_order())


def test_secrets_of_others_are_told_to_the_program(chart: Chart) -> None:
    objects = chart.render(["lint"], {"hooks.keys.enabled": True})
    job = one(objects, "Job", "comet-keys-hook")
    _, names = parse_arguments(job["spec"]["template"]["spec"]["containers"][0]["args"][2:])
    secrets = yaml.safe_load((CHECKOUT / "values" / "lint.yaml").read_text())["secrets"]
    assert names.check_only == {secret["name"] for secret in secrets.values()}
    assert names.key_type == "ecdsa-p256"
