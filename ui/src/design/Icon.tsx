/** Line icons, 16 by 16, in the colour of the text around them. */

const PATHS = {
  overview: "M2.5 9.5h3v4h-3zM6.5 2.5h3v11h-3zM10.5 6.5h3v7h-3z",
  invocations: "M2.5 4h6M2.5 8h11M7.5 12h6",
  approvals: "M8 2l5 2v4c0 3-2 5-5 6-3-1-5-3-5-6V4zM5.7 8l1.7 1.7L10.5 6.4",
  state: "M3 4c0-2.2 10-2.2 10 0v8c0 2.2-10 2.2-10 0zM3 4c0 2.2 10 2.2 10 0M3 8c0 2.2 10 2.2 10 0",
  services: "M8 2l5.2 3v6L8 14l-5.2-3V5zM8 8l5.2-3M8 8v6M8 8L2.8 5",
  deployments: "M2.5 3h11v4h-11zM2.5 9h11v4h-11zM5 5h.01M5 11h.01",
  sql: "M2.5 3h11v10h-11zM5 6.5L7 8 5 9.5M8.5 10h2.5",
  search: "M7 12A5 5 0 107 2a5 5 0 000 10zM11 11l3 3",
  close: "M4 4l8 8M12 4l-8 8",
  chevron: "M6 4l4 4-4 4",
  down: "M4 6l4 4 4-4",
  check: "M3 8.5L6.5 12 13 4.5",
  copy: "M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3",
  sun: "M8 11a3 3 0 100-6 3 3 0 000 6zM8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1 1M12 12l1 1M13 3l-1 1M4 12l-1 1",
  moon: "M13.5 9.5A6 6 0 116.5 2.5a4.8 4.8 0 007 7z",
  auto: "M8 14A6 6 0 108 2a6 6 0 000 12zM8 2v12M8 5l3.9-1M8 8h6M8 11l3.9 1",
  more: "M3.5 8h.01M8 8h.01M12.5 8h.01",
  menu: "M2 4h12M2 8h12M2 12h12",
  play: "M5 3l8 5-8 5z",
  pause: "M5.5 3v10M10.5 3v10",
  stop: "M4 4h8v8H4z",
  restart: "M13 8a5 5 0 11-1.6-3.7M13 2v3h-3",
  filter: "M2.5 4h11M4.5 8h7M6.5 12h3",
  external: "M6.5 3h-4v10.5H13v-4M9 2.5h4.5V7M13.5 2.5L7.5 8.5",
  plus: "M8 3v10M3 8h10",
  trash: "M3 4.5h10M6 4.5V3h4v1.5M4.5 4.5l.5 9h6l.5-9",
  edit: "M3 13l.5-2.8L10.5 3 13 5.5 5.8 12.5z",
  key: "M10.5 8.5a3 3 0 10-3-3c0 .5.1.9.3 1.3L3 11.5V13h2.5v-1.5H7V10l1.2-1.3c.7.4 1.5.4 2.3-.2z",
  help: "M8 14A6 6 0 108 2a6 6 0 000 12zM6.3 6.3c0-2.4 3.5-2.3 3.5 0 0 1.4-1.8 1.5-1.8 2.9M8 11.5h.01",
  warning: "M8 2.5l6 11H2zM8 6.5v3.2M8 11.6h.01",
  clock: "M8 14A6 6 0 108 2a6 6 0 000 12zM8 4.5V8l2.5 1.5",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name, size = 16 }: { name: IconName; size?: number }) {
  const heavy = name === "more" ? 2.4 : 1.5;
  return (
    <svg className="icon" width={size} height={size} viewBox="0 0 16 16" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} fill="none" stroke="currentColor" strokeWidth={heavy} strokeLinecap="round" strokeLinejoin="round" />
    </svg>
  );
}
