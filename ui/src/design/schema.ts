/** JSON Schema as far as forms are made of it: what to show, what to begin with, what is wrong. */

export interface Schema {
  $ref?: string;
  $defs?: Record<string, Schema>;
  definitions?: Record<string, Schema>;
  type?: string | string[];
  title?: string;
  description?: string;
  default?: unknown;
  const?: unknown;
  enum?: unknown[];
  examples?: unknown[];
  properties?: Record<string, Schema>;
  required?: string[];
  additionalProperties?: boolean | Schema;
  items?: Schema;
  prefixItems?: Schema[];
  anyOf?: Schema[];
  oneOf?: Schema[];
  allOf?: Schema[];
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  multipleOf?: number;
  minLength?: number;
  maxLength?: number;
  pattern?: string;
  format?: string;
  minItems?: number;
  maxItems?: number;
}

const DEEPEST = 12;

/** The schema itself: references within the document followed, `allOf` put together. */
export function resolved(schema: Schema | boolean | undefined, root: Schema, depth = 0): Schema {
  if (schema === undefined || typeof schema === "boolean" || depth > DEEPEST) return {};
  if (schema.$ref !== undefined) {
    const { $ref, ...beside } = schema;
    return { ...resolved(pointed($ref, root), root, depth + 1), ...beside };
  }
  if (schema.allOf) {
    const { allOf, ...beside } = schema;
    return allOf.reduce<Schema>((all, each) => {
      const one = resolved(each, root, depth + 1);
      return { ...all, ...one, properties: { ...all.properties, ...one.properties }, required: [...(all.required ?? []), ...(one.required ?? [])] };
    }, beside);
  }
  return schema;
}

function pointed(ref: string, root: Schema): Schema | undefined {
  if (!ref.startsWith("#")) return undefined;
  let at: unknown = root;
  for (const part of ref.slice(1).split("/").filter(Boolean)) {
    at = (at as Record<string, unknown> | undefined)?.[decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~")];
  }
  return at as Schema | undefined;
}

/** Its type, without null. */
export function typeOf(schema: Schema): string | undefined {
  if (typeof schema.type === "string") return schema.type;
  if (schema.type) return schema.type.find((each) => each !== "null");
  if (schema.properties) return "object";
  if (schema.items || schema.prefixItems) return "array";
  return undefined;
}

/** The choices of `anyOf` or `oneOf`, null left out, and whether null is one. */
export function choices(schema: Schema, root: Schema): { variants: Schema[]; nullable: boolean } {
  const all = (schema.anyOf ?? schema.oneOf ?? []).map((each) => resolved(each, root));
  const variants = all.filter((each) => each.type !== "null" && each.const !== null);
  const nullable = variants.length < all.length || (Array.isArray(schema.type) && schema.type.includes("null"));
  return { variants, nullable };
}

/** What a form begins with. What is not required is left out. */
export function initial(given: Schema, root: Schema, depth = 0): unknown {
  const schema = resolved(given, root);
  if (schema.default !== undefined) return schema.default;
  if (schema.const !== undefined) return schema.const;
  if (depth > DEEPEST) return undefined;
  const { variants, nullable } = choices(schema, root);
  if (nullable) return null;
  if (variants.length > 0) return initial(variants[0]!, root, depth + 1);
  switch (typeOf(schema)) {
    case "object":
      return Object.fromEntries(
        Object.entries(schema.properties ?? {})
          .filter(([name]) => schema.required?.includes(name))
          .map(([name, each]) => [name, initial(each, root, depth + 1)]),
      );
    case "array":
      return Array.from({ length: schema.minItems ?? 0 }, () => initial(schema.items ?? {}, root, depth + 1));
    case "boolean":
      return false;
    case "null":
      return null;
    default:
      return schema.enum ? schema.enum[0] : undefined;
  }
}

export type Problems = ReadonlyMap<string, string>;

/** What is wrong with a value, by its path (`items/0/price`); what only the server knows, it says later. */
export function problems(value: unknown, given: Schema, root: Schema = given, path = ""): Map<string, string> {
  const found = new Map<string, string>();
  const schema = resolved(given, root);
  const { variants, nullable } = choices(schema, root);
  if (value === null && (nullable || schema.type === "null")) return found;
  if (variants.length > 0) {
    const each = variants.map((variant) => problems(value, variant, root, path));
    return each.some((one) => one.size === 0) ? found : (each[0] ?? found);
  }
  const wrong = schema.enum || schema.const !== undefined ? wrongChoice(value, schema) : wrongValue(value, schema);
  if (wrong) return found.set(path, wrong);
  const inside = (name: string | number) => (path === "" ? String(name) : `${path}/${name}`);
  const add = (more: Map<string, string>) => more.forEach((text, where) => found.set(where, text));
  if (typeOf(schema) === "object" && isObject(value)) {
    for (const name of schema.required ?? []) if (value[name] === undefined) found.set(inside(name), "It has to be given");
    for (const [name, each] of Object.entries(schema.properties ?? {})) {
      if (value[name] !== undefined) add(problems(value[name], each, root, inside(name)));
    }
  } else if (Array.isArray(value)) {
    value.forEach((item, index) => add(problems(item, schema.prefixItems?.[index] ?? schema.items ?? {}, root, inside(index))));
  }
  return found;
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null && !Array.isArray(value);

function wrongChoice(value: unknown, schema: Schema): string | null {
  const allowed = schema.enum ?? [schema.const];
  return allowed.some((each) => JSON.stringify(each) === JSON.stringify(value)) ? null : `One of ${allowed.map(String).join(", ")}`;
}

function wrongValue(value: unknown, schema: Schema): string | null {
  const type = typeOf(schema);
  if (value === undefined) return type === undefined ? null : "It has to be given";
  switch (type) {
    case "string":
      return typeof value === "string" ? wrongText(value, schema) : "A text";
    case "integer":
    case "number":
      return typeof value === "number" ? wrongNumber(value, schema, type) : type === "integer" ? "A whole number" : "A number";
    case "boolean":
      return typeof value === "boolean" ? null : "Yes or no";
    case "array":
      if (!Array.isArray(value)) return "A list";
      if (value.length < (schema.minItems ?? 0)) return `At least ${schema.minItems}`;
      return value.length > (schema.maxItems ?? Infinity) ? `At most ${schema.maxItems}` : null;
    case "object":
      return isObject(value) ? null : "An object";
    default:
      return null;
  }
}

function wrongText(value: string, schema: Schema): string | null {
  if (value.length < (schema.minLength ?? 0)) return schema.minLength === 1 ? "It must not be empty" : `At least ${schema.minLength} characters`;
  if (value.length > (schema.maxLength ?? Infinity)) return `At most ${schema.maxLength} characters`;
  if (schema.pattern === undefined) return null;
  try {
    return new RegExp(schema.pattern, "u").test(value) ? null : `It has to be like ${schema.pattern}`;
  } catch {
    return null; // a pattern of another dialect: the server knows
  }
}

function wrongNumber(value: number, schema: Schema, type: string): string | null {
  if (!Number.isFinite(value)) return "A number";
  if (type === "integer" && !Number.isInteger(value)) return "A whole number";
  const { minimum = -Infinity, maximum = Infinity, exclusiveMinimum = -Infinity, exclusiveMaximum = Infinity } = schema;
  if (value < minimum) return `At least ${minimum}`;
  if (value > maximum) return `At most ${maximum}`;
  if (value <= exclusiveMinimum) return `More than ${exclusiveMinimum}`;
  return value >= exclusiveMaximum ? `Less than ${exclusiveMaximum}` : null;
}
