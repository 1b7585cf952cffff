"""Latency and memory: one process per configuration, in turns."""
