"""Fakes and clocks for tests: what keeps a contract without a network, a disk or real time."""
