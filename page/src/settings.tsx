/** The page's own settings: its colors, and the end of a login. */
import { effect, signal } from "@preact/signals";
import { useState } from "preact/hooks";
import { Failure } from "./announcements";
import { loggedIn, logOut } from "./api";
import { Dialog } from "./dialog";
import { capabilities } from "./server";
import { keep, recall } from "./storage";

const THEMES = { "": "As the system", light: "Light", dark: "Dark" };
const theme = signal(recall("theme") ?? "");

effect(() => {
  if (theme.value) document.documentElement.dataset.theme = theme.value;
  else delete document.documentElement.dataset.theme;
  keep("theme", theme.value || null);
});

export function Settings({ onClose }: { onClose: () => void }) {
  const [failed, setFailed] = useState("");
  return (
    <Dialog title="Settings" onClose={onClose}>
      <div class="stack">
        <section class="stack tight">
          <h3>Colors</h3>
          <fieldset class="choices">
            <legend class="unseen">Colors</legend>
            {Object.entries(THEMES).map(([value, label]) => (
              <label key={value}>
                <input type="radio" name="theme" value={value} checked={theme.value === value} onChange={() => (theme.value = value)} />
                <span>{label}</span>
              </label>
            ))}
          </fieldset>
        </section>
        <section>
          <h3>Keys</h3>
          <dl class="keys">
            <dt>Ctrl or ⌘ + Enter</dt>
            <dd>generate</dd>
            <dt>← →</dt>
            <dd>the image before and after, in full view</dd>
            <dt>Escape</dt>
            <dd>close what is open</dd>
          </dl>
        </section>
        {loggedIn.value && (
          <button
            type="button"
            onClick={() => logOut().catch(() => setFailed("Logging out failed: the login is still open"))}
          >
            Log out
          </button>
        )}
        <Failure text={failed} />
        <p class="about">
          Anemone {capabilities.value?.version}. Nothing you type or upload leaves the server's machine. Programs use the same calls:{" "}
          <a href="openapi.json">openapi.json</a>
        </p>
      </div>
    </Dialog>
  );
}
