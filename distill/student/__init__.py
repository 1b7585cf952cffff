"""Distil a teacher into a few-step student: pool, phases, loss terms, decoder."""
