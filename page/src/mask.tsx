/** The mask: painted over the image in a dialog of its own. */
import type { Signal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import { Dialog } from "./dialog";
import { Icon } from "./icons";
import { Refusal } from "./inputs";
import { Strokes } from "./strokes";
import { Painter } from "./painter";
import type { Picture } from "./pictures";

/** What was painted over an image, kept while something else is tried with it. */
const painted = new WeakMap<Picture, Strokes>();

function strokesOver(picture: Picture): Strokes {
  const strokes = painted.get(picture) ?? new Strokes(picture.width, picture.height);
  painted.set(picture, strokes);
  return strokes;
}

export function MaskField({ picture, mask }: { picture: Picture; mask: Signal<Blob | null> }) {
  const [painting, setPainting] = useState(mask.value === null);
  const strokes = strokesOver(picture);
  const [shown, setShown] = useState("");
  useEffect(() => {
    if (mask.value === null) return setShown("");
    const url = URL.createObjectURL(mask.value);
    setShown(url);
    return () => URL.revokeObjectURL(url);
  }, [mask.value]);
  const close = async () => {
    mask.value = await strokes.toBlob();
    setPainting(false);
  };
  return (
    <div class="stack tight">
      {shown && (
        <div class="masked" style={{ aspectRatio: `${picture.width} / ${picture.height}` }}>
          <img src={picture.url} alt="The image to paint on" />
          <span role="img" aria-label="What is painted again" style={{ maskImage: `url(${shown})` }} />
        </div>
      )}
      <button type="button" id="mask" onClick={() => setPainting(true)} aria-describedby="refused-mask">
        <Icon name="brush" />
        {mask.value ? "Change the mask" : "Paint the mask"}
      </button>
      <Refusal name="mask" />
      {painting && (
        <Dialog title="Paint what is to be made anew" class="full" onClose={() => void close()}>
          <Painter picture={picture} strokes={strokes} onDone={() => void close()} />
        </Dialog>
      )}
    </div>
  );
}
