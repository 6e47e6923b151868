from __future__ import annotations

import sys
from pathlib import Path

import pytest

from redstreamd.redisio.script import Script
from tests.support.servers import Server


def test_a_script_knows_the_digest_the_server_gives_it(server: Server) -> None:
    script = Script("return 'größe'")
    assert server.command("SCRIPT", "LOAD", script.source).decode() == script.sha


def test_a_script_is_read_from_beside_the_modules_of_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package_with_a_script"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "one.lua").write_text("return 1 -- größe\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert Script.from_resource("package_with_a_script", "one.lua") == Script("return 1 -- größe\n")
        with pytest.raises(FileNotFoundError):
            Script.from_resource("package_with_a_script", "two.lua")
    finally:
        sys.modules.pop("package_with_a_script", None)
