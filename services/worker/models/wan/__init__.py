"""Wan 2.1 made causal: Self-Forcing, LongLive and Krea checkpoints of it, stepped from pre-allocated session slots."""
