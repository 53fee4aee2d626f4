/** What this browser remembers of the page. One that stores nothing for us throws, and the page works without. */

/** Other programs use the same port at other times, and what they keep is not ours. */
const PREFIX = "anemone.";

export function recall(name: string): string | null {
  try {
    return localStorage.getItem(PREFIX + name);
  } catch {
    return null;
  }
}

/** Keep a value; null forgets it. */
export function keep(name: string, value: string | null): void {
  try {
    if (value === null) localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, value);
  } catch {
    // private browsing, or no room: nothing depends on it
  }
}

/** Call back when another tab of this browser keeps a value. */
export function whenKept(name: string, value: string, then: () => void): void {
  addEventListener("storage", (event) => event.key === PREFIX + name && event.newValue === value && then());
}
