"""What the user sees while a run goes on and when it ends, and the event log."""
