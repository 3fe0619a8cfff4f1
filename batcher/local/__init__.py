"""A small model on this machine behind an OpenAI-compatible port. Import from the modules."""
