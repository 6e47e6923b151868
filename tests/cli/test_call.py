"""One tool call from a shell: the request on the wire, and every way it can end."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal

import mcp_types._v2026_07_28 as revision
import pytest
import trio

from tests.cli.conftest import read_all

COMPLETE = {"resultType": "complete", "content": []}


async def received(daemon: trio.SocketStream) -> bytes:
    """Read one line."""
    line = bytearray()
    while not line.endswith(b"\n"):
        chunk = await daemon.receive_some()
        assert chunk, f"no complete line: {bytes(line)!r}"
        line += chunk
    return bytes(line)


@pytest.fixture
def answered(place, accept, redstreamd):
    """Make a call, answer it with `messages`, and return request, status, output and complaints."""

    async def call(messages, *words, options=None, stdin=b""):
        process = await redstreamd("call", "--socket", str(place), *words, **(options or {}))
        await process.stdin.send_all(stdin)
        await process.stdin.aclose()
        daemon = await accept()
        request = await received(daemon)
        for message in messages:
            await daemon.send_all(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        status = await process.wait()
        await daemon.aclose()
        output = b"" if process.stdout is None else await read_all(process.stdout)
        return request, status, output.decode(), (await read_all(process.stderr)).decode()

    return call


def result(**fields):
    return {"id": 1, "result": {**COMPLETE, **fields}}


async def test_the_request_is_complete_in_itself(answered):
    request, status, _, _ = await answered([result(structuredContent={})], "stream_read", '{"stream": "s"}')
    assert status == 0
    parsed = revision.CallToolRequest.model_validate_json(request)
    assert (parsed.params.name, parsed.params.arguments) == ("stream_read", {"stream": "s"})
    assert json.loads(request)["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"


async def test_the_structured_content_is_one_line_of_json(answered):
    content = {"streams": [{"name": "é\u2028"}], "n": 2**60}
    _, status, output, complaints = await answered([result(structuredContent=content)], "stream_list")
    assert (status, complaints) == (0, "")
    assert json.loads(output) == content
    assert output.count("\n") == 1
    assert "é" in output


def read_to_the_end(terminal: int) -> bytes:
    """Read what was written to the other end of a terminal, which is closed by now."""
    shown = b""
    with contextlib.suppress(OSError):  # EIO
        while data := os.read(terminal, 4096):
            shown += data
    return shown


async def test_on_a_terminal_json_is_indented_and_control_characters_stay_escapes(answered):
    terminal, end = pty.openpty()
    content = {"fields": {"text": "\x1b[2J\x9b2J\x7f"}}
    _, status, _, _ = await answered(
        [result(structuredContent=content)], "stream_list", options={"stdout": end}
    )
    os.close(end)
    shown = read_to_the_end(terminal).decode()
    os.close(terminal)
    assert status == 0
    assert json.loads(shown) == content
    assert shown.startswith("{\r\n  ")
    assert not set(shown) & set("\x1b\x9b\x7f")


async def test_text_is_printed_where_there_is_no_structured_content(answered):
    content = [{"type": "text", "text": "plain\nlines"}]
    _, status, output, _ = await answered([result(content=content)], "a_tool")
    assert (status, output) == (0, "plain\nlines\n")


async def test_control_characters_in_text_stay_escapes_too(answered):
    # JSON may hold these two as they are, and some of the tools answer with JSON as text alone.
    content = [{"type": "text", "text": '[{"message":{"a":"\x9b2J\x7f"}}]'}]
    _, status, output, _ = await answered([result(content=content)], "get_stream_messages")
    assert (status, output) == (0, '[{"message":{"a":"\\u009b2J\\u007f"}}]\n')


async def test_notifications_before_the_answer_are_passed_over(answered):
    progress = {"method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}}
    _, status, output, _ = await answered([progress, result(structuredContent={"a": 1})], "stream_wait")
    assert (status, json.loads(output)) == (0, {"a": 1})


async def test_a_failed_call_says_what_why_and_what_next_on_stderr(answered):
    error = {
        "code": "STREAM_NOT_FOUND",
        "message": "There is no stream x\x1b[2J.",
        "cause": "It was never written.",
        "next_step": "Call stream_list.",
    }
    _, status, output, complaints = await answered(
        [result(isError=True, structuredContent=error)], "stream_read"
    )
    assert (status, output) == (1, "")
    assert complaints == (
        "redstreamd: STREAM_NOT_FOUND: There is no stream x\\u001b[2J.\n"
        "  cause: It was never written.\n"
        "  next step: Call stream_list.\n"
    )


async def test_a_failure_with_text_only_is_reported_too(answered):
    failed = result(isError=True, content=[{"type": "text", "text": "no"}])
    _, status, output, complaints = await answered([failed], "a_tool")
    assert (status, output, complaints) == (1, "", "redstreamd: no\n")


async def test_an_unknown_tool_gives_the_daemons_message(answered):
    error = {"id": 1, "error": {"code": -32602, "message": "Unknown tool: nope"}}
    _, status, output, complaints = await answered([error], "nope")
    assert (status, output, complaints) == (1, "", "redstreamd: Unknown tool: nope (-32602)\n")


async def test_an_error_without_an_id_is_about_the_only_request(answered):
    error = {"id": None, "error": {"code": -32600, "message": "Message too large"}}
    _, status, _, complaints = await answered([error], "stream_add")
    assert status == 1
    assert "Message too large" in complaints


async def test_arguments_travel_exactly_as_written(answered):
    written = '{ "a": 1e400,\n  "a" : 12345678901234567890123,\r\n "b": "\\ud800 \\u0000" }\n'
    request, _, _, _ = await answered([result(structuredContent={})], "t", written)
    assert request.count(b"\n") == 1
    assert written.strip().replace("\r", " ").replace("\n", " ").encode() in request


async def test_arguments_can_come_from_stdin(answered):
    request, status, _, _ = await answered(
        [result(structuredContent={})], "t", "-", stdin='{"é": 1}\n'.encode()
    )
    assert status == 0
    assert json.loads(request)["params"]["arguments"] == {"é": 1}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "5",
        "null",
        '{"a": NaN}',
        "{'a': 1}",
        "[" * 100_000,
        '{"a": 1} {}',
        "\udcff",
        "{}\udcff",
    ],
)
async def test_what_is_no_json_object_is_wrong_usage_and_never_sent(place, accept, finished, text):
    done = await finished("call", "--socket", str(place), "stream_add", text)
    assert done.returncode == 64
    message = done.stderr.decode()
    assert message.startswith("redstreamd: the arguments are not a JSON object: ")
    assert message.count("\n") == 1
    # This is the first connection, so there was none before.
    async with await trio.open_unix_socket(str(place)) as first:
        await first.send_all(b"first")
        assert await (await accept()).receive_some() == b"first"


async def test_a_result_that_nobody_reads_is_no_traceback(answered):
    reading, writing = os.pipe()
    os.close(reading)
    _, status, _, complaints = await answered(
        [result(structuredContent={"a": 1})], "t", options={"stdout": writing}
    )
    os.close(writing)
    assert (status, complaints) == (1, "")


async def test_ctrl_c_frees_the_wait_by_closing_the_connection(place, accept, redstreamd):
    process = await redstreamd("call", "--socket", str(place), "stream_wait", "{}")
    daemon = await accept()
    await received(daemon)
    process.send_signal(signal.SIGINT)
    assert await daemon.receive_some() == b""
    assert await process.wait() == 130
    assert await read_all(process.stderr) == b""


async def test_a_daemon_that_leaves_before_the_answer_leaves_the_outcome_unknown(place, accept, redstreamd):
    process = await redstreamd("call", "--socket", str(place), "stream_add", "{}")
    daemon = await accept()
    await received(daemon)
    await daemon.aclose()
    assert await process.wait() == 75
    assert "whether the call took effect is not known" in (await read_all(process.stderr)).decode()


async def test_without_a_daemon_it_is_to_be_tried_later(nowhere, finished):
    done = await finished("call", "--socket", str(nowhere), "stream_list")
    assert done.returncode == 75
    assert f"{nowhere} (no such file)" in done.stderr.decode()
