"""What errors look like, whoever's they are."""

from tests.conformance.processes import Answer


def assert_ingress_error(answer: Answer, status: int) -> None:
    """The request was refused: nothing has run."""
    assert answer.status == status, (answer.status, answer.body[:500])
    error = answer.json()
    assert error["code"] == status
    assert isinstance(error["message"], str) and error["message"]
    assert error["source"] == answer.headers["x-restate-error-source"] == "ingress"


def assert_failed(answer: Answer, code: int, message: str | None = None) -> None:
    """The invocation ended with a terminal error; `message` where the handler chose it."""
    assert answer.status == code, (answer.status, answer.body[:500])
    error = answer.json()
    assert error["code"] == code
    assert isinstance(error["message"], str)
    assert message is None or error["message"] == message
    assert error["source"] == answer.headers["x-restate-error-source"] == "invocation"
    assert answer.headers["x-restate-id"].startswith("inv_1")


def assert_admin_error(answer: Answer, status: int) -> None:
    assert answer.status == status, (answer.status, answer.body[:500])
    error = answer.json()
    assert isinstance(error["message"], str) and error["message"]
    assert error["restate_code"] is None or isinstance(error["restate_code"], str)
