"""Wan 2.1 made causal (Self-Forcing, LongLive, Krea), stepped from pre-allocated session slots."""
