import { expect, test } from "vitest";
import { initial, problems, type Schema } from "./schema";

const refund: Schema = {
  $ref: "#/$defs/Refund",
  $defs: {
    Channel: { enum: ["email", "phone"] },
    Refund: {
      type: "object",
      required: ["amount", "items"],
      properties: {
        amount: { type: "integer", minimum: 1, maximum: 500 },
        channel: { $ref: "#/$defs/Channel", default: "email" },
        remark: { anyOf: [{ type: "string", minLength: 3 }, { type: "null" }], default: null },
        items: { type: "array", minItems: 1, items: { type: "object", required: ["sku"], properties: { sku: { type: "string", pattern: "^[A-Z]+$" } } } },
      },
    },
  },
};

test("a form begins with what is required, and with defaults", () => {
  expect(initial(refund, refund)).toEqual({ amount: undefined, items: [{ sku: undefined }] });
  expect(initial({ type: "object", required: ["a"], properties: { a: { default: 7 }, b: { default: 8 } } }, {})).toEqual({ a: 7 });
});

test("what is wrong is said where it is", () => {
  const found = problems({ amount: 900, channel: "fax", remark: "x", items: [{ sku: "a" }, {}] }, refund);
  expect(Object.fromEntries(found)).toEqual({
    amount: "At most 500",
    channel: "One of email, phone",
    remark: "At least 3 characters",
    "items/0/sku": "It has to be like ^[A-Z]+$",
    "items/1/sku": "It has to be given",
  });
  expect(problems({ amount: 5, remark: null, items: [{ sku: "A" }] }, refund).size).toBe(0);
  expect(problems({ amount: 1.5, items: [] }, refund)).toEqual(new Map([["amount", "A whole number"], ["items", "At least 1"]]));
});
