"""The child's end of a measurement in a process of its own: a JSON job on stdin, a JSON answer on stdout. Standard
library only.
"""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any


def answer(work: Callable[[dict[str, Any]], Mapping[str, object]]) -> None:
    """Do the job; a failure is one line on stderr, the first cause of an exception group, and exit status 1."""
    job = json.load(sys.stdin)
    try:
        result = work(job)
    except Exception as error:
        cause: BaseException = error
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        sys.exit(f"{type(cause).__name__}: {cause}")
    json.dump(result, sys.stdout)
