"""One session's move from worker to worker, as each of the two sees it: pure machines that `mover` drives.

The order of things: placement names a target and an epoch for it; the target reserves a slot and accepts;
the source copies what it can while the session goes on (at most `MAX_ROUNDS` times, for what changed
meanwhile must be sent again), freezes between two steps, promises chunk n (the one under way, or the next)
and sends the rest; the target goes on with chunk n as soon as it has both. Nobody waits for anybody's
permission in between: **the chunk log arbitrates**. If chunk n is appended by the target, the session has
moved, whatever else was said; if by the source, it has stayed.

So every lateness has the same answer, on both sides: give up. The source goes on from its own copy, which it
keeps with its chunk under way until the log holds a chunk of the target's; the target frees what it
reserved. Facts about other moves (`move_id`) are the caller's to drop. `now` is the caller's monotonic clock.

Chunks finished before the freeze may still be on their way to the log. The target begins chunk n all the
same, and appends it behind them; if they never come, because the source died with them, it gives up too.
"""
