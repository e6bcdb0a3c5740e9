import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.IntNode;
import com.fasterxml.jackson.databind.node.TextNode;
import dev.restate.serde.Serde;

/** Arguments and results are trees: whatever JSON they are, they pass unchanged. */
final class Json {
  static final ObjectMapper MAPPER = new ObjectMapper();
  static final Serde<JsonNode> SERDE =
      Serde.using("application/json", MAPPER::writeValueAsBytes, MAPPER::readTree);

  private Json() {}

  static JsonNode of(String value) {
    return TextNode.valueOf(value);
  }

  static JsonNode of(int value) {
    return IntNode.valueOf(value);
  }

  static ArrayNode list() {
    return MAPPER.createArrayNode();
  }
}
