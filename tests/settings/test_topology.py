"""Settings of Sentinel and Cluster: every way to give them, and what contradicts each other."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from redstreamd.addresses.address_syntax import MASK
from redstreamd.daemon.reload_table import in_force
from redstreamd.settings import as_toml
from redstreamd.settings.definitions import DEFINITIONS
from redstreamd.settings.masking import masked_url
from redstreamd.settings.redis_topology import nodes_of, topology_hints

SENTINEL = "[redis]\ntopology = 'sentinel'\nnodes = ['s1', 's2:26380', '[::1]:26381']\n"
CLUSTER = "[redis]\ntopology = 'cluster'\nnodes = ['c1:7000', 'c2']\n"


def nodes(loaded):
    redis = loaded.settings.redis
    return (redis.topology, [str(node) for node in nodes_of(redis)])


def test_nodes_have_the_usual_port_of_what_they_are(load_from):
    assert nodes(load_from(SENTINEL)) == ("sentinel", ["s1:26379", "s2:26380", "[::1]:26381"])
    assert nodes(load_from(CLUSTER)) == ("cluster", ["c1:7000", "c2:6379"])
    assert nodes(load_from()) == ("standalone", [])


@pytest.mark.parametrize("text", ["a:1,b:2", "a:1 b:2", " a:1 , b:2 ", "a:1\nb:2,", "redis://a:1 tcp:b:2"])
def test_nodes_in_one_text_are_separated_by_commas_or_spaces(load_from, text):
    topology = {"REDIS_TOPOLOGY": "sentinel"}
    for loaded in (
        load_from(environ=topology | {"REDIS_NODES": text}),
        load_from(environ=topology | {"REDSTREAMD_REDIS_NODES": text}),
        load_from(assignments=["redis.topology=sentinel", f"redis.nodes={text}"]),
        load_from(f"[redis]\ntopology = 'sentinel'\nnodes = '''{text}'''"),
    ):
        assert nodes(loaded) == ("sentinel", ["a:1", "b:2"])


def test_addresses_of_nodes_are_a_table_or_a_text(load_from):
    expected = '{"10.0.0.1:6379" = "localhost:7001", "[fd00::1]:6379" = "[::1]:7002"}'
    for loaded in (
        load_from(f"{CLUSTER}node_addresses = {expected}"),
        load_from(
            f"{CLUSTER}[redis.node_addresses]\n'10.0.0.1:6379' = 'localhost:7001'\n"
            "'[fd00::1]:6379' = '[::1]:7002'\n"
        ),
        load_from(
            CLUSTER,
            {"REDSTREAMD_REDIS_NODE_ADDRESSES": "10.0.0.1:6379=localhost:7001 [fd00::1]:6379=[::1]:7002"},
        ),
        load_from(
            CLUSTER,
            assignments=["redis.node_addresses=10.0.0.1:6379=localhost:7001,[fd00::1]:6379=[::1]:7002"],
        ),
    ):
        shown = as_toml(loaded.shown("redis.node_addresses"))
        assert shown == expected
        assert tomllib.loads(f"x = {shown}")["x"]["10.0.0.1:6379"] == "localhost:7001"


S = "sentinel"
URLS = {
    "redis+sentinel://s1": (S, ["s1:26379"], "mymaster", 0, False, None, None),
    "redis+sentinel://s1:1,s2/": (S, ["s1:1", "s2:26379"], "mymaster", 0, False, None, None),
    "redis+sentinel://s1,[::1]:2/bus": (S, ["s1:26379", "[::1]:2"], "bus", 0, False, None, None),
    "rediss+sentinel://u:p%40@s1,s2/bus/3": (S, ["s1:26379", "s2:26379"], "bus", 3, True, "u", "p@"),
    "VALKEY+SENTINEL://:p@s1/bus": (S, ["s1:26379"], "bus", 0, False, None, "p"),
    "valkeys+sentinel://s1/bus": (S, ["s1:26379"], "bus", 0, True, None, None),
    # Lettuce
    "redis-sentinel://s1:1,s2:2/2#bus": (S, ["s1:1", "s2:2"], "bus", 2, False, None, None),
    "redis-sentinel://:p@s1,s2?sentinelMasterId=bus": (
        *(S, ["s1:26379", "s2:26379"], "bus", 0, False, None, "p"),
    ),
    "rediss-sentinel://s1/2?sentinelMasterId=bus": (S, ["s1:26379"], "bus", 2, True, None, None),
    # go, camellia, fred
    "redis-sentinel://s1:1,s2:2?master=bus&db=4": (S, ["s1:1", "s2:2"], "bus", 4, False, None, None),
    "redis+sentinel://s1/0?sentinelServiceName=bus": (S, ["s1:26379"], "bus", 0, False, None, None),
    # Celery
    "sentinel://s1:1;sentinel://s2:2": (S, ["s1:1", "s2:2"], "mymaster", 0, False, None, None),
    "sentinel://:p@s1:1;sentinel://:p@s2:2/3": (S, ["s1:1", "s2:2"], "mymaster", 3, False, None, "p"),
    "redis+cluster://c1:7000,c2": ("cluster", ["c1:7000", "c2:6379"], "mymaster", 0, False, None, None),
    "rediss-cluster://u:p@c1,c2/0": ("cluster", ["c1:6379", "c2:6379"], "mymaster", 0, True, "u", "p"),
    "redis-cluster://c1?node=c2:7000&node=c3": (
        *("cluster", ["c1:6379", "c2:7000", "c3:6379"], "mymaster", 0, False, None, None),
    ),
}


@pytest.mark.parametrize("url", URLS)
def test_a_url_of_a_topology_is_taken_apart_wherever_an_address_is_asked_for(load_from, url):
    for loaded in (
        load_from(environ={"REDIS_URL": url}),
        load_from(environ={"REDIS_HOST": url}),
        load_from(f"[redis]\nurl = '{url}'"),
        load_from(assignments=[f"redis.path={url}"]),
    ):
        redis = loaded.settings.redis
        place = (redis.sentinel_primary, redis.database, redis.tls, redis.username, redis.password)
        assert (*nodes(loaded), *place) == URLS[url]
        assert redis.path is None
        if redis.password is not None:
            assert redis.password not in str(loaded.shown("redis.url"))
            assert MASK in loaded.shown("redis.url")


def test_the_login_at_the_sentinels_comes_as_options_of_the_url(load_from):
    url = "redis+sentinel://u:p@s1/bus?sentinel_username=watcher&sentinel_password=hunter2"
    loaded = load_from(environ={"REDIS_URL": url})
    redis = loaded.settings.redis
    assert (redis.sentinel_username, redis.sentinel_password) == ("watcher", "hunter2")
    assert loaded.shown("redis.sentinel_password") == MASK
    assert loaded.shown("redis.url") == f"redis+sentinel://{MASK}"
    assert "hunter2" not in repr(loaded)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis+sentinel://s1:1,[::1]:2/bus/0", "redis+sentinel://s1:1,[::1]:2/bus/0"),
        ("redis+sentinel://u:secret@s1,s2/bus", "redis+sentinel://u:***@s1,s2/bus"),
        ("redis-sentinel://u@s1#bus", "redis-sentinel://u@s1#bus"),
        ("sentinel://:secret@s1;sentinel://:secret@s2", "sentinel://:***@s1,s2"),
        ("redis+cluster://:secret", "redis+cluster://***"),
        ("redis+cluster://u:se,cret@s1", "redis+cluster://***"),
        ("redis+cluster://u:se@cret@s1", "redis+cluster://***"),
        ("redis+cluster://u:se/cret@s1", "redis+cluster://***"),
    ],
)
def test_a_url_of_a_topology_is_shown_without_its_password(url, masked):
    assert masked_url(url) == masked


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("redis+sentinel://", "host[:port]"),
        ("redis+sentinel://s1,,s2", "host[:port]"),
        ("redis+sentinel://s1/bus/x", "one number"),
        ("redis+sentinel://s1/bus/0/1", "no other options"),
        ("redis+sentinel://s1/bus#other", "one name of the primary"),
        ("redis+sentinel://s1/bus/1?db=2", "one number"),
        ("redis+sentinel://s1/bus?ssl=true", "no other options"),
        ("redis+sentinel://u:p@s1,v:q@s2", "one login"),
        ("redis+sentinel://s1,u:p@s2", "one login"),
        ("redis+sentinel://s1:port", "a port is a number"),
        ("redis+sentinel://::1:26379", "[ADDRESS]:PORT"),
        ("redis+cluster://c1/name", "one number"),
        ("redis+cluster://c1?master=x", "no other options"),
        ("redis+cluster://c1, c2", "without spaces"),
        ("redis+both://c1", "redis+sentinel://"),
        ("redis://a,b", "redis.nodes (REDIS_NODES)"),
    ],
)
def test_a_url_of_a_topology_that_would_be_misread_is_refused(refusal, url, hint):
    error = refusal(environ={"REDIS_URL": url})
    assert (error.key, error.source) == ("redis.url", "environment variable REDIS_URL")
    assert hint in error.allowed


def test_a_later_url_replaces_the_topology_and_all_logins(load_from):
    toml = (
        f"{SENTINEL}password = 'p'\nsentinel_password = 'q'\nsentinel_primary = 'bus'\nsentinel_tls = true\n"
        "sentinel_ca_file = '/ca.pem'\nnode_addresses = {'a:1' = 'b:2'}\n"
    )
    for url in ("redis://new", "redis+cluster://new", "redis+sentinel://new"):
        redis = load_from(toml, {"REDIS_URL": url}).settings.redis
        assert (redis.password, redis.sentinel_password, redis.sentinel_primary) == (None, None, "mymaster")
        assert (redis.node_addresses, redis.sentinel_tls) == ((), None)
        assert [node.host for node in redis.nodes] == ([] if url == "redis://new" else ["new"])


def test_a_later_topology_ignores_what_belongs_to_the_earlier_one(load_from):
    toml = f"{SENTINEL}sentinel_password = 'q'\nnode_addresses = {{'a:1' = 'b:2'}}\n"
    standalone = load_from(toml, {"REDSTREAMD_REDIS_TOPOLOGY": "standalone", "REDIS_HOST": "h"})
    assert standalone.settings == load_from(environ={"REDIS_HOST": "h"}).settings
    environ = {"REDSTREAMD_REDIS_TOPOLOGY": "cluster", "REDIS_NODES": "c:1"}
    cluster = load_from(toml, environ).settings.redis
    assert (nodes_of(cluster)[0].host, cluster.sentinel_password) == ("c", None)
    assert len(cluster.node_addresses) == 1
    alone = "[redis]\nhost = 'h'\nport = 7000\npath = '/r.sock'\nusername = 'u'\n"
    moved = load_from(alone.replace("host = 'h'\nport = 7000\n", ""), environ).settings.redis
    assert (moved.path, moved.username, nodes_of(moved)[0].port) == (None, "u", 1)


def test_a_cluster_may_begin_with_one_host(load_from):
    environ = {"REDIS_HOST": "c", "REDIS_PORT": "7000", "REDSTREAMD_REDIS_TOPOLOGY": "cluster"}
    loaded = load_from(environ=environ)
    assert nodes(loaded) == ("cluster", ["c:7000"])
    assert str(loaded.sources["redis.nodes"]) == "environment variable REDIS_HOST"
    environ = {"REDIS_URL": "rediss://u:p@c:7000", "REDSTREAMD_REDIS_TOPOLOGY": "cluster"}
    loaded = load_from(environ=environ)
    assert nodes(loaded) == ("cluster", ["c:7000"])
    assert (loaded.settings.redis.tls, loaded.settings.redis.username) == (True, "u")


REFUSED = [
    ("[redis]\nnodes = ['a:1']", "redis.nodes", 'only with redis.topology = "sentinel" or "cluster"'),
    ("[redis]\nnode_addresses = {'a:1' = 'b:1'}", "redis.node_addresses", "redis.topology"),
    ("[redis]\ntopology = 'sentinel'", "redis.topology", "redis.nodes (REDIS_NODES), the sentinels"),
    ("[redis]\ntopology = 'sentinel'\nnodes = []", "redis.topology", "the sentinels"),
    ("[redis]\ntopology = 'cluster'", "redis.topology", "some nodes of the cluster"),
    ("[redis]\ntopology = 'sentinel'\nhost = 'h'", "redis.topology", "whether it is a sentinel"),
    ("[redis]\ntopology = 'both'\nnodes = ['a']", "redis.topology", "standalone, sentinel, cluster"),
    (f"{SENTINEL}host = 'h'", "redis.host", "this or redis.nodes"),
    (f"{CLUSTER}port = 7000", "redis.port", "this or redis.nodes"),
    (f"{CLUSTER}path = '/r.sock'", "redis.path", 'only with redis.topology = "standalone"'),
    (f"{SENTINEL}path = '/r.sock'", "redis.path", "redis.nodes"),
    (f"{CLUSTER}database = 3", "redis.database", 'only 0 with redis.topology = "cluster"'),
    (f"{CLUSTER}sentinel_primary = 'bus'", "redis.sentinel_primary", 'it is "cluster"'),
    (f"{CLUSTER}sentinel_password = 'p'", "redis.sentinel_password", 'redis.topology = "sentinel"'),
    ("[redis]\nsentinel_username = 'u'", "redis.sentinel_username", 'redis.topology = "sentinel"'),
    (f"{SENTINEL}sentinel_ca_file = '/ca'", "redis.sentinel_ca_file", "redis.tls = true"),
    (
        f"{SENTINEL}tls = true\nsentinel_tls = false\nsentinel_server_name = 's'",
        "redis.sentinel_server_name",
        "t",
    ),
    (
        f"{SENTINEL}sentinel_password = 'p'\nsentinel_password_file = '/p'",
        "redis.sentinel_password_file",
        "not",
    ),
    (f"{SENTINEL}[daemon]\nembedded = true", "redis.topology", "only without daemon.embedded"),
    ("[redis]\ntopology = 'cluster'\nnodes = ['a', 'A:6379']", "redis.nodes", "each address once; a:6379"),
    (f"{CLUSTER}node_addresses = ['a:1=b:1', 'a:1=c:1']", "redis.node_addresses", "a:1 is there twice"),
    (f"{CLUSTER}node_addresses = {{'a:1' = 1}}", "redis.node_addresses", "HOST:PORT"),
    (f"{CLUSTER}node_addresses = {{'a' = 'b:1'}}", "redis.node_addresses", "a port is missing"),
    (f"{CLUSTER}node_addresses = ['a:1']", "redis.node_addresses", "ANNOUNCED=ADDRESS"),
    ("[redis]\ntopology = 'cluster'\nnodes = ['u:hunter2@a:1']", "redis.nodes", "without a login"),
    ("[redis]\ntopology = 'cluster'\nnodes = ['rediss://a:1']", "redis.nodes", "redis.tls = true"),
    ("[redis]\ntopology = 'cluster'\nnodes = ['a:0']", "redis.nodes", "HOST:PORT"),
    ("[redis]\ntopology = 'cluster'\nnodes = ['a:1', 'fd00::1:6379']", "redis.nodes", "(item 2 of 2)"),
    ("[redis]\ntopology = 'cluster'\nnodes = [1]", "redis.nodes", "a list of HOST:PORT"),
]


@pytest.mark.parametrize(("toml", "key", "hint"), REFUSED)
def test_what_contradicts_the_topology_is_refused_by_name(refusal, toml, key, hint):
    error = refusal(toml)
    assert error.key == key
    assert hint in error.allowed
    assert "hunter2" not in str(error)


def test_what_is_later_than_the_topology_contradicts_it_too(refusal):
    for environ, key in (
        ({"REDIS_HOST": "h"}, "redis.host"),
        ({"REDSTREAMD_REDIS_PATH": "/r.sock"}, "redis.path"),
        ({"REDIS_DB": "1"}, "redis.database"),
        ({"REDSTREAMD_REDIS_SENTINEL_PASSWORD": "p"}, "redis.sentinel_password"),
    ):
        error = refusal(CLUSTER, environ)
        assert (error.key, error.source.partition(" ")[0]) == (key, "environment")


def test_embedded_on_the_command_line_tries_the_daemon_without_the_cluster(load_from):
    assert load_from(CLUSTER, embedded=True).settings.daemon.embedded


def test_tls_of_the_sentinels_alone_may_use_the_ca_of_the_servers(load_from):
    redis = load_from(f"{SENTINEL}sentinel_tls = true\nca_file = '/ca.pem'").settings.redis
    assert (redis.tls, redis.sentinel_tls, redis.ca_file) == (False, True, Path("/ca.pem"))


def test_the_port_of_a_sentinel_without_the_topology_is_hinted_at(load_from):
    (hint,) = topology_hints(load_from("[redis]\nhost = 's1'\nport = 26379").settings.redis)
    assert 'redis.nodes = ["s1:26379"]' in hint
    (hint,) = topology_hints(load_from(f"{SENTINEL.replace('s1', 's1:6379')}").settings.redis)
    assert "these are the sentinels" in hint
    assert not [*topology_hints(load_from(SENTINEL).settings.redis)]


def test_a_reload_keeps_the_whole_address_where_the_topology_differs(load_from):
    before, after = load_from("[redis]\nhost = 'h'").settings, load_from(CLUSTER).settings
    assert in_force(before, after) == before
    more = load_from(CLUSTER.replace("'c2'", "'c3'")).settings
    assert in_force(after, more) == more


def test_each_setting_of_sentinels_says_so_in_its_name():
    names = [key for key in DEFINITIONS if "sentinel" in key]
    assert names
    assert all(key.startswith("redis.sentinel_") for key in names)


@pytest.mark.parametrize("topology", ["sentinel", "cluster"])
def test_the_examples_in_contrib_are_valid(load_from, topology):
    file = Path(__file__).parents[2] / "contrib" / "topologies" / f"{topology}.toml"
    loaded = load_from(file.read_text("utf-8"))
    assert loaded.settings.redis.topology == topology
    given = {key for key, source in loaded.sources.items() if str(source).startswith("file ")}
    assert {"redis.nodes", "redis.node_addresses", "redis.username", "redis.tls"} <= given
    assert not [*topology_hints(loaded.settings.redis)]


def test_a_hint_is_printed_by_check_config_beside_the_settings(capsys, tmp_path, monkeypatch):
    from redstreamd.cli import main

    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["check-config", "--set", "redis.port=26379"]) == 0
    printed = capsys.readouterr()
    assert "usual port of a sentinel" in printed.err
    assert "redis.port = 26379" in printed.out
