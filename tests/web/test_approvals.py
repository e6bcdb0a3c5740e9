"""Approvals over HTTP: the admin port's routes, the page behind a link, SQL."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest

from perdure.protocol.approvals import Links
from perdure.sql.facts import Facts
from perdure.sql.render import json_rows
from perdure.sql.session import execute
from perdure.storage.sqlite import copy_to
from tests.web.approval_desk import Desk, at_the_desk


def at_desk(scenario: Callable[[Desk], Awaitable[None]]) -> None:
    async def run() -> None:
        async with at_the_desk() as desk:
            await scenario(desk)

    asyncio.run(run())


def test_list_show_and_answer() -> None:
    async def scenario(desk: Desk) -> None:
        id = await desk.send("refund")
        (listed,) = await desk.listed("open", "&service=Desk&to=ann&tag=money&limit=5")
        one = await desk.ask("GET", f"/v3/approvals/{id}")
        assert one.json == listed
        assert (listed["id"], listed["status"], listed["requester"]["service"]) == (id, "open", "Desk")
        assert re.fullmatch(r"2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", listed["created_at"])
        assert await desk.listed("open", "&to=bob") == []
        refused = await desk.ask("POST", f"/approvals/{id}/approve", {"value": {"amount": 0}})
        assert (refused.status, refused.json["message"]) == (400, "value.amount: 0 is less than the minimum of 1")
        said = {"value": {"amount": 5}, "comment": "fine", "by": "bob"}
        done = await desk.ask("POST", f"/approvals/{id}/approve", said)
        assert (done.status, done.json["status"], done.json["by"]) == (200, "approved", "bob")
        late = await desk.ask("POST", f"/approvals/{id}/reject")
        assert (late.status, "first answer counts" in late.json["message"]) == (409, True)
        assert [each["id"] for each in await desk.listed("approved")] == [id]

    at_desk(scenario)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("GET", "/approvals/apr_none", None, 404, "apr_none"),
        ("POST", "/approvals/apr_none/approve", {}, 404, "apr_none"),
        ("GET", "/approvals?status=new", None, 400, "status='new'"),
        ("GET", "/approvals?limit=0", None, 400, "limit=0"),
        ("GET", "/approvals?limit=many", None, 400, "limit='many'"),
        ("GET", "/approvals?colour=red", None, 400, "colour"),
        ("POST", "/approvals", {}, 405, "GET"),
        ("POST", "/approvals/apr_none/approve", {"valeu": 1}, 422, "valeu"),
    ],
)
def test_what_the_routes_refuse(method: str, path: str, body: Any, status: int, said: str) -> None:
    async def scenario(desk: Desk) -> None:
        reply = await desk.ask(method, path, body)
        assert (reply.status, said in reply.body.decode()) == (status, True), reply

    at_desk(scenario)


def test_an_answer_sent_again_is_the_same_answer() -> None:
    async def scenario(desk: Desk) -> None:
        id = await desk.send("sure")
        for _ in range(2):
            reply = await desk.admin("POST", f"/approvals/{id}/approve", b"", ("idempotency-key", "k1"))
            assert reply is not None and reply.status == 200 and reply.json["status"] == "approved"

    at_desk(scenario)


def test_nobody_calls_the_built_in_objects_over_the_ingress() -> None:
    async def scenario(desk: Desk) -> None:
        id = await desk.send("sure")
        for path in (f"/PerdureApprovals/{id}/answer", "/PerdureApprovalIndex/open/remove", "/PerdureSessions/a/items"):
            reply = await desk.ingress("POST", path, b'{"approved": true}', ("content-type", "application/json"))
            assert reply is not None and (reply.status, "is private" in reply.json["message"]) == (400, True)
        health = await desk.ingress("GET", "/restate/health")
        assert health is not None and health.json == {"services": ["Desk"]}
        assert [each["name"] for each in (await desk.ask("GET", "/services")).json["services"]] == ["Desk"]
        shown = (await desk.ask("GET", "/deployments")).json
        assert "Perdure" not in str(shown)

    at_desk(scenario)


# ---- the page


def test_the_page_shows_the_question_and_changes_nothing() -> None:
    async def scenario(desk: Desk) -> None:
        id = await desk.send("refund")
        link = desk.request(id).link or ""
        assert link.startswith(f"https://ops.example/restate/approvals/{id}?token=")
        for _ in range(3):
            page = await desk.open(link)
            assert page.status == 200
        text = page.body.decode()
        assert "<title>Refund &lt;b&gt;120&lt;/b&gt; EUR?</title>" in text and "&lt;script&gt;" in text
        assert "<script" not in text and "<b>" not in text and "://" not in text
        assert 'name="value.amount"' in text and 'type="number"' in text and 'min="1"' in text
        assert "In whole euros." in text and '<label for="value.amount">' in text
        assert text.index("<button disabled hidden>") < text.index('value="approve"')  # what the enter key presses
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "script" not in policy
        assert page.headers["referrer-policy"] == "no-referrer" and page.headers["cache-control"] == "no-store"
        head = await desk.open(link, "HEAD")
        assert (head.status, head.body) == (200, b"")
        assert len(await desk.listed()) == 1

    at_desk(scenario)


def test_the_form_answers_once() -> None:
    async def scenario(desk: Desk) -> None:
        id = await desk.send("refund")
        link = desk.request(id).link or ""
        form = {
            "value.amount": "7",
            "value.kind": "credit",
            "value.note": "",
            "value.urgent": "true",
            "value.lines": "[1]",
        }
        wrong = await desk.open(
            link, "POST", urlencode({**form, "value.amount": "-3", "decision": "approve", "by": "An<"})
        )
        assert wrong.status == 400 and b"value.amount: -3 is less than the minimum of 1" in wrong.body
        assert b'value="An&lt;"' in wrong.body and b'value="-3"' in wrong.body  # what was filled in is kept
        letters = await desk.open(link, "POST", urlencode({**form, "value.amount": "x", "decision": "approve"}))
        assert letters.status == 400 and b"is not a whole number" in letters.body
        said = {**form, "decision": "approve", "by": "Ann", "comment": "ok\r\nthen"}
        done = await desk.open(link, "POST", urlencode(said))
        assert done.status == 200 and b"Approved by Ann (by link)" in done.body and b"<form" not in done.body
        again = await desk.open(link, "POST", urlencode({"decision": "reject"}))
        assert again.status == 409 and b"Approved by Ann" in again.body
        record = (await desk.ask("GET", f"/approvals/{id}")).json
        assert record["value"] == {"amount": 7, "kind": "credit", "urgent": True, "lines": [1]}
        assert (record["by"], record["comment"]) == ("Ann (by link)", "ok\r\nthen")

    at_desk(scenario)


def test_a_link_allows_what_it_says() -> None:
    async def scenario(desk: Desk) -> None:
        id = await desk.send("refund")
        request = desk.request(id)
        page = await desk.open(request.reject_link or "")
        assert b'value="reject"' in page.body and b'value="approve"' not in page.body
        refused = await desk.open(request.reject_link or "", "POST", "decision=approve&value.amount=5")
        assert refused.status == 400 and b"does not allow to approve" in refused.body
        nothing = await desk.open(request.link or "", "POST", "comment=hm")
        assert nothing.status == 400
        assert (await desk.open(request.reject_link or "", "POST", "decision=reject")).status == 200
        assert (await desk.ask("GET", f"/approvals/{id}")).json["status"] == "rejected"

    at_desk(scenario)


def test_links_that_are_not_ours() -> None:
    async def scenario(desk: Desk) -> None:
        id, other = await desk.send("refund"), await desk.send("refund")
        token = (desk.request(id).link or "").partition("token=")[2]
        action, expiry, mac = token.split(".")
        foreign = Links(lambda: b"another secret", lambda: "http://x").token(id, "answer", int(expiry, 16))
        path = f"/restate/approvals/{id}?token="
        for wrong in (
            "",
            "x",
            "..",
            f"approve.{expiry}.{mac}",
            f"{action}.{int(expiry, 16) + 1:x}.{mac}",
            foreign,
            "ä.ö",
        ):
            reply = await desk.open(f"{path}{wrong}", "POST", "decision=approve")
            assert (reply.status, b"is not valid" in reply.body) == (401, True)
        assert (await desk.open(f"/restate/approvals/{other}?token={token}")).status == 401
        old = desk.links.token(id, "answer", desk.node.clock.now_ms() - 1)
        assert (await desk.open(f"{path}{old}")).status == 404
        gone = desk.links.token("apr_none", "answer", desk.node.clock.now_ms() + 1000)
        assert (await desk.open(f"/restate/approvals/apr_none?token={gone}")).status == 404
        assert (await desk.open(f"{path}{token}", "DELETE")).status == 405
        assert len(await desk.listed()) == 2

    at_desk(scenario)


# ---- SQL


def test_sql(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        ids = [await desk.send("refund"), await desk.send("sure")]
        await desk.ask("POST", f"/approvals/{ids[0]}/approve", {"value": {"amount": 5}, "by": "bob"})
        file = tmp_path / "0.db"
        copy_to(desk.stores[0].snapshot(), file)

        def rows(sql: str) -> list[dict[str, Any]]:
            result = execute(sql, [str(file)], Facts(), 256 << 20)
            return list(msgspec.json.decode(b"".join(json_rows(result)))["rows"])

        by_status = "SELECT id FROM sys_approval WHERE status = '{}' AND target_service_name = 'Desk'"
        assert rows(by_status.format("open")) == [{"id": ids[1]}]
        assert rows(by_status.format("approved")) == [{"id": ids[0]}]
        (row,) = rows(f"SELECT * FROM sys_approval WHERE id = '{ids[0]}'")
        assert (row["status"], row["answered_by"], row["value_json"]) == ("approved", "bob", '{"amount":5}')
        assert (row["assignees"], row["tags"], row["title"]) == (["ann"], ["money"], "Refund <b>120</b> EUR?")
        assert row["closed_at"].startswith("20") and "expires_at" not in row
        assert rows("SELECT COUNT(*) AS n FROM sys_approval") == [{"n": 2}]

    at_desk(scenario)
