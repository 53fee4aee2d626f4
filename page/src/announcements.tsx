/** What a screen reader says: short sentences, and never so many that they drown the rest. */
import { signal } from "@preact/signals";

const said = signal("");
const QUIET_MS = 8000;
let lastCalm = 0;

export function announce(text: string): void {
  said.value = text;
}

/** Announce progress, at most every few seconds. */
export function announceCalmly(text: string): void {
  if (Date.now() - lastCalm < QUIET_MS) return;
  lastCalm = Date.now();
  announce(text);
}

export function Announcements() {
  return (
    <p class="unseen" role="status">
      {said.value}
    </p>
  );
}

/** A sentence on what did not work. */
export const Failure = ({ text }: { text?: string | null }) =>
  text ? (
    <p class="refused" role="alert">
      {text}
    </p>
  ) : null;
