"""Drawing beside a program that must not wait: requests go in, tickets come out, events are polled.

    tickets.py    the states of a ticket: queue, slots, events, pictures that wait (no threads, no engines)
    drawing.py    one request on a pipeline of this process
    helper.py     the same in a process of its own; what it and the program tell each other
    child.py      the program's end of that process
    painter.py    `Painter`: the public class and its drawing thread

The native library (`runtimes/native`) behaves the same; tests/painting/cases.json is run on both. docs/embedding.md has the rules.
"""
