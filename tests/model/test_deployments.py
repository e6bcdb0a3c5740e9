"""Addresses of endpoints."""

import pytest

from perdure.errors import Invalid
from perdure.model.deployments import FunctionArn, parse_function_arn

ARN = "arn:aws:lambda:eu-central-1:123456789012:function:greeter:7"


def test_an_arn_is_taken_apart() -> None:
    assert parse_function_arn(ARN) == FunctionArn("aws", "eu-central-1", "123456789012", "greeter", "7")


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        ARN.removesuffix(":7"),
        ARN.replace("lambda", "sns"),
        f"{ARN}:8",
        ARN.replace("eu-central-1", ""),
    ],
)
def test_other_arns_are_refused(wrong: str) -> None:
    with pytest.raises(Invalid, match="VERSION"):
        parse_function_arn(wrong)
