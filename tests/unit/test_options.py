"""user_options: what a profile allows passes, anything else is refused by its field."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyterhub_comet.errors import OptionRefused
from jupyterhub_comet.settings import parse_settings
from jupyterhub_comet.slurm.options import JobRequest, parse_options, request_argv

pytestmark = pytest.mark.unit

SETTINGS = parse_settings("""
clusters:
  comet:
    login: {hosts: [login.example.org], knownHosts: "login.example.org ssh-ed25519 AAAA"}
    queryAccount: jhquery
profiles:
  shared:
    title: Shared node
    cluster: comet
    partition: shared
    cores: {choices: [1, 2, 6, 12]}
    walltime: {choices: ["01:00:00", "12:00:00", "1-00:00:00"]}
  compute:
    title: Whole nodes
    cluster: comet
    partition: compute
    nodes: 2
    memoryMb: 100001
    exclusive: true
    walltime: {choices: ["02:00:00"]}
    qos: normal
    account: {default: TG-ONE, choices: [TG-ONE, TG-TWO]}
    reservation: class
  gpu:
    title: GPUs
    cluster: comet
    partition: gpu
    gpus: {choices: [1, 4]}
    gpuType: v100
    walltime: {choices: ["01:00:00"]}
defaultProfile: shared
tunnelbot: {hostname: tunnel.example.org}
""")
SPAWN = "t-" + "a" * 26


def test_nothing_asked_gives_the_default_profiles_defaults() -> None:
    assert parse_options(SETTINGS, {}) == JobRequest(
        cluster="comet", profile="shared", partition="shared", account="", qos="", nodes=1,
        cores=1, memory_mb=None, gpus=0, gpu_type="", walltime_s=3600, exclusive=False,
        reservation="",
    )  # fmt: skip


@pytest.mark.parametrize("value", [6, "6", " 6 ", [6], ["6"], 6.0], ids=repr)
def test_cores_in_any_form_that_says_six(value: object) -> None:
    assert parse_options(SETTINGS, {"cores": value}).cores == 6


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("12:00:00", 43200),
        ("0-12", 43200),
        ("0-12:00", 43200),
        ("12", 43200),
        (12, 43200),
        (12.0, 43200),
        ("24", 86400),
        ("1-00:00:00", 86400),
        ("1-0", 86400),
        (["24:00:00"], 86400),
        ("", 3600),
        (None, 3600),
    ],
)
def test_walltime_in_any_form(value: object, seconds: int) -> None:
    assert parse_options(SETTINGS, {"walltime": value}).walltime_s == seconds


def test_profile_brings_what_it_fixes() -> None:
    request = parse_options(SETTINGS, {"profile": "compute", "account": "TG-TWO"})
    assert (request.partition, request.account, request.qos) == ("compute", "TG-TWO", "normal")
    assert (request.nodes, request.exclusive, request.reservation) == (2, True, "class")
    assert parse_options(SETTINGS, {"profile": "compute"}).account == "TG-ONE"


REFUSED = [
    ({"profile": "huge"}, "profile", "shared, compute, gpu"),
    ({"profile": ["shared", "gpu"]}, "profile", "shared"),
    ({"profile": {"a": 1}}, "profile", "shared"),
    ({"colour": "red"}, "colour", "profile, account, cores, gpus, walltime"),
    ({"partition": "secret"}, "partition", "gpu (gpu)"),
    ({"qos": "high"}, "qos", "profile"),
    ({"nodes": 9}, "nodes", "profile"),
    ({"account": "$(id)"}, "account", "letters"),
    ({"account": "-v"}, "account", "letters"),
    ({"account": "a b"}, "account", "letters"),
    ({"account": "a\n#SBATCH -p x"}, "account", "letters"),
    ({"account": "a" * 65}, "account", "64"),
    ({"account": 5}, "account", "letters"),
    ({"profile": "compute", "account": "other"}, "account", "TG-ONE, TG-TWO"),
    ({"cores": 7}, "cores", "1, 2, 6, 12"),
    ({"cores": True}, "cores", "1, 2, 6, 12"),
    ({"cores": "6; id"}, "cores", "1, 2, 6, 12"),
    ({"cores": "٦"}, "cores", "1, 2, 6, 12"),
    ({"cores": 10**400}, "cores", "1, 2, 6, 12"),
    ({"cores": float("nan")}, "cores", "1, 2, 6, 12"),
    ({"profile": "compute", "cores": 4}, "cores", "compute"),
    ({"gpus": 1}, "gpus", "shared"),
    ({"profile": "gpu", "gpus": 2}, "gpus", "1, 4"),
    ({"profile": "gpu", "gpus": 0}, "gpus", "1, 4"),
    ({"walltime": "99-00:00:00"}, "walltime", "01:00:00, 12:00:00, 1-00:00:00"),
    ({"walltime": "UNLIMITED"}, "walltime", "01:00:00"),
    ({"walltime": -1}, "walltime", "01:00:00"),
    ({"walltime": float("inf")}, "walltime", "01:00:00"),
    ({"walltime": "1:00:00 --uid=0"}, "walltime", "01:00:00"),
]


@pytest.mark.parametrize(("options", "field", "allowed"), REFUSED, ids=lambda value: ascii(value))
def test_refusal_names_the_field_and_what_is_allowed(
    options: dict[str, object], field: str, allowed: str
) -> None:
    with pytest.raises(OptionRefused) as caught:
        parse_options(SETTINGS, options)
    assert caught.value.field == field
    assert allowed in str(caught.value)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_no_gpus_may_be_said_where_there_are_none() -> None:
    assert parse_options(SETTINGS, {"gpus": 0}).gpus == 0


@pytest.mark.parametrize("options", [None, [], "shared", 5], ids=repr)
def test_options_that_are_no_object_are_refused(options: object) -> None:
    with pytest.raises(OptionRefused, match="profile"):
        parse_options(SETTINGS, options)  # type: ignore[arg-type]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(["profile", "account", "cores", "gpus", "walltime"]) | st.text(max_size=8)
FIXED = {"--parsable", "--export=NONE", "--no-requeue", "--exclusive"}
NAMES = {
    "--job-name", "--comment", "--output", "--time", "--nodes", "--ntasks", "--cpus-per-task",
    "--mem", "--gres", "--partition", "--account", "--qos", "--reservation",
}  # fmt: skip


@settings(max_examples=400)
@given(st.dictionaries(keys, json_values, max_size=5))
def test_T27_nothing_thrown_at_it_reaches_sbatch_unchecked(options: dict[str, object]) -> None:
    try:
        request = parse_options(SETTINGS, options)
    except OptionRefused as exc:
        assert str(exc)
        return
    for word in request_argv(request, spawn=SPAWN, job_name="jupyterhub", output="log"):
        name, _, value = word.partition("=")
        assert word in FIXED or name in NAMES
        assert value.isascii()
        assert not set(value) & set("\n\r\0'\"`$;&|<>\\ ")


def test_argv_of_a_shared_core() -> None:
    request = parse_options(SETTINGS, {"cores": 6, "account": "TG-ABC123456", "walltime": 24})
    assert request_argv(request, spawn=SPAWN, job_name="jupyterhub", output="jupyter-%j.log") == [
        "--parsable", "--export=NONE", "--no-requeue", "--job-name=jupyterhub",
        f"--comment={SPAWN}", "--output=jupyter-%j.log", "--time=1-00:00:00", "--nodes=1",
        "--ntasks=1", "--cpus-per-task=6", "--partition=shared", "--account=TG-ABC123456",
    ]  # fmt: skip


def test_argv_of_whole_nodes_counts_per_node() -> None:
    request = parse_options(SETTINGS, {"profile": "compute"})
    argv = request_argv(request, spawn=SPAWN, job_name="j", output="log", extra=["--mail-type=END"])
    assert {"--nodes=2", "--ntasks=2", "--mem=50001M", "--exclusive"} <= set(argv)
    assert {"--qos=normal", "--reservation=class", "--account=TG-ONE"} <= set(argv)
    assert argv[-1] == "--mail-type=END"


def test_argv_of_gpus_names_their_type() -> None:
    request = parse_options(SETTINGS, {"profile": "gpu", "gpus": 4})
    argv = request_argv(request, spawn=SPAWN, job_name="j", output="log")
    assert "--gres=gpu:v100:4" in argv
    assert not [word for word in argv if word.startswith("--cpus-per-task")]
