// The services of `bench.services`, written with the official Restate SDK for TypeScript.
Promise.withResolvers ??= function () {
  let resolve, reject;
  const promise = new this((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  return { promise, resolve, reject };
};
const restate = await import("@restatedev/restate-sdk");

const steps = restate.service({
  name: "Steps",
  handlers: {
    run: async (ctx, count) => {
      let total = 0;
      for (let i = 0; i < count; i++) total += await ctx.run("one", async () => 1);
      return total;
    },
  },
});
const noop = restate.service({ name: "Noop", handlers: { echo: async (ctx, value) => value } });

restate.endpoint().bind(steps).bind(noop).listen(Number(process.env.PORT));
