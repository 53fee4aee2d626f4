/** LoRAs with their weights, the words of embeddings, and the place where new files come in. */
import { useSignal } from "@preact/signals";
import { Failure } from "./announcements";
import { damaged, embeddings, fits, loras, upload } from "./addons";
import { chosenLoras, chooseLoras, field, type ChosenLora } from "./draft";
import { Icon } from "./icons";
import { model, range } from "./server";
import { refused } from "./submission";
import type { Addon, Embedding, Lora } from "./types";

const MOST_SLID = 2;

/** Put a word at the end of a prompt. */
function insert(name: "prompt" | "negative_prompt", word: string): void {
  const text = field(name);
  text.value = [text.value.trim().replace(/,$/, ""), word].filter(Boolean).join(", ");
}

/** Return which models a file that does not fit the chosen one is for. */
function purpose(addon: Addon): string {
  const own = model.value?.family;
  if (own !== undefined && addon.families.includes(own)) return `for ${own} models with another text width`;
  return `for ${addon.families.join(" or ")}${own === undefined ? "" : `, and ${model.value?.name} is ${own}`}`;
}

export function LoraSection() {
  const chosen = chosenLoras.value;
  const wrong = /^loras(?:\.(\d+))?/.exec(refused.value?.field ?? "");
  const usable = embeddings.value.filter((each) => fits(each, model.value));
  const others = [...loras.value, ...embeddings.value].filter((each) => !fits(each, model.value));
  const unusable = Object.entries(damaged.value);
  return (
    <details class="more">
      <summary>
        LoRAs and embeddings <span class="count">{chosen.length > 0 ? `${chosen.length} set` : ""}</span>
      </summary>
      <div class="stack">
        <section class="stack tight" aria-label="LoRAs">
          {chosen.map((lora, index) => (
            <Chosen key={`${index} ${lora.name}`} chosen={lora} index={index} wrong={wrong?.[1] === String(index)} />
          ))}
          <AddLora />
          <Failure text={wrong && wrong[1] === undefined ? refused.value?.message : ""} />
        </section>
        {usable.length > 0 && (
          <section class="stack tight">
            <h2 class="part">Embeddings</h2>
            {usable.map((each) => (
              <Word key={each.name} embedding={each} />
            ))}
          </section>
        )}
        <Upload />
        {others.length + unusable.length > 0 && (
          <details class="about">
            <summary>Not for this model</summary>
            <ul>
              {others.map((each) => (
                <li key={each.url}>
                  {each.name}: {purpose(each)}
                </li>
              ))}
              {unusable.map(([name, why]) => (
                <li key={name}>
                  {name}: {why}
                </li>
              ))}
            </ul>
          </details>
        )}
      </div>
    </details>
  );
}

function AddLora() {
  const names = chosenLoras.value.map((each) => each.name);
  const free = loras.value.filter((each) => !names.includes(each.name));
  if (loras.value.length === 0) return <p class="about">There are no LoRAs yet.</p>;
  return (
    <div class="field">
      <label for="loras">Add a LoRA</label>
      <select
        id="loras"
        value=""
        onChange={(event) => {
          const { value: name } = event.currentTarget;
          if (name !== "") chooseLoras([...chosenLoras.value, { name, weight: "" }]);
          event.currentTarget.value = "";
        }}
      >
        <option value="">{free.length > 0 ? "choose one" : "all are in use"}</option>
        {free.map((each) => (
          <option key={each.name} value={each.name} disabled={!fits(each, model.value)}>
            {fits(each, model.value) ? each.name : `${each.name} (${purpose(each)})`}
          </option>
        ))}
      </select>
    </div>
  );
}

/** Return why a chosen LoRA cannot be used, or "". */
function misfit(name: string, lora: Lora | undefined): string {
  if (lora === undefined) return damaged.value[name] ?? "This LoRA is not on the server";
  return fits(lora, model.value) ? "" : `This LoRA is ${purpose(lora)}`;
}

function Chosen({ chosen, index, wrong }: { chosen: ChosenLora; index: number; wrong: boolean }) {
  const lora = loras.value.find((each) => each.name === chosen.name);
  const id = `lora-${index}`;
  const limits = range("weight", "lora");
  const change = (weight: string) => chooseLoras(chosenLoras.value.map((each, at) => (at === index ? { ...each, weight } : each)));
  const few = lora?.few_step;
  return (
    <fieldset class="control stack tight">
      <legend>{chosen.name}</legend>
      <button type="button" class="plain" aria-label={`Remove the LoRA ${chosen.name}`} onClick={() => chooseLoras(chosenLoras.value.filter((_, at) => at !== index))}>
        <Icon name="close" />
      </button>
      <div class="weight">
        <input
          type="range"
          aria-label={`Weight of ${chosen.name}, 0 to ${MOST_SLID}`}
          min={0}
          max={MOST_SLID}
          step={0.05}
          value={chosen.weight || "1"}
          onInput={(event) => change(event.currentTarget.value)}
        />
        <input
          id={id}
          type="number"
          inputMode="decimal"
          aria-label={`Weight of ${chosen.name}`}
          step="any"
          min={limits?.[0]}
          max={limits?.[1]}
          placeholder="1"
          value={chosen.weight}
          onInput={(event) => change(event.currentTarget.value)}
        />
      </div>
      {few && (
        <p class="about">
          For few steps. Left empty, steps are {few.steps}, guidance {few.guidance_scale}, the scheduler {few.scheduler}.
        </p>
      )}
      {lora && lora.words.length > 0 && (
        <p class="words" aria-label={`Words of ${chosen.name}`} role="group">
          {lora.words.map((word) => (
            <button key={word} type="button" title="Put it into the prompt" onClick={() => insert("prompt", word)}>
              {word}
            </button>
          ))}
        </p>
      )}
      <Failure text={wrong ? refused.value?.message : misfit(chosen.name, lora)} />
    </fieldset>
  );
}

function Word({ embedding }: { embedding: Embedding }) {
  const word = embedding.words[0] ?? embedding.name;
  return (
    <div class="embedding">
      <p>
        {word} <span class="count">{embedding.vectors === 1 ? "1 token" : `${embedding.vectors} tokens`}</span>
      </p>
      <button type="button" aria-label={`Put ${word} into the prompt`} onClick={() => insert("prompt", word)}>
        In
      </button>
      <button type="button" aria-label={`Put ${word} into what is not in the image`} onClick={() => insert("negative_prompt", word)}>
        Not in
      </button>
    </div>
  );
}

function Upload() {
  const over = useSignal(false);
  const busy = useSignal("");
  const failed = useSignal("");
  const take = async (files: readonly File[]) => {
    failed.value = "";
    for (const file of files) {
      busy.value = file.name;
      await upload(file).catch((error: Error) => (failed.value = [failed.value, error.message].filter(Boolean).join("; ")));
    }
    busy.value = "";
  };
  return (
    <div
      class={`image-input${over.value ? " over" : ""}`}
      onDragOver={(event) => {
        event.preventDefault();
        event.stopPropagation();
        over.value = true;
      }}
      onDragLeave={() => (over.value = false)}
      onDrop={(event) => {
        event.preventDefault();
        event.stopPropagation();
        over.value = false;
        void take([...(event.dataTransfer?.files ?? [])]);
      }}
    >
      <input
        id="addon-file"
        class="unseen"
        type="file"
        accept=".safetensors"
        multiple
        disabled={busy.value !== ""}
        onChange={(event) => {
          void take([...(event.currentTarget.files ?? [])]);
          event.currentTarget.value = "";
        }}
      />
      <label for="addon-file">
        <span class="hint">
          <Icon name="plus" />
          <span>
            {busy.value ? `Sending ${busy.value}…` : "Add LoRAs or embeddings"}
            <small>Drop or choose .safetensors files</small>
          </span>
        </span>
      </label>
      <Failure text={failed.value} />
    </div>
  );
}
