"""Traces of users: who arrives, acts, pauses and leaves, and when. One event a line, as JSON."""
