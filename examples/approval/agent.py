"""Read this first: an agent that drafts a refund, has a person decide, and undoes what it reserved if they say no.

`perdure serve examples.approval.agent:app`, then `perdure call Refunds/handle '{"order": "A-17", "complaint": "..."}'`.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

import msgspec

from perdure import App, ApprovalRequest, ApprovalTimeout, Context, Escalation, Service

MAILBOX = os.environ.get("APPROVAL_MAILBOX", os.devnull)
"""The file that stands for a mail server here: a line for each mail."""

refunds = Service("Refunds")


@dataclass
class Complaint:
    order: str
    complaint: str


@dataclass
class Refund:
    """What a person approves; the form on the page is made of it."""

    amount: Annotated[int, msgspec.Meta(ge=1, le=500, description="In euros; the agent suggests what it drafted.")]
    apology: bool = True


@dataclass
class Draft:
    amount: int
    reason: str


async def draft(complaint: Complaint) -> Draft:
    """Stands for a model call."""
    return Draft(120 if "broken" in complaint.complaint else 20, f"the customer says: {complaint.complaint}")


def mail(request: ApprovalRequest) -> None:
    """Tell people, wherever they are; tried again until it gets through."""
    with open(MAILBOX, "a", encoding="utf-8") as mailbox:
        mailbox.write(f"To {', '.join(request.to)}: {request.title} {request.link}\n")


def reserve(order: str, amount: int) -> str:
    return f"{amount} EUR are set aside for {order}"


def release(order: str, amount: int) -> str:
    return f"{amount} EUR are free again"


def pay(order: str, amount: int) -> str:
    return f"{amount} EUR were paid for {order}"


@refunds.handler()
async def handle(ctx: Context, complaint: Complaint) -> str:
    """Ends with what was paid, or with the failure of whoever said no."""
    drafted = await ctx.run("draft", draft, complaint)
    async with ctx.saga() as saga:
        saga.compensate(release, complaint.order, drafted.amount)
        await ctx.run("reserve", reserve, complaint.order, drafted.amount)
        try:
            decision = await ctx.approval(
                f"Refund {drafted.amount} EUR for order {complaint.order}?",
                Refund,
                context={"reason": drafted.reason, "suggested": drafted.amount},
                to=["support@shop.example"],
                notify=mail,
                escalate=Escalation(timedelta(days=1), ["lead@shop.example"], mail),
                timeout=timedelta(days=7),
            )
        except ApprovalTimeout:
            return "nobody decided in a week; the customer is told to write again"
        return await ctx.run("pay", pay, complaint.order, decision.value.amount)


@refunds.handler()
async def close_account(ctx: Context, customer: str) -> str:
    """Without a timeout: it waits for as long as it takes, be it years."""
    decision = await ctx.approval(f"Close the account of {customer}?", to=["support@shop.example"], notify=mail)
    return f"{customer}: closed, as {decision.by} said" if decision else f"{customer}: kept, {decision.comment}"


app = App(refunds)
