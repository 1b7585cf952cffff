"""The parts of `tools/fuzz.py`: which files and commands, valid files, damage to them, one mutation and its judgement."""
