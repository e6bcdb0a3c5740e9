// Promise.withResolvers came with Node 22; the SDK uses it.
const made = Promise as unknown as { withResolvers?: () => unknown };
made.withResolvers ??= function <T>() {
  let resolve!: (value: T) => void, reject!: (reason: unknown) => void;
  const promise = new Promise<T>((done, failed) => {
    resolve = done;
    reject = failed;
  });
  return { promise, resolve, reject };
};
