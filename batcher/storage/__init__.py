"""Writing files so that they stay written."""
