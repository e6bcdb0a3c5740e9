"""One query: planned by DataFusion, its conditions handed on to the scans, its rows streamed.

After planning, the plan says for every scan which conditions are above it. What of them SQLite can check is told to
the scan (`conditions`), and so is a sort with a limit if nothing in between changes which rows those are.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
from datafusion import RuntimeEnvBuilder, SessionConfig, SessionContext, SQLOptions
from datafusion import expr as x

from perdure.errors import RequestError
from perdure.sql import approvals, invocations, journal, json_functions, objects, usage
from perdure.sql.conditions import Condition, both, either, translate
from perdure.sql.facts import Facts
from perdure.sql.relations import Relation, World
from perdure.sql.scan import RelationDataset, Top

__all__ = ["QueryError", "Result", "execute"]

RELATIONS: Final[tuple[Relation, ...]] = (
    *invocations.RELATIONS,
    *journal.RELATIONS,
    *objects.RELATIONS,
    *approvals.RELATIONS,
    *usage.RELATIONS,
)
VIEWS: Final = ("sys_invocation",)  # restate-server has these as views, and says so in information_schema
THREADS: Final = 2

_READ_ONLY = SQLOptions().with_allow_ddl(False).with_allow_dml(False).with_allow_statements(False)
_PREFIX = "Datafusion error: "
_OF_THE_OLDEST = re.compile(
    r"(count\(Int64\(1\)\)|min\((\w+\.)?created_at\)"
    r"|first_value\((\w+\.)?id\) ORDER BY \[(\w+\.)?created_at ASC NULLS (LAST|FIRST)\])( AS .*)?"
)


class QueryError(RequestError):
    """A query that can't be answered; worded as restate-server words it."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Result:
    """The rows of a query: their schema, and batches that are made as they are asked for."""

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        self.schema = schema
        self.batches = batches


def execute(sql: str, files: Sequence[str], facts: Facts, memory_limit: int) -> Result:
    """Plan and begin a query. Raises `QueryError`, now or while batches are taken."""
    world = World(files, facts)
    datasets = {relation.name: RelationDataset(relation, world) for relation in RELATIONS}
    context = _context(datasets, memory_limit)
    try:
        frame = context.sql_with_options(json_functions.without_operators(sql), _READ_ONLY)
        plan = frame.optimized_logical_plan()
        _hand_on(plan, datasets)
        schema = frame.schema()
        stream = frame.execute_stream()
    except Exception as error:
        raise _error(error) from error
    return Result(schema, _batches(stream))


def _batches(stream: Any) -> Iterator[pa.RecordBatch]:
    try:
        for batch in stream:
            yield batch.to_pyarrow()
    except Exception as error:
        raise _error(error) from error


def _error(error: Exception) -> QueryError:
    """Its status: 400 for what no parser or planner takes, except what they call by another name; 500 otherwise."""
    message = str(error).removeprefix("DataFusion error: ")
    is_plan = message.startswith("Error during planning: ") and not message.endswith("not found")
    wrong = message.startswith("SQL error: ") or is_plan
    return QueryError(_PREFIX + message, 400 if wrong else 500)


def _context(datasets: Mapping[str, RelationDataset], memory_limit: int) -> SessionContext:
    config = (
        SessionConfig()
        .with_default_catalog_and_schema("restate", "public")
        .with_information_schema(True)
        .with_target_partitions(THREADS)
    )
    runtime = RuntimeEnvBuilder().with_disk_manager_disabled().with_greedy_memory_pool(memory_limit)
    context = SessionContext(config, runtime)
    json_functions.register(context)
    for name, dataset in datasets.items():
        context.register_dataset(name, dataset)
    for name in VIEWS:
        table = context.table(name)
        context.deregister_table(name)
        context.register_view(name, table)
    return context


# ---- what of the plan the scans are told


def _hand_on(plan: Any, datasets: Mapping[str, RelationDataset]) -> None:
    text = plan.display_indent()
    if "Subquery:" in text or "<subquery>" in text:
        return  # the scans of subqueries that are left can't be seen from here
    _Walk(datasets).down(plan, [])


class _Walk:
    """Goes down a plan."""

    def __init__(self, datasets: Mapping[str, RelationDataset]) -> None:
        self._datasets = datasets

    def down(self, plan: Any, predicates: list[Any], top: "_Wanted | None" = None, above: str = "") -> None:
        """`predicates` are of the filters directly above, `top` is a sort with a limit above, `above` is the node
        above in words."""
        it = _variant(plan)
        inputs = plan.inputs()
        if isinstance(it, x.TableScan):
            self._scan(it, predicates, top)
        elif isinstance(it, x.Filter):
            self.down(inputs[0], [*predicates, it.predicate()], top)
        elif isinstance(it, x.SubqueryAlias):
            self.down(inputs[0], predicates, top and top.unqualified())
        elif isinstance(it, x.Projection) and all(isinstance(_variant(each), x.Column) for each in it.projections()):
            self.down(inputs[0], predicates, top and top.through(it.projections()), plan.display())
        elif isinstance(it, x.Projection):
            self.down(inputs[0], [], top.through(it.projections()) if top and not predicates else None, plan.display())
        elif isinstance(it, x.Limit) and self._is_of_all(plan):
            self.down(inputs[0], predicates, top)
        elif isinstance(it, x.Sort):
            self.down(inputs[0], [], _Wanted.of(it))
        elif isinstance(it, x.Join) and not predicates:
            self._join(it, inputs, top, above)
        else:
            for each in inputs:
                self.down(each, [], None, plan.display())
            if isinstance(it, x.Aggregate):
                self._aggregate(it, inputs[0])

    def _is_of_all(self, plan: Any) -> bool:
        """Whether a limit is as long as the table below it, and so none."""
        found = re.fullmatch(r"Limit: skip=0, fetch=(\d+)", plan.display().splitlines()[0])
        dataset = self._table(plan.inputs()[0])
        longest = None if dataset is None else dataset.longest
        return found is not None and longest is not None and longest <= int(found[1])

    def _table(self, plan: Any) -> RelationDataset | None:
        """The table, if the plan is a table under another name and nothing more."""
        it = _variant(plan)
        plain = isinstance(it, x.Projection) and all(isinstance(_variant(e), x.Column) for e in it.projections())
        if isinstance(it, x.SubqueryAlias) or plain:
            return self._table(plan.inputs()[0])
        return self._datasets.get(it.table_name()) if isinstance(it, x.TableScan) else None

    def _join(self, it: Any, inputs: list[Any], top: "_Wanted | None", above: str) -> None:
        """Of a left join, every row of the left side is in the result, so its first rows are the result's."""
        left, right = inputs
        keeps = str(it.join_type()).rsplit(".", 1)[-1].lower() == "left"
        self.down(left, [], top if keeps and top is not None and top.is_of(left) else None)
        self.down(right, [])
        status, state = self._table(left), self._table(right)
        if not keeps or status is None or state is None or re.search(r"\bid\b", above) or not above:
            return
        pairs = [(_name(one), _name(other)) for one, other in it.on()]
        by_id = len(pairs) == 1 and pairs[0][0] == "id" and it.filter() is None
        if by_id and state.relation.name == "sys_invocation_state" and status.expected == 1:
            status.unmatched = True

    def _aggregate(self, it: Any, below: Any) -> None:
        """Counts, and the oldest of each kind: no other row of that kind has to be seen."""
        dataset = self._table(below)
        if dataset is None or dataset.expected != 1:
            return
        kinds = [_name(each) for each in it.group_by_exprs()]
        wanted = [each.canonical_name() for each in it.aggregate_exprs()]
        coarse = all(name in dataset.relation.coarse for name in kinds)
        if coarse and all(_OF_THE_OLDEST.fullmatch(each) for each in wanted):
            dataset.oldest = True

    def _scan(self, it: Any, predicates: list[Any], top: "_Wanted | None") -> None:
        dataset = self._datasets.get(it.table_name())
        if dataset is None:
            return
        filters = dataset.relation.filters
        condition: Condition | None = Condition("TRUE", (), True)
        for predicate in [*it.filters(), *predicates]:
            condition = both(condition, translate(predicate, filters))
        if it.fetch() is not None:
            longest = dataset.longest
            if longest is None or longest > it.fetch():
                top = None
        first = dataset.expected == 0
        dataset.expected += 1
        dataset.condition = condition if first else either(dataset.condition, condition)
        exact = condition is not None and condition.exact
        dataset.top = top.top() if first and exact and top is not None else None
        dataset.oldest = dataset.unmatched = False


class _Wanted:
    """The first `limit` rows by a column, as it is called at some place in the plan."""

    def __init__(self, name: str, qualifier: str | None, descending: bool, limit: int) -> None:
        self.name = name
        self._qualifier = qualifier
        self._descending = descending
        self._limit = limit

    @classmethod
    def of(cls, sort: Any) -> "_Wanted | None":
        limit = sort.get_fetch_val()
        first = sort.sort_exprs()[0]
        column = _variant(first.expr())
        if limit is None or not isinstance(column, x.Column):
            return None
        return cls(column.name(), column.relation(), not first.ascending(), limit)

    def unqualified(self) -> "_Wanted":
        """Below an alias names are other tables'."""
        return _Wanted(self.name, None, self._descending, self._limit)

    def through(self, projections: list[Any]) -> "_Wanted | None":
        """Below a projection it may have another name, or be no column."""
        found = []
        for each in projections:
            it = _variant(each)
            if isinstance(it, x.Alias) and it.alias() == self.name:
                found.append(_variant(it.expr()))
            elif isinstance(it, x.Column) and it.name() == self.name:
                found.append(it)
        if len(found) != 1 or not isinstance(found[0], x.Column):
            return None
        return _Wanted(found[0].name(), found[0].relation(), self._descending, self._limit)

    def is_of(self, plan: Any) -> bool:
        """Whether it is a column of this side of a join."""
        return self._qualifier is not None and f"{self._qualifier}.{self.name}" in plan_fields(plan)

    def top(self) -> Top:
        return Top(self.name, self._descending, self._limit)


def plan_fields(plan: Any) -> list[str]:
    """The qualified names of what a plan gives."""
    it = _variant(plan)
    try:
        return [str(name) for name in it.schema().field_names()]
    except Exception:
        return []


def _name(expression: Any) -> str | None:
    """The column that an expression is; None if it is more."""
    it = _variant(expression)
    return it.name() if isinstance(it, x.Column) else None


def _variant(thing: Any) -> Any:
    """The binding's class for a plan or an expression; None if it has none."""
    try:
        return thing.to_variant()
    except Exception:
        return None
