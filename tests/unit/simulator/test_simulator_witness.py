"""The other witness: on disk before the next request, whatever happens to the client or to the disk."""

import asyncio
import signal
import subprocess
import sys
import urllib.request
from decimal import Decimal

import msgspec
import openai
import pytest

from batcher.errors import JobError, StorageError
from batcher.simulator.config import SimulatorConfig
from batcher.simulator.server import Simulator
from batcher.simulator.wire import key_tail
from batcher.simulator.witness import Served, Witness, read_witness

SERVE = """
import sys
from pathlib import Path
from batcher.simulator.config import SimulatorConfig
from batcher.simulator.serve import serve
serve(SimulatorConfig(), "127.0.0.1", int(sys.argv[2]), Path(sys.argv[1]), lambda url: print(url, flush=True))
"""
BODY = b'{"model": "m", "messages": [{"role": "user", "content": "hello"}]}'


def served(number=1, **fields):
    return Served(number, 1.0, 2.0, "tail", **fields)


class FullDisk:
    """A disk whose logs take nothing."""

    def open_log(self, path, *, size_bytes=0):
        return self

    def append(self, chunk):
        raise StorageError("the disk is full")

    def close(self):
        pass


@pytest.mark.parametrize(
    ("key", "tail"), [("sk-proj-abcdef123456", "3456"), ("sk-1234", "234"), ("k1", "1"), ("x", ""), ("", "")]
)
def test_no_more_than_half_of_a_key_is_kept(key, tail):
    assert tail == key_tail(key)


def test_each_record_is_a_line_at_once_and_comes_back_as_it_was(tmp_path):
    path, witness = tmp_path / "witness.jsonl", Witness(tmp_path / "witness.jsonl")
    records = [served(1, cost_usd=Decimal("0.0000001"), model="โมเดล"), served(2, status=200, is_good=True, digest="d")]
    for number, record in enumerate(records, start=1):
        witness.begin()
        witness.end(record)
        assert records[:number] == read_witness(path)
    assert {"d": 1} == witness.good_digests()
    witness.close()
    witness.close()


def test_a_second_simulator_adds_to_the_file_and_a_torn_line_is_left_out(tmp_path):
    path = tmp_path / "witness.jsonl"
    for number in (1, 2):
        witness = Witness(path)
        witness.end(served(number))
        witness.close()
    with path.open("ab") as file:
        file.write(b'{"number": 3, "arr')
    assert [1, 2] == [record.number for record in read_witness(path)]


def test_totals_count_what_memory_no_longer_holds():
    witness = Witness(records_max=2)
    for number in range(5):
        witness.begin()
        witness.end(served(number, status=200, is_good=True, is_billed=True, is_written=True, prompt_tokens=3))
    assert (5, 5, 15, 2) == (
        witness.totals.requests,
        witness.totals.good,
        witness.totals.prompt_tokens,
        len(witness.records),
    )
    assert 5 == msgspec.json.decode(witness.summary())["statuses"]["200"]


async def test_a_witness_that_cannot_write_ends_the_simulator(tmp_path):
    """A count with holes would let a test pass that should not."""
    simulator = Simulator(SimulatorConfig())
    simulator.witness = Witness(tmp_path / "w.jsonl", disk=FullDisk())
    await simulator.start()
    async with openai.AsyncOpenAI(base_url=simulator.base_url, api_key="any", max_retries=0) as client:
        await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    await asyncio.wait_for(simulator.stopped(), timeout=5)
    with pytest.raises(StorageError, match="the disk is full"):
        await simulator.stop()


async def test_a_taken_port_is_a_sentence():
    async with Simulator() as first:
        port = int(first.base_url.split(":")[2].split("/")[0])
        with pytest.raises(JobError, match=rf"cannot listen on 127\.0\.0\.1:{port}: .*give another port"):
            await Simulator(port=port).start()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_process_of_its_own_serves_until_a_signal_and_leaves_a_whole_file(tmp_path, stop):
    path = tmp_path / "witness.jsonl"
    with subprocess.Popen([sys.executable, "-c", SERVE, str(path), "0"], stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().strip()
            for _ in range(3):
                headers = {"content-type": "application/json", "authorization": "Bearer sk-secret-key-tail"}
                with urllib.request.urlopen(urllib.request.Request(f"{url}/chat/completions", BODY, headers)) as answer:
                    assert 200 == answer.status
            # The last line follows its response by microseconds; the totals are answered after it.
            with urllib.request.urlopen(url.replace("/v1", "/simulator/witness")) as answer:
                assert 3 == msgspec.json.decode(answer.read())["good"]
            assert 3 == len(read_witness(path))
            process.send_signal(stop)
            assert 0 == process.wait(timeout=10)
        finally:
            process.kill()
    assert [(1, "tail"), (2, "tail"), (3, "tail")] == [(record.number, record.key) for record in read_witness(path)]
    assert b"sk-secret" not in path.read_bytes()
