"""The load, said once for every process that takes part in it. Constants only: what imports this is being measured."""

STEPS = 10  # of one invocation, one after the other
CONCURRENCY = 64  # invocations at a time
KEYS = 1000  # of the virtual object
AWAKEABLES_ENV = "PERDURE_BENCH_AWAKEABLES"  # names the file that suspended invocations write their awakeables' ids to
