"""Which first rows doom a job, and which do not."""

import pytest

from batcher.core.records import Outcome
from batcher.engine.doom import ROWS_ALIKE_MAX, DoomWatch
from batcher.errors import FailureKind, RefusedError


def failed(row: int, kind: FailureKind, **fields: int) -> Outcome:
    return Outcome(row, "failed", error_kind=kind, error=f"คำ lỗi 错 {row}", **{"attempts": 1, **fields})


@pytest.mark.parametrize(
    ("kind", "fix"),
    [("bad_request", "mend the job (model, params, base_url)"), ("too_long", "a model with a longer context")],
)
def test_twenty_rows_refused_alike_doom_the_job(kind: FailureKind, fix: str) -> None:
    """None of them is journalled: the mistake is the job's, and the next run asks them again."""
    watch = DoomWatch(is_first=True)
    assert all(() == watch.release(failed(row, kind)) for row in range(ROWS_ALIKE_MAX - 1))

    with pytest.raises(RefusedError, match="refused each of the first 20 rows: คำ lỗi 错 19") as caught:
        watch.release(failed(19, kind))
    assert fix in (caught.value.hint or "")


def test_too_long_and_bad_request_do_not_add_up() -> None:
    """Some rows too long and some refused are rows, and no job."""
    watch = DoomWatch(is_first=True)
    for row in range(19):
        watch.release(failed(row, "bad_request"))

    assert list(range(20)) == [one.row for one in watch.release(failed(19, "too_long"))]
    assert all(1 == len(watch.release(failed(row, "too_long"))) for row in range(20, 60))


@pytest.mark.parametrize(
    "other",
    [
        Outcome(19, "ok", "a", attempts=1),
        failed(19, "server"),
        failed(19, "too_long", input_tokens=5),
        failed(19, "too_long", attempts=0),
    ],
    ids=["ok", "server", "paid", "never sent"],
)
def test_one_row_of_another_kind_lets_all_go(other: Outcome) -> None:
    watch = DoomWatch(is_first=True)
    for row in range(19):
        watch.release(failed(row, "too_long"))

    assert 20 == len(watch.release(other))
    assert 1 == len(watch.release(failed(20, "too_long")))


def test_a_run_that_served_rows_is_not_doomed() -> None:
    watch = DoomWatch(is_first=False)
    assert all(1 == len(watch.release(failed(row, "too_long"))) for row in range(99))


def test_what_is_held_comes_out_when_the_input_ends() -> None:
    watch = DoomWatch(is_first=True)
    for row in range(7):
        watch.release(failed(row, "too_long"))
    assert 7 == len(watch.flush())
    assert () == tuple(watch.flush())
