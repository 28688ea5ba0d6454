"""The whole path on a machine with GPUs: NATS, SQLite, placement, gateway, a worker for each GPU, viewers.

    python -m bench.gpu.system play moves --out DIR        (options: --help)

`play` finds how many streams each GPU keeps up with; `moves` moves, suspends and resumes sessions while their
viewers watch. Both on one start-up. DIR gets system.json, the services' logs and their last metrics.
"""
