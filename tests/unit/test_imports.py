"""Imports point one way, so that each part can be read, tested and shipped alone."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2] / "jupyterhub_comet"
PACKAGE = "jupyterhub_comet"

# Modules (by prefix) and the only modules of ours that they may import.
ALLOWED = {
    "errors": set(),
    # Carried to the node as one text: nothing but its own parts.
    "starter": {"starter"},
    "settings": {"errors"},
    "state": {"errors"},
    "registry": {"errors", "settings"},
    "refusal": {"errors"},
    "progress": {"slurm.state"},
    "form": {"settings"},
    "ssh": {"errors", "ssh"},
    "transport": {"errors", "settings", "ssh", "transport"},
    "tunnelbot": {"errors", "ssh.principal", "ssh.keys", "tunnelbot"},
    "slurm.state": set(),
    "slurm.script": {"errors"},
    "slurm.parse": {"errors", "slurm.state"},
    "slurm.options": {"errors", "settings", "slurm"},
    # The protocol only: which transport it is, is decided in context.py.
    "slurm": {"errors", "settings", "slurm", "transport"},
}
STARTER = tuple(f"starter.{path.stem}" for path in ROOT.glob("starter/[a-z]*.py"))
STDLIB_ONLY = ("errors", *STARTER, "slurm.state", "slurm.parse", "slurm.script")


def imported(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports."""
    package = [PACKAGE, *path.relative_to(ROOT).with_suffix("").parts[:-1]]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            own = module == PACKAGE or (node.level and not node.module)
            names |= {f"{module}.{alias.name}" for alias in node.names} if own else {module}
    return names


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def rule_for(name: str) -> set[str] | None:
    matches = [prefix for prefix in ALLOWED if name == prefix or name.startswith(prefix + ".")]
    return ALLOWED[max(matches, key=len)] if matches else None


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_one_way(path: Path) -> None:
    allowed = rule_for(module_name(path))
    if allowed is None:
        return
    ours = {
        name.removeprefix(f"{PACKAGE}.")
        for name in imported(path)
        if name.startswith(PACKAGE + ".")
    }
    foreign = {
        name
        for name in ours
        if not any(name == prefix or name.startswith(prefix + ".") for prefix in allowed)
        and name != "__version__"
    }
    assert not foreign, f"{module_name(path)} may import {sorted(allowed)}, not {sorted(foreign)}"


@pytest.mark.parametrize("name", STDLIB_ONLY)
def test_standard_library_only(name: str) -> None:
    path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
    foreign = {
        module
        for module in imported(path)
        if not module.startswith(PACKAGE) and module.split(".")[0] not in sys.stdlib_module_names
    }
    assert not foreign


def test_slurm_never_chooses_a_transport() -> None:
    for path in (ROOT / "slurm").glob("*.py"):
        assert not any("transport.ssh" in name for name in imported(path)), path
