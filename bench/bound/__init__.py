"""The least that any schedule could use, even one that knows the future and moves for free.

**Least GPU-seconds**, workers alike, K sessions each, boot time b. Let d(t) = ⌈N(t)/K⌉. A schedule holds
the target only if at least d(t) workers are ready at every t. Sort the workers that are ready at t and call
them levels 1, 2, …: level k must be ready whenever d(t) ≥ k. Since workers are alike and moves free, which
worker fills a level is of no matter, so a schedule is a set of ready intervals per level, and what a level
costs doesn't depend on the others: each interval costs its length and b for the boot before it. *Lower
bound*: take any schedule and count its ready workers m(t) ≥ d(t); cutting it into levels (last started,
first stopped) changes neither the ready time nor the number of starts, and level k's ready set covers {d ≥
k}. Covering two needed stretches with a gap g between them takes either g of ready time or one more start,
so at least min(g, b) more. *Reached*: by doing, at each level and gap, whichever is less; a restart fits,
since it is chosen only where g ≥ b. So the sum over levels of

    time with d ≥ k  +  Σ over gaps min(g, b)  +  b for the first start

is exact. The same with whole nodes, ⌈N/(K·8)⌉ and 8 GPUs a level. What is ready at time 0 (the minimum)
costs no boot. Without boot time it is the integral of d.

**Least worst latency** of M workers alike at a moment: some worker has at least ⌈N/M⌉ sessions and ℓ
doesn't fall with n, so no placement is below ℓ(⌈N/M⌉), and spreading evenly reaches it.

**Beyond capacity at the start.** Without foresight nothing is ordered before time 0, so until b only what
was there serves: the sessions above its capacity in [0, b) are beyond it under every such policy.

**Least worst latency that keeps everybody's cadence**, workers alike. A policy that serves nobody beyond
capacity, and takes nobody's place away, serves at most K·m(t) sessions on the m(t) workers that there are: at
least q(t) = max(0, N(t) − K·m(t)) wait. Of any q of the active sessions, the one that has been active longest
has been so at least as long as the oldest of the q that became active last; and who waits has waited since it
became active. So the longest wait is at least the age of the q-th youngest active session, and the worst
latency at least the greater of that and ℓ(⌈min(N, K·m)/m⌉). *Reached* by serving in the order in which
sessions became active (then it is the youngest who wait) as long as no worker is taken away from those on it.
With m(t) as many as one likes after the first boot time, and until then the minimum, it bounds every policy
without foresight that keeps the cadence, whatever it spends.

**Unlike workers.** For the cost, any mix of kinds serves one session for at least min_j price_j/K_j a
second: the integral of N times that is a bound (a relaxation: fractions of workers, no boot). For the
latency, filling always the worker whose latency with one more is least is optimal, since each ℓ_j doesn't
fall: the N-th smallest of all ℓ_j(n).
"""
