"""Run a bundle or a model folder: no torch, one engine at a time."""
