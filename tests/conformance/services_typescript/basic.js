// Echo, Hidden, Steps and Failing.
import * as restate from "@restatedev/restate-sdk";
import { PREFIX, VERSION, isOpen, note, pause } from "./witness.js";

const SHORT = 20;
export const QUICKLY = { initialInterval: SHORT, exponentiationFactor: 2.0, maxInterval: 200, maxAttempts: 10_000 };
const STEP_QUICKLY = { initialRetryInterval: SHORT, maxRetryInterval: SHORT, retryIntervalFactor: 1.0 };

const textSerde = {
  contentType: "text/plain",
  serialize: (value) => new TextEncoder().encode(value),
  deserialize: (data) => new TextDecoder().decode(data),
};

export const echo = restate.service({
  name: PREFIX + "Echo",
  description: "Says back what it is told.",
  metadata: { suite: "conformance" },
  options: { retryPolicy: QUICKLY },
  handlers: {
    echo: restate.handlers.handler({ metadata: { kind: "plain" } }, async (ctx, value) => value),
    raw: restate.handlers.handler(
      { accept: "application/octet-stream", input: restate.serde.binary, output: restate.serde.binary },
      async (ctx, body) => body,
    ),
    text: restate.handlers.handler(
      { accept: "text/plain", input: textSerde, output: textSerde },
      async (ctx, value) => value.toUpperCase(),
    ),
    nothing: async () => undefined,
    headers: async (ctx) => Object.fromEntries(ctx.request().headers),
    version: async () => VERSION,
    identity: async (ctx) => ctx.request().id,
    private: restate.handlers.handler({ ingressPrivate: true }, async (ctx, value) => value),
  },
});

export const hidden = restate.service({
  name: PREFIX + "Hidden",
  options: { ingressPrivate: true, retryPolicy: QUICKLY },
  handlers: { echo: async (ctx, value) => value },
});

export const steps = restate.service({
  name: PREFIX + "Steps",
  options: { retryPolicy: QUICKLY },
  handlers: {
    one: async (ctx, { witness, value }) =>
      ctx.run("one", () => {
        note(witness);
        return value;
      }),

    many: async (ctx, { witness, count, ms }) => {
      let total = 0;
      for (let i = 0; i < count; i++) {
        total += await ctx.run(`step ${i}`, async () => {
          note(witness, i);
          await pause(ms ?? 0);
          return i;
        });
      }
      return total;
    },

    parallel: async (ctx, { witness, count }) => {
      const started = Array.from({ length: count }, (_, i) =>
        ctx.run(`step ${i}`, async () => {
          note(witness, i);
          return i * i;
        }),
      );
      return restate.RestatePromise.all(started);
    },

    flaky: async (ctx, { witness, failures }) =>
      ctx.run(
        "flaky",
        async () => {
          const count = note(witness);
          if (count <= failures) throw new Error("not yet");
          return count;
        },
        STEP_QUICKLY,
      ),

    exhausted: async (ctx, { witness, attempts, catch: caught }) => {
      const step = async () => {
        note(witness);
        throw new Error("never");
      };
      try {
        await ctx.run("exhausted", step, { ...STEP_QUICKLY, maxRetryAttempts: attempts });
      } catch (error) {
        if (!caught || !(error instanceof restate.TerminalError)) throw error;
        return { code: error.code };
      }
    },

    terminal: async (ctx, { witness, code, message, catch: caught }) => {
      try {
        await ctx.run("terminal", async () => {
          note(witness);
          throw new restate.TerminalError(message, { errorCode: code });
        });
      } catch (error) {
        if (!caught || !(error instanceof restate.TerminalError)) throw error;
        return { code: error.code, message: error.message };
      }
    },

    large: async (ctx, { witness, size }) => {
      const made = await ctx.run("large", async () => {
        note(witness);
        return "x".repeat(size);
      });
      await ctx.sleep(SHORT);
      return made;
    },

    then_fail: async (ctx, { first, second, failures }) => {
      const made = await ctx.run("first", async () => note(first));
      const attempts = note(second);
      if (attempts <= failures) throw new Error("not yet");
      return [made, attempts];
    },

    unique: async (ctx, { witness, failures }) => {
      const made = ctx.rand.uuidv4();
      if (note(witness, made) <= failures) throw new Error("not yet");
      return made;
    },
  },
});

const attempt = ({ witness, failures }, text = "") => {
  const attempts = note(witness, text);
  if (attempts <= failures) throw new Error("not yet");
  return attempts;
};

export const failing = restate.service({
  name: PREFIX + "Failing",
  options: { retryPolicy: QUICKLY },
  handlers: {
    terminal: async (ctx, { witness, code, message, metadata }) => {
      note(witness);
      throw new restate.TerminalError(message, { errorCode: code, metadata });
    },

    flaky: async (ctx, command) => attempt(command),

    backoff: restate.handlers.handler(
      { retryPolicy: { initialInterval: 100, exponentiationFactor: 2.0, maxInterval: 10_000 } },
      async (ctx, command) => attempt(command, Date.now()),
    ),

    retry_after: async (ctx, { witness, ms }) => {
      const attempts = note(witness, Date.now());
      if (attempts === 1) throw new restate.RetryableError("later", { retryAfter: ms });
      return attempts;
    },

    paused: restate.handlers.handler(
      {
        retryPolicy: { initialInterval: SHORT, exponentiationFactor: 1.0, maxAttempts: 2, onMaxAttempts: "pause" },
      },
      async (ctx, { witness, gate }) => {
        const attempts = note(witness);
        if (!isOpen(gate)) throw new Error("not yet");
        return attempts;
      },
    ),

    killed: restate.handlers.handler(
      { retryPolicy: { initialInterval: SHORT, exponentiationFactor: 1.0, maxAttempts: 3, onMaxAttempts: "kill" } },
      async (ctx, { witness }) => {
        note(witness);
        throw new Error("never");
      },
    ),
  },
});
