"""Latency and memory: one process a configuration, in turns."""
