"""One run of a child: what is kept, and what goes on, when everything around it is cancelled."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from redstreamd.service.child import Child, ChildRun, Service
from redstreamd.service.exceptions import leaves


async def torn_down(body: Service) -> tuple[ChildRun, BaseException]:
    """Run a run, cancel the nursery around it, and return the run and what came out of it."""
    run = ChildRun(Child("a", body))
    came_out: list[BaseException] = []

    async def live() -> None:
        try:
            await run.run()
        except BaseException as exc:
            came_out.append(exc)
            raise

    async with trio.open_nursery() as nursery:
        nursery.start_soon(live)
        await run.started_or_ended.wait()
        nursery.cancel_scope.cancel()
    assert run.ended.is_set()
    [exc] = came_out
    return run, exc


async def test_cancelled_goes_on_its_way() -> None:
    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await trio.sleep_forever()

    run, exc = await torn_down(run)
    assert isinstance(exc, trio.Cancelled)
    assert run.error is None


async def test_a_group_is_split_into_what_goes_on_and_what_is_kept() -> None:
    error = ValueError("beside the cancellation")

    async def breaks_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(breaks_when_cancelled)
            nursery.start_soon(trio.sleep_forever)
            await wait_all_tasks_blocked()
            task_status.started()

    run, exc = await torn_down(run)
    assert {type(leaf) for leaf in leaves(exc)} == {trio.Cancelled}
    assert run.error is not None
    assert list(leaves(run.error)) == [error]


async def test_an_error_that_replaced_the_cancellation_is_kept_and_nothing_goes_on() -> None:
    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError

    run = ChildRun(Child("a", run))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run.run)
        await run.started_or_ended.wait()
        nursery.cancel_scope.cancel()
    assert isinstance(run.error, ValueError)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_what_is_no_ordinary_exception_is_kept_apart(kind: type[BaseException]) -> None:
    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        raise kind

    run = ChildRun(Child("a", run))
    await run.run()
    assert run.error is None
    assert isinstance(run.fatal, kind)
