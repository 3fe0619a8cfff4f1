"""The life of a local server: one for all its users, gone after the last, whatever they died of."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from batcher.errors import JobError, StoppedError
from batcher.local import lease
from batcher.local.launching import Launch
from batcher.local.server import Note

HERE = Path(__file__).parent
LAUNCH = Launch(command=(sys.executable, str(HERE / "local_stub.py")), linger_s=0.2, start_timeout_s=20)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A file that looks like a model, a cache of its own, and no server left when the test ends."""
    file = tmp_path / "tiếng-ไทย.gguf"
    file.write_bytes(b"GGUF and then some")
    monkeypatch.setenv("BATCHER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCAL_STUB_STARTS", str(tmp_path / "starts"))
    monkeypatch.delenv("LOCAL_STUB", raising=False)
    yield str(file)
    for pid in starts(file):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def starts(model: str | Path) -> list[int]:
    """The pids of all servers that came up in this test."""
    file = Path(model).parent / "starts"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def is_alive(pid: int) -> bool:
    """Whether a process of that pid runs; a zombie that waits for its parent does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        if sys.platform == "linux":
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            return True
        return False
    return state != "Z"


def wait_until(is_so: Callable[[], bool], within_s: float = 10.0) -> bool:
    """Processes end in their own time; this waits for it, within a bound."""
    deadline_s = time.monotonic() + within_s
    while not is_so():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.02)
    return True


@contextlib.contextmanager
def user(model: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds a lease until its standard input is closed or it is killed."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "local_user.py"), model],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[2])},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def server_of(process: "subprocess.Popen[str]") -> tuple[int, bool]:
    """The server's pid and whether it ran already, as the user process tells."""
    assert process.stdout is not None
    pid, was_running = process.stdout.readline().split()
    return int(pid), was_running == "1"


def test_server_lives_as_long_as_its_lease(model: str) -> None:
    """The first user starts it, and when the last has closed its lease no process is left."""
    with lease.start(model, launch=LAUNCH, slots=3) as held:
        assert is_alive(held.pid)
        assert held.base_url.startswith("http://127.0.0.1:")
        assert held.base_url.endswith("/v1")
        assert held.model == "tiếng-ไทย"
        assert held.slots == 3
        assert not held.was_running
    assert not is_alive(held.pid)


def test_closing_twice_lets_go_once(model: str) -> None:
    """The second close must not close a descriptor that belongs to somebody else by then."""
    held = lease.start(model, launch=LAUNCH)
    held.close()
    with (HERE / "local_stub.py").open() as stranger:
        held.close()
        assert stranger.readline().startswith('"""')


def test_second_user_shares_the_running_server(model: str) -> None:
    """One model in memory, and the running server's own number of slots."""
    with lease.start(model, launch=LAUNCH, slots=2) as first, lease.start(model, launch=LAUNCH, slots=16) as second:
        assert second.was_running
        assert second.pid == first.pid
        assert second.base_url == first.base_url
        assert second.slots == 2
    assert len(starts(model)) == 1


def test_server_stays_while_any_user_holds_it(model: str) -> None:
    """The one who started it may leave first."""
    first = lease.start(model, launch=LAUNCH)
    second = lease.start(model, launch=LAUNCH)
    first.close()
    assert not wait_until(lambda: not is_alive(second.pid), within_s=LAUNCH.linger_s * 3)
    second.close()
    assert wait_until(lambda: not is_alive(second.pid))


def test_killed_user_leaves_no_orphan(model: str) -> None:
    """`kill -9` runs no cleanup: the kernel drops the lock, and the server ends by itself."""
    with user(model) as process:
        pid, _ = server_of(process)
        assert is_alive(pid)
        process.send_signal(signal.SIGKILL)
        assert wait_until(lambda: not is_alive(pid))


def test_user_killed_while_the_server_starts_leaves_no_orphan(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server may be half-way through loading when its only user is gone."""
    monkeypatch.setenv("LOCAL_STUB", "hangs")
    with user(model) as process:
        assert wait_until(lambda: len(starts(model)) == 1)
        process.send_signal(signal.SIGKILL)
        assert wait_until(lambda: not is_alive(starts(model)[0]))


def test_two_starters_at_once_start_one_server(model: str) -> None:
    """Two cron jobs at the same second."""
    with user(model) as one, user(model) as two, user(model) as three:
        found = [server_of(process) for process in (one, two, three)]
    assert len({pid for pid, _ in found}) == 1
    assert sorted(was_running for _, was_running in found) == [False, True, True]
    assert len(starts(model)) == 1


def test_threads_of_one_process_share_one_server(model: str) -> None:
    """Locks belong to descriptors, not to the process, so this holds inside one process too."""
    held: list[lease.Lease] = []
    threads = [threading.Thread(target=lambda: held.append(lease.start(model, launch=LAUNCH))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in held:
        one.close()
    assert len(held) == 4
    assert len(starts(model)) == 1


def test_server_killed_from_outside_is_replaced(model: str) -> None:
    """Its note lies about still; the free lock says that nobody lives there."""
    with lease.start(model, launch=LAUNCH) as first:
        os.kill(first.pid, signal.SIGKILL)
        assert wait_until(lambda: not is_alive(first.pid))
        with lease.start(model, launch=LAUNCH) as second:
            assert second.pid != first.pid
            assert not second.was_running


def test_user_after_the_last_gets_a_server_that_stays(model: str) -> None:
    """Coming races with the server's end, again and again; each user gets a live one."""
    quick = Launch(command=LAUNCH.command, linger_s=0.0, start_timeout_s=20)
    for _ in range(3):
        with user(model) as starter:
            server_of(starter)
            lease.start(model, launch=quick).close()
            starter.send_signal(signal.SIGKILL)
        for _ in range(3):
            held = lease.start(model, launch=quick)
            port = int(held.base_url.split(":")[2].removesuffix("/v1"))
            socket.create_connection(("127.0.0.1", port), 5).close()
            held.close()


def test_loading_server_is_waited_for(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp listens before it can answer, and says 503 until then."""
    monkeypatch.setenv("LOCAL_STUB", "loading")
    with lease.start(model, launch=LAUNCH) as held:
        assert is_alive(held.pid)


def test_model_that_does_not_load_is_the_users_to_mend(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2 and the engine's sentence, not a time-out."""
    monkeypatch.setenv("LOCAL_STUB", "refuses")
    with pytest.raises(JobError, match=r"^cannot load tiếng-ไทย\.gguf$") as caught:
        lease.start(model, launch=LAUNCH)
    assert caught.value.hint == "take another"


def test_crash_at_the_start_is_told_with_its_last_words(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel built for another CPU dies of a signal; the log's end says more than any time-out."""
    monkeypatch.setenv("LOCAL_STUB", "crashes")
    with pytest.raises(StoppedError, match=r"ended by itself \(SIGKILL\): a last word") as caught:
        lease.start(model, launch=LAUNCH)
    assert "server.log" in (caught.value.hint or "")


def test_server_that_never_answers_is_ended(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait is bounded, and the process that was waited for does not stay."""
    monkeypatch.setenv("LOCAL_STUB", "hangs")
    with pytest.raises(StoppedError, match=r"did not answer in 1 s"):
        lease.start(model, launch=Launch(command=LAUNCH.command, linger_s=0.2, start_timeout_s=1))
    assert not [pid for pid in starts(model) if is_alive(pid)]


def test_failed_start_leaves_the_place_free(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run tries again instead of waiting for a server that is not there."""
    monkeypatch.setenv("LOCAL_STUB", "crashes")
    with pytest.raises(StoppedError):
        lease.start(model, launch=LAUNCH)
    monkeypatch.setenv("LOCAL_STUB", "ok")
    with lease.start(model, launch=LAUNCH) as held:
        assert not held.was_running


def test_changed_model_file_gets_a_server_of_its_own(model: str) -> None:
    """The same path with other weights must not be answered by the old ones."""
    with lease.start(model, launch=LAUNCH) as old:
        Path(model).write_bytes(b"GGUF, trained some more")
        with lease.start(model, launch=LAUNCH) as new:
            assert new.pid != old.pid


def test_missing_command_is_a_sentence(model: str) -> None:
    """What cannot be executed is named."""
    with pytest.raises(StoppedError, match=r"cannot start the server of .*: No such file"):
        lease.start(model, launch=Launch(command=("/nowhere/python",), start_timeout_s=5))


def test_unusable_cache_is_a_sentence(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that is a file: say so and how to choose another."""
    (tmp_path / "plain").write_text("")
    monkeypatch.setenv("BATCHER_CACHE", str(tmp_path / "plain"))
    with pytest.raises(JobError, match="cannot use the cache folder") as caught:
        lease.start(model, launch=LAUNCH)
    assert "BATCHER_CACHE" in (caught.value.hint or "")


def serve_until_ready(model: str, port: int, while_ready: Callable[[str], None]) -> None:
    """`lease.serve` with a Ctrl-C right after it became ready."""

    def ready(base_url: str) -> None:
        while_ready(base_url)
        raise KeyboardInterrupt

    lease.serve(model, port=port, ready=ready, launch=LAUNCH)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_serve_takes_the_chosen_port_and_ends_with_ctrl_c(model: str) -> None:
    """The port is free again when the command returns."""
    port, urls = free_port(), []
    serve_until_ready(model, port, urls.append)
    assert [f"http://127.0.0.1:{port}/v1"] == urls
    assert not [pid for pid in starts(model) if is_alive(pid)]
    socket.create_server(("127.0.0.1", port)).close()


def test_run_shares_a_served_model_and_keeps_it_to_its_end(model: str) -> None:
    """Ctrl-C in the other window must not cost a run its provider."""
    held: list[lease.Lease] = []
    serve_until_ready(model, 0, lambda _: held.append(lease.start(model, launch=LAUNCH)))
    assert held[0].was_running
    assert is_alive(held[0].pid)
    held[0].close()
    assert wait_until(lambda: not is_alive(held[0].pid))


def test_serve_beside_a_run_gets_a_server_of_its_own(model: str) -> None:
    """The run's server has another port; the one that was asked for is served all the same."""
    port, urls = free_port(), []
    with lease.start(model, launch=LAUNCH) as running:
        serve_until_ready(model, port, urls.append)
        assert is_alive(running.pid)
    assert [f"http://127.0.0.1:{port}/v1"] == urls


def test_serve_on_a_taken_port_is_a_sentence(model: str) -> None:
    """And nothing is left running."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(JobError, match=rf"cannot listen on 127\.0\.0\.1:{port}: ") as caught:
            serve_until_ready(model, port, lambda _: None)
    assert caught.value.hint == "choose another with --port"
    assert not [pid for pid in starts(model) if is_alive(pid)]


def test_note_of_a_server_on_all_addresses_points_to_loopback() -> None:
    """0.0.0.0 is an address to listen on, not one to call."""
    note = Note(pid=1, alias="m", host="0.0.0.0", port=8080, slots=1, started_at=0.0)
    assert note.base_url == "http://127.0.0.1:8080/v1"
    assert replace(note, host="::1").base_url == "http://[::1]:8080/v1"
