"""Cancelled in the very moment the answer comes."""

import asyncio

import pytest

from shared.cancellation import heeding_cancellation


async def answered_and_cancelled(raising: BaseException | None) -> asyncio.Task[str]:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def ask() -> str:
        with heeding_cancellation():
            return await asyncio.wait_for(answer, 5)

    task = asyncio.create_task(ask())
    await asyncio.sleep(0)
    if raising is None:
        answer.set_result("here")
    else:
        answer.set_exception(raising)
    task.cancel()
    await asyncio.wait([task], timeout=5)
    return task


@pytest.mark.parametrize("raising", [None, ValueError("refused")])
async def test_a_cancellation_beside_the_answer_is_heeded(raising: BaseException | None) -> None:
    task = await answered_and_cancelled(raising)
    assert task.cancelled()


async def test_clean_up_after_a_cancellation_may_still_ask() -> None:
    cleaned = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            with heeding_cancellation():
                await asyncio.sleep(0)
            cleaned.set()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert cleaned.is_set()


async def test_a_deadline_around_it_stays_a_deadline() -> None:
    async def wait() -> None:
        async with asyncio.timeout(0.01):
            with heeding_cancellation():
                await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await wait()
