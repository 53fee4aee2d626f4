/** Calls of the server: JSON in and out, errors with the server's sentence, and the login that they may wait for. */
import { signal } from "@preact/signals";
import { keep, recall, whenKept } from "./storage";

/** Paths are relative, so that the page works below a proxy's path too. */
const PREFIX = "api/v1";

/** Return a path of the API relative to the page. */
export const relative = (path: string) => path.slice(1);

/** An answer that is not a success; `field` is the request's wrong field, if any. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly field: string | null = null,
  ) {
    super(message);
  }
}

export const AWAY = "The server does not answer";

/** The server did not answer at all. */
class Unreachable extends Error {
  constructor() {
    super(AWAY);
  }
}

/** Take the error of a call that is made again soon; any other is a fault of the page, which the console is to show. */
export function retried(error: unknown): void {
  if (!(error instanceof Unreachable || error instanceof ApiError)) reportError(error);
}

/** Whether the last call was answered. */
export const reachable = signal(true);
/** What the login dialog shows; null while no key is asked for. */
export const asking = signal<{ refused: string } | null>(null);
/** Whether there is a login to end. Scripts cannot see its cookie, so the page remembers it. */
export const loggedIn = signal(recall("login") !== null);

const OPEN = "open";
let waiting: { promise: Promise<void>; done: () => void } | null = null;

export interface Call {
  method?: string;
  json?: unknown;
  form?: FormData;
  file?: Blob;
  headers?: Record<string, string>;
  /** Milliseconds after which a server that says nothing is away; it waits as long as the browser does if left out. */
  patience?: number;
}

/** Short answers come in much less, also from a busy server. */
const PATIENCE_MS = 20_000;

async function send(path: string, { method = "GET", json, form, file, headers = {}, patience }: Call): Promise<Response> {
  const body = json === undefined ? (form ?? file) : JSON.stringify(json);
  if (json !== undefined) headers = { ...headers, "Content-Type": "application/json" };
  if (file !== undefined) headers = { ...headers, "Content-Type": "application/octet-stream" };
  try {
    const signal = patience === undefined ? null : AbortSignal.timeout(patience);
    const answer = await fetch(path, { method, headers, signal, ...(body === undefined ? {} : { body }) });
    // A proxy answers in the place of a server that is away.
    if (answer.status === 502 || answer.status === 504) throw new TypeError();
    reachable.value = true;
    return answer;
  } catch {
    throw away();
  }
}

function away(): Unreachable {
  reachable.value = false;
  return new Unreachable();
}

/** Return what an answer holds; the connection may end within it. */
async function content<T>(answer: Response): Promise<T> {
  try {
    return (await answer.json()) as T;
  } catch {
    throw away();
  }
}

async function failure(answer: Response): Promise<ApiError> {
  const body = (await answer.json().catch(() => null)) as { error?: Partial<ApiError> } | null;
  const error = body?.error;
  return new ApiError(
    answer.status,
    error?.code ?? "unknown",
    error?.message ?? `The server answered with status ${answer.status}`,
    error?.field ?? null,
  );
}

/** Return the answer to a call of the API; it waits for the login where the server asks for a key. */
export async function answerTo(path: string, call: Call = {}): Promise<Response> {
  for (;;) {
    const answer = await send(path.startsWith("/") ? relative(path) : `${PREFIX}/${path}`, call);
    if (answer.ok) return answer;
    if (answer.status !== 401) throw await failure(answer);
    await login();
  }
}

export async function get<T>(path: string): Promise<T> {
  return content(await answerTo(path, { patience: PATIENCE_MS }));
}

export async function call<T>(path: string, how: Call): Promise<T> {
  const answer = await answerTo(path, how);
  return answer.status === 204 ? (undefined as T) : content(answer);
}

/** Return an answer whatever its status, as of /readyz, which is 503 until the server is ready. */
export async function anyway<T>(path: string): Promise<T> {
  return content(await send(path, { patience: PATIENCE_MS }));
}

function remember(is: boolean): void {
  loggedIn.value = is;
  keep("login", is ? OPEN : null);
}

function login(): Promise<void> {
  if (waiting === null) {
    remember(false);
    let done = () => {};
    const promise = new Promise<void>((resolve) => (done = resolve));
    waiting = { promise, done };
    asking.value = { refused: "" };
  }
  return waiting.promise;
}

/** Send the key; every call that waits for the login then goes on. */
export async function logIn(key: string): Promise<void> {
  try {
    const answer = await send(`${PREFIX}/session`, { method: "POST", json: { key } });
    if (!answer.ok) throw await failure(answer);
  } catch (error) {
    asking.value = { refused: (error as Error).message };
    return;
  }
  entered();
}

function entered(): void {
  remember(true);
  asking.value = null;
  waiting?.done();
  waiting = null;
}

// The cookie is every tab's.
whenKept("login", OPEN, entered);

export async function logOut(): Promise<void> {
  const answer = await send(`${PREFIX}/session`, { method: "DELETE" });
  if (!answer.ok) throw await failure(answer);
  remember(false);
  location.reload(); // which asks for the key
}
