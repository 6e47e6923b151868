"""The one direction of imports, and the names of modules."""

from __future__ import annotations

import ast
import functools
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "redstreamd"

#: What each part may import of redstreamd besides itself, in layers. What is not listed may import nothing.
LEAVES = {
    "admission",
    "errors",
    "histogram",
    "json_cost",
    "long_texts",
    "strict_json",
    "policy",
    "visible_text",
}
ALLOWED: dict[str, set[str]] = {
    # Leaves.
    "errors": {"visible_text"},
    "json_cost": {"strict_json"},
    "strict_json": {"errors"},
    "long_texts": set(),
    "admission": {"errors", "policy"},
    "protection": {"errors", "policy", "settings"},
    "client": {"addresses", "startup"},
    "startup": {"errors"},
    "stream_io": {"errors"},
    "policy": {"errors"},
    "encryption": {"errors", "policy", "strict_json", "visible_text"},
    "settings": {"addresses", "encryption", "errors", "policy", "startup"},
    "service": {"errors", "startup", "visible_text"},
    # Transports, which are ignorant of each other.
    "redisio": {"addresses", "admission", "errors", "histogram", "protection", "settings", "stream_io"}
    | {"visible_text"},
    "mcpio": LEAVES | {"protection", "stream_io"},
    "streamable_http": LEAVES | {"mcpio", "protection", "stream_io"},
    "service.embedded": {"errors", "redisio"},
    # The domain, and how it looks to a caller.
    "streams": LEAVES | {"encryption", "settings", "redisio", "stream_io"},
    "presentation": LEAVES | {"encryption", "redisio", "streams"},
    # What is served.
    "tools": LEAVES | {"presentation", "redisio", "settings", "streams"},
    "resources": LEAVES | {"presentation", "streams"},
    "prompts": LEAVES | {"presentation"},
    "mcp_server": LEAVES | {"mcpio", "presentation", "prompts", "redisio", "resources", "streams", "tools"},
    "audit": LEAVES | {"service", "startup", "tools"},
    "reference": {"errors", "event_log", "metrics", "prompts", "redisio", "resources", "service", "tools"},
    # What is told about it.
    "metrics": LEAVES | {"histogram", "mcpio", "redisio", "service", "streams", "tools"},
    "event_log": {
        "admission",
        "audit",
        "encryption",
        "errors",
        "mcpio",
        "metrics",
        "redisio",
        "service",
        "service.embedded",
    },
    # Programs.
    "doctor": {
        "addresses",
        "client",
        "encryption",
        "errors",
        "protection",
        "redisio",
        "service.embedded",
        "settings",
        "startup",
        "streams",
    },
    "daemon": LEAVES
    | {
        "addresses",
        "audit",
        "encryption",
        "event_log",
        "mcp_server",
        "mcpio",
        "metrics",
        "presentation",
        "prompts",
    }
    | {"redisio", "resources", "streamable_http"}
    | {"protection", "service", "service.embedded", "settings", "startup", "stream_io", "streams", "tools"},
    "cli": {
        "addresses",
        "audit",
        "client",
        "daemon",
        "doctor",
        "encryption",
        "errors",
        "policy",
        "protection",
        "service",
    }
    | {"settings", "startup", "visible_text"},
    "__main__": {"cli"},
}

#: What imports the SDK of MCP, or what it brings. All others must not, because clients are served before it
#: is imported; so neither may what `daemon.serving` imports, which is everything but these and
#: `daemon.sdk_kernels`.
SDK = {
    "daemon/sdk_kernels.py",
    "daemon/sdk_models.py",
    *(
        f"mcp_server/{name}.py"
        for name in ("completion", "handlers", "listing_changes", "mcp_errors", "refusals")
    ),
    *(
        f"mcp_server/{name}.py"
        for name in ("prompt_server", "resource_server", "subscribable", "subscription_server", "tool_server")
    ),
    "mcp_server/update_lines.py",
    "mcpio/protocol_eras.py",
    "mcpio/request_context.py",
}

#: Packages inside of a package that may import more than the rest of it.
INNER = {("service", "embedded")}


MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(names: tuple[str, ...]) -> str:
    """The part of a module, given its dotted name below redstreamd."""
    return ".".join(names[:2] if names[:2] in INNER else names[:1])


@functools.cache
def imported(path: Path) -> list[str]:
    """The dotted names of what a module imports: modules, or what it takes from them."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += (f"{node.module}.{alias.name}" for alias in node.names)
    return names


def imported_parts(path: Path) -> set[str]:
    names = (tuple(name.split(".")[1:]) for name in imported(path) if name.startswith("redstreamd."))
    return {part_of(each) for each in names} - {"__version__"}


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(PACKAGE)) for path in MODULES])
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    part = part_of(path.relative_to(PACKAGE).with_suffix("").parts)
    assert imported_parts(path) - {part} <= ALLOWED.get(part, set())
    packages = {name.split(".")[0] for name in imported(path)}
    assert "asyncio" not in packages
    is_sdk = str(path.relative_to(PACKAGE)) in SDK
    assert is_sdk == bool(packages & {"mcp", "mcp_types", "pydantic", "anyio"})


def test_the_parts_form_layers() -> None:
    graphlib.TopologicalSorter(ALLOWED).prepare()  # raises on a circle


def test_only_what_everything_rests_on_lies_outside_of_a_package() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {
        "__init__.py",
        "__main__.py",
        "histogram.py",
        "json_cost.py",
        "long_texts.py",
        "stream_io.py",
        "strict_json.py",
        "visible_text.py",
    }


def test_two_modules_of_one_name_are_two_sides_of_one_thing() -> None:
    """A tool has the name of what it serves; parallel packages have parallel modules."""
    places: dict[str, set[str]] = {}
    for path in MODULES:
        if path.stem not in {"__init__", "__main__"}:
            places.setdefault(path.stem, set()).add(path.relative_to(PACKAGE).parts[0])
    several = {name: parts for name, parts in places.items() if len(parts) > 1}
    parallel = {"catalog": {"tools", "resources", "prompts"}, "definition": {"tools", "resources", "prompts"}}
    unexplained = {name: parts for name, parts in several.items() if parts != {"tools", "streams"}}
    assert {name: parts for name, parts in unexplained.items() if parallel.get(name) != parts} == {}


def test_all_but_the_sdk_modules_do_without_the_sdk() -> None:
    """One after the other in one process: the first that needs it is named."""
    modules = [
        "redstreamd",
        "redstreamd.streams.bus",
        "redstreamd.tools.catalog",
        "redstreamd.resources.catalog",
        "redstreamd.prompts.catalog",
        "redstreamd.reference.mcp_docs",
        "redstreamd.daemon.serving",
    ]
    sdk = {"mcp", "mcp_types", "pydantic", "anyio"}
    code = (
        "import importlib, sys\n"
        f"for name in {modules}:\n"
        f"    importlib.import_module(name)\n"
        f"    print(name, sorted({sdk} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{name} []" for name in modules]
