/** A field of the request: its label, its input, and the server's sentence if it was refused. */
import type { ComponentChildren } from "preact";
import { field } from "./draft";
import type { FieldSpec } from "./fields";
import { range } from "./server";
import { refused } from "./submission";

/** Return whether the last request was refused for this field. */
export const isRefused = (name: string) => refused.value?.field === name;

/** Return the attributes of an input that tell whether it was refused, and why. */
export function refusal(name: string) {
  return isRefused(name) ? { "aria-invalid": true, "aria-describedby": `refused-${name}` } : {};
}

export function Refusal({ name }: { name: string }) {
  if (!isRefused(name)) return null;
  return (
    <p class="refused" id={`refused-${name}`}>
      {refused.value?.message}
    </p>
  );
}

export function Labelled({ name, label, children, extra }: { name: string; label: string; children: ComponentChildren; extra?: ComponentChildren }) {
  return (
    <div class="field">
      <div class="label">
        <label for={name}>{label}</label>
        {extra}
      </div>
      {children}
      <Refusal name={name} />
    </div>
  );
}

export function Field({ spec }: { spec: FieldSpec }) {
  const value = field(spec.name);
  if (spec.applies?.() === false) return null;
  if (spec.kind === "switch") {
    return (
      <label class="switch">
        <input type="checkbox" checked={value.value === "true"} onChange={(event) => (value.value = event.currentTarget.checked ? "true" : "")} />
        {spec.label}
      </label>
    );
  }
  return (
    <Labelled name={spec.name} label={spec.label}>
      {spec.kind === "choice" ? <Choice spec={spec} /> : <NumberInput spec={spec} />}
      {spec.about && !isRefused(spec.name) && <p class="about">{spec.about}</p>}
    </Labelled>
  );
}

function Choice({ spec }: { spec: FieldSpec }) {
  const value = field(spec.name);
  const usual = spec.usual?.();
  const choices = spec.choices?.() ?? [];
  return (
    <select id={spec.name} value={value.value} onChange={(event) => (value.value = event.currentTarget.value)} {...refusal(spec.name)}>
      <option value="">{usual === undefined ? "the usual one" : usual}</option>
      {choices.filter((each) => each !== usual).map((each) => (
        <option key={each} value={each}>
          {each}
        </option>
      ))}
    </select>
  );
}

function NumberInput({ spec }: { spec: FieldSpec }) {
  const value = field(spec.name);
  const limits = range(spec.name);
  return (
    <input
      id={spec.name}
      type="number"
      inputMode={spec.kind === "whole" ? "numeric" : "decimal"}
      step={spec.kind === "whole" ? (spec.step ?? 1) : "any"}
      min={limits?.[0]}
      max={limits?.[1]}
      placeholder={String(spec.usual?.() ?? "")}
      value={value.value}
      onInput={(event) => (value.value = event.currentTarget.value)}
      {...refusal(spec.name)}
    />
  );
}
