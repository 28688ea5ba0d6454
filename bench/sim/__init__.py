"""Discrete events at the level of chunks: the same policies as in the live services, on workers and viewers
made of arithmetic. Deterministic by trace, policy, profile and seed.
"""
