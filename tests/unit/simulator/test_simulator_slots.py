"""A server that queues: so many at once, the rest in line, none refused."""

import asyncio
import time

import openai
import pytest

from batcher.simulator.config import SimulatorConfig
from batcher.simulator.server import Simulator
from batcher.simulator.slots import Slots
from batcher.testing.clock import settle


async def test_the_first_in_line_is_the_first_served():
    slots, served = Slots(2), []

    async def come(name):
        await slots.take()
        served.append(name)

    tasks = [asyncio.create_task(come(name)) for name in ("ก", "ข", "三", "bốn")]
    await settle()
    assert ["ก", "ข"] == served
    assert 2 == slots.waiting

    slots.leave()
    await settle()
    assert ["ก", "ข", "三"] == served
    slots.leave()
    await asyncio.gather(*tasks)
    assert ["ก", "ข", "三", "bốn"] == served


async def test_whoever_leaves_the_line_takes_no_place_with_it():
    """A client that gave up while it waited: its place goes to the next."""
    slots = Slots(1)
    await slots.take()
    gone, stays = asyncio.create_task(slots.take()), asyncio.create_task(slots.take())
    await settle()
    gone.cancel()
    await settle()
    assert 1 == slots.waiting
    slots.leave()
    await asyncio.wait_for(stays, 1)


async def test_a_place_that_was_given_to_one_who_gives_up_is_given_on():
    """Handed over and cancelled in the same turn of the loop."""
    slots = Slots(1)
    await slots.take()
    gone, stays = asyncio.create_task(slots.take()), asyncio.create_task(slots.take())
    await settle()
    slots.leave()
    gone.cancel()
    await settle()
    assert stays.done()
    assert 0 == slots.waiting


async def test_places_may_be_added_and_taken_away_while_it_works():
    slots = Slots(1)
    tasks = [asyncio.create_task(slots.take()) for _ in range(4)]
    await settle()
    slots.resize(3)
    await settle()
    assert 3 == sum(task.done() for task in tasks)

    slots.resize(1)
    slots.leave()
    slots.leave()
    await settle()
    assert 3 == sum(task.done() for task in tasks)
    slots.leave()
    await settle()
    assert 4 == sum(task.done() for task in tasks)


@pytest.mark.parametrize("before", [1, None])
async def test_no_number_is_as_many_as_come(before):
    slots = Slots(before)
    tasks = [asyncio.create_task(slots.take()) for _ in range(50)]
    slots.resize(None)
    await asyncio.gather(*tasks)


async def test_the_server_serves_so_many_at_once_and_refuses_none():
    """Six calls of 0.1 s through two slots take three rounds; two keys share them."""
    config = SimulatorConfig.from_mapping({"latency": "100ms", "limits": {"slots": 2}})
    async with Simulator(config) as simulator:
        started_s = time.monotonic()
        clients = [openai.AsyncOpenAI(base_url=simulator.base_url, api_key=key, max_retries=0) for key in ("a", "b")]
        calls = [
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "三 ก ệ"}])
            for client in clients
            for _ in range(3)
        ]
        answers = await asyncio.gather(*calls)
        took_s = time.monotonic() - started_s
        for client in clients:
            await client.close()
    assert {"三 ก ệ"} == {answer.choices[0].message.content for answer in answers}
    assert took_s >= 0.3
