// Read this first: an agent of the Vercel AI SDK that is durable by one line, the middleware.
import { appendFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import { openai } from "@ai-sdk/openai";
import * as restate from "@restatedev/restate-sdk";
import { durableCalls } from "@restatedev/vercel-ai-middleware";
import { generateText, stepCountIs, tool, wrapLanguageModel } from "ai";
import { z } from "zod";

const MODEL = process.env.OPENAI_MODEL ?? "gpt-4.1-mini";

export const travel = restate.service({
  name: "Travel",
  handlers: {
    plan: async (ctx: restate.Context, wish: string): Promise<string> => {
      const model = wrapLanguageModel({
        model: openai(MODEL),
        middleware: durableCalls(ctx, { maxRetryAttempts: 5 }), // the line: each answer of the model is a step
      });
      const { text } = await generateText({
        model,
        system: "Look up the weather in Rome and in Oslo, book a hotel where it is better, and tell what you did.",
        prompt: wish,
        tools: {
          weather: tool({
            description: "The weather in a city.",
            inputSchema: z.object({ city: z.string() }),
            execute: ({ city }) => ctx.run(`weather ${city}`, () => weather(city)), // a tool is a step of its own
          }),
          hotel: tool({
            description: "Book a hotel.",
            inputSchema: z.object({ city: z.string() }),
            execute: ({ city }) => ctx.run(`hotel ${city}`, () => hotel(city)),
          }),
        },
        stopWhen: stepCountIs(6),
        providerOptions: { openai: { parallelToolCalls: false } }, // the SDK waits for one thing at a time
        maxRetries: 0, // the step is tried again, also after a crash
      });
      return text;
    },
  },
});

async function weather(city: string): Promise<string> {
  await work(`weather ${city}`);
  return city === "Rome" ? `It is sunny in ${city}.` : `It snows in ${city}.`;
}

async function hotel(city: string): Promise<string> {
  await work(`hotel ${city}`);
  return `A room in ${city} is booked.`;
}

/** Takes its time, and leaves a line for the demo, which looks for a moment to kill. */
async function work(what: string): Promise<void> {
  if (process.env.TRACES) appendFileSync(process.env.TRACES, `${what}\n`);
  await setTimeout(300);
}
