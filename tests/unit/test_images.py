"""What the images promise, read from their Dockerfiles and lock files; nothing is built."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import jupyterhub_comet

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "images"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAMES = ("hub", "tunnelbot", "slurm")
LOCKS = [*(IMAGES / name / "requirements.txt" for name in NAMES), IMAGES / "requirements-build.txt"]
# z2jh 4.4.0's jupyterhub_config.py and z2jh.py import these or name them as classes, whatever
# spawner or database is used; the drivers belong to hub.db.type postgres and mysql.
Z2JH_NEEDS = {
    "jupyterhub", "jupyterhub-kubespawner", "kubernetes-asyncio", "oauthenticator", "pycurl",
    "jupyterhub-idle-culler", "pyyaml", "tornado", "sqlalchemy", "psycopg2-binary", "pymysql",
}  # fmt: skip


def read_lock(path: Path) -> dict[str, Version]:
    """Return the pinned version of each package in a lock file."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)", path.read_text(), re.M)
    return {canonicalize_name(name): Version(version) for name, version in pins}


def read_steps(name: str) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions as (word, rest), continued lines joined."""
    text = (IMAGES / name / "Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(step[0], " ".join(step[1].split())) for step in steps]


def read_final_stage(name: str) -> list[tuple[str, str]]:
    """Return the instructions of the stage that becomes the image."""
    steps = read_steps(name)
    last = max(n for n, (word, _) in enumerate(steps) if word == "FROM")
    return steps[last:]


def find_imports(paths: list[Path]) -> set[str]:
    """Return the top-level names that Python files import, the standard library left out."""
    names: set[str] = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.partition(".")[0])
    siblings = {path.stem for path in paths}
    return names - set(sys.stdlib_module_names) - {"jupyterhub_comet"} - siblings


def test_package_says_the_version_that_it_is_installed_as() -> None:
    assert jupyterhub_comet.__version__ == PROJECT["version"]


def test_hub_and_jobs_run_the_same_jupyterhub_of_the_5_5_line() -> None:
    hub = read_lock(IMAGES / "hub/requirements.txt")["jupyterhub"]
    assert hub == read_lock(IMAGES / "slurm/requirements.txt")["jupyterhub"]
    assert hub.release[:2] == (5, 5)
    assert hub >= Version("5.5.1"), "5.5.0 has open advisories"


def test_hub_and_tunnelbot_have_one_version_of_what_both_have() -> None:
    hub = read_lock(IMAGES / "hub/requirements.txt")
    tunnelbot = read_lock(IMAGES / "tunnelbot/requirements.txt")
    shared = hub.keys() & tunnelbot.keys()
    assert "asyncssh" in shared
    assert {name: hub[name] for name in shared} == {name: tunnelbot[name] for name in shared}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: str(path.relative_to(IMAGES)))
def test_lock_file_has_hashes_and_names_no_registry(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    assert "index-url" not in text
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.M)[1:]
    assert len(entries) == len(read_lock(path)) > 0
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize(
    ("image", "extras"), [("hub", ["hub", "hooks"]), ("tunnelbot", ["tunnelbot"])]
)
def test_lock_file_satisfies_the_package_extras(image: str, extras: list[str]) -> None:
    pins = read_lock(IMAGES / image / "requirements.txt")
    needs = PROJECT["dependencies"] + [
        need for extra in extras for need in PROJECT["optional-dependencies"][extra]
    ]
    for need in map(Requirement, needs):
        assert pins.get(canonicalize_name(need.name), Version("0")) in need.specifier, need


@pytest.mark.parametrize(
    ("image", "folders"),
    [("hub", ["jupyterhub_comet", "hooks"]), ("tunnelbot", ["jupyterhub_comet/tunnelbot"])],
)
def test_lock_file_holds_what_the_image_imports(image: str, folders: list[str]) -> None:
    """A module found only because JupyterHub is installed too is missing in tunnelbot's image."""
    # Of the rest of the package tunnelbot may import only these: test_imports.py sees to it.
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    if image == "hub":
        paths = [path for path in paths if "tunnelbot" not in path.parts]
    else:
        paths += [ROOT / "jupyterhub_comet" / name for name in ("errors.py", "ssh/keys.py")]
    pins = read_lock(IMAGES / image / "requirements.txt")
    owners = importlib.metadata.packages_distributions()
    missing = {
        name
        for name in find_imports(paths)
        if not {canonicalize_name(owner) for owner in owners.get(name, [name])} & pins.keys()
    }
    assert missing == set()


def test_hub_lock_holds_what_z2jh_imports() -> None:
    assert Z2JH_NEEDS - read_lock(IMAGES / "hub/requirements.txt").keys() == set()


def test_tunnelbot_has_neither_jupyterhub_nor_a_kubernetes_client() -> None:
    pins = read_lock(IMAGES / "tunnelbot/requirements.txt")
    assert [name for name in pins if re.match("jupyter|kubernetes|tornado|sqlalchemy", name)] == []


@pytest.mark.parametrize("name", NAMES)
def test_image_starts_from_one_base_and_locked_wheels(name: str) -> None:
    steps = read_steps(name)
    stages = {rest.partition(" AS ")[2] for word, rest in steps if word == "FROM"}
    bases = {rest.partition(" AS ")[0] for word, rest in steps if word == "FROM"}
    assert bases - stages == {"debian:trixie-slim"}
    for word, rest in steps:
        if word == "RUN" and "pip" in rest and "requirements" in rest:
            installs = re.findall(r"pip(?: --python \S+)? install [^&]*", rest)
            assert installs, rest
            assert all("--only-binary :all: --require-hashes" in install for install in installs)


@pytest.mark.parametrize("name", NAMES)
def test_image_holds_no_compiler_and_no_installer(name: str) -> None:
    everything = " ".join(rest for _, rest in read_steps(name))
    assert not re.search(r"\b(gcc|g\+\+|build-essential|cargo|\S+-dev)\b", everything)
    final = " ".join(rest for _, rest in read_final_stage(name))
    assert not re.search(r"\bpip\b|python3-venv", final)
    assert all(
        "--no-install-recommends" in rest and "rm -rf /var/lib/apt/lists/*" in rest
        for word, rest in read_final_stage(name)
        if word == "RUN" and "apt-get" in rest
    )


@pytest.mark.parametrize("name", ["hub", "tunnelbot"])
def test_image_runs_as_user_1000_under_tini(name: str) -> None:
    final = read_final_stage(name)
    assert [rest for word, rest in final if word == "USER"] == ["1000:1000"]
    assert ("ENTRYPOINT", '["tini", "--"]') in final
    assert any("useradd --uid 1000 " in rest for _, rest in final)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("hub", "jupyterhub --config /usr/local/etc/jupyterhub/jupyterhub_config.py"),
        (
            "tunnelbot",
            "python3 -m jupyterhub_comet.tunnelbot --config /etc/tunnelbot/config/tunnelbot.yaml",
        ),
    ],
)
def test_image_command_is_what_its_pod_expects(name: str, command: str) -> None:
    words = ", ".join(f'"{word}"' for word in command.split())
    assert ("CMD", f"[{words}]") in read_final_stage(name)
