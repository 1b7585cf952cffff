"""The built-in world: scenes, captions and their renderer. No torch."""
