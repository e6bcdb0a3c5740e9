// The SDK uses Promise.withResolvers, which came with Node 22.
Promise.withResolvers ??= function () {
  let resolve, reject;
  const promise = new this((done, failed) => {
    resolve = done;
    reject = failed;
  });
  return { promise, resolve, reject };
};
