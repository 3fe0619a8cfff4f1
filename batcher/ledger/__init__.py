"""Money: what a token costs, and what a run has cost so far."""
