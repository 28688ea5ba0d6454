"""Policies side by side on a machine with GPUs: the same trace under each, live, and as predicted.

    python -m bench.gpu.policies --out DIR                    (options: --help)

NATS, gateway, autoscaler and placement are started; the autoscaler starts and ends workers, one a GPU, as it
does anywhere. `turboserve` begins with one worker and grows and shrinks by demand, boots and all; `fixed-rr`,
`ll-resume` and `turboserve:same-fleet` have every worker all the time (the autoscaler's minimum is raised to
its maximum). Placement is started anew for each phase, the workers stay. The trace is made for the capacity
that a worker reports and the number of GPUs, so that its peak needs all of them; with --capacity it is known
beforehand. At the end one session plays alone for ten seconds: what it sees, a worker's own curve and the
boots are what the simulator predicts from. DIR gets policies.md and policies.json (anew after every phase),
calibration.json, prediction.json, trace.jsonl and the services' logs.

A prediction that is committed before the run: calibrate on one GPU, predict anywhere, name it to the run.

    python -m bench.gpu.policies --phases --workers 1 --out /tmp/one                      (a boot and 15 s)
    python -m bench.gpu.policies --predict /tmp/one/calibration.json --workers 4 --out docs/results/gpu/NAME
    python -m bench.gpu.policies --predicted docs/results/gpu/NAME/prediction.json --out /tmp/four

The last with what --workers, --capacity, --geometry, --duration, --seed and --settings the second was given;
the trace is the same only if a worker reports the capacity that was predicted for, so name that, too. Within
ten minutes, two boots of up to 37 s among them, fit three phases of 150 s:

    … --workers 2 --minutes 9.2 --phases turboserve fixed-rr ll-resume                         (480×832)
    … --workers 4 --minutes 9.2 --phases turboserve fixed-rr ll-resume
    … --workers 4 --minutes 9.2 --geometry small --capacity 16 --worker host_pool_gib=4 --phases …

For eight GPUs: --workers 8. What two phases need of a fleet that stays (`fixed-rr turboserve:same-fleet`)
takes 6 minutes.

Without a GPU it can be rehearsed by workers that take the times of a calibration and compute nothing; what is
left of the difference to the prediction is the control plane's:

    python -m bench.gpu.policies --model clocked --weights CALIBRATION.json --workers 2 --capacity 2 --out DIR
"""
