"""What the admin port says of its routes, beside them: of this its OpenAPI document is made (`web.openapi`)."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

__all__ = ["BODY_ERRORS", "Operation", "Parameter"]

BODY_ERRORS: Final = (413, 415, 422)
"""What a route that reads JSON may answer for the body's sake; 400 for anything's sake."""


class Parameter(NamedTuple):
    """A parameter of the query. `schema` is JSON Schema."""

    name: str
    about: str
    schema: Mapping[str, Any]


class Operation(NamedTuple):
    """One method of one path.

    `answers` has the statuses of success and the types of their bodies, None for an empty one; `refusals` the statuses
    of errors beside those that every route may answer. What is not `public` is for the console and not documented.
    """

    tag: str
    summary: str
    answers: Mapping[int, Any]
    refusals: tuple[int, ...] = ()
    body: Any = None
    body_type: str = "application/json"
    parameters: tuple[Parameter, ...] = ()
    answer_type: str = "application/json"
    deprecated: bool = False
    public: bool = True
