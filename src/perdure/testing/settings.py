"""What kind of run a seed is: how many partitions, how slow the disk, which faults and how many."""

import random
from dataclasses import dataclass

__all__ = ["CRASHES", "Settings"]

CRASHES = ("now", "before commit", "stored", "acknowledged", "acting", "running", "starting")
"""Where the process dies: at once; as it hands a batch to the disk; when the disk has it, and nobody knows; when the
loop was told; between two actions; between two callbacks of the event loop; the same, soon after it started."""


@dataclass(frozen=True)
class Settings:
    """Each seed has few faults or many, and leaves some kinds out, so that what is left meets more of itself."""

    partitions: int
    attempt_limit: int
    replay_always: bool
    latency_us: int
    """The longest way of a message between engine and handler; 0: in process."""
    commit_us: int
    """The longest that a commit takes, mostly."""
    active_us: int
    """How long faults and requests go on."""
    requests: int
    bursts: int
    """At how many moments they are asked; 0: each at its own."""
    longest_program: int
    crashes: int
    crash_kinds: tuple[str, ...]
    eager_state: int
    """How many bytes of state go along with a start; more is read when asked for."""
    batch_limit: int
    """How many commands make a batch at most; few cut apart what mostly shares one."""
    timers_per_tick: int
    queue_limit: int
    """How many commands may wait before clients are turned away."""
    disk_errors: int
    hang_ups: int
    bounces: int
    clock_jumps: int
    stops: int
    lost: float
    """The chance that a message between partitions is lost; also of a second copy, and of a delay."""
    repeated: float
    delayed: float
    wire: int
    """The newest version of the service protocol that is spoken with handlers elsewhere; 0: they are in process."""
    one_exchange: bool
    """Whether handlers elsewhere take one request and give one response, or hold a conversation."""

    @classmethod
    def draw(cls, seed: int) -> "Settings":
        rng = random.Random(f"{seed}/settings")
        kinds = rng.sample(CRASHES, rng.randint(1, len(CRASHES)))
        return cls(
            partitions=rng.choice((1, 2, 2, 3, 4)),
            attempt_limit=rng.choice((1, 2, 3, 8, 1000, 1000)),
            replay_always=rng.random() < 0.1,
            latency_us=rng.choice((0, 0, 0, 2_000, 60_000)),
            commit_us=rng.choice((0, 500, 2_000, 30_000, 300_000)),
            active_us=rng.choice((200_000, 2_000_000, 12_000_000)),
            requests=rng.choice((8, 20, 40, 80)),
            bursts=rng.choice((0, 0, 3, 8)),
            longest_program=rng.randint(1, 5),
            crashes=rng.choice((0, 1, 2, 4, 8)),
            crash_kinds=tuple(kinds),
            eager_state=rng.choice((1 << 20, 1 << 20, 12, 0)),
            batch_limit=rng.choice((4096, 4096, 1, 3)),
            timers_per_tick=rng.choice((256, 1, 2)),
            queue_limit=rng.choice((50_000, 50_000, 50_000, 3)),
            disk_errors=rng.choice((0, 0, 0, 1, 2)),
            hang_ups=rng.choice((0, 0, 2, 6)),
            bounces=rng.choice((0, 0, 5, 15)),
            clock_jumps=rng.choice((0, 0, 1, 4)),
            stops=rng.choice((0, 0, 0, 1)),
            lost=rng.choice((0.0, 0.0, 0.1, 0.4)),
            repeated=rng.choice((0.0, 0.0, 0.1, 0.4)),
            delayed=rng.choice((0.0, 0.0, 0.2, 0.7)),
            wire=rng.choice((0, 0, 0, 0, 5, 6, 7, 7)),
            one_exchange=rng.random() < 0.25,
        )
