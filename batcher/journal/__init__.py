"""The journal: the append-only log and its sealed segments, which hold every outcome of a run."""
