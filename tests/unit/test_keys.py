"""Keys from files: what is refused, named by its file, and what a change does."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncssh
import pytest

from jupyterhub_comet.errors import KeyBroken
from jupyterhub_comet.ssh.certificate import issue_host_certificate
from jupyterhub_comet.ssh.keys import (
    GATEWAY_FILES,
    Reloaded,
    generate_private_key,
    load_gateway_keys,
    load_private_key,
    load_trust_set,
    parse_trust_set,
)

pytestmark = pytest.mark.unit


def public_line(key: asyncssh.SSHKey) -> str:
    return key.export_public_key().decode().strip()


def write_gateway_keys(folder: Path, *, days: float = 30) -> asyncssh.SSHKey:
    """Fill ``folder`` as tunnelbot's Secret does; returns the trusted CA."""
    host, host_ca, user_ca = (generate_private_key("ed25519") for _ in range(3))
    end = datetime.now(tz=UTC) + timedelta(days=days)
    line = issue_host_certificate(host_ca, host, principals=["gw"], valid_before=end, serial=1)
    (folder / "ssh_host_key").write_bytes(host.export_private_key())
    (folder / "ssh_host_key-cert.pub").write_text(line)
    (folder / "trusted-user-cas").write_text(public_line(user_ca) + "\n")
    return user_ca


@pytest.mark.parametrize(
    ("key_type", "algorithm"),
    [("ed25519", "ssh-ed25519"), ("ecdsa-p256", "ecdsa-sha2-nistp256")],
)
def test_keys_of_both_types_are_made(key_type: str, algorithm: str) -> None:
    assert generate_private_key(key_type).get_algorithm() == algorithm


def test_an_unknown_key_type_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(KeyBroken, match=r"rsa.*ed25519, ecdsa-p256"):
        generate_private_key("rsa")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="missing"),
        pytest.param(b"", id="empty"),
        pytest.param(b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", id="cut"),
        pytest.param(b"\xff\xfe\x00", id="binary"),
    ],
)
def test_a_broken_private_key_is_named_by_its_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ca"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KeyBroken, match=str(path)):
        load_private_key(path)


def test_a_good_private_key_is_read(tmp_path: Path) -> None:
    key = generate_private_key("ed25519")
    (tmp_path / "ca").write_bytes(key.export_private_key())
    assert load_private_key(tmp_path / "ca").public_data == key.public_data


def test_a_key_with_a_passphrase_is_refused(tmp_path: Path) -> None:
    pem = generate_private_key("ecdsa-p256").export_private_key("pkcs8-pem", "secret")
    (tmp_path / "ca").write_bytes(pem)
    with pytest.raises(KeyBroken, match="ca"):
        load_private_key(tmp_path / "ca")


def test_a_trust_set_trusts_its_own_keys_only(tmp_path: Path) -> None:
    old, new, other = (generate_private_key("ed25519") for _ in range(3))
    path = tmp_path / "trusted-user-cas"
    path.write_text(
        f"# two CAs while one is being replaced\n{public_line(old)}\n\n{public_line(new)}\n"
    )
    trusted = load_trust_set(path)
    assert trusted.trusts(old)
    assert trusted.trusts(new)
    assert not trusted.trusts(other)
    assert trusted.fingerprints == (old.get_fingerprint(), new.get_fingerprint())


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        pytest.param("cert-authority,principals=root ", "line 1", id="T11-line-with-principals"),
        pytest.param("cert-authority ", "line 1", id="line-with-option"),
        pytest.param("# ", "holds no key", id="only-a-comment"),
    ],
)
def test_a_trust_set_takes_plain_keys_only(prefix: str, reason: str) -> None:
    line = public_line(generate_private_key("ed25519"))
    assert parse_trust_set(line, "here").fingerprints
    with pytest.raises(KeyBroken, match=f"here: {reason}"):
        parse_trust_set(prefix + line, "here")


def test_gateway_keys_are_read_with_the_end_of_the_certificate(tmp_path: Path) -> None:
    ca = write_gateway_keys(tmp_path, days=30)
    keys = load_gateway_keys(tmp_path)
    assert keys.trusted.trusts(ca)
    assert abs(keys.host_certificate_ends - datetime.now(tz=UTC) - timedelta(days=30)) < timedelta(
        minutes=1
    )


def test_gateway_keys_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    write_gateway_keys(tmp_path)
    other = generate_private_key("ed25519")
    (tmp_path / "ssh_host_key").write_bytes(other.export_private_key())
    with pytest.raises(KeyBroken, match=r"ssh_host_key-cert\.pub: is not the certificate of"):
        load_gateway_keys(tmp_path)


def test_a_host_certificate_that_has_run_out_is_refused(tmp_path: Path) -> None:
    write_gateway_keys(tmp_path, days=-0.0001)
    with pytest.raises(KeyBroken, match=r"ssh_host_key-cert\.pub: .*expired"):
        load_gateway_keys(tmp_path)


def test_f37_a_broken_change_keeps_the_old_keys_and_names_the_file(tmp_path: Path) -> None:
    old = write_gateway_keys(tmp_path)
    paths = [tmp_path / name for name in GATEWAY_FILES]
    keys = Reloaded(paths, lambda: load_gateway_keys(tmp_path))
    assert not keys.refresh()

    (tmp_path / "trusted-user-cas").write_text("not a key\n")
    assert not keys.refresh()
    assert keys.current.trusted.trusts(old)
    assert keys.problem is not None
    assert "trusted-user-cas" in keys.problem
    assert not keys.refresh()
    assert keys.problem is not None  # told until it is mended

    new = write_gateway_keys(tmp_path)
    assert keys.refresh()
    assert keys.problem is None
    assert keys.current.trusted.trusts(new)
    assert not keys.current.trusted.trusts(old)


def test_a_swapped_symlink_is_seen_as_kubernetes_does_it(tmp_path: Path) -> None:
    first, second = tmp_path / "..1", tmp_path / "..2"
    for folder in (first, second):
        folder.mkdir()
        write_gateway_keys(folder)
    (tmp_path / "..data").symlink_to(first)
    for name in GATEWAY_FILES:
        (tmp_path / name).symlink_to(Path("..data") / name)
    keys = Reloaded([tmp_path / n for n in GATEWAY_FILES], lambda: load_gateway_keys(tmp_path))
    before = keys.current.host_key.public_data
    (tmp_path / "..tmp").symlink_to(second)
    (tmp_path / "..tmp").replace(tmp_path / "..data")
    assert keys.refresh()
    assert keys.current.host_key.public_data != before
