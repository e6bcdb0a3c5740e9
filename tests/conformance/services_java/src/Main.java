import com.fasterxml.jackson.databind.JsonNode;
import dev.restate.common.function.ThrowingBiFunction;
import dev.restate.common.function.ThrowingFunction;
import dev.restate.sdk.Context;
import dev.restate.sdk.HandlerRunner;
import dev.restate.sdk.endpoint.Endpoint;
import dev.restate.sdk.endpoint.definition.HandlerDefinition;
import dev.restate.sdk.endpoint.definition.HandlerType;
import dev.restate.sdk.endpoint.definition.InvocationRetryPolicy;
import dev.restate.sdk.endpoint.definition.ServiceDefinition;
import dev.restate.sdk.endpoint.definition.ServiceType;
import dev.restate.sdk.http.vertx.RestateHttpServer;
import dev.restate.serde.Serde;
import dev.restate.serde.jackson.JacksonSerdeFactory;
import java.time.Duration;
import java.util.List;

/**
 * The services of the contract that a few cases need, written with the official Java SDK. `PORT`, `PREFIX`, `VERSION`
 * and `WITNESS_DIR` say how they are served, until the process is killed. Names are known only when it starts, so
 * services are defined by calls rather than by annotations.
 */
final class Main {
  private static final HandlerType SHARED = HandlerType.SHARED;
  private static final HandlerType EXCLUSIVE = HandlerType.EXCLUSIVE;

  private Main() {}

  private static <C extends Context> HandlerDefinition<JsonNode, JsonNode> handler(
      String name, HandlerType type, ThrowingBiFunction<C, JsonNode, JsonNode> body) {
    var runner = HandlerRunner.of(body, JacksonSerdeFactory.DEFAULT, null);
    return HandlerDefinition.of(name, type, Json.SERDE, Json.SERDE, runner);
  }

  private static <C extends Context> HandlerDefinition<Void, JsonNode> handler(
      String name, HandlerType type, ThrowingFunction<C, JsonNode> body) {
    var runner = HandlerRunner.of(body, JacksonSerdeFactory.DEFAULT, null);
    return HandlerDefinition.of(name, type, Serde.VOID, Json.SERDE, runner);
  }

  private static ServiceDefinition quick(String name, ServiceType type, HandlerDefinition<?, ?>... handlers) {
    return ServiceDefinition.of(Witness.told("PREFIX") + name, type, List.of(handlers))
        .configure(
            service ->
                service.invocationRetryPolicy(
                    InvocationRetryPolicy.builder()
                        .initialInterval(Duration.ofMillis(20))
                        .exponentiationFactor(2.0)
                        .maxInterval(Duration.ofMillis(200))
                        .maxAttempts(10_000)));
  }

  private static ServiceDefinition brief(ServiceDefinition service) {
    return service.configure(each -> each.inactivityTimeout(Duration.ofMillis(200)));
  }

  private static ServiceDefinition store(String name, boolean lazy) {
    return quick(
            name,
            ServiceType.VIRTUAL_OBJECT,
            handler("script", EXCLUSIVE, Keyed::script),
            handler("read", SHARED, Keyed::read),
            handler("names", SHARED, Keyed::names))
        .configure(service -> service.enableLazyState(lazy));
  }

  private static Endpoint services() {
    ServiceType plain = ServiceType.SERVICE;
    return Endpoint.builder()
        .bind(quick("Echo", plain, handler("echo", SHARED, Plain::echo)))
        .bind(
            quick("Steps", plain, handler("many", SHARED, Plain::many), handler("flaky", SHARED, Plain::flaky)))
        .bind(quick("Failing", plain, handler("terminal", SHARED, Plain::terminal)))
        .bind(
            brief(
                quick("Caller", plain, handler("call", SHARED, Plain::call), handler("send", SHARED, Plain::send))))
        .bind(brief(quick("Timers", plain, handler("sleep", SHARED, Plain::sleep))))
        .bind(brief(quick("Waiting", plain, handler("awakeable", SHARED, Plain::awakeable))))
        .bind(brief(quick("Cancellable", plain, handler("compensated", SHARED, Plain::compensated))))
        .bind(brief(quick("Versioned", plain, handler("version", SHARED, Plain::version))))
        .bind(
            brief(
                quick(
                    "Counter",
                    ServiceType.VIRTUAL_OBJECT,
                    handler("add", EXCLUSIVE, Keyed::add),
                    handler("get", SHARED, Keyed::get))))
        .bind(store("Store", false))
        .bind(store("LazyStore", true))
        .bind(
            brief(
                quick(
                    "Approval",
                    ServiceType.WORKFLOW,
                    handler("run", HandlerType.WORKFLOW, Keyed::run),
                    handler("decide", SHARED, Keyed::decide))))
        .build();
  }

  public static void main(String[] arguments) {
    RestateHttpServer.fromEndpoint(services())
        .listen(Integer.parseInt(Witness.told("PORT")), "127.0.0.1")
        .onFailure(
            error -> {
              error.printStackTrace();
              System.exit(1);
            });
  }
}
