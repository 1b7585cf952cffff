"""Latency, memory and picture quality, measured alike on every runtime."""
