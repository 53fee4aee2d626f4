/** How many tokens a prompt has, counted by the model's own tokenizer on the server. */
import { effect, signal } from "@preact/signals";
import { call } from "./api";
import { field } from "./draft";
import { chosenModel, readiness } from "./server";
import type { Tokens } from "./types";

const TYPING_MS = 350;

/** Count a field's tokens again whenever typing pauses; null until they are known. */
function counted(name: string) {
  const count = signal<Tokens | null>(null);
  let timer: ReturnType<typeof setTimeout> | undefined;
  effect(() => {
    const [prompt, syntax, model] = [field(name).value, field("prompt_syntax").value, chosenModel.value];
    const ready = readiness.value?.ready === true;
    clearTimeout(timer);
    if (prompt === "") count.value = null;
    if (prompt === "" || !ready) return;
    const json = { prompt, ...(syntax && { prompt_syntax: syntax }), ...(model && { model }) };
    timer = setTimeout(() => {
      call<Tokens>("tokens", { method: "POST", json }).then(
        (tokens) => field(name).value === prompt && (count.value = tokens),
        () => (count.value = null), // a wrong prompt is refused where it is sent
      );
    }, TYPING_MS);
  });
  return count;
}

export const promptTokens = counted("prompt");
export const negativeTokens = counted("negative_prompt");
