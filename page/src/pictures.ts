/** Images that the form takes: files that are dropped, pasted or chosen, and images of the gallery. */
import { answerTo } from "./api";
import { capabilities } from "./server";
import type { JobImage } from "./types";

/** The formats that the server reads. */
const READABLE = ["image/png", "image/jpeg", "image/webp", "image/gif"];

/** A file with its size in pixels and an address to show it by. */
export interface Picture {
  file: Blob;
  url: string;
  width: number;
  height: number;
  /** What was not taken as it came. */
  note: string;
}

/** Canvases of all browsers take as many pixels, and no model makes as many. */
const DRAWN_PIXELS = 16e6;

/** Read a file; throws an Error that says what is accepted. */
export async function pictureOf(file: Blob, name = "this", note = ""): Promise<Picture> {
  const url = URL.createObjectURL(file);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(url);
    throw new Error(`${name} is not an image that this browser reads; accepted: PNG, JPEG, WebP and GIF, and what else it shows`);
  }
  const { naturalWidth: width, naturalHeight: height } = image;
  const { image_side: side, image_pixels: pixels } = (capabilities.value?.limits ?? {}) as Record<string, number | undefined>;
  const fits = Math.max(width, height) <= (side ?? Infinity) && width * height <= (pixels ?? Infinity);
  if (READABLE.includes(file.type) && fits) return { file, url, width, height, note };
  const scale = fits ? 1 : Math.min((side ?? Infinity) / Math.max(width, height), Math.sqrt(DRAWN_PIXELS / (width * height)), 1);
  const drawn = await draw(image, scale, file.type === "image/jpeg" ? file.type : "image/png");
  URL.revokeObjectURL(url);
  return pictureOf(drawn, name, fits ? note : [note, `made smaller, from ${width} × ${height}`].filter(Boolean).join(", "));
}

/** Draw an image that the server does not read, by its kind or its size: HEIC in Safari, AVIF, SVG, a photo of 48 megapixels. */
async function draw(image: HTMLImageElement, scale: number, type: string): Promise<Blob> {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(image.naturalWidth * scale));
  canvas.height = Math.max(1, Math.round(image.naturalHeight * scale));
  canvas.getContext("2d")!.drawImage(image, 0, 0, canvas.width, canvas.height);
  const file = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, type, 0.95));
  if (file === null) throw new Error("This image is too large for this browser");
  return file;
}

/** Fetch an image of the gallery, as the server stores it. */
export const pictureFrom = (image: JobImage) => pictureAt(image.url);

async function pictureAt(path: string): Promise<Picture> {
  const answer = await answerTo(`${path}?format=png`);
  return pictureOf(await answer.blob());
}

/** Whether a drag may bring an image; a text that is dragged into a field is the field's. */
export const mayBeImage = (data: DataTransfer | null) => ["Files", "text/uri-list"].some((type) => data?.types.includes(type));

/** Return the first image of a drop or of the clipboard; throws an Error if there is none. */
export async function dropped(data: DataTransfer | null): Promise<Picture> {
  // What is dragged from the gallery has its address; the file beside it is only the card's.
  const address = data?.getData("text/uri-list") ?? "";
  const path = /\/api\/v1\/jobs\/[^/]+\/images\/\d+/.exec(address)?.[0];
  if (path !== undefined && address.startsWith(location.origin)) return pictureAt(path);
  const files = [...(data?.files ?? [])];
  const file = files.find((each) => each.type.startsWith("image/")) ?? files[0];
  if (file !== undefined) return pictureOf(file, file.name, files.length > 1 ? `one of the ${files.length} files` : "");
  throw new Error(address ? "The page asks no other site for images: save the image, and drop the file" : "There is no image in this");
}
