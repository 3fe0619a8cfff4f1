"""The caller stack: `retrying(pool(gated(http)))` for any OpenAI-compatible provider."""
