"""The whole chain once, within ten minutes."""
