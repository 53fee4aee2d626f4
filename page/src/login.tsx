/** Asks for the API key where the server wants one. */
import { useState } from "preact/hooks";
import { asking, logIn } from "./api";
import { Dialog } from "./dialog";

export function Login() {
  const [key, setKey] = useState("");
  if (asking.value === null) return null;
  const { refused } = asking.value;
  return (
    <Dialog title="This server asks for its key">
      <form
        class="stack"
        onSubmit={(event) => {
          event.preventDefault();
          void logIn(key.trim());
        }}
      >
        <p class="about">The server showed it when it was first opened to the network, and keeps it in its data folder, in the file api-key.</p>
        <div class="field">
          <label for="key">API key</label>
          <input
            id="key"
            type="password"
            autocomplete="current-password"
            required
            value={key}
            onInput={(event) => setKey(event.currentTarget.value)}
            aria-invalid={refused !== ""}
            aria-describedby="key-refused"
          />
          <p class="refused" id="key-refused" role="alert">
            {refused}
          </p>
        </div>
        <button class="main" type="submit">
          Log in
        </button>
      </form>
    </Dialog>
  );
}
