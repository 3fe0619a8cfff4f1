"""One user of a local model as a process of its own: prints the server's pid, then holds on until killed or told."""

import sys
from pathlib import Path

from batcher.local import lease
from batcher.local.launching import Launch

command = (sys.executable, str(Path(__file__).with_name("local_stub.py")))
taken = lease.start(sys.argv[1], launch=Launch(command=command, linger_s=0.2, start_timeout_s=20))
print(taken.pid, int(taken.was_running), flush=True)
sys.stdin.readline()
taken.close()
