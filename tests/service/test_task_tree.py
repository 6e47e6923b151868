"""The text form of a tree of trio tasks."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from redstreamd.service.task_tree import MAX_FRAMES, format_task_tree


async def waits_here() -> None:
    await trio.sleep_forever()


async def has_two_children() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits_here, name="second")
        nursery.start_soon(waits_here, name="first")


async def tree_of(*started: str, max_tasks: int = 100) -> list[str]:
    """Start the parent with its two children and return the lines of the tree below this task."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(has_two_children, name="parent")
        await wait_all_tasks_blocked()
        text = format_task_tree(trio.lowlevel.current_task(), max_tasks=max_tasks)
        nursery.cancel_scope.cancel()
    return text.splitlines()


async def test_children_are_indented_below_their_parents_in_the_order_of_their_names() -> None:
    names = [line for line in await tree_of() if "|" not in line]
    assert names[1:] == ["  parent", "    first", "    second"]


async def test_each_task_says_where_it_stands() -> None:
    lines = await tree_of()
    below = lines[lines.index("    first") + 1 : lines.index("    second")]
    assert below[0].startswith(f"      | {__file__}:")
    assert below[0].endswith("in waits_here")
    assert below[1].endswith("in sleep_forever")


async def test_tasks_beyond_the_limit_are_counted() -> None:
    lines = await tree_of(max_tasks=2)
    assert "  parent" in lines
    assert "    first" not in lines
    assert lines[-1] == "... and 2 more tasks"


async def test_the_outer_end_of_a_deep_stack_is_cut() -> None:
    async def descend(levels: int) -> None:
        if levels:
            await descend(levels - 1)
        else:
            await waits_here()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(descend, 50, name="deep")
        await wait_all_tasks_blocked()
        lines = format_task_tree(trio.lowlevel.current_task()).splitlines()
        nursery.cancel_scope.cancel()
    below = lines[lines.index("  deep") + 1 :]
    assert "outer frames" in below[0]
    assert len(below) == MAX_FRAMES + 1
    assert any(line.endswith("in waits_here") for line in below)
