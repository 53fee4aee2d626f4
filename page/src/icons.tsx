/** Icons, drawn on a grid of 24 with a pen of 1.75. They are never the only name of a button. */
const PATHS = {
  close: "M6 6l12 12M18 6L6 18",
  left: "M15 5l-7 7 7 7",
  right: "M9 5l7 7-7 7",
  dice: "M5 5h14v14H5zM9 9h.01M15 15h.01M12 12h.01M15 9h.01M9 15h.01",
  lock: "M6 11h12v9H6zM8.5 11V8a3.5 3.5 0 017 0v3",
  swap: "M7 4v14M3.5 14.5L7 18l3.5-3.5M17 20V6M13.5 9.5L17 6l3.5 3.5",
  image: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9h.01",
  brush: "M20 4L10.5 13.5M9 12.5l2.5 2.5c0 3-2 5-7.5 5 1.500-1.500 1-3 1.500-5 .5-1.700 2-2.500 3.500-2.500",
  extend: "M9 9h6v6H9zM9 4H4v5M15 4h5v5M9 20H4v-5M15 20h5v-5",
  enlarge: "M14 4h6v6M20 4l-7 7M10 20H4v-6M4 20l7-7",
  download: "M12 4v11M7.500 11L12 15.500 16.500 11M5 20h14",
  trash: "M5 7h14M10 7V4.500h4V7M7 7l1 13h8l1-13M10.500 11v5M13.500 11v5",
  compare: "M12 3v18M4 6h5v12H4M20 6h-5v12h5",
  reuse: "M5 12a7 7 0 0112-5l2 2M19 5v4h-4M19 12a7 7 0 01-12 5l-2-2M5 19v-4h4",
  gear: "M4 7h9M17 7h3M4 17h3M11 17h9M15 4.500v5M9 14.500v5",
  model: "M12 3l8 4.500v9L12 21l-8-4.500v-9zM4 7.500l8 4.500 8-4.500M12 12v9",
  undo: "M9 6L5 10l4 4M5 10h9a5 5 0 010 10h-3",
  plus: "M12 5v14M5 12h14",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}
