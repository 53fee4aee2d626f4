/** Reads the generation settings in the form's image, and fills the form with them. */
import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { announce } from "./announcements";
import { call, retried } from "./api";
import { startFrom } from "./draft";
import { reuse } from "./fields";
import { Icon } from "./icons";
import type { Picture } from "./pictures";
import type { Told } from "./types";

const told = signal<Told | null>(null);

async function read(picture: Picture): Promise<Told> {
  const form = new FormData();
  form.append("image", picture.file, "image");
  return call<Told>("infotext", { method: "POST", form });
}

function use({ fields, model, images }: Told): void {
  reuse({ ...fields, model: model ?? "" });
  // Made from text alone: it is not to be made from itself.
  if (images.length === 0) startFrom(null);
  announce("The form has the settings of the image");
}

export function ToldSettings({ picture }: { picture: Picture }) {
  useEffect(() => {
    let current = true;
    told.value = null;
    read(picture).then((answer) => void (current && (told.value = answer)), retried);
    return () => void (current = false);
  }, [picture]);
  const found = told.value;
  if (found?.text == null || found.task === "upscale") return null;
  const lacks = [
    found.named !== null && found.model === null ? `the model ${found.named} is not installed` : "",
    found.images.length > 0 ? `it was made with other images: ${found.images.join(", ")}` : "",
    ...found.unused,
  ].filter(Boolean);
  return (
    <div class="stack tight">
      <button type="button" onClick={() => use(found)}>
        <Icon name="reuse" />
        Use the settings that made this image
      </button>
      {lacks.length > 0 && (
        <details class="about">
          <summary>Not all of it can be used</summary>
          <ul>
            {lacks.map((each) => (
              <li key={each}>{each}</li>
            ))}
          </ul>
        </details>
      )}
    </div>
  );
}
