"""Policies side by side on a machine with GPUs: the same trace under each, live, and as predicted.

    python -m bench.gpu.policies --out DIR                    (options: --help)

NATS, gateway, autoscaler and placement are started; the autoscaler starts and ends workers, one a GPU, as it
does anywhere. `turboserve` begins with one worker and grows and shrinks by demand, boots and all; `fixed-rr`,
`ll-resume` and `turboserve:same-fleet` have every worker all the time (the autoscaler's minimum is raised to
its maximum). Placement is started anew for each phase, the workers stay. The trace is made for the capacity
that a worker reports and the number of GPUs, so that its peak needs all of them; with --capacity it is known
beforehand. At the end one session plays alone for ten seconds: what it sees, a worker's own curve and the
boots are what the simulator predicts from.

A prediction to be committed before: take calibration.json of an earlier run (one worker and no phases is
enough), then

    python -m bench.gpu.policies --predict calibration.json --workers N --out docs/results/NAME

and give the run --predicted docs/results/NAME/prediction.json. DIR gets policies.md and policies.json (anew
after every phase), prediction.json, calibration.json, trace.jsonl and the services' logs. With boots of 30 s
a run takes 3 × duration + 100 s for three phases, 4 × duration + 110 s for four.
"""
