/** Colours that tell labels apart: equally light to the eye, hues a golden angle from each other. */

const GOLDEN_ANGLE = 2.399963;
const FIRST_HUE = 0.45;
const UNLABELLED = { light: [0.62, 0], dark: [0.66, 0] };
const LABELLED = { light: [0.62, 0.15], dark: [0.74, 0.13] };

/** The CSS colour of the label of that number. */
export function cssColour(label, dark) {
  const [red, green, blue] = colour(label, dark);
  return `rgb(${red} ${green} ${blue})`;
}

/** The colours of n labels and, last, of what has none: a Uint32Array of n + 1 pixels, as ImageData holds them. */
export function pixelColours(n, dark) {
  return Uint32Array.from({ length: n + 1 }, (_, label) => pixel(colour(label === n ? null : label, dark)));
}

/** [red, green, blue] as a pixel of ImageData: bytes red, green, blue, alpha on a little-endian machine. */
export const pixel = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;

function colour(label, dark) {
  const theme = dark ? "dark" : "light";
  const [lightness, chroma] = label === null ? UNLABELLED[theme] : LABELLED[theme];
  // Every other round of hues is a little darker: neighbours on the wheel stay apart.
  const step = label === null ? 0 : ((label >> 3) % 3) * -0.07;
  return oklch(lightness + step, chroma, FIRST_HUE + GOLDEN_ANGLE * (label ?? 0));
}

/** OKLCH (Ottosson, 2020) to sRGB bytes, clipped. */
function oklch(lightness, chroma, hue) {
  const [a, b] = [chroma * Math.cos(hue), chroma * Math.sin(hue)];
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map(srgbByte);
}

function srgbByte(linear) {
  const clipped = Math.min(1, Math.max(0, linear));
  return Math.round(255 * (clipped <= 0.0031308 ? 12.92 * clipped : 1.055 * clipped ** (1 / 2.4) - 0.055));
}
