"""Run one program and write down what it used: `python -I -S launch.py REPORT PROGRAM ARGUMENTS...`.

A process of its own, and a small one, because on Linux the peak of a child's memory begins at what its parent
had when the child was made: started from a program of 90 MB, every child would seem to need 90 MB. This one has 9.
The report is a line: began_s (monotonic), wall_s, cpu_s, ru_maxrss, exit code.
"""

import os
import sys
import time

began_s = time.monotonic()
pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
wall_s = time.monotonic() - began_s
code = os.waitstatus_to_exitcode(status)
with open(sys.argv[1], "w", encoding="ascii") as report:  # noqa: PTH123  # pathlib would double this process
    report.write(f"{began_s} {wall_s} {usage.ru_utime + usage.ru_stime} {usage.ru_maxrss} {code}\n")
sys.exit(code if code >= 0 else 128 - code)
