"""The bytes of an update, which all subscribers share, are those that the SDK writes."""

from __future__ import annotations

from typing import Any

import mcp_types
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY

from redstreamd.mcp_server.update_lines import CURSORS_KEY, LIST, listen_line, update_line
from redstreamd.mcpio import jsonrpc


def of_sdk(name: str, meta: dict[str, Any] | None) -> bytes:
    note: mcp_types.ServerNotification
    if name == LIST:
        params = None if meta is None else mcp_types.NotificationParams(_meta=meta)
        note = mcp_types.ResourceListChangedNotification(params=params)
    else:
        note = mcp_types.ResourceUpdatedNotification(
            params=mcp_types.ResourceUpdatedNotificationParams(uri=name, _meta=meta)
        )
    data = note.model_dump(by_alias=True, mode="json", exclude_none=True)
    return jsonrpc.notification(data["method"], data.get("params"))


#: Also such as look like a part of the message.
TEXTS = st.text() | st.just(f'"{SUBSCRIPTION_ID_META_KEY}":0')


@pytest.mark.parametrize("of_listen", [False, True])
@given(name=TEXTS | st.just(LIST), version=TEXTS | st.none(), request_id=TEXTS | st.integers())
def test_an_update_is_written_as_the_sdk_writes_it(
    of_listen: bool, name: str, version: str | None, request_id: int | str
) -> None:
    before, after = listen_line(name, version) if of_listen else (update_line(name, version), b"")
    meta: dict[str, Any] = {SUBSCRIPTION_ID_META_KEY: request_id} if of_listen else {}
    if version is not None:
        meta[CURSORS_KEY] = {name: version}
    own_id = jsonrpc.encode_value(request_id) if of_listen else b""
    assert before + own_id + after == of_sdk(name, meta or None)
