/** Control maps: images that say where things go, and what their preprocessors make of them. */
import { useSignal } from "@preact/signals";
import { Failure } from "./announcements";
import { answerTo } from "./api";
import { addControl, controls, removeControl, type Control } from "./draft";
import { Icon } from "./icons";
import { ImageInput } from "./image_input";
import { capabilities, model, range } from "./server";
import { refused } from "./submission";

const MOST = 3;
const USUAL: Record<string, number> = { weight: 1, start: 0, end: 1, low_threshold: 100, high_threshold: 200 };
const LABELS: Record<string, string> = {
  weight: "Weight", start: "From", end: "To", low_threshold: "Low threshold", high_threshold: "High threshold",
};

export function Controls() {
  const able = model.value?.abilities.controls;
  const names = capabilities.value?.preprocessors.map((each) => each.name) ?? [];
  const wrong = /^controls(?:\.(\d+))?/.exec(refused.value?.field ?? "");
  return (
    <section class="stack tight">
      <h2 class="part">Control maps</h2>
      {able && !able.available && <p class="about">{able.needs}</p>}
      {controls.value.map((control, index) => (
        <Item key={control.id} control={control} number={index + 1} wrong={wrong?.[1] === String(index)} />
      ))}
      {able?.available && controls.value.length < MOST && (
        <button type="button" onClick={() => addControl(names.includes("canny") ? "canny" : "none")}>
          <Icon name="plus" />
          Add a control map
        </button>
      )}
    </section>
  );
}

function Item({ control, number, wrong }: { control: Control; number: number; wrong: boolean }) {
  const map = useSignal("");
  const failed = useSignal("");
  const { preprocessor, net } = control.values as { preprocessor: Control["values"][string]; net: Control["values"][string] };
  const nets = model.value?.controlnets ?? [];
  const numbers = ["weight", "start", "end", ...(preprocessor.value === "canny" ? ["low_threshold", "high_threshold"] : [])];
  const preview = async () => {
    const form = new FormData();
    form.append("image", control.image.value!.file, "image");
    form.append("preprocessor", preprocessor.value);
    for (const name of numbers) {
      const value = control.values[name]!.value;
      if (name.endsWith("threshold") && value !== "") form.append(name, value);
    }
    try {
      const answer = await answerTo("preprocess", { method: "POST", form });
      URL.revokeObjectURL(map.value);
      map.value = URL.createObjectURL(await answer.blob());
      failed.value = "";
    } catch (error) {
      failed.value = (error as Error).message;
    }
  };
  const id = (name: string) => `control-${control.id}-${name}`;
  return (
    <fieldset class="control stack tight">
      <legend>Control map {number}</legend>
      <button type="button" class="plain" aria-label={`Remove control map ${number}`} onClick={() => removeControl(control)}>
        <Icon name="close" />
      </button>
      <ImageInput id={id("image")} label="Image of the map" picture={control.image} />
      <div class="grid">
        <div class="field">
          <label for={id("preprocessor")}>Preprocessor</label>
          <select id={id("preprocessor")} value={preprocessor.value} onChange={(event) => (preprocessor.value = event.currentTarget.value)}>
            {capabilities.value?.preprocessors.map(({ name, about }) => (
              <option key={name} value={name} title={about}>
                {name}
              </option>
            ))}
          </select>
        </div>
        <div class="field">
          <label for={id("net")}>ControlNet</label>
          <select id={id("net")} value={net.value} onChange={(event) => (net.value = event.currentTarget.value)}>
            <option value="">{nets[0]}</option>
            {nets.slice(1).map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </div>
        {numbers.map((name) => (
          <div key={name} class="field">
            <label for={id(name)}>{LABELS[name]}</label>
            <input
              id={id(name)}
              type="number"
              step="any"
              min={range(name, "control")?.[0]}
              max={range(name, "control")?.[1]}
              placeholder={String(USUAL[name])}
              value={control.values[name]!.value}
              onInput={(event) => (control.values[name]!.value = event.currentTarget.value)}
            />
          </div>
        ))}
      </div>
      <p class="about">{capabilities.value?.preprocessors.find((each) => each.name === preprocessor.value)?.about}</p>
      {preprocessor.value !== "none" && (
        <button type="button" disabled={control.image.value === null} onClick={() => void preview()}>
          Show the map
        </button>
      )}
      {map.value && <img class="map" src={map.value} alt={`What ${preprocessor.value} makes of the image`} />}
      <Failure text={wrong ? refused.value?.message : failed.value} />
    </fieldset>
  );
}
