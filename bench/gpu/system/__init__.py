"""The whole path on a machine with GPUs: NATS, SQLite, placement, gateway, a worker for each GPU, viewers.

    python -m bench.gpu.system play moves --out DIR        (options: --help)

`play` finds how many streams each GPU keeps up with; `moves` moves, suspends and resumes sessions while their
viewers watch; `alone` plays one session; `kill` ends one of the workers while sessions play. All on one
start-up. DIR gets system.json, the services' logs and their last metrics.
"""
