"""Rows through the callers into the journal: a fixed number of tasks between two bounded ends."""
