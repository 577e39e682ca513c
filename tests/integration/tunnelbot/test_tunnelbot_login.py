"""Who may log in: rows T5 and T7 to T11, with the real OpenSSH client, each beside its twin."""

from __future__ import annotations

import pytest

from tests.lab.gateway import GatewayLab, Spawn
from tests.lab.keys import CertificateAuthority, make_key
from tests.lab.waiting import wait_for

pytestmark = pytest.mark.integration

DENIED = "Permission denied (publickey)"


def test_t7_a_certificate_opens_a_tunnel(gateway: GatewayLab) -> None:
    job, port = gateway.job()
    job.up(port)


@pytest.mark.parametrize(
    "method",
    ["password", "keyboard-interactive", "gssapi-with-mic", "hostbased", "none"],
)
def test_t7_no_other_method_is_offered(gateway: GatewayLab, method: str) -> None:
    job, _ = gateway.job()
    said = job.run("-N", "-o", f"PreferredAuthentications={method}", "-o", "BatchMode=no")
    assert said.status == 255
    assert DENIED in said.text


def test_t7_a_plain_key_is_refused(gateway: GatewayLab) -> None:
    job, _ = gateway.job()
    job.certificate.unlink()
    said = job.run("-N", certificate=False)
    assert said.status == 255
    assert DENIED in said.text
    assert "reason=not-a-certificate" in gateway.log()


def test_t8_a_certificate_opens_its_own_server_only(gateway: GatewayLab) -> None:
    mine, port = gateway.job()
    other, _ = gateway.job()
    said = mine.run("-N", user=other.spawn)
    assert said.status == 255
    assert DENIED in said.text
    assert f"user_name={other.spawn}" in gateway.log()
    mine.up(port)


@pytest.mark.parametrize("case", ["none", "two"])
def test_t9_exactly_one_principal_is_needed(gateway: GatewayLab, case: str) -> None:
    job, port = gateway.job()
    job.sign(gateway.tunnel_ca, principals=[] if case == "none" else [job.spawn, "root"])
    said = job.run("-N")
    assert said.status == 255
    assert DENIED in said.text
    assert "reason=principals" in gateway.log()
    job.sign(gateway.tunnel_ca)
    job.up(port)


@pytest.mark.parametrize("case", ["expired", "not-yet-valid", "wrong-source", "no-forwarding"])
def test_t10_a_certificate_that_does_not_hold_here_is_refused(
    gateway: GatewayLab, case: str
) -> None:
    job, port = gateway.job()
    forwarding = ("clear", "permit-port-forwarding")
    match case:
        case "expired":
            job.sign(gateway.tunnel_ca, validity="-2h:-1h")
        case "not-yet-valid":
            job.sign(gateway.tunnel_ca, validity="+1h:+2h")
        case "wrong-source":
            job.sign(gateway.tunnel_ca, options=(*forwarding, "source-address=192.0.2.0/24"))
        case "no-forwarding":
            job.sign(gateway.tunnel_ca, options=("clear",))
    said = job.run("-N")
    assert said.status == 255
    assert ("remote port forwarding failed" if case == "no-forwarding" else DENIED) in said.text
    job.sign(gateway.tunnel_ca, options=(*forwarding, "source-address=127.0.0.0/8"))
    job.up(port)


def test_t10_a_certificate_of_another_ca_is_refused(gateway: GatewayLab) -> None:
    job, _ = gateway.job()
    job.sign(CertificateAuthority(job.folder / "own-ca"))
    said = job.run("-N")
    assert said.status == 255
    assert DENIED in said.text
    assert "reason=unknown-ca" in gateway.log()


def test_t10_a_host_certificate_is_refused(gateway: GatewayLab) -> None:
    job, _ = gateway.job()
    gateway.tunnel_ca.sign_host(job.key.with_suffix(".pub"), [job.spawn])
    said = job.run("-N")
    assert said.status == 255
    assert DENIED in said.text


def test_t11_no_name_but_a_spawn_id_logs_in(gateway: GatewayLab) -> None:
    job, port = gateway.job()
    job.sign(gateway.tunnel_ca, principals=["root"])
    said = job.run("-N", user="root")
    assert said.status == 255
    assert DENIED in said.text
    assert "reason=user-name" in gateway.log()
    job.sign(gateway.tunnel_ca)
    job.up(port)


def test_t5_six_tries_are_enough(gateway: GatewayLab) -> None:
    job, port = gateway.job()
    job.certificate.unlink()
    keys = [make_key(job.folder / f"wrong{number}").with_suffix("") for number in range(8)]
    many = [word for key in keys for word in ("-o", f"IdentityFile={key}")]
    said = job.run("-N", *many, certificate=False)
    assert "Too many logins tried" in said.text
    said = job.run("-N", *many[:8], certificate=False)  # four, the job's own key and "none"
    assert DENIED in said.text
    assert "Too many" not in said.text
    job.sign(gateway.tunnel_ca)
    job.up(port)


@pytest.mark.parametrize("cipher", ["chacha20-poly1305@openssh.com", "aes128-ctr"])
def test_only_aes_gcm_is_spoken(gateway: GatewayLab, cipher: str) -> None:
    job, port = gateway.job()
    said = job.run("-N", "-c", cipher)
    assert "no matching cipher found" in said.text
    job.dial("-c", "aes256-gcm@openssh.com")
    job.wait_up(port)


def test_t18_compression_is_not_to_be_had(gateway: GatewayLab) -> None:
    job, port = gateway.job()
    job.dial("-C", "-v")
    job.wait_up(port)
    assert job.process is not None
    job.process.kill()
    text = job.ended().text
    assert "compression: none" in text
    assert "cipher: aes128-gcm@openssh.com" in text
    assert "compression: zlib" not in text


def test_t34_the_job_trusts_the_host_ca_only(gateway: GatewayLab) -> None:
    job, port = gateway.job()
    known = job.folder / "known_hosts"
    good = known.read_text()
    known.write_text(good.replace(gateway.host_ca.public_line, gateway.tunnel_ca.public_line))
    said = job.run("-N")
    assert "Host key verification failed" in said.text
    known.write_text(good)
    job.up(port)


# The hub's word


def test_t20_an_ended_spawn_is_told_to_stay_away(gateway: GatewayLab) -> None:
    stranger = gateway.stranger()
    said = stranger.run("-N")
    assert said.status == 255
    assert "this server has ended (unknown)" in said.text  # starter/tunnel.py knows the words


def test_t21_a_pending_job_is_told_to_come_back(gateway: GatewayLab) -> None:
    job, port = gateway.job(verdict="refuse", reason="pending", delay_s=1)
    said = job.run("-N")
    assert "come back later (pending)" in said.text
    assert "ended" not in said.text
    gateway.hub.put({job.spawn: Spawn(port)})
    job.up(port)


def test_t21_a_login_may_be_held_eight_seconds(gateway: GatewayLab) -> None:
    job, port = gateway.job(delay_s=8)
    job.up(port)


@pytest.mark.parametrize("status", [500, 404, 302])
def test_f22_a_broken_hub_refuses_the_unknown_but_ends_nobody(
    gateway: GatewayLab, status: int
) -> None:
    job, port = gateway.job()
    gateway.hub.broken_status = status
    try:
        said = job.run("-N")
        assert "come back later (hub-unreachable)" in said.text
    finally:
        gateway.hub.broken_status = 0
    job.up(port)


def test_a_port_outside_the_range_is_not_listened_on(gateway: GatewayLab) -> None:
    job, port = gateway.job()
    gateway.hub.put({job.spawn: Spawn(19999)})
    assert "come back later (port)" in job.run("-N").text
    gateway.hub.put({job.spawn: Spawn(port)})
    job.up(port)


def test_logins_are_audited_and_counted(gateway: GatewayLab) -> None:
    job, port = gateway.job()
    before = gateway.metric('comet_tunnelbot_logins_total{outcome="admitted"}')
    job.up(port)
    assert gateway.metric('comet_tunnelbot_logins_total{outcome="admitted"}') == before + 1
    wait_for(
        lambda: any(
            "event=login " in line
            and f"spawn={job.spawn} port={port}" in line
            and "key_id=lab" in line
            for line in gateway.log().splitlines()
        ),
        "the audit line",
        limit_s=5,
    )
