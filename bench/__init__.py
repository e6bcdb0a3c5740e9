"""Side-by-side benchmarks: `python -m bench` measures perdure's figures beside restate-server and DBOS.

Nothing is imported here: parts of this package run inside the peers' own virtual environment, which has the standard
library and the peers only.
"""
