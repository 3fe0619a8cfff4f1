"""One process of a run: opens the journal, lets the engine work, and leaves the run finished or resumable."""

import asyncio
import contextlib
import sys
from collections.abc import Mapping
from dataclasses import asdict
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Literal

from batcher.assemble.books import UNFINISHED, Purse, book, raise_hint, run_command, shown, take_over
from batcher.assemble.closing import Judged, last_lines
from batcher.assemble.findings import Applied
from batcher.assemble.prepare import Prepared, local_model
from batcher.assemble.stack import Endpoint, Stack, Tools, build_stack, concurrency_of, endpoint_of, price_of
from batcher.assemble.state import updated_run_file
from batcher.assemble.watch import run_loop, run_watched, stop_on_signals, stop_on_trouble
from batcher.clock import Clock
from batcher.core.flight import Flight
from batcher.core.progress import Progress
from batcher.engine.engine import Engine, EnginePlan, Parts
from batcher.errors import BatcherError, ExitCode, StoppedError, StorageError, UsageError
from batcher.journal.journal import Journal
from batcher.ledger.ledger import Ledger
from batcher.ledger.pledged import BudgetState, loss_sentence
from batcher.ledger.prices import AnyPrice
from batcher.observe.human import counted
from batcher.observe.log import Events, open_events
from batcher.observe.reporter import Reporter, make_reporter
from batcher.observe.text import clean
from batcher.runs.directory import RunDirectory
from batcher.runs.runfile import RunFile, RunState
from batcher.sources.source import BrokenInputError, InputFingerprint
from batcher.storage.durable import Disk

if TYPE_CHECKING:
    from batcher.local import lease as leases

NOTHING_APPLIED = Applied()

HEARTBEAT_S = 2.0
"""How often `run.json` is brought up to date while rows are asked."""

ANSWER_BYTES = 16 * 1024
"""Room on the disk that is kept for each call in flight."""

_Ending = tuple[ExitCode, list[str]]
"""The exit code, and the reasons where it is not 0."""


class Session:
    """A run, from here to its end or its next stop. The caller holds the job's lock."""

    def __init__(
        self,
        directory: RunDirectory,
        run_file: RunFile,
        prepared: Prepared,
        log_format: Literal["auto", "plain", "json"],
        environ: Mapping[str, str],
        *,
        disk: Disk,
        clock: Clock,
        is_retry: bool = False,
        applied: Applied = NOTHING_APPLIED,
    ) -> None:
        self._directory = directory
        self._run_file = run_file
        self._prepared = prepared
        self._log_format = log_format
        self._environ = environ
        self._is_retry, self._applied = is_retry, applied
        self._clock, self._disk = clock, disk
        self._progress, self._ledger = Progress(), Ledger()
        self._price: AnyPrice | None = None
        self._judged: Judged | None = None
        self._purse: Purse | None = None
        self._writing = asyncio.Lock()
        self._events: Events = open_events(
            directory.log,
            secrets=prepared.loaded.secrets,
            json_to=sys.stderr if log_format == "json" else None,
            plain_to=None if log_format == "json" else sys.stderr,
        )

    def run(self) -> int:
        """Work on the run, report how it ended, and give the exit code."""
        started_s = self._clock.monotonic()
        error: BatcherError | None = None
        try:
            code, reasons = run_loop(self._work())
        except BatcherError as caught:
            error, code, reasons = caught, self._code_of(caught), [caught.message]
            # The line will be mended; what comes before it must stay as it is.
            broken = self._prepared.source.fingerprint(caught) if isinstance(caught, BrokenInputError) else None
            self._save("stopped" if code in (ExitCode.STOPPED, ExitCode.BUDGET) else "failed", code, reasons, broken)
        self._say(code, reasons, error, elapsed_s=self._clock.monotonic() - started_s)
        # The last lines have told people; in JSON lines an alert looks for the level.
        say = self._events.error if code and self._log_format == "json" else self._events.info
        say("run_ended", exit_code=int(code), reasons=reasons)
        self._events.close()
        return int(code)

    def _code_of(self, error: BatcherError) -> ExitCode:
        # Code 2 says that nothing was sent; a row that turns out wrong on the way stops a run that can go on.
        was_sent = self._progress.done > 0 or self._progress.attempt_failures
        return ExitCode.STOPPED if isinstance(error, UsageError) and was_sent else error.exit_code

    async def _work(self) -> _Ending:
        """Ask what is to be asked, and write the results. The exit code with the reasons for it."""
        for warning in (*self._applied.complaints, *self._applied.warnings):
            self._say_line(f"warning: {clean(warning)}")
        with await asyncio.to_thread(self._lease) as lease:
            endpoint = self._endpoint(lease)
            self._price = await asyncio.to_thread(
                price_of, self._prepared.loaded.job.sole_provider, endpoint, at=self._run_file.started_at
            )
            tools = Tools(self._clock, self._progress, Flight(), self._events.mask, self._tell)
            job = self._prepared.loaded.job
            async with contextlib.AsyncExitStack() as closing:
                closing.push_async_callback(self._close_purse)
                journal = await Journal.open(
                    self._directory.journal,
                    disk=self._disk,
                    clock=self._clock,
                    job_fingerprint=str(self._run_file.fingerprints["journal"]),
                    reserve_bytes=max(1 << 20, concurrency_of(job, endpoint) * ANSWER_BYTES),
                )
                closing.push_async_callback(journal.close)
                purse = self._open_purse(journal, endpoint)
                stack = build_stack(
                    job,
                    endpoint,
                    tools,
                    response_format=None if self._applied.is_structured_refused else self._prepared.response_format,
                    price=self._price,
                    budget=purse.budget,
                    is_first=not journal.done,
                    seed=int(self._clock.now() * 1000),
                )
                closing.push_async_callback(stack.close)
                engine = self._engine(journal, stack, tools, endpoint, purse)
                await self._watch(engine, journal)
        if engine.rows_total is None:
            raise StoppedError("the run stopped before its input was read to the end")
        return await self._finish(journal, engine.rows_total)

    async def _watch(self, engine: Engine, journal: Journal) -> None:
        """Let the engine work, with everything beside it that a run needs."""
        reporter = self._reporter()
        try:
            stop_on_signals(engine, self._progress)
            await run_watched(
                engine.run(), (reporter.run, partial(self._beat, engine), partial(stop_on_trouble, engine, journal))
            )
        finally:
            reporter.stop()

    async def _close_purse(self) -> None:
        if self._purse is not None:
            await self._purse.close()
            # A kill while the results are written loses no call. A disk that refuses is told of at the run's end.
            with contextlib.suppress(BatcherError):
                await self._write_run_file()

    def _open_purse(self, journal: Journal, endpoint: Endpoint) -> Purse:
        job = self._prepared.loaded.job
        if job.budget is not None and (loss := loss_sentence(BudgetState.from_json(self._run_file.budget))) is not None:
            self._say_line(loss)
        hint = raise_hint(job, self._run_file, self._directory.path, self._environ, is_retry=self._is_retry)
        purse = Purse(job, endpoint, self._ledger, self._progress)
        purse.open(self._run_file, journal, self._pledge, hint=hint)
        self._purse = purse
        return purse

    async def _pledge(self, _: Decimal) -> None:
        # The budget's state has the new pledge already.
        await self._write_run_file()

    async def _write_run_file(self) -> None:
        # One at a time, made when its turn comes: an older state must not take the place of a newer pledge.
        async with self._writing:
            await asyncio.to_thread(self._directory.write, self._updated("running", None, None), self._disk)

    def _lease(self) -> "leases.Lease | contextlib.nullcontext[None]":
        """The local model's server, started where it does not run; nothing for another provider."""
        local = local_model(self._prepared.loaded)
        if local is None:
            return contextlib.nullcontext()
        from batcher.local import lease as leases  # noqa: PLC0415  # few jobs have a local model

        lease = leases.start(local, tell=self._note)
        self._progress.note = None
        return lease

    def _endpoint(self, lease: "leases.Lease | None") -> Endpoint:
        job = self._prepared.loaded.job
        if lease is None:
            return endpoint_of(job.sole_provider, job, self._prepared.network)
        return Endpoint(base_url=lease.base_url, model=lease.model, keys=(None,), concurrency=lease.slots)

    def _engine(self, journal: Journal, stack: Stack, tools: Tools, endpoint: Endpoint, purse: Purse) -> Engine:
        """The engine over the rows that are missing; the counters start at what the journal holds."""
        prepared = self._prepared
        facts = journal.recovery
        say = self._events.info if facts.is_clean else self._events.warning
        say("journal_opened", rows_done=len(journal.done), **({} if facts.is_clean else asdict(facts)))
        if self._is_retry:
            asked_again = journal.ask_again()
            self._events.info("asking_again", rows=asked_again)
        counts = take_over(journal, prepared.facts, self._progress, self._ledger)
        purse.begin()
        if counts.done:
            self._say_line(f"going on: {counted(counts.done, 'row')} done before")
        done = journal.done
        journal.on_kept = partial(book, ledger=self._ledger, budget=purse.budget, progress=self._progress)
        return Engine(
            Parts(prepared.source, prepared.renderer, stack.caller, prepared.checker, journal),
            EnginePlan(
                workers=stack.workers,
                asks_max=1 + prepared.loaded.job.answer.attempts,
                model=endpoint.model,
                provider=prepared.loaded.job.sole_provider.name,
                rows_low=max(64, stack.concurrency),
            ),
            clock=self._clock,
            progress=self._progress,
            flight=tools.flight,
            start=done.first_missing(),
            wanted=(lambda row: row not in done) if done else None,
            places=stack.places,
        )

    def _reporter(self) -> Reporter:
        job = self._prepared.loaded.job
        reporter = make_reporter(
            stream=sys.stderr,
            log_format=self._log_format,
            is_terminal=sys.stderr.isatty(),
            environ=self._environ,
            clock=self._clock,
            events=self._events,
        )
        unpriced = None if self._price is not None else job.effective_model
        reporter.start(self._progress, job.name, self._directory.path, unpriced=unpriced)
        return reporter

    async def _beat(self, engine: Engine, over: asyncio.Event) -> None:
        """Keep `run.json` near the truth while rows are asked; where the disk refuses it, take no more rows."""
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await over.wait()
            try:
                await self._write_run_file()
            except StorageError as error:
                # Not raised: the answers on the wire still find room in the journal, and are waited for.
                engine.stop(error)
                return

    async def _finish(self, journal: Journal, rows: int) -> _Ending:
        """Results, and whether the job's success rule holds."""
        from batcher.assemble.verdict import finish_run  # noqa: PLC0415  # not before the first request

        judged = await asyncio.to_thread(
            finish_run,
            self._prepared,
            journal,
            self._directory,
            rows=rows,
            disk=self._disk,
            mask=self._events.mask,
        )
        self._judged, self._progress.empty = judged, judged.empty
        # A run that a broken line had stopped knew its input only up to there. A disk that refuses is an error here: a
        # run that is not known to be finished would be gone on with by the next `batcher run`.
        fingerprint = self._prepared.source.fingerprint()
        run_file = self._updated("finished", judged.code, "; ".join(judged.reasons) or None, fingerprint)
        await asyncio.to_thread(self._directory.write, run_file, self._disk)
        return judged.code, judged.reasons

    def _updated(
        self,
        state: RunState,
        code: ExitCode | None,
        reason: str | None,
        input_fingerprint: InputFingerprint | None = None,
    ) -> RunFile:
        # What earlier processes left stays, where this one never came to take it over.
        kept = self._run_file.totals.get(UNFINISHED)
        unfinished = kept if self._purse is None else self._purse.unfinished.to_json()
        return updated_run_file(
            self._run_file,
            state=state,
            progress=self._progress,
            ledger=self._ledger,
            now_s=self._clock.now(),
            exit_code=None if code is None else int(code),
            reason=reason,
            price=self._price,
            judged={**({} if self._judged is None else self._judged.totals), UNFINISHED: unfinished},
            input_fingerprint=input_fingerprint,
            budget=None if self._purse is None else self._purse.budget,
        )

    def _save(
        self, state: RunState, code: ExitCode, reasons: list[str], fingerprint: InputFingerprint | None = None
    ) -> None:
        """Write how the run ended; a disk that is full must not hide why."""
        run_file = self._updated(state, code, "; ".join(reasons) or None, fingerprint)
        try:
            self._directory.write(run_file, self._disk)
        except BatcherError as failure:
            self._events.error("run_file_not_written", message=failure.message)

    def _say(self, code: ExitCode, reasons: list[str], error: BatcherError | None, *, elapsed_s: float) -> None:
        """The last lines on stderr."""
        lines = last_lines(
            self._progress,
            self._ledger,
            code=code,
            reasons=reasons,
            judged=self._judged,
            error=error,
            elapsed_s=elapsed_s,
            job_name=self._prepared.loaded.job.name,
            run=shown(self._directory.path),
            again=run_command(self._prepared.loaded.job, self._run_file, self._directory.path, self._environ),
        )
        if self._log_format == "json":
            self._events.info("summary", lines=lines)
            return
        for line in lines:
            sys.stderr.write(self._events.mask(line) + "\n")
        sys.stderr.flush()

    def _tell(self, sentence: str) -> None:
        self._events.warning("provider", message=sentence)

    def _note(self, sentence: str) -> None:
        self._progress.note = sentence
        self._say_line(sentence)

    def _say_line(self, sentence: str) -> None:
        self._events.info("note", message=sentence)
        if self._log_format != "json":
            sys.stderr.write(f"{sentence}\n")
            sys.stderr.flush()
