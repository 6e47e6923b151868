"""Where sockets are looked for, and when a directory is not trusted."""

from __future__ import annotations

import functools
import os
import stat

import pytest

from redstreamd.addresses import default_paths

ME = os.geteuid()
NOBODY = 65_533  # owns nothing on any machine


@pytest.fixture
def runtime(tmp_path):
    """A directory such as /run/user/1000."""
    directory = tmp_path / "runtime"
    directory.mkdir(mode=0o700)
    return str(directory)


def test_the_service_listens_in_its_runtime_directory():
    assert default_paths.default_socket({"RUNTIME_DIRECTORY": "/run/redstreamd:/run/other"}, NOBODY) == (
        "/run/redstreamd/mcp.sock"
    )


def test_a_person_listens_in_their_runtime_directory(runtime):
    assert default_paths.default_socket({"XDG_RUNTIME_DIR": runtime}, ME) == f"{runtime}/redstreamd/mcp.sock"


def test_without_a_runtime_directory_root_has_the_service_place_and_others_their_own():
    assert default_paths.default_socket({}, 0) == "/run/redstreamd/mcp.sock"
    assert default_paths.default_socket({}, NOBODY) == f"/tmp/redstreamd-{NOBODY}/mcp.sock"


def test_a_runtime_directory_of_someone_else_is_ignored(runtime):
    inherited = {"XDG_RUNTIME_DIR": runtime}
    assert default_paths.default_socket(inherited, NOBODY) == f"/tmp/redstreamd-{NOBODY}/mcp.sock"
    assert f"{runtime}/redstreamd/mcp.sock" not in default_paths.candidates_for_clients(inherited, NOBODY)


def test_clients_look_at_the_persons_socket_then_the_service(runtime):
    found = default_paths.candidates_for_clients({"XDG_RUNTIME_DIR": runtime}, ME)
    assert found[0] == f"{runtime}/redstreamd/mcp.sock"
    assert found[-1] == "/run/redstreamd/mcp.sock"


def test_clients_without_a_runtime_directory_look_in_the_users_own_place():
    assert default_paths.candidates_for_clients({}, NOBODY) == [
        f"/tmp/redstreamd-{NOBODY}/mcp.sock",
        "/run/redstreamd/mcp.sock",
    ]


def test_every_default_socket_is_a_place_where_clients_look(runtime):
    for environ, uid in (({}, 0), ({}, NOBODY), ({"XDG_RUNTIME_DIR": runtime}, ME)):
        assert default_paths.default_socket(environ, uid) in default_paths.candidates_for_clients(
            environ, uid
        )


def test_a_directory_in_tmp_that_someone_else_prepared_is_left_out(tmp_path):
    directory = tmp_path / f"redstreamd-{NOBODY}"
    place = str(directory / "mcp.sock")
    assert place in default_paths.candidates_for_clients({}, NOBODY, temporary=str(tmp_path))
    directory.symlink_to(tmp_path)
    assert place not in default_paths.candidates_for_clients({}, NOBODY, temporary=str(tmp_path))


def test_a_directory_in_tmp_that_someone_else_made_since_is_not_safe(tmp_path):
    is_safe_socket = functools.partial(default_paths.is_safe_socket, uid=ME, temporary=str(tmp_path))
    place = tmp_path / f"redstreamd-{ME}" / "mcp.sock"
    assert not is_safe_socket(str(place))
    place.parent.mkdir(mode=0o700)
    assert is_safe_socket(str(place))
    place.parent.chmod(0o777)
    assert not is_safe_socket(str(place))
    assert is_safe_socket(default_paths.SERVICE_SOCKET)


def test_a_socket_directory_is_private_when_made(tmp_path):
    place = tmp_path / "redstreamd" / "mcp.sock"
    default_paths.make_socket_directory(str(place))
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    default_paths.make_socket_directory(str(place))


def test_a_socket_directory_that_others_may_write_to_is_refused(tmp_path):
    place = tmp_path / "redstreamd" / "mcp.sock"
    place.parent.mkdir()
    place.parent.chmod(0o777)
    with pytest.raises(PermissionError, match="others may write"):
        default_paths.make_socket_directory(str(place))


def test_a_symbolic_link_in_place_of_a_socket_directory_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "redstreamd").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        default_paths.make_socket_directory(str(tmp_path / "redstreamd" / "mcp.sock"))
