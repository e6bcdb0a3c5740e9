// Caller: everything that one handler can do to others.
import * as restate from "@restatedev/restate-sdk";
import { QUICKLY, echo, steps } from "./basic.js";
import { BRIEF, relay } from "./keyed.js";
import { timers } from "./waiting.js";
import { PREFIX } from "./witness.js";

const json = restate.serde.json;

const target = ({ service, handler, key, value, idempotency_key, headers }) => ({
  service,
  method: handler,
  key,
  parameter: value,
  idempotencyKey: idempotency_key,
  headers,
  inputSerde: json,
  outputSerde: json,
});

export const caller = restate.service({
  name: PREFIX + "Caller",
  options: { inactivityTimeout: BRIEF, retryPolicy: QUICKLY },
  handlers: {
    call: async (ctx, command) => ctx.genericCall(target(command)),
    call_with_id: async (ctx, command) => {
      const call = ctx.genericCall(target(command));
      return [await call.invocationId, await call];
    },
    catch: async (ctx, command) => {
      try {
        return { result: await ctx.genericCall(target(command)) };
      } catch (error) {
        if (!(error instanceof restate.TerminalError)) throw error;
        return { code: error.code, message: error.message, metadata: error.metadata ?? {} };
      }
    },
    send: async (ctx, command) => ctx.genericSend({ ...target(command), delay: command.delay_ms }).invocationId,
    chain: async (ctx, { key, amount }) => ctx.objectClient(relay, key).relay(amount),
    fan_out: async (ctx, count) => {
      const calls = Array.from({ length: count }, (_, i) => ctx.serviceClient(echo).echo(i));
      return (await restate.RestatePromise.all(calls)).reduce((sum, value) => sum + value, 0);
    },
    twice: async (ctx, { witness, value, idempotency_key }) => {
      const once = () =>
        ctx.serviceClient(steps).one({ witness, value }, restate.rpc.opts({ idempotencyKey: idempotency_key }));
      return [await once(), await once()];
    },
    impatient: async (ctx, { ms, callee_ms }) => {
      const call = ctx.serviceClient(timers).sleep({ ms: callee_ms });
      try {
        return { result: await call.orTimeout(ms) };
      } catch (error) {
        if (!(error instanceof restate.TimeoutError)) throw error;
        const id = await call.invocationId;
        ctx.cancel(id);
        return { timeout: id };
      }
    },
    attach: async (ctx, { id }) => ctx.attach(id),
    cancel: async (ctx, { id }) => {
      ctx.cancel(id);
      return "asked";
    },
    resolve_awakeable: async (ctx, { id, value }) => {
      ctx.resolveAwakeable(id, value);
      return "resolved";
    },
    reject_awakeable: async (ctx, { id, message }) => {
      ctx.rejectAwakeable(id, message);
      return "rejected";
    },
    signal: async (ctx, { id, name, value }) => {
      ctx.invocation(id).signal(name).resolve(value);
      return "sent";
    },
    reject_signal: async (ctx, { id, name, message }) => {
      ctx.invocation(id).signal(name).reject(message);
      return "sent";
    },
  },
});
