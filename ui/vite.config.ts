import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { join } from "node:path";
import react from "@vitejs/plugin-react";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";

const out = fileURLToPath(new URL("../src/perdure/web/console", import.meta.url));
const admin = process.env["PERDURE_ADMIN_URL"] ?? "http://127.0.0.1:9070";
const routes = /^\/(?!ui\/)/; // everything but the console itself is the admin port's

/** Smaller copies beside each file, so that the server has nothing to compress. */
function compressed(): Plugin {
  return {
    name: "compressed",
    apply: "build",
    closeBundle() {
      for (const name of readdirSync(out, { recursive: true, encoding: "utf8" })) {
        if (!/\.(js|css|html|svg)$/.test(name)) continue;
        const content = readFileSync(join(out, name));
        writeFileSync(join(out, `${name}.gz`), gzipSync(content, { level: 9 }));
        writeFileSync(
          join(out, `${name}.br`),
          brotliCompressSync(content, { params: { [constants.BROTLI_PARAM_SIZE_HINT]: content.length } }),
        );
      }
    },
  };
}

export default defineConfig({
  base: "/ui/",
  plugins: [react(), compressed()],
  resolve: { alias: { "@": fileURLToPath(new URL("./src", import.meta.url)) } },
  build: { outDir: out, emptyOutDir: true, target: "es2023", assetsInlineLimit: 0, reportCompressedSize: false },
  server: { proxy: { [routes.source]: { target: admin, changeOrigin: true } } },
  test: { include: ["src/**/*.test.{ts,tsx}"] },
});
