"""Rows become requests: templates, checked before the first call, and chat histories."""
