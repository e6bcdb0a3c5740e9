"""What the server of `test_served` runs."""

import logging

from opentelemetry import trace

from perdure import App, Context, Service

log = logging.getLogger("journey")
tracer = trace.get_tracer("app")
journey = Service("Journey", inactivity_timeout=0)


async def travel(leg: str) -> str:
    with tracer.start_as_current_span("ticket"):
        log.info("travels %s", leg)
        return leg


@journey.handler()
async def go(ctx: Context) -> list[str]:
    log.info("sets out")
    with tracer.start_as_current_span("the whole way"):
        there = await ctx.run("there", travel, "there")
        log.info("is there")
        await ctx.signal("enough")
        log.info("turns round")
        back = await ctx.run("back", travel, "back")
    return [there, back]


app = App(journey)
