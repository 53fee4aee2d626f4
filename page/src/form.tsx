/** The form: what the image shows, how it is made, and what it starts from. */
import { useEffect, useRef } from "preact/hooks";
import { Failure } from "./announcements";
import { controls, edit, field, mask, palette, source, startFrom, style, type Edit } from "./draft";
import { COLORS, COUNT, EDITING, GUIDANCE, MORE, reset, SCHEDULER, SIGMAS, STEPS } from "./fields";
import { Controls } from "./controls";
import { Icon } from "./icons";
import { ImageInput } from "./image_input";
import { ToldSettings } from "./told";
import { Field, Labelled, Refusal, refusal } from "./inputs";
import { LoraSection } from "./lora_section";
import { MaskField } from "./mask";
import { Outpaint } from "./outpaint";
import { SeedField } from "./seed";
import { capabilities, chosenModel, model, readiness } from "./server";
import { SizeField } from "./size";
import { generate, refused, submitting, task } from "./submission";
import { negativeTokens, promptTokens } from "./tokens";
import type { Tokens } from "./types";

const isWide = () => matchMedia("(min-width: 60rem)").matches;
const EDITS: Record<Edit, string> = { img2img: "Change", inpaint: "Paint a part", outpaint: "Extend" };

function Count({ tokens }: { tokens: Tokens | null }) {
  if (tokens === null) return null;
  const over = tokens.tokens > tokens.limit;
  return (
    <span class={over ? "count over" : "count"} title={over ? `More than the ${tokens.limit} tokens that this model takes at once` : undefined}>
      {tokens.tokens} / {tokens.limit} tokens
    </span>
  );
}

function Prompt({ name, label, rows, tokens }: { name: string; label: string; rows: number; tokens: Tokens | null }) {
  const value = field(name);
  return (
    <Labelled name={name} label={label} extra={<Count tokens={tokens} />}>
      <textarea
        id={name}
        dir="auto"
        rows={rows}
        value={value.value}
        onInput={(event) => (value.value = event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
            event.preventDefault();
            event.currentTarget.form?.requestSubmit();
          }
        }}
        {...refusal(name)}
      />
    </Labelled>
  );
}

function ModelField() {
  const models = capabilities.value?.models ?? [];
  if (models.length < 2) return null;
  const usual = capabilities.value?.model?.name;
  return (
    <div class="field wide">
      <label for="model">Model</label>
      <select id="model" value={chosenModel.value} onChange={(event) => (chosenModel.value = event.currentTarget.value)} {...refusal("model")}>
        <option value="">{usual ?? "the default one"}</option>
        {models
          .filter((each) => each.name !== usual)
          .map((each) => (
            <option key={each.name} value={each.name}>
              {each.name}
            </option>
          ))}
      </select>
      <Refusal name="model" />
    </div>
  );
}

function Start() {
  const needs = model.value?.tasks[task()]?.needs;
  return (
    <section class="stack tight" aria-label="The image to start from">
      <ImageInput id="image" label={source.value ? "Starting from this image" : "Start from an image"} picture={source} onPicture={(taken) => startFrom(taken)} />
      <Refusal name="image" />
      {source.value && (
        <>
          <ToldSettings key={source.value.url} picture={source.value} />
          <fieldset class="choices">
            <legend class="unseen">What is done to it</legend>
            {(Object.keys(EDITS) as Edit[]).map((each) => (
              <label key={each}>
                <input type="radio" name="edit" checked={edit.value === each} onChange={() => (edit.value = each)} />
                <span>{EDITS[each]}</span>
              </label>
            ))}
          </fieldset>
          {edit.value === "inpaint" && <MaskField key={source.value.url} picture={source.value} mask={mask} />}
          {edit.value === "outpaint" && <Outpaint key={source.value.url} picture={source.value} />}
          <div class="grid">
            {EDITING[edit.value].map((spec) => (
              <Field key={spec.name} spec={spec} />
            ))}
          </div>
        </>
      )}
      {needs && <p class="about">{needs}</p>}
    </section>
  );
}

function More() {
  const adapter = model.value?.abilities.adapter;
  const sections = MORE.map((section) => ({ ...section, fields: section.fields.filter((spec) => spec.applies?.() !== false) })).filter(
    ({ title, fields }) => fields.length > 0 || title === COLORS,
  );
  const set = sections.flatMap((section) => section.fields).filter((spec) => field(spec.name).value !== "").length;
  return (
    <details class="more">
      <summary>
        More <span class="count">{set + controls.value.length > 0 ? `${set + controls.value.length} set` : ""}</span>
      </summary>
      <div class="stack">
        <Controls />
        {sections.map(({ title, fields }) => (
          <section key={title} class="stack tight">
            <h2 class="part">{title}</h2>
            {title === COLORS && (
              <>
                <ImageInput id="palette_image" label="Take the colors of an image" picture={palette} />
                <Refusal name="palette_image" />
                {adapter?.available && <ImageInput id="adapter_image" label="Take the style of an image" picture={style} />}
                <Refusal name="adapter_image" />
              </>
            )}
            <div class="grid">
              {fields.map((spec) => (
                <Field key={spec.name} spec={spec} />
              ))}
            </div>
          </section>
        ))}
        <button type="button" onClick={reset}>
          Empty all fields but the prompts
        </button>
      </div>
    </details>
  );
}

/** Return what is wrong with a number that the browser cannot read, which it gives as an empty text. */
function unread(form: HTMLFormElement): typeof refused.value {
  const wrong = [...form.elements].find((each) => each instanceof HTMLInputElement && each.validity.badInput);
  if (wrong === undefined) return null;
  const label = form.querySelector(`label[for="${wrong.id}"]`)?.textContent ?? wrong.ariaLabel;
  return { message: `${label}: this is not a number`, field: wrong.closest(".control") ? null : wrong.id };
}

/** On a phone, what was asked for is made below the form. */
function showResults(): void {
  if (refused.value === null && !isWide()) document.querySelector(".results")?.scrollIntoView();
}

export function Form() {
  const form = useRef<HTMLFormElement>(null);
  const error = refused.value;
  useEffect(() => {
    const find = (selector: string) => form.current?.querySelector<HTMLElement>(selector);
    const named = error?.field && find(`#${CSS.escape(error.field)}`);
    const wrong = error && (find("[aria-invalid=true], .control .refused") || named);
    const folded = wrong && wrong.closest("details");
    if (folded) folded.open = true;
    if (wrong) wrong.focus();
    find(".field .refused, section .refused")?.scrollIntoView({ block: "nearest" }); // not below the button
  }, [error]);
  const ready = readiness.value?.ready === true || readiness.value?.state === "paused";
  const named = error?.field != null && form.current?.querySelector(`#${CSS.escape(error.field)}`) != null;
  return (
    <form
      id="form"
      ref={form}
      noValidate // the server's own sentence is shown at the field
      onSubmit={(event) => {
        event.preventDefault();
        if (!ready || submitting.value) return;
        refused.value = unread(event.currentTarget);
        if (refused.value === null) void generate().then(showResults);
      }}
    >
      <Prompt name="prompt" label="Prompt" rows={4} tokens={promptTokens.value} />
      <Prompt name="negative_prompt" label="Not in the image" rows={1} tokens={negativeTokens.value} />
      <Start />
      <details class="more" open={isWide() || undefined}>
        <summary>Settings</summary>
        <div class="grid">
          <ModelField />
          <SizeField />
          <Field spec={STEPS} />
          <Field spec={GUIDANCE} />
          <SeedField />
          <Field spec={COUNT} />
          <Field spec={SCHEDULER} />
          <Field spec={SIGMAS} />
        </div>
      </details>
      <LoraSection />
      <More />
      <div class="go">
        <Failure text={error && !named ? error.message : null} />
        <button class="main" type="submit" disabled={!ready} aria-busy={submitting.value}>
          <Icon name="plus" />
          {submitting.value ? "Sending…" : "Generate"}
        </button>
      </div>
    </form>
  );
}
