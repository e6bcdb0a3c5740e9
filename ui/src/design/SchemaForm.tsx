/** A form made of a JSON schema: for an approval's answer, for a handler's input. What it cannot show is edited as JSON. */

import { useId, useMemo, useState } from "react";
import { Button, IconButton } from "./Button";
import { choices, initial, problems, resolved, typeOf, type Problems, type Schema } from "./schema";

export { initial, problems, type Schema };

interface FormProps {
  schema: Schema;
  value: unknown;
  onChange: (value: unknown) => void;
  /** Of the whole value, by path; shown beside their fields. */
  errors?: Problems;
}

/** Edits `value`; begin with `initial(schema, schema)`, and ask `problems(value, schema)` before sending it. */
export function SchemaForm({ schema, value, onChange, errors = new Map() }: FormProps) {
  return (
    <div className="schema-form">
      <Part schema={schema} root={schema} value={value} onChange={onChange} errors={errors} path="" label="Value" required />
    </div>
  );
}

interface PartProps {
  schema: Schema;
  root: Schema;
  value: unknown;
  onChange: (value: unknown) => void;
  errors: Problems;
  path: string;
  label: string;
  required: boolean;
}

function Part(props: PartProps) {
  const { root, value, onChange, path, required } = props;
  const schema = useMemo(() => resolved(props.schema, root), [props.schema, root]);
  const label = path === "" ? (schema.title ?? props.label) : props.label;
  const { variants, nullable } = choices(schema, root);
  if (variants.length === 1) return <Part {...props} schema={{ ...variants[0]!, ...described(schema) }} required={required && !nullable} />;
  if (variants.length > 1) return <Variants {...props} schema={schema} variants={variants} label={label} />;
  if (schema.enum) return <Choice {...props} schema={schema} label={label} />;
  switch (typeOf(schema)) {
    case "object":
      return schema.properties ? <Fields {...props} schema={schema} label={label} /> : <RawJson {...props} schema={schema} label={label} />;
    case "array":
      return schema.items && !schema.prefixItems ? <Items {...props} schema={schema} label={label} /> : <RawJson {...props} schema={schema} label={label} />;
    case "boolean":
      return (
        <Labelled {...props} schema={schema} label={label} inline>
          {(id, aria) => <input id={id} type="checkbox" {...aria} checked={value === true} onChange={(event) => onChange(event.target.checked)} />}
        </Labelled>
      );
    case "integer":
    case "number":
      return (
        <Labelled {...props} schema={schema} label={label}>
          {(id, aria) => (
            <input
              id={id}
              className="input"
              type="number"
              {...aria}
              step={schema.multipleOf ?? (typeOf(schema) === "integer" ? 1 : "any")}
              min={schema.minimum}
              max={schema.maximum}
              value={typeof value === "number" ? value : ""}
              onChange={(event) => onChange(event.target.value === "" ? undefined : Number(event.target.value))}
            />
          )}
        </Labelled>
      );
    case "string":
      return (
        <Labelled {...props} schema={schema} label={label}>
          {(id, aria) => <Text id={id} aria={aria} schema={schema} value={value} onChange={onChange} required={required} />}
        </Labelled>
      );
    case "null":
      return null;
    default:
      return <RawJson {...props} schema={schema} label={label} />;
  }
}

const described = (schema: Schema): Pick<Schema, "title" | "description"> => ({
  ...(schema.title === undefined ? {} : { title: schema.title }),
  ...(schema.description === undefined ? {} : { description: schema.description }),
});

type Aria = { "aria-invalid"?: true; "aria-describedby"?: string; "aria-required"?: true };

function Labelled(props: PartProps & { inline?: boolean; children: (id: string, aria: Aria) => React.ReactNode }) {
  const id = useId();
  const error = props.errors.get(props.path);
  const about = error ?? props.schema.description;
  const aria: Aria = {};
  if (error) aria["aria-invalid"] = true;
  if (about) aria["aria-describedby"] = `${id}-about`;
  if (props.required && !props.inline) aria["aria-required"] = true;
  const name = (
    <>
      {props.label}
      {props.required && !props.inline && (
        <span className="required" aria-hidden="true">
          {" "}
          *
        </span>
      )}
    </>
  );
  return (
    <div className="field">
      <label className={props.inline ? "row" : "field-label"} htmlFor={id}>
        {props.inline && props.children(id, aria)}
        {name}
      </label>
      {!props.inline && props.children(id, aria)}
      {about && (
        <span id={`${id}-about`} className={error ? "field-error" : "field-hint"}>
          {about}
        </span>
      )}
    </div>
  );
}

const INPUT_TYPES: Record<string, string> = { date: "date", email: "email", uri: "url", time: "time" };

function Text({ id, aria, schema, value, onChange, required }: { id: string; aria: Aria; schema: Schema; value: unknown; onChange: (value: unknown) => void; required: boolean }) {
  const shown = typeof value === "string" ? value : "";
  const change = (text: string) => onChange(text === "" && !required ? undefined : text);
  const long = schema.format === undefined && (schema.maxLength === undefined || schema.maxLength > 120) && schema.pattern === undefined;
  if (long) return <textarea id={id} className="input" rows={shown.includes("\n") || shown.length > 60 ? 5 : 2} {...aria} value={shown} onChange={(event) => change(event.target.value)} />;
  return <input id={id} className="input" type={INPUT_TYPES[schema.format ?? ""] ?? "text"} {...aria} placeholder={schema.format} value={shown} onChange={(event) => change(event.target.value)} />;
}

function Choice(props: PartProps) {
  const { schema, value, onChange, required } = props;
  const options = schema.enum!;
  return (
    <Labelled {...props}>
      {(id, aria) => (
        <select
          id={id}
          className="input"
          {...aria}
          value={options.findIndex((each) => JSON.stringify(each) === JSON.stringify(value))}
          onChange={(event) => onChange(options[Number(event.target.value)])}
        >
          {(!required || value === undefined) && <option value={-1}>–</option>}
          {options.map((each, index) => (
            <option key={index} value={index}>
              {String(each)}
            </option>
          ))}
        </select>
      )}
    </Labelled>
  );
}

function Variants(props: PartProps & { variants: Schema[] }) {
  const { variants, root, value, onChange } = props;
  const [chosen, setChosen] = useState(() => Math.max(0, variants.findIndex((each) => problems(value, each, root).size === 0)));
  const variant = variants[chosen] ?? variants[0]!;
  return (
    <fieldset className="schema-group">
      <legend>{props.label}</legend>
      <select
        className="input"
        aria-label={`Kind of ${props.label}`}
        value={chosen}
        onChange={(event) => {
          const next = Number(event.target.value);
          setChosen(next);
          onChange(initial(variants[next]!, root));
        }}
      >
        {variants.map((each, index) => (
          <option key={index} value={index}>
            {each.title ?? typeOf(each) ?? `Variant ${index + 1}`}
          </option>
        ))}
      </select>
      <Part {...props} key={chosen} schema={variant} />
    </fieldset>
  );
}

function Fields(props: PartProps) {
  const { schema, value, onChange, path } = props;
  const held = typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
  const fields = Object.entries(schema.properties!).map(([name, each]) => (
    <Part
      key={name}
      {...props}
      schema={each}
      label={name}
      path={path === "" ? name : `${path}/${name}`}
      required={schema.required?.includes(name) ?? false}
      value={held[name]}
      onChange={(next) => {
        const { [name]: _, ...rest } = held;
        onChange(next === undefined ? rest : { ...held, [name]: next });
      }}
    />
  ));
  if (path === "") return <>{fields}</>;
  return (
    <fieldset className="schema-group">
      <legend>{props.label}</legend>
      {schema.description && <span className="field-hint">{schema.description}</span>}
      {fields}
    </fieldset>
  );
}

function Items(props: PartProps) {
  const { schema, root, value, onChange, path, label } = props;
  const items = Array.isArray(value) ? (value as unknown[]) : [];
  const error = props.errors.get(path);
  return (
    <fieldset className="schema-group">
      <legend>{label}</legend>
      {schema.description && <span className="field-hint">{schema.description}</span>}
      {items.map((item, index) => (
        <div key={index} className="schema-item">
          <div className="grow">
            <Part
              {...props}
              schema={schema.items!}
              label={`${index + 1}`}
              path={path === "" ? String(index) : `${path}/${index}`}
              required
              value={item}
              onChange={(next) => onChange(items.with(index, next))}
            />
          </div>
          <IconButton small icon="trash" label={`Remove ${label} ${index + 1}`} onClick={() => onChange(items.toSpliced(index, 1))} />
        </div>
      ))}
      {error && <span className="field-error">{error}</span>}
      <div>
        <Button small icon="plus" onClick={() => onChange([...items, initial(schema.items!, root)])}>
          Add
        </Button>
      </div>
    </fieldset>
  );
}

/** Anything, as JSON. */
function RawJson(props: PartProps) {
  const [text, setText] = useState(() => (props.value === undefined ? "" : JSON.stringify(props.value, null, 2)));
  const [bad, setBad] = useState<string | null>(null);
  const change = (next: string) => {
    setText(next);
    try {
      props.onChange(next.trim() === "" ? undefined : (JSON.parse(next) as unknown));
      setBad(null);
    } catch (error) {
      setBad((error as Error).message);
    }
  };
  const errors = bad ? new Map([...props.errors, [props.path, bad]]) : props.errors;
  return (
    <Labelled {...props} errors={errors}>
      {(id, aria) => <textarea id={id} className="input mono" rows={6} spellCheck={false} placeholder="JSON" {...aria} value={text} onChange={(event) => change(event.target.value)} />}
    </Labelled>
  );
}
