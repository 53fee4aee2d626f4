/** The server as the page knows it: what it can do, and whether it is ready. */
import { computed, signal } from "@preact/signals";
import { anyway, get, reachable, retried } from "./api";
import type { Capabilities, Model, Range, Readiness } from "./types";

const POLL_MS = 1000;

export const capabilities = signal<Capabilities | null>(null);
export const readiness = signal<Readiness | null>(null);

/** The name of the model that is chosen; "" is the default one. The form binds it. */
export const chosenModel = signal("");
export const model = computed<Model | null>(() => {
  const known = capabilities.value;
  return known?.models.find((each) => each.name === chosenModel.value) ?? known?.model ?? null;
});

/** Return the least and the greatest value of a number, by the name that the capabilities give it. */
export function range(name: string, of?: string): Range | null {
  const limits = capabilities.value?.limits;
  const found = of === undefined ? limits?.[name] : (limits?.[of] as Record<string, Range> | undefined)?.[name];
  return Array.isArray(found) ? found : null;
}

export async function readCapabilities(): Promise<void> {
  const now = await get<Capabilities>("capabilities");
  if (!now.models.some(({ name }) => name === chosenModel.value)) chosenModel.value = ""; // it was deleted
  capabilities.value = now;
}

export const pause = (ms: number) => new Promise<void>((resume) => setTimeout(resume, ms));

/** Ask until the server is ready, and again whenever it has been away. */
export async function watchReadiness(): Promise<never> {
  for (;;) {
    try {
      await readCapabilities(); // logs in first: without the key, /readyz says little
      readiness.value = await anyway<Readiness>("readyz");
      if (readiness.value.ready) await changed();
      else await pause(POLL_MS);
    } catch (error) {
      retried(error);
      await pause(POLL_MS);
    }
  }
}

// A model may have come or gone meanwhile.
document.addEventListener("visibilitychange", () => document.hidden || markStale());

/** Counts the changes of what the capabilities tell: a model more or less, or a paused queue. */
const stale = signal(0);

export function markStale(): void {
  stale.value += 1;
}

function changed(): Promise<void> {
  const before = stale.value;
  return new Promise((resolve) => {
    const stop: (() => void)[] = [];
    const end = () => {
      for (const each of stop) each();
      resolve();
    };
    stop.push(stale.subscribe((now) => now !== before && queueMicrotask(end)));
    stop.push(reachable.subscribe((now) => !now && queueMicrotask(end)));
  });
}
