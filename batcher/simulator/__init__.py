"""A built-in OpenAI-compatible server with latency, limits, seeded faults and its own witness."""
