"""Renders trio tasks as text: who runs under whom, and where each one stands.

For journal records about a stuck or dying daemon. Reads only what trio publishes about
its tasks (``trio.lowlevel.Task``), takes no lock and awaits nothing, so it also works
inside a signal handler.
"""

from __future__ import annotations

import traceback

import trio

# A daemon with all its 4,096 connections has some 10,000 tasks. What is wrong shows in far
# fewer, and the text has to pass through journald while the process is being killed.
MAX_TASKS = 400

# Tasks at the same place differ only in their locals, which are not printed; deep stacks are cut
# at the outer end, because what a task waits for is at the inner one.
MAX_FRAMES = 12


def format_task_tree(root: trio.lowlevel.Task, *, max_tasks: int = MAX_TASKS) -> str:
    """Return one line per task below and including `root`, each followed by its await chain.

    Args:
        root: Where to begin, such as ``trio.lowlevel.current_root_task()``.
        max_tasks: How many tasks to print at most; the rest is counted.

    Returns:
        Lines separated by newlines, children indented below their parents.
    """
    lines: list[str] = []
    # Depth first with a stack of our own: recursion could hit the limit in an already deep stack.
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
        # trio keeps children in a set; sorting makes two dumps comparable.
        children.sort(key=lambda child: child.name, reverse=True)
        waiting.extend((depth + 1, child) for child in children)
    if left_out:
        lines.append(f"... and {left_out} more tasks")
    return "\n".join(lines)


def _task_lines(task: trio.lowlevel.Task, indent: str) -> list[str]:
    try:
        frames = traceback.StackSummary.extract(task.iter_await_frames(), lookup_lines=False)
    except Exception as exc:  # noqa: BLE001 -- a dump about a dying process says what it can
        return [f"{indent}{task.name} (stack not readable: {exc!r})"]
    lines = [f"{indent}{task.name}"]
    if len(frames) > MAX_FRAMES:
        lines.append(f"{indent}  | ... {len(frames) - MAX_FRAMES} outer frames")
    lines.extend(
        f"{indent}  | {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames[-MAX_FRAMES:]
    )
    return lines
