// Pictures for models to look at.

import { make } from "./page.js";

/** The most pixels a side, and characters, of a picture that is sent as it is. */
const MOST_PIXELS = 1568;
const MOST_CHARACTERS = 1_500_000;

/** A picture as a data URL, made smaller if it is larger than models look at. */
export async function pictureOf(file) {
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Error("This picture cannot be read: PNG, JPEG, WebP and GIF can");
  });
  const url = await new Promise((resolve, reject) => {
    const reader = Object.assign(new FileReader(), { onload: () => resolve(reader.result), onerror: () => reject(reader.error) });
    reader.readAsDataURL(file);
  });
  const scale = Math.min(1, MOST_PIXELS / Math.max(bitmap.width, bitmap.height));
  if (scale === 1 && url.length <= MOST_CHARACTERS && /^data:image\/(png|jpeg|webp|gif);/.test(url)) return url;
  const canvas = make("canvas", { width: Math.max(1, Math.round(bitmap.width * scale)), height: Math.max(1, Math.round(bitmap.height * scale)) });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.85);
}
