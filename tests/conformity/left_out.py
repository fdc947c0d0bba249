"""Tests of transformers that this package's classes need not pass, and why."""

LEFT_OUT: dict[str, str] = {}
