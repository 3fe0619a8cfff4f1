"""batcher: run millions of prompts through any OpenAI-compatible endpoint, and lose none."""

__version__ = "0.1.0"
