"""The one direction of imports: leaves, then redisio and mcpio, then streams, then tools, then the root."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "redstreamd"

#: What each part may import of redstreamd, besides itself. Whatever is not listed may import nothing.
LEAVES = {"errors", "ijson", "nearest", "policy", "remedies"}
ALLOWED: dict[str, set[str]] = {
    "settings": {"errors", "nearest", "notation", "paths", "placeholders"},
    "ijson": {"errors"},
    "service": {"errors", "versions"},
    "redisio": {"errors", "remedies"},
    "mcpio": LEAVES,
    "streams": LEAVES | {"settings", "redisio"},
    "tools": LEAVES | {"settings", "redisio", "streams"},
    "refusals": {"errors"},
    "resources": LEAVES | {"refusals", "streams"},
    "prompts": LEAVES | {"refusals", "streams"},
    "surface": LEAVES | {"prompts", "resources", "streams", "tools"},
    "reference": {"errors", "prompts", "resources", "tools"},
    "records": {"mcpio", "redisio", "remedies", "service"},
    "journal": {"mcpio", "records", "redisio"},
    "banner": {"paths", "settings"},
    "doors": {"errors", "mcpio", "notation", "paths", "policy", "service", "settings"},
    "readiness": {"redisio", "service"},
    "status": {"mcpio", "redisio", "streams"},
    "targets": {"errors", "notation", "redisio", "settings"},
    "doctor": {
        "errors",
        "notation",
        "paths",
        "placeholders",
        "redisio",
        "remedies",
        "settings",
        "streams",
        "targets",
        "versions",
    },
    "daemon": LEAVES
    | {
        "banner",
        "doors",
        "journal",
        "mcpio",
        "paths",
        "prompts",
        "readiness",
        "records",
        "redisio",
        "resources",
        "service",
        "settings",
        "state_directory",
        "status",
        "streams",
        "surface",
        "targets",
        "tools",
    },
    "state_directory": {"errors"},
    "cli": {
        "daemon",
        "doctor",
        "errors",
        "failed_starts",
        "notation",
        "paths",
        "placeholders",
        "service",
        "settings",
        "state_directory",
        "unavailable",
        "versions",
    },
    "__main__": {"cli"},
}


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    parts: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "redstreamd":
            names = [f"redstreamd.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
        else:
            continue
        parts.update(name.split(".")[1] for name in names if name.startswith("redstreamd."))
    return parts - {"__version__"}


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(PACKAGE)) for path in MODULES])
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    part = part_of(path)
    assert imported_parts(path) - {part} <= ALLOWED.get(part, set())


def test_asyncio_is_imported_nowhere() -> None:
    for path in MODULES:
        assert "asyncio" not in {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }, path


@pytest.mark.parametrize(
    "module",
    [
        "redstreamd",
        "redstreamd.tools.catalog",
        "redstreamd.resources.catalog",
        "redstreamd.prompts.catalog",
        "redstreamd.reference.mcp_docs",
        "redstreamd.streams.bus",
    ],
)
def test_the_domain_does_without_the_mcp_package(module: str) -> None:
    code = f"import sys, {module}; sys.exit('mcp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
