/** A place for an image: dropped, pasted, or chosen as a file. */
import type { Signal } from "@preact/signals";
import { useState } from "preact/hooks";
import { Failure } from "./announcements";
import { Icon } from "./icons";
import { refusal } from "./inputs";
import { dropped, pictureOf, type Picture } from "./pictures";
import { dimensions } from "./words";

interface Props {
  id: string;
  label: string;
  picture: Signal<Picture | null>;
  onPicture?: (picture: Picture | null) => void;
}

export function ImageInput({ id, label, picture, onPicture = (taken) => (picture.value = taken) }: Props) {
  const [over, setOver] = useState(false);
  const [wrong, setWrong] = useState("");
  const take = async (from: Promise<Picture>) => {
    try {
      const taken = await from;
      setWrong("");
      onPicture(taken);
    } catch (error) {
      setWrong((error as Error).message);
    }
  };
  const shown = picture.value;
  return (
    <div
      class={`image-input${over ? " over" : ""}${shown ? " filled" : ""}`}
      onDragOver={(event) => {
        event.preventDefault();
        event.stopPropagation();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(event) => {
        event.preventDefault();
        event.stopPropagation();
        setOver(false);
        void take(dropped(event.dataTransfer));
      }}
      onPaste={(event) => {
        event.stopPropagation();
        void take(dropped(event.clipboardData));
      }}
    >
      <input
        id={id}
        class="unseen"
        type="file"
        accept="image/*"
        {...refusal(id)}
        onChange={(event) => {
          const file = event.currentTarget.files?.[0];
          if (file !== undefined) void take(pictureOf(file, file.name));
          event.currentTarget.value = "";
        }}
      />
      <label for={id}>
        {shown === null ? (
          <span class="hint">
            <Icon name="image" />
            <span>
              {label}
              <small>Drop, paste or choose one</small>
            </span>
          </span>
        ) : (
          <>
            <img src={shown.url} alt="" />
            <span class="hint">
              <span>
                {label}
                <small>
                  {[dimensions(shown), shown.note].filter(Boolean).join(", ")}
                </small>
              </span>
            </span>
          </>
        )}
      </label>
      {shown && (
        <button type="button" class="plain" aria-label={`Remove: ${label}`} onClick={() => onPicture(null)}>
          <Icon name="close" />
        </button>
      )}
      <Failure text={wrong} />
    </div>
  );
}
