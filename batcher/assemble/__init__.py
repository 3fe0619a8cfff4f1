"""From the job file to parts, and a run from its first byte to its results: the only place that knows both."""
