/**
 * The live store of jobs: those of this page, of other browsers and of programs. It reads the list again and again, faster
 * while jobs are open, and follows running jobs by their events, which bring previews.
 */
import { computed, signal } from "@preact/signals";
import { announce, announceCalmly } from "./announcements";
import { ApiError, call, get, retried, relative } from "./api";
import { markStale, pause } from "./server";
import { seconds } from "./words";
import type { Job, JobsPage, Progress, Status } from "./types";

const PAGE = 30;
const BUSY_MS = 700;
const IDLE_MS = 3000;
const HIDDEN_MS = 15000;

/** What the events of a running job have told last; `preview` is the address of a small JPEG. */
interface Live extends Progress {
  eta: number | null;
  preview: string | null;
}

const byId = signal<ReadonlyMap<string, Job>>(new Map());
export const live = signal<ReadonlyMap<string, Live>>(new Map());
/** Whether the first page of jobs has come. */
export const loaded = signal(false);
/** Why the server does not give the jobs now, such as a locked database; "" while it does. */
export const trouble = signal("");
/** `before` of the page of jobs that follows those in the store; null if there is none. */
export const next = signal<number | null>(null);

export const isOpen = ({ status }: { status: Status }) => status === "queued" || status === "running";
/** All jobs, the newest first. */
export const jobs = computed(() => [...byId.value.values()].sort((a, b) => b.created - a.created));
/** The open jobs in the order in which they run. */
export const open = computed(() =>
  jobs.value.filter(isOpen).sort((a, b) => (a.position ?? -1) - (b.position ?? -1) || a.created - b.created),
);

const streams = new Map<string, EventSource>();
let wake = () => {};
/** Refreshes since the list was last read whole; after MOST_SKIPPED it is read again, which finds deletions. */
let skipped = 0;
const MOST_SKIPPED = 5;

function put(changes: readonly Job[], gone: readonly string[] = []): void {
  const all = new Map(byId.value);
  for (const job of changes) {
    const before = all.get(job.id);
    // An answer that was under way may be older than an event: a job that has ended stays so.
    if (before !== undefined && !isOpen(before) && isOpen(job)) continue;
    all.set(job.id, job);
    if (before !== undefined && isOpen(before) && !isOpen(job)) tell(job);
  }
  for (const id of gone) all.delete(id);
  byId.value = all;
  follow();
}

function tell(job: Job): void {
  if (job.status === "succeeded") announce(job.images.length > 1 ? `${job.images.length} images are ready` : "The image is ready");
  else if (job.status === "cancelled") announce("The job is cancelled");
  else announce(`The job failed: ${job.error?.message ?? ""}`);
  if (job.error?.code.startsWith("model_")) markStale();
}

/** Follow the events of running jobs, and of no others; a stream that a server refused as it stopped is opened again. */
function follow(): void {
  for (const [id, stream] of streams) {
    if (byId.value.get(id)?.status !== "running" || stream.readyState === EventSource.CLOSED) {
      stream.close();
      streams.delete(id);
      const others = new Map(live.value);
      others.delete(id);
      live.value = others;
    }
  }
  for (const job of byId.value.values()) {
    if (job.status === "running" && !streams.has(job.id)) streams.set(job.id, streamOf(job));
  }
}

function streamOf(job: Job): EventSource {
  const stream = new EventSource(`${relative(job.url)}/events`);
  stream.addEventListener("progress", (event) => {
    const told = JSON.parse((event as MessageEvent<string>).data) as Live;
    const preview = told.preview === null ? null : `data:image/jpeg;base64,${told.preview}`;
    // A step without a preview keeps the one before, except in the next image.
    const before = live.value.get(job.id);
    const kept = before !== undefined && before.image === told.image ? before.preview : null;
    live.value = new Map(live.value).set(job.id, { ...told, preview: preview ?? kept });
    const left = told.eta === null ? "" : `, ${seconds(told.eta)} left`;
    announceCalmly(`${Math.round(100 * told.fraction)} percent${left}`);
  });
  stream.addEventListener("state", (event) => {
    const state = JSON.parse((event as MessageEvent<string>).data) as Job;
    put([state]);
    if (!isOpen(state)) wake();
  });
  return stream;
}

/** Up to when the list was read: more than a page of jobs may come while the browser sleeps. The first time a page is enough. */
let newestRead = Infinity;

/** Read the list, page by page, to its end or until the last job that was read is enough. */
async function read(query: string, enough: (last: Job) => boolean = () => false): Promise<JobsPage> {
  const all = await get<JobsPage>(`jobs?${query}`);
  while (all.next !== null && !enough(all.jobs.at(-1)!)) {
    const page = await get<JobsPage>(`jobs?${query}&before=${all.next}`);
    all.jobs.push(...page.jobs);
    all.next = page.next;
  }
  return all;
}

/** Read the jobs; while nothing is open, only the newest one, to see whether it is another than before. */
async function refresh(): Promise<void> {
  const newest = jobs.value[0];
  if (newest !== undefined && open.value.length === 0 && skipped < MOST_SKIPPED) {
    const [first] = (await get<JobsPage>("jobs?limit=1")).jobs;
    if (first?.id === newest.id && !isOpen(first)) return void (skipped += 1);
  }
  skipped = 0;
  const known = jobs.value; // what is submitted while the answer is under way is not in it, and not gone either
  const page = await read(`limit=${PAGE}`, (last) => last.created <= newestRead);
  const seen = new Set(page.jobs.map((job) => job.id));
  const oldest = page.next === null ? 0 : (page.jobs.at(-1)?.created ?? 0);
  const changes = [...page.jobs];
  const missing = open.value.some((job) => !seen.has(job.id)) || (!loaded.value && page.next !== null);
  if (missing) {
    const waiting = await read("status=queued&status=running&limit=100");
    for (const job of waiting.jobs) {
      if (!seen.has(job.id)) changes.push(job);
      seen.add(job.id);
    }
  }
  // What was deleted elsewhere, and open jobs that have ended beyond the page.
  const gone = known.filter((job) => !seen.has(job.id) && job.created > oldest).map((job) => job.id);
  const ended = known.filter((job) => isOpen(job) && !seen.has(job.id) && !gone.includes(job.id));
  for (const job of ended) changes.push(await get<Job>(job.url));
  put(changes, gone);
  if (!loaded.value) next.value = page.next;
  loaded.value = true;
  newestRead = page.jobs[0]?.created ?? 0;
}

export async function watchJobs(): Promise<never> {
  for (;;) {
    try {
      await refresh();
      trouble.value = "";
    } catch (error) {
      retried(error);
      if (error instanceof ApiError) trouble.value = error.message;
    }
    const usual = open.value.length > 0 ? BUSY_MS : IDLE_MS;
    const woken = new Promise<void>((resume) => (wake = resume));
    await Promise.race([woken, pause(document.hidden ? HIDDEN_MS : usual)]);
  }
}

document.addEventListener("visibilitychange", () => wake());

/** Add a job that was just submitted. */
export function add(job: Job): void {
  put([job]);
  wake();
}

export async function more(): Promise<void> {
  if (next.value === null) return;
  const page = await get<JobsPage>(`jobs?limit=${PAGE}&before=${next.value}`);
  next.value = page.next;
  put(page.jobs);
}

export async function cancel(job: Job): Promise<void> {
  put([await call<Job>(job.url, { method: "DELETE" })]);
  wake();
}

const isGone = (error: unknown) => error instanceof ApiError && (error.status === 410 || error.status === 404);

/** Delete an ended job with its images. */
export async function remove(job: Job): Promise<void> {
  await call(`${job.url}/images`, { method: "DELETE" }).catch((error: unknown) => {
    if (!isGone(error)) throw error;
  });
  put([], [job.id]);
}

/** Look whether a job is still there: another browser may have deleted it, or its age did. */
export async function lookAgain(job: Job): Promise<void> {
  try {
    await get<Job>(job.url);
  } catch (error) {
    if (!isGone(error)) throw error;
    put([], [job.id]);
    announce("The image is no longer on the server");
  }
}
