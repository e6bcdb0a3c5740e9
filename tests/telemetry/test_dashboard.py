"""The dashboard in docs/ asks for nothing that is not there."""

import json
import re
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from perdure import Engine
from perdure.telemetry.metrics import ModelMetrics
from tests.telemetry.test_metrics import APP, scrape, steps

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana" / "perdure.json"
OF_THE_PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes"}  # on Linux


def queries(dashboard: dict[str, Any]) -> list[str]:
    targets = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    return targets + [each["query"]["query"] for each in dashboard["templating"]["list"] if each["type"] == "query"]


async def test_every_metric_in_it_is_exported(tmp_path: Path) -> None:
    asked = queries(json.loads(DASHBOARD.read_text()))
    named = {name for query in asked for name in re.findall(r"\b(?:perdure|process)_[a-z_]+\b", query)}
    async with Engine(APP, tmp_path / "engine.db") as engine:
        await engine.call(steps, 1)
        metrics = engine.node.metrics
        metrics.statuses, metrics.responses, metrics.spans = {}, {200: 1}, {"step": 1}
        metrics.models = {"gpt": ModelMetrics()}
        families = list(text_string_to_metric_families(await scrape(engine.node)))
    exported = {sample.name for family in families for sample in family.samples} | {family.name for family in families}
    assert named - OF_THE_PROCESS <= exported
    shown = {family.name for family in families if family.name.startswith("perdure_")}
    assert {name for name in shown if not any(each.startswith(name) for each in named)} == set()  # and it shows all


async def test_labels_in_it_are_those_that_metrics_have() -> None:
    asked = " ".join(queries(json.loads(DASHBOARD.read_text())))
    statuses = set(re.findall(r'status="([a-z-]+)"', asked))
    async with Engine(APP) as engine:
        engine.node.metrics.statuses = {}
        text = await scrape(engine.node)
    assert statuses and all(f'status="{status}"' in text for status in statuses)


def test_its_panels_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)) and len({panel["id"] for panel in panels}) == len(panels)
