/** Images that the form takes: files that are dropped, pasted or chosen, and images of the gallery. */
import { answerTo } from "./api";
import type { JobImage } from "./types";

/** The formats that the server reads. */
export const READABLE = ["image/png", "image/jpeg", "image/webp", "image/gif"];

/** A file with its size in pixels and an address to show it by. */
export interface Picture {
  file: Blob;
  url: string;
  width: number;
  height: number;
  name: string;
}

/** Read a file; throws an Error that says what is accepted. */
export async function pictureOf(file: Blob, name = "image"): Promise<Picture> {
  const url = URL.createObjectURL(file);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(url);
    throw new Error(`${name} is not an image that the server reads; accepted: PNG, JPEG, WebP and GIF`);
  }
  return { file, url, width: image.naturalWidth, height: image.naturalHeight, name };
}

/** Fetch an image of the gallery, as the server stores it. */
export const pictureFrom = (image: JobImage) => pictureAt(image.url);

async function pictureAt(path: string): Promise<Picture> {
  const answer = await answerTo(`${path}?format=png`);
  return pictureOf(await answer.blob(), "the image");
}

/** Return the first image of a drop or of the clipboard; null if there is none. */
export async function dropped(data: DataTransfer | null): Promise<Picture | null> {
  // What is dragged from the gallery has its address; the file beside it is only the card's.
  const address = data?.getData("text/uri-list") ?? "";
  const path = /\/api\/v1\/jobs\/[^/]+\/images\/\d+/.exec(address)?.[0];
  if (path !== undefined && address.startsWith(location.origin)) return pictureAt(path);
  const file = [...(data?.files ?? [])].find((each) => each.type.startsWith("image/"));
  return file === undefined ? null : pictureOf(file, file.name);
}
