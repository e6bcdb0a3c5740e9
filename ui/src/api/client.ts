/** Requests to the admin port, which serves the console too: same origin, so paths are enough. */

const STORED = "perdure.key";
const listeners = new Set<() => void>();

export interface ErrorBody {
  message?: string;
  code?: number;
  restate_code?: string | null;
  source?: string;
  accepted?: boolean | null;
  retryable?: boolean;
}

/** An answer that is an error, or none at all (`status` 0). `message` is the server's own, for people. */
export class ApiError extends Error {
  readonly status: number;
  readonly body: ErrorBody;

  constructor(status: number, body: ErrorBody) {
    super(body.message ?? statusText(status));
    this.name = "ApiError";
    this.status = status;
    this.body = body;
  }

  /** Whether the same request may succeed a moment later. */
  get passing(): boolean {
    return this.status === 0 || this.status === 429 || this.status === 503;
  }
}

function statusText(status: number): string {
  const texts: Record<number, string> = {
    0: "The server cannot be reached",
    401: "An API key is needed",
    403: "This key may not do that",
    404: "Not found",
    429: "The server has too much to do; it is asked again in a moment",
    503: "The server is starting or stopping",
  };
  return texts[status] ?? `The server answered ${status}`;
}

/** Where the API key is: in this tab only, gone when it is closed. */
export const session = {
  key(): string | null {
    return sessionStorage.getItem(STORED);
  },
  set(key: string | null): void {
    if (key === null) sessionStorage.removeItem(STORED);
    else sessionStorage.setItem(STORED, key);
    locked = false;
    listeners.forEach((tell) => tell());
  },
  /** Whether the last answer was that a key is needed. */
  locked(): boolean {
    return locked;
  },
  subscribe(tell: () => void): () => void {
    listeners.add(tell);
    return () => listeners.delete(tell);
  },
};
let locked = false;

export interface RequestOptions {
  method?: string;
  /** Sent as JSON. */
  json?: unknown;
  body?: BodyInit;
  headers?: Record<string, string>;
  signal?: AbortSignal | undefined;
}

/** The response, whatever its status. Rejects with `ApiError` only if there is none, or if a key is needed. */
export async function fetchRaw(path: string, options: RequestOptions = {}): Promise<Response> {
  const headers: Record<string, string> = { accept: "application/json", ...options.headers };
  const key = session.key();
  if (key !== null && !("authorization" in headers)) headers["authorization"] = `Bearer ${key}`;
  const init: RequestInit = { method: options.method ?? "GET", headers };
  if (options.signal) init.signal = options.signal;
  if (options.json !== undefined) {
    headers["content-type"] = "application/json";
    init.body = JSON.stringify(options.json);
  } else if (options.body !== undefined) init.body = options.body;
  let response: Response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(0, {});
  }
  if (response.status === 401) {
    locked = true;
    listeners.forEach((tell) => tell());
    throw await errorOf(response);
  }
  return response;
}

export async function errorOf(response: Response): Promise<ApiError> {
  const text = await response.text();
  if (text === "") return new ApiError(response.status, {});
  try {
    return new ApiError(response.status, JSON.parse(text) as ErrorBody);
  } catch {
    return new ApiError(response.status, { message: text });
  }
}

/** The answer's JSON, or undefined if it has no body. Rejects with `ApiError`. */
export async function request<T>(path: string, options: RequestOptions = {}): Promise<T> {
  const response = await fetchRaw(path, options);
  if (!response.ok) throw await errorOf(response);
  const text = await response.text();
  return (text === "" ? undefined : JSON.parse(text)) as T;
}

export const get = <T>(path: string, signal?: AbortSignal): Promise<T> => request<T>(path, { signal });

/** A segment of a path: keys of objects may hold anything. */
export const segment = encodeURIComponent;
