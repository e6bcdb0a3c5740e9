"""What can be seen of an engine from outside: its metrics and its traces. It observes, and decides nothing."""
