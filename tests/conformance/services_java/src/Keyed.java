import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.NullNode;
import dev.restate.sdk.ObjectContext;
import dev.restate.sdk.SharedObjectContext;
import dev.restate.sdk.SharedWorkflowContext;
import dev.restate.sdk.WorkflowContext;
import dev.restate.sdk.common.DurablePromiseKey;
import dev.restate.sdk.common.StateKey;
import dev.restate.sdk.common.TerminalException;

/** Counter, Store, LazyStore and the workflow Approval. */
final class Keyed {
  private static final StateKey<Integer> TOTAL = StateKey.of("total", Integer.class);
  private static final DurablePromiseKey<JsonNode> DECISION = DurablePromiseKey.of("decision", Json.SERDE);

  private Keyed() {}

  static JsonNode add(ObjectContext ctx, JsonNode amount) {
    int total = ctx.get(TOTAL).orElse(0) + amount.asInt();
    ctx.set(TOTAL, total);
    return Json.of(total);
  }

  static JsonNode get(SharedObjectContext ctx) {
    return Json.of(ctx.get(TOTAL).orElse(0));
  }

  private static StateKey<JsonNode> named(JsonNode name) {
    return StateKey.of(name.asText(), Json.SERDE);
  }

  private static JsonNode value(SharedObjectContext ctx, JsonNode name) {
    return ctx.get(named(name)).orElse(NullNode.getInstance());
  }

  static JsonNode names(SharedObjectContext ctx) {
    ArrayNode sorted = Json.list();
    ctx.stateKeys().stream().sorted().forEach(sorted::add);
    return sorted;
  }

  static JsonNode read(SharedObjectContext ctx, JsonNode names) {
    ArrayNode values = Json.list();
    names.forEach(name -> values.add(value(ctx, name)));
    return values;
  }

  static JsonNode script(ObjectContext ctx, JsonNode operations) {
    ArrayNode results = Json.list();
    operations.forEach(operation -> results.add(perform(ctx, operation)));
    return results;
  }

  private static JsonNode perform(ObjectContext ctx, JsonNode operation) {
    switch (operation.get(0).asText()) {
      case "get":
        return value(ctx, operation.get(1));
      case "keys":
        return names(ctx);
      case "set":
        ctx.set(named(operation.get(1)), operation.get(2));
        break;
      case "clear":
        ctx.clear(named(operation.get(1)));
        break;
      case "clear_all":
        ctx.clearAll();
        break;
      default:
        throw new TerminalException("no such operation: " + operation.get(0).asText());
    }
    return NullNode.getInstance();
  }

  static JsonNode run(WorkflowContext ctx, JsonNode command) {
    ctx.run("begin", Integer.class, () -> Witness.note(command.get("witness").asText(), ""));
    if (!command.get("wait").asBoolean()) {
      return Json.of("at once");
    }
    StateKey<String> status = StateKey.of("status", String.class);
    ctx.set(status, "waiting");
    JsonNode decision = ctx.promise(DECISION).future().await();
    ctx.set(status, "done");
    return decision;
  }

  static JsonNode decide(SharedWorkflowContext ctx, JsonNode value) {
    ctx.promiseHandle(DECISION).resolve(value);
    return Json.of("decided");
  }
}
