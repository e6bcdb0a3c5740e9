// Timers, Waiting, Cancellable and Versioned: what suspends.
import * as restate from "@restatedev/restate-sdk";
import { QUICKLY } from "./basic.js";
import { BRIEF } from "./keyed.js";
import { PREFIX, VERSION, note } from "./witness.js";

const options = { inactivityTimeout: BRIEF, retryPolicy: QUICKLY };
const { RestatePromise, TerminalError, TimeoutError } = restate;

export const timers = restate.service({
  name: PREFIX + "Timers",
  options,
  handlers: {
    sleep: async (ctx, { ms, before, after }) => {
      if (before !== undefined) await ctx.run("before", () => note(before));
      await ctx.sleep(ms);
      if (after !== undefined) await ctx.run("after", () => note(after));
      return "slept";
    },
    many: async (ctx, milliseconds) => {
      await RestatePromise.all(milliseconds.map((ms) => ctx.sleep(ms)));
      return milliseconds.length;
    },
  },
});

/** That many awakeables, whose ids a step has noted. */
async function published(ctx, witness, count) {
  const made = Array.from({ length: count }, () => ctx.awakeable());
  for (const { id } of made) await ctx.run("publish", () => note(witness, id));
  return made.map(({ promise }) => promise);
}

export const waiting = restate.service({
  name: PREFIX + "Waiting",
  options,
  handlers: {
    awakeable: async (ctx, { witness }) => {
      const [answer] = await published(ctx, witness, 1);
      return answer;
    },
    timeout: async (ctx, { witness, ms }) => {
      const [answer] = await published(ctx, witness, 1);
      try {
        return { value: await answer.orTimeout(ms) };
      } catch (error) {
        if (!(error instanceof TimeoutError)) throw error;
        return { timeout: true };
      }
    },
    race: async (ctx, { witness }) => {
      const [a, b] = await published(ctx, witness, 2);
      const named = (name) => (value, failure) => {
        if (failure) throw failure;
        return [name, value];
      };
      return RestatePromise.race([a.map(named("a")), b.map(named("b"))]);
    },
    all: async (ctx, { witness, ms }) => {
      const [a, b] = await published(ctx, witness, 2);
      const [first, second, , slept] = await RestatePromise.all([
        a,
        b,
        ctx.sleep(ms),
        ctx.serviceClient(timers).sleep({ ms }),
      ]);
      return [first, second, slept];
    },
    any: async (ctx, { witness }) => RestatePromise.any(await published(ctx, witness, 2)),
    signals: async (ctx, { name, count }) => {
      const values = [];
      for (let i = 0; i < count; i++) values.push(await ctx.signal(name));
      return values;
    },
  },
});

const compensated = async (ctx, { witness, undone }) => {
  const [answer] = await published(ctx, witness, 1);
  try {
    return await answer;
  } catch (error) {
    if (error instanceof TerminalError) await ctx.run("undo", () => note(undone));
    throw error;
  }
};

export const cancellable = restate.service({
  name: PREFIX + "Cancellable",
  options,
  handlers: {
    wait: async (ctx, { witness }) => {
      const [answer] = await published(ctx, witness, 1);
      return answer;
    },
    compensated,
    caught: async (ctx, { witness }) => {
      const [answer] = await published(ctx, witness, 1);
      try {
        return { value: await answer };
      } catch (error) {
        if (!(error instanceof TerminalError)) throw error;
        await ctx.sleep(20);
        return { code: error.code };
      }
    },
    parent: async (ctx, command) => ctx.serviceClient({ name: PREFIX + "Cancellable" }).compensated(command),
  },
});

export const versioned = restate.service({
  name: PREFIX + "Versioned",
  options,
  handlers: {
    version: async () => VERSION,
    // Version v2 has a step more, so that its code cannot go on with a journal of v1.
    span: async (ctx, { witness }) => {
      if (VERSION === "v2") await ctx.run("extra", () => VERSION);
      const first = await ctx.run("first", () => VERSION);
      const [answer] = await published(ctx, witness, 1);
      await answer;
      const last = await ctx.run("last", () => VERSION);
      return [first, last];
    },
    ...(VERSION === "v2" ? { only_in_v2: async () => "new" } : {}),
  },
});
