import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;

final class Witness {
  private Witness() {}

  /** What the environment says, or nothing. */
  static String told(String name) {
    return System.getenv().getOrDefault(name, "");
  }

  /** Append a line; how many there are with it. */
  static int note(String witness, Object text) throws IOException {
    Path path = Path.of(told("WITNESS_DIR"), witness);
    Files.writeString(path, text + "\n", StandardOpenOption.CREATE, StandardOpenOption.APPEND);
    return (int) Files.readString(path).chars().filter(each -> each == '\n').count();
  }
}
