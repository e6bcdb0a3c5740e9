import com.fasterxml.jackson.databind.JsonNode;
import dev.restate.common.Request;
import dev.restate.common.RequestBuilder;
import dev.restate.common.Target;
import dev.restate.sdk.Awakeable;
import dev.restate.sdk.Context;
import dev.restate.sdk.common.RetryPolicy;
import dev.restate.sdk.common.TerminalException;
import java.io.IOException;
import java.time.Duration;

/** Echo, Steps, Failing, Caller, Timers, Waiting, Cancellable and Versioned. */
final class Plain {
  private static final Duration SHORT = Duration.ofMillis(20);

  private Plain() {}

  static JsonNode echo(Context ctx, JsonNode value) {
    return value;
  }

  static JsonNode many(Context ctx, JsonNode command) {
    int total = 0;
    for (int i = 0; i < command.get("count").asInt(); i++) {
      int number = i;
      total +=
          ctx.run(
              "step " + number,
              Integer.class,
              () -> {
                Witness.note(command.get("witness").asText(), number);
                Thread.sleep(command.path("ms").asInt());
                return number;
              });
    }
    return Json.of(total);
  }

  static JsonNode flaky(Context ctx, JsonNode command) {
    RetryPolicy retry = RetryPolicy.exponential(SHORT, 1.0f).setMaxDelay(SHORT);
    return Json.of(
        ctx.run(
            "flaky",
            Integer.class,
            retry,
            () -> {
              int count = Witness.note(command.get("witness").asText(), "");
              if (count <= command.get("failures").asInt()) {
                throw new IllegalStateException("not yet");
              }
              return count;
            }));
  }

  /** The SDK's terminal errors have no metadata: none is asked for in the cases that are run with it. */
  static JsonNode terminal(Context ctx, JsonNode command) throws IOException {
    Witness.note(command.get("witness").asText(), "");
    throw new TerminalException(command.get("code").asInt(), command.get("message").asText());
  }

  private static RequestBuilder<JsonNode, JsonNode> request(JsonNode command) {
    String service = command.get("service").asText();
    String handler = command.get("handler").asText();
    Target target =
        command.hasNonNull("key")
            ? Target.virtualObject(service, command.get("key").asText(), handler)
            : Target.service(service, handler);
    RequestBuilder<JsonNode, JsonNode> made = Request.of(target, Json.SERDE, Json.SERDE, command.get("value"));
    if (command.hasNonNull("idempotency_key")) {
      made = made.idempotencyKey(command.get("idempotency_key").asText());
    }
    for (var header : command.path("headers").properties()) {
      made = made.header(header.getKey(), header.getValue().asText());
    }
    return made;
  }

  static JsonNode call(Context ctx, JsonNode command) {
    return ctx.call(request(command).build()).await();
  }

  static JsonNode send(Context ctx, JsonNode command) {
    Duration delay = command.has("delay_ms") ? Duration.ofMillis(command.get("delay_ms").asInt()) : null;
    return Json.of(ctx.send(request(command).build(), delay).invocationId());
  }

  private static void noted(Context ctx, String step, String witness, String text) {
    ctx.run(step, Integer.class, () -> Witness.note(witness, text));
  }

  static JsonNode sleep(Context ctx, JsonNode command) {
    if (command.has("before")) {
      noted(ctx, "before", command.get("before").asText(), "");
    }
    ctx.sleep(Duration.ofMillis(command.get("ms").asInt()));
    if (command.has("after")) {
      noted(ctx, "after", command.get("after").asText(), "");
    }
    return Json.of("slept");
  }

  static JsonNode awakeable(Context ctx, JsonNode command) {
    Awakeable<JsonNode> answer = ctx.awakeable(Json.SERDE);
    noted(ctx, "publish", command.get("witness").asText(), answer.id());
    return answer.await();
  }

  static JsonNode compensated(Context ctx, JsonNode command) {
    Awakeable<JsonNode> answer = ctx.awakeable(Json.SERDE);
    noted(ctx, "publish", command.get("witness").asText(), answer.id());
    try {
      return answer.await();
    } catch (TerminalException error) {
      noted(ctx, "undo", command.get("undone").asText(), "");
      throw error;
    }
  }

  static JsonNode version(Context ctx) {
    return Json.of(Witness.told("VERSION"));
  }
}
