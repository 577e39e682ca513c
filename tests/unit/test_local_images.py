"""What goes into an image and what its tag says; the machine's settings in builds."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from local.archive import ImageConfig, make_layer, write_image
from local.bases import render_command
from local.context import Context, copied_sources, read_context
from local.delivery import Delivery
from local.errors import LocalError
from local.machine import AUTHORITY_INSIDE, Mirrors, parse_mirrors, render_npm, render_pip

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILE = "FROM base\nCOPY package /p/\nCOPY one.txt \\\n  two.txt /t/\nCOPY --from=x /y /z\n"


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """A small build context with things in it that no image is made of."""
    for name, text in (
        ("images/Dockerfile", DOCKERFILE),
        ("package/a.py", "a"),
        ("package/__pycache__/a.cpython-311.pyc", "x"),
        ("one.txt", "1"),
        ("two.txt", "2"),
        ("stray.txt", "x"),
    ):
        path = tmp_path / "repository" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read(tmp_path / "repository")


def read(folder: Path) -> Context:
    """The context as it is now."""
    return read_context(folder, folder / "images" / "Dockerfile")


def test_context_is_what_the_dockerfile_copies(context: Context) -> None:
    assert [str(each) for each in context.files] == ["one.txt", "package/a.py", "two.txt"]


def test_staged_copy_holds_just_that(context: Context, tmp_path: Path) -> None:
    dockerfile = context.stage(tmp_path / "staged")
    found = {str(p.relative_to(tmp_path / "staged")) for p in (tmp_path / "staged").rglob("*.*")}
    assert found == {"one.txt", "two.txt", "package/a.py"}
    assert dockerfile.read_text() == DOCKERFILE


@pytest.mark.parametrize(
    ("name", "changes"),
    [("package/a.py", True), ("images/Dockerfile", True), ("stray.txt", False)],
)
def test_hash_follows_what_goes_in_and_nothing_else(
    context: Context, name: str, changes: bool
) -> None:
    before = context.hash("base")
    path = context.folder / name
    path.write_text(path.read_text() + "# more\n")
    assert (read(context.folder).hash("base") != before) is changes


def test_hash_follows_mode_name_and_base(context: Context) -> None:
    before = context.hash("base")
    assert context.hash("other base") != before
    (context.folder / "one.txt").chmod(0o755)
    executable = read(context.folder).hash("base")
    assert executable != before
    (context.folder / "package" / "a.py").rename(context.folder / "package" / "b.py")
    assert read(context.folder).hash("base") != executable


def test_copy_of_a_missing_file_names_it(context: Context) -> None:
    (context.folder / "two.txt").unlink()
    with pytest.raises(LocalError, match=r"COPY two\.txt"):
        read(context.folder)


def test_json_form_of_copy_is_refused_rather_than_misread() -> None:
    with pytest.raises(LocalError, match="without brackets"):
        copied_sources('COPY ["a b", "/c"]')


@pytest.mark.parametrize("which", ["hub", "tunnelbot", "slurm"])
def test_our_own_dockerfiles_can_be_read(which: str) -> None:
    found = read_context(REPOSITORY, REPOSITORY / "images" / which / "Dockerfile")
    assert found.files
    assert not [each for each in found.files if "__pycache__" in each.parts]


def test_archive_of_the_same_files_is_the_same_to_the_byte(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!")
    for name in ("a", "b"):
        make_layer(tmp_path / f"{name}.layer", {"program": program})
        config = ImageConfig("x86_64", entrypoint=["/program"])
        write_image(tmp_path / f"{name}.tar", "n:1", tmp_path / f"{name}.layer", config)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        assert json.load(manifest)[0]["RepoTags"] == ["n:1"]


def test_pip_takes_mirrors_from_variables_before_files_and_never_a_local_folder(
    tmp_path: Path,
) -> None:
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nindex-url = https://old.example.org\nproxy = http://p:1\n")
    environment = {
        "PIP_INDEX_URL": "https://new.example.org",
        "PIP_FIND_LINKS": "/wheels",
        "PIP_TARGET": "/x",
    }
    text = render_pip(environment, [file, tmp_path / "none"])
    assert text.splitlines() == [
        "[global]",
        f"cert = {AUTHORITY_INSIDE}",
        "index-url = https://new.example.org",
        "proxy = http://p:1",
    ]


def test_npm_takes_registries_and_leaves_paths_of_this_machine(tmp_path: Path) -> None:
    file = tmp_path / "npmrc"
    file.write_text("; note\nregistry=https://r.example.org\ncafile=/here\n@a:registry=https://a\n")
    text = render_npm({"npm_config_strict_ssl": "true", "NPM_CONFIG_CACHE": "/c"}, [file])
    assert text.splitlines() == [
        f"cafile={AUTHORITY_INSIDE}",
        "@a:registry=https://a",
        "registry=https://r.example.org",
        "strict-ssl=true",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "deb http://m.example.org/debian bookworm main\n"
        "deb [signed-by=/k] http://m.example.org/debian-security bookworm-security main\n",
        "# URIs: http://no.example.org/debian\nTypes: deb\nURIs: http://m.example.org/debian\n\n"
        "URIs: http://m.example.org/debian-security\n",
    ],
    ids=["one-line", "deb822"],
)
def test_mirrors_are_read_from_both_forms_of_apt_sources(text: str) -> None:
    assert parse_mirrors(text) == Mirrors(
        "http://m.example.org/debian", "http://m.example.org/debian-security"
    )


def test_base_image_comes_from_the_usual_places_where_the_machine_names_no_mirror() -> None:
    assert render_command(Path("out"), Mirrors(), [])[-2:] == ["trixie", "out"]
    named = render_command(Path("out"), Mirrors("http://m/debian", ""), [])
    assert named[-1] == "deb http://m/debian trixie-updates main"


@pytest.mark.parametrize(
    ("context_", "registry", "command"),
    [
        ("kind-lab", "", ["kind", "load", "image-archive", "a.tar", "--name", "lab"]),
        ("k3d-lab", "", ["k3d", "image", "import", "a.tar", "--cluster", "lab"]),
        ("minikube", "", ["minikube", "image", "load", "a.tar"]),
        ("docker-desktop", "", []),
        ("prod", "registry.example.org/comet", []),
    ],
    ids=["kind", "k3d", "minikube", "shared-store", "registry"],
)
def test_each_kind_of_cluster_has_its_way_in(
    context_: str, registry: str, command: list[str]
) -> None:
    assert Delivery(context_, registry).load_command(Path("a.tar")) == command


def test_cluster_without_a_way_in_is_refused_with_the_two_ways_out() -> None:
    with pytest.raises(LocalError, match=r"COMET_REGISTRY=.*LOCAL=1"):
        Delivery("prod").load_command(Path("a.tar"))


def test_registry_replaces_all_of_the_name_but_its_last_part() -> None:
    delivery = Delivery("prod", "registry.example.org/comet")
    assert delivery.image_name("ghcr.io/x/hub:1") == "registry.example.org/comet/hub:1"
