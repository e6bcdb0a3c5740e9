/** Charts over time, drawn as SVG: lines or stacked bars, with a reading under the pointer and a table for readers. */

import { useId, useLayoutEffect, useMemo, useRef, useState } from "react";

export interface Series {
  name: string;
  color: string;
  /** One value a point; null where there is none. */
  values: readonly (number | null)[];
  /** How the line is drawn, so that colour is not all that tells lines apart. */
  dash?: string;
}

interface ChartProps {
  label: string;
  /** Of the points, ms since the epoch, evenly spaced. */
  times: readonly number[];
  series: readonly Series[];
  kind?: "line" | "bars";
  height?: number;
  format: (value: number) => string;
}

const PAD = { top: 8, right: 8, bottom: 20, left: 44 };
const CLOCK = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const CLOCK_S = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

/** The width an element has, as it changes. */
export function useWidth<T extends HTMLElement>(): [React.RefObject<T | null>, number] {
  const ref = useRef<T>(null);
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const element = ref.current!;
    const observer = new ResizeObserver(([entry]) => setWidth(Math.round(entry!.contentRect.width)));
    setWidth(element.clientWidth);
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  return [ref, width];
}

/** A round number that is not below `value`, and cuts well into quarters. */
export function ceiling(value: number): number {
  if (value <= 0) return 1;
  const size = 10 ** Math.floor(Math.log10(value));
  return ([1, 2, 4, 5, 8, 10].find((each) => each * size >= value) ?? 10) * size;
}

export function Chart({ label, times, series, kind = "line", height = 140, format }: ChartProps) {
  const [box, width] = useWidth<HTMLDivElement>();
  const [at, setAt] = useState<number | null>(null);
  const id = useId();
  const plotW = Math.max(width - PAD.left - PAD.right, 1);
  const plotH = height - PAD.top - PAD.bottom;
  const points = times.length;
  const top = useMemo(() => {
    const sums = times.map((_, index) =>
      kind === "bars" ? series.reduce((sum, each) => sum + (each.values[index] ?? 0), 0) : Math.max(0, ...series.map((each) => each.values[index] ?? 0)),
    );
    return ceiling(Math.max(...sums, 0));
  }, [times, series, kind]);
  const band = plotW / Math.max(points, 1);
  const x = (index: number) => (kind === "bars" ? PAD.left + (index + 0.5) * band : PAD.left + (points < 2 ? 0 : (index / (points - 1)) * plotW));
  const y = (value: number) => PAD.top + plotH - (value / top) * plotH;

  const locate = (event: React.PointerEvent) => {
    const left = event.clientX - event.currentTarget.getBoundingClientRect().left - PAD.left;
    const place = kind === "bars" ? Math.floor(left / band) : Math.round((left / plotW) * (points - 1));
    setAt(Math.max(0, Math.min(points - 1, place)));
  };
  const onKeyDown = (event: React.KeyboardEvent) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step === undefined) return;
    setAt((now) => Math.max(0, Math.min(points - 1, (now ?? points - 1) + step)));
    event.preventDefault();
  };
  const ticks = [0, top / 2, top];
  const labels = points < 2 ? [] : [0, Math.round((points - 1) / 2), points - 1];
  return (
    <figure className="chart" ref={box}>
      {width > 0 && (
        <svg
          width={width}
          height={height}
          role="img"
          aria-labelledby={id}
          tabIndex={0}
          onPointerMove={locate}
          onPointerLeave={() => setAt(null)}
          onKeyDown={onKeyDown}
          onBlur={() => setAt(null)}
        >
          <title id={id}>{`${label}: ${summary(series, format)}`}</title>
          {ticks.map((value) => (
            <g key={value}>
              <line x1={PAD.left} x2={width - PAD.right} y1={y(value)} y2={y(value)} className="chart-grid" />
              <text x={PAD.left - 6} y={y(value) + 4} className="chart-text" textAnchor="end">
                {format(value)}
              </text>
            </g>
          ))}
          {labels.map((index, place) => (
            <text key={place} x={x(index)} y={height - 4} className="chart-text" textAnchor={(["start", "middle", "end"] as const)[place]}>
              {CLOCK.format(times[index])}
            </text>
          ))}
          {kind === "line" ? (
            series.map((each) => (
              <path key={each.name} d={lineOf(each.values, x, y)} fill="none" stroke={each.color} strokeWidth="1.75" strokeDasharray={each.dash} strokeLinejoin="round" strokeLinecap="round" />
            ))
          ) : (
            <Bars series={series} points={points} wide={Math.max(1, Math.min(band * 0.72, 14))} x={x} y={y} />
          )}
          {at !== null && <line x1={x(at)} x2={x(at)} y1={PAD.top} y2={PAD.top + plotH} className="chart-cursor" />}
        </svg>
      )}
      <figcaption className="chart-legend">
        {series.map((each) => (
          <span key={each.name} className="chart-key">
            <svg width="14" height="8" aria-hidden="true">
              <path d="M0 4h14" stroke={each.color} strokeWidth={kind === "bars" ? 8 : 2} strokeDasharray={each.dash} />
            </svg>
            {each.name}
            <b>{at === null ? "" : each.values[at] == null ? "–" : format(each.values[at]!)}</b>
          </span>
        ))}
        <span className="chart-at">{at === null ? "" : CLOCK_S.format(times[at])}</span>
      </figcaption>
    </figure>
  );
}

function Bars({ series, points, wide, x, y }: { series: readonly Series[]; points: number; wide: number; x: (at: number) => number; y: (value: number) => number }) {
  return Array.from({ length: points }, (_, index) => {
    let below = 0;
    return series.map((each) => {
      const value = each.values[index] ?? 0;
      if (value === 0) return null;
      const [from, to] = [y(below), y(below + value)];
      below += value;
      return <rect key={each.name} x={x(index) - wide / 2} width={wide} y={to} height={Math.max(from - to, 0.75)} fill={each.color} />;
    });
  });
}

function lineOf(values: readonly (number | null)[], x: (at: number) => number, y: (value: number) => number): string {
  let pen = "M";
  return values
    .map((value, index) => {
      if (value === null) {
        pen = "M";
        return "";
      }
      const part = `${pen}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
      const alone = pen === "M" && (values[index + 1] ?? null) === null;
      pen = "L";
      return alone ? `${part}m-2 0h4` : part; // a point between gaps is a short line
    })
    .join("");
}

function summary(series: readonly Series[], format: (value: number) => string): string {
  return series
    .map((each) => {
      const last = each.values.findLast((value) => value !== null);
      return `${each.name} ${last == null ? "none" : format(last)}`;
    })
    .join(", ");
}

/** A line in a table's cell: how it went, without axes. */
export function Sparkline({ values, label, width = 80, height = 20, color = "var(--accent)" }: { values: readonly number[]; label: string; width?: number; height?: number; color?: string }) {
  const top = Math.max(...values, 1e-9);
  const step = values.length < 2 ? 0 : (width - 2) / (values.length - 1);
  const d = values.map((value, index) => `${index ? "L" : "M"}${(1 + index * step).toFixed(1)} ${(height - 2 - (value / top) * (height - 4)).toFixed(1)}`).join("");
  return (
    <svg className="sparkline" width={width} height={height} role="img" aria-label={label}>
      <path d={d} fill="none" stroke={color} strokeWidth="1.5" strokeLinejoin="round" />
    </svg>
  );
}
