"""The error tree. The class says what the one who catches it can do.

    BatcherError                  exit code 1
    ├── UsageError                2   the user's to mend; nothing was sent
    │   ├── JobError                  the job file or the command: file, line, field, fix
    │   ├── InputError                the rows: file, line, column, fix
    │   └── PromptError               the templates: which name, which columns there are
    ├── StorageError              4   the disk refused; what was answered is kept, go on later
    ├── JournalError              1   what is on disk is not what was written; names the file
    ├── StoppedError              4   a signal, an outage or broken input ended the run; resumable
    ├── BudgetError               5   the next call could pass the cap
    ├── RefusedError              6   the provider refused the job: key, quota, model, parameter
    ├── LockedError               7   another run of this job holds the lock
    └── CallError                 -   one attempt failed, with its kind; never leaves the caller stack

Messages say what happened, where, and what to do next. They never hold keys, prompts or replies; the
one exception is the provider's own error sentence, masked and shortened where it was read.
"""

from enum import IntEnum
from typing import Literal

FailureKind = Literal[
    "rate_limited",
    "server",
    "connection",
    "timeout",
    "bad_response",
    "invalid_answer",
    "truncated",
    "refused",
    "too_long",
    "bad_request",
    "auth",
    "quota",
]


class ExitCode(IntEnum):
    """What the process says to cron. The meanings are the contract's; see `docs/reference/exit-codes.md`."""

    OK = 0
    FAULT = 1
    USAGE = 2
    NOT_SUCCESS = 3
    STOPPED = 4
    BUDGET = 5
    REFUSED = 6
    LOCKED = 7


class BatcherError(Exception):
    """Base of every error that batcher raises on purpose."""

    exit_code: ExitCode = ExitCode.FAULT

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(BatcherError):
    """The job, the command or the input is wrong, and nothing was sent."""

    exit_code = ExitCode.USAGE


class JobError(UsageError):
    """The job file or the command line is wrong."""


class InputError(UsageError):
    """The input rows are wrong: which file, which line or column, what was found."""


class PromptError(UsageError):
    """A template is wrong or names a column that the input does not have."""


class StorageError(BatcherError):
    """The disk refused a write; answers already journalled are safe and the run can be resumed."""

    exit_code = ExitCode.STOPPED


class JournalError(BatcherError):
    """A file of the journal is not what was written: damaged, foreign, or of an unknown version."""


class StoppedError(BatcherError):
    """The run stopped before its end and can be resumed."""

    exit_code = ExitCode.STOPPED


class BudgetError(BatcherError):
    """The next call could pass the budget."""

    exit_code = ExitCode.BUDGET


class RefusedError(BatcherError):
    """The provider refused the job, in its own words; asking again would not help."""

    exit_code = ExitCode.REFUSED


class LockedError(BatcherError):
    """Another run of this job holds the lock."""

    exit_code = ExitCode.LOCKED
