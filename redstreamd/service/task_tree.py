"""Formats the tree of trio tasks with their stacks, for records about a hung daemon.

Reads the public attributes of ``trio.lowlevel.Task``, takes no lock and awaits nothing, so it also works in a
signal handler.
"""

from __future__ import annotations

import traceback

import trio

# A daemon with 4,096 connections has some 10,000 tasks. Far fewer show what is wrong, and journald has to
# receive the text while the process is being killed.
MAX_TASKS = 400

# Deep stacks lose their outer frames, because the inner ones show what a task waits for.
MAX_FRAMES = 12


def format_task_tree(root: trio.lowlevel.Task, *, max_tasks: int = MAX_TASKS) -> str:
    """Return one line per task below and including `root`, each followed by its await chain.

    Args:
        root: Where to begin, such as ``trio.lowlevel.current_root_task()``.
        max_tasks: The most tasks to print; the others are counted.

    Returns:
        Lines separated by newlines, children indented below their parents.
    """
    lines: list[str] = []
    # Depth first without recursion: the stack may be deep already.
    waiting: list[tuple[int, trio.lowlevel.Task]] = [(0, root)]
    printed = left_out = 0
    while waiting:
        depth, task = waiting.pop()
        if printed < max_tasks:
            printed += 1
            lines.extend(_task_lines(task, "  " * depth))
        else:
            left_out += 1
        children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        # Sorted, because trio keeps children in a set.
        children.sort(key=lambda child: child.name, reverse=True)
        waiting.extend((depth + 1, child) for child in children)
    if left_out:
        lines.append(f"... and {left_out} more tasks")
    return "\n".join(lines)


def _task_lines(task: trio.lowlevel.Task, indent: str) -> list[str]:
    try:
        frames = traceback.StackSummary.extract(task.iter_await_frames(), lookup_lines=False)
    except Exception as exc:  # noqa: BLE001 -- a dump prints what it can
        return [f"{indent}{task.name} (stack not readable: {exc!r})"]
    lines = [f"{indent}{task.name}"]
    if len(frames) > MAX_FRAMES:
        lines.append(f"{indent}  | ... {len(frames) - MAX_FRAMES} outer frames")
    lines.extend(
        f"{indent}  | {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames[-MAX_FRAMES:]
    )
    return lines
