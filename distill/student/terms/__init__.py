"""The terms of the student's objective."""
