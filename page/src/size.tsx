/** The size of the images: one that the model was converted for, or any other. */
import { signal } from "@preact/signals";
import { field, source } from "./draft";
import { isRefused, Refusal, refusal } from "./inputs";
import { Icon } from "./icons";
import { model, range } from "./server";
import { dimensions } from "./words";

const CUSTOM = "custom";
const isCustom = signal(false);

export function SizeField() {
  const [width, height] = [field("width"), field("height")];
  const sizes = model.value?.sizes ?? [];
  const set = width.value || height.value ? `${width.value}x${height.value}` : "";
  const known = set === "" || sizes.some((size) => `${size.width}x${size.height}` === set);
  const custom = isCustom.value || !known || isRefused("width") || isRefused("height");
  const usual = sizes[0];
  const choose = (chosen: string) => {
    isCustom.value = chosen === CUSTOM;
    if (chosen === CUSTOM) {
      const from = source.value ?? usual;
      width.value = String(Math.min(from?.width ?? 512, range("width")?.[1] ?? 4096));
      height.value = String(Math.min(from?.height ?? 512, range("height")?.[1] ?? 4096));
    } else [width.value, height.value] = chosen === "" ? ["", ""] : (chosen.split("x") as [string, string]);
  };
  const side = (name: "width" | "height", label: string) => (
    <input
      type="number"
      id={name}
      aria-label={label}
      inputMode="numeric"
      min={range(name)?.[0]}
      max={range(name)?.[1]}
      value={field(name).value}
      onInput={(event) => (field(name).value = event.currentTarget.value)}
      {...refusal(name)}
    />
  );
  return (
    <div class="field wide">
      <label for="size">Size</label>
      <select id="size" value={custom ? CUSTOM : set} onChange={(event) => choose(event.currentTarget.value)}>
        <option value="">{usual === undefined ? "the model's own" : `${dimensions(usual)}, the model's own`}</option>
        {sizes
          .map((size) => ({ text: dimensions(size), value: `${size.width}x${size.height}` }))
          .filter(({ value }, index) => index > 0 || value === set)
          .map(({ text, value }) => (
            <option key={value} value={value}>
              {text}
            </option>
          ))}
        <option value={CUSTOM}>Any other…</option>
      </select>
      {custom && (
        <div class="sides">
          {side("width", "Width in pixels")}
          <button
            type="button"
            class="plain"
            aria-label="Swap width and height"
            onClick={() => ([width.value, height.value] = [height.value, width.value])}
          >
            <Icon name="swap" />
          </button>
          {side("height", "Height in pixels")}
        </div>
      )}
      <Refusal name="width" />
      <Refusal name="height" />
    </div>
  );
}
