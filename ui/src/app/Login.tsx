/** Where security is on: an API key, asked for once per tab. */

import { useState } from "react";
import { session, request, ApiError } from "@/api/client";
import { Button, Field } from "@/design/Button";
import { Icon } from "@/design/Icon";

export function Login() {
  const [key, setKey] = useState("");
  const [error, setError] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const enter = async () => {
    const text = key.trim();
    if (text === "") return setError("A key is needed");
    setBusy(true);
    setError(null);
    try {
      await request("/version", { headers: { authorization: `Bearer ${text}` } });
      session.set(text);
    } catch (failure) {
      setError(failure instanceof ApiError && failure.status === 401 ? "This key is not known, or no longer good" : (failure as Error).message);
    } finally {
      setBusy(false);
    }
  };
  return (
    <main className="login">
      <form
        className="login-box"
        onSubmit={(event) => {
          event.preventDefault();
          void enter();
        }}
      >
        <h1 className="row">
          <Icon name="key" size={20} /> perdure
        </h1>
        <p className="muted">This server asks for an API key.</p>
        <Field label="API key" hint="Kept in this tab only, until it is closed" error={error}>
          <input
            className="input mono"
            type="password"
            autoComplete="current-password"
            autoFocus
            spellCheck={false}
            placeholder="perdure_…"
            value={key}
            onChange={(event) => setKey(event.target.value)}
          />
        </Field>
        <Button kind="primary" type="submit" busy={busy}>
          Sign in
        </Button>
        <p className="login-hint muted">
          Keys are made with <code>perdure keys create</code>; the console needs the role <code>read-only</code> to look, and <code>operator</code> to act.
        </p>
      </form>
    </main>
  );
}
