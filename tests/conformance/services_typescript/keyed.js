// Counter, Store, LazyStore, Relay and the workflow Approval.
import * as restate from "@restatedev/restate-sdk";
import { QUICKLY, echo } from "./basic.js";
import { PREFIX, note, opened } from "./witness.js";

export const BRIEF = 200;
const { shared } = restate.handlers.object;

export const counter = restate.object({
  name: PREFIX + "Counter",
  options: { inactivityTimeout: BRIEF, retryPolicy: QUICKLY },
  handlers: {
    add: async (ctx, amount) => {
      const total = ((await ctx.get("total")) ?? 0) + amount;
      ctx.set("total", total);
      return total;
    },
    get: shared(async (ctx) => (await ctx.get("total")) ?? 0),
    add_and_fail: async (ctx, amount) => {
      ctx.set("total", ((await ctx.get("total")) ?? 0) + amount);
      throw new restate.TerminalError("added and failed", { errorCode: 422 });
    },
    append: async (ctx, item) => {
      const items = [...((await ctx.get("items")) ?? []), item];
      ctx.set("items", items);
      return items;
    },
    items: shared(async (ctx) => (await ctx.get("items")) ?? []),
    hold: async (ctx, { witness, gate }) =>
      ctx.run("hold", async () => {
        note(witness);
        await opened(gate);
        return "released";
      }),
    wait: async (ctx, { witness }) => {
      const { id, promise } = ctx.awakeable();
      await ctx.run("publish", () => note(witness, id));
      return promise;
    },
    key: shared(async (ctx) => ctx.key),
  },
});

const storing = (name, enableLazyState) =>
  restate.object({
    name: PREFIX + name,
    options: { enableLazyState, retryPolicy: QUICKLY },
    handlers: {
      script: async (ctx, operations) => {
        const results = [];
        for (const [operation, ...rest] of operations) {
          let result = null;
          if (operation === "set") ctx.set(...rest);
          else if (operation === "get") result = await ctx.get(...rest);
          else if (operation === "clear") ctx.clear(...rest);
          else if (operation === "clear_all") ctx.clearAll();
          else if (operation === "keys") result = (await ctx.stateKeys()).sort();
          results.push(result);
        }
        return results;
      },
      read: shared(async (ctx, names) => {
        const values = [];
        for (const name of names) values.push(await ctx.get(name));
        return values;
      }),
      names: shared(async (ctx) => (await ctx.stateKeys()).sort()),
      fill: async (ctx, { name, size }) => {
        ctx.set(name, "x".repeat(size));
        return size;
      },
    },
  });

export const store = storing("Store", undefined);
export const lazyStore = storing("LazyStore", true);

export const relay = restate.object({
  name: PREFIX + "Relay",
  options: { retryPolicy: QUICKLY },
  handlers: {
    relay: async (ctx, amount) => {
      const heard = await ctx.serviceClient(echo).echo(amount);
      const total = ((await ctx.get("total")) ?? 0) + heard;
      ctx.set("total", total);
      return total;
    },
  },
});

export const approval = restate.workflow({
  name: PREFIX + "Approval",
  options: { inactivityTimeout: BRIEF, retryPolicy: QUICKLY },
  handlers: {
    run: async (ctx, { witness, wait }) => {
      await ctx.run("begin", () => note(witness));
      if (!wait) return "at once";
      ctx.set("status", "waiting");
      const decision = await ctx.promise("decision");
      ctx.set("status", "done");
      return decision;
    },
    decide: async (ctx, value) => {
      await ctx.promise("decision").resolve(value);
      return "decided";
    },
    refuse: async (ctx, message) => {
      await ctx.promise("decision").reject(message);
      return "refused";
    },
    peek: async (ctx) => ({ value: (await ctx.promise("decision").peek()) ?? null }),
    decision: async (ctx) => ctx.promise("decision"),
    status: async (ctx) => ({ value: await ctx.get("status") }),
  },
});
