"""L3: the shell around the core; the only owner of tasks and clocks."""
