"""Packages whose ``__init__`` runs when a name of it is first used, not when a submodule is imported.

``import redis.exceptions`` runs ``redis/__init__``, which imports every client that redis-py has; the SDK's
imports its client and its HTTP servers. The daemon uses neither. A lazy package is the real module with its
real path, so submodules are found in it. Whoever asks it for a name gets what an ordinary import gives,
later. Nothing is replaced or left out.

Standard library only.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any


def make_lazy(names: Iterable[str]) -> None:
    """Make these packages lazy, where they are not imported yet.

    Args:
        names: Full names. A package that is not listed is imported as usual, also inside a lazy one.
    """
    sys.meta_path.insert(0, _Finder(frozenset(names)))


class _Finder:
    """Finds the packages where Python finds them, for another loader."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in self._names else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _LazyLoader(spec.loader.name, spec.loader.path)
        return spec


class _LazyLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        """Leave running ``__init__`` to the first access to a name that is missing (PEP 562)."""
        # Held while it runs; reentrant, because it may use the package.
        lock = threading.RLock()
        is_running = False

        def run_init(name: str) -> Any:
            nonlocal is_running
            with lock:
                if is_running:
                    raise AttributeError(
                        f"partially initialized module {module.__name__!r} has no attribute {name!r}",
                        name=name,
                    )
                # Another thread may have run it meanwhile.
                if module.__dict__.get("__getattr__") is run_init:
                    is_running = True
                    try:
                        super(_LazyLoader, self).exec_module(module)
                    finally:
                        is_running = False
                    if module.__dict__.get("__getattr__") is run_init:
                        del module.__dict__["__getattr__"]
            return getattr(module, name)

        module.__dict__["__getattr__"] = run_init
