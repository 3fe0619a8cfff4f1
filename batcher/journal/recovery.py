"""From the files of a journal to what it holds, whatever ended the process that wrote them.

A number of the sequence is a log, then a log and its segment, then the segment alone; the segment is
complete on disk before its log is removed. So where both are there, a good segment wins, and a damaged one
is set aside as `….arrow.damaged` and made again from the log. A damaged segment without its log is an error
that names it.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from batcher.errors import JournalError
from batcher.journal.frames import LogScan, outcomes, row_numbers, scan_log_file
from batcher.journal.segment import SEGMENT_NAME, DamagedSegmentError, Segment, open_segment, seal, segment_sequence
from batcher.journal.tally import SPENDING_COLUMNS, TALLY_COLUMNS, Spending, Tally
from batcher.storage.durable import Disk, storage_error

_LOG_NAME = re.compile(r"(\d{6,})\.log")
_LEFTOVER_NAME = re.compile(r"\.\d{6,}-[0-9a-f]{16}\.arrow\..*tmp")


@dataclass(frozen=True, slots=True)
class RecoveryFacts:
    """What had to be mended when the journal was opened.

    `torn_bytes` stood unfinished at the end of a log (a crash), `lost_bytes` were never written out before a
    power cut; the rows of both are asked again. `missing_segments` are numbers of the sequence that are not
    there, because someone moved them away: their rows are asked again too.
    """

    torn_bytes: int = 0
    lost_bytes: int = 0
    missing_segments: tuple[int, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost."""
        return self == RecoveryFacts()


@dataclass(slots=True)
class Recovered:
    """What the files hold. `log_bytes` is where log number `sequence` goes on; 0 for a new one."""

    facts: RecoveryFacts
    tally: Tally = field(default_factory=Tally)
    spending: Spending = field(default_factory=Spending)
    segments: list[Segment] = field(default_factory=list)
    sequence: int = 1
    log_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Files:
    segments: dict[int, list[Path]]
    logs: dict[int, Path]
    leftovers: list[Path]


def recover(directory: Path, *, fingerprint: str, disk: Disk) -> Recovered:
    """Read the journal in `directory`, made where it is not there, and leave it tidy.

    Everything is checked before anything is changed. Afterwards there is at most one log, the newest.

    Raises:
        JournalError: A file is damaged, foreign or of an unknown version.
        StorageError: The disk refused a mending.
    """
    files = _files(directory)
    good, damaged = _checked_segments(files, fingerprint)
    scans = {
        number: scan_log_file(path, sequence=number, fingerprint=fingerprint) for number, path in files.logs.items()
    }
    for number in scans.keys() & good.keys():
        _check_sealed(good[number], scans.pop(number), files.logs[number])
    numbers = sorted({*good, *scans})
    newest = numbers[-1] if numbers else 0
    facts = RecoveryFacts(
        torn_bytes=sum(scan.torn_bytes for scan in scans.values()),
        lost_bytes=sum(scan.lost_bytes for scan in scans.values()),
        missing_segments=tuple(sorted(set(range(1, newest)) - set(numbers))),
    )
    found = Recovered(facts, sequence=newest + 1)
    # Set aside first: the segment made again from the log may get the very same name.
    for path in damaged:
        disk.rename(path, path.with_name(path.name + ".damaged"))
    for number in numbers:
        if number == newest and number in scans and not scans[number].lost_bytes:
            found.sequence, found.log_bytes = number, scans[number].end_bytes
            _fold_log(found, scans[number], files.logs[number])
            continue
        segment = good.get(number)
        if segment is None and scans[number].payloads:
            segment = seal(
                scans[number].payloads, files.logs[number], sequence=number, fingerprint=fingerprint, disk=disk
            )
        if segment is not None:
            _fold_segment(found, segment)
    # Logs go last: until its segment is on disk, a log is the only copy.
    needless = [path for number, path in files.logs.items() if number != found.sequence]
    for path in [*files.leftovers, *needless]:
        disk.remove(path)
    return found


def _files(directory: Path) -> _Files:
    """The journal's files by number; other people's files and directories are none of its business."""
    found = _Files({}, {}, [])
    try:
        directory.mkdir(parents=True, exist_ok=True)
        paths = sorted(directory.iterdir())
    except OSError as error:
        raise storage_error(error, directory) from error
    for path in paths:
        if match := SEGMENT_NAME.fullmatch(path.name):
            found.segments.setdefault(int(match[1]), []).append(path)
        elif match := _LOG_NAME.fullmatch(path.name):
            found.logs[int(match[1])] = path
        elif _LEFTOVER_NAME.fullmatch(path.name):
            found.leftovers.append(path)
        elif path.suffix in {".arrow", ".log"}:
            raise JournalError(f"{path} has no name of the journal's; give it its name back, or move it away")
    return found


def _checked_segments(files: _Files, fingerprint: str) -> tuple[dict[int, Segment], list[Path]]:
    """The good segment of each number, and the damaged ones whose log is still there to make them again."""
    good: dict[int, Segment] = {}
    damaged: list[Path] = []
    for number, paths in files.segments.items():
        for path in paths:
            try:
                segment = open_segment(path, fingerprint=fingerprint)
            except DamagedSegmentError:
                damaged.append(path)
                continue
            if number in good:
                raise JournalError(f"{good[number].path} and {path.name} have the same number; move one away")
            good[number] = segment
    lost = [path for path in damaged if segment_sequence(path) not in {*files.logs, *good}]
    if lost:
        raise DamagedSegmentError(lost)
    return good, damaged


def _check_sealed(segment: Segment, scan: LogScan, log_path: Path) -> None:
    """A log beside its segment may go only if the segment holds its outcomes."""
    if segment.read(["row"])["row"].to_pylist() != sorted(row_numbers(scan.payloads)):
        raise JournalError(f"{log_path} and {segment.path.name} hold different rows; move one of them away")


def _fold_log(found: Recovered, scan: LogScan, path: Path) -> None:
    for group in outcomes(scan, path):
        for outcome in group:
            found.tally.add(outcome)
            found.spending.add(outcome)


def _fold_segment(found: Recovered, segment: Segment) -> None:
    found.segments.append(segment)
    table = segment.read([*TALLY_COLUMNS, *SPENDING_COLUMNS])
    found.tally.add_table(table)
    found.spending.add_table(table)
