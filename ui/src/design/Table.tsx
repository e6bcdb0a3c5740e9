/**
 * A table of any length: only the rows in view are there. Rows may come by and by (`row` gives undefined until then).
 * Keys: arrows, j and k, PageUp, PageDown, Home, End move; Enter opens; Space selects, with Shift a range.
 */

import { useEffect, useId, useImperativeHandle, useRef, useState, type ReactNode, type Ref } from "react";
import { useVirtualizer } from "@tanstack/react-virtual";
import { Skeleton } from "./states";

export interface Column<T> {
  id: string;
  title: string;
  /** A track of CSS grid: "120px", "minmax(160px, 2fr)". */
  width: string;
  align?: "right";
  cell: (row: T) => ReactNode;
  /** Given: the heading is a button that sorts by it. */
  sort?: "asc" | "desc" | null;
  onSort?: () => void;
  /** Its width on phones, if another. */
  phoneWidth?: string;
  /** Its heading on phones, if another; it is still told to those who listen. */
  phoneTitle?: string;
  /** On phones: left out, or the line below the others'. */
  narrow?: "hide" | "wide";
}

export interface TableHandle {
  scrollToTop: () => void;
}

interface TableProps<T> {
  label: string;
  columns: readonly Column<T>[];
  count: number;
  row: (index: number) => T | undefined;
  id: (row: T) => string;
  /** Where a row leads: the address for a link, opened by Enter, click and middle click alike. */
  onOpen?: (row: T) => void;
  selection?: { has: (id: string) => boolean; toggle: (row: T, on: boolean) => void; toggleAll?: (on: boolean) => void; all?: boolean };
  /** Told which rows are in view, to fetch them. */
  onRange?: (first: number, last: number) => void;
  rowHeight?: number;
  /** Below the last row. */
  foot?: ReactNode;
  /** As high as its rows, up to so many px; otherwise as high as there is room. */
  maxHeight?: number;
  ref?: Ref<TableHandle>;
}

const PHONE = "(max-width: 720px)";

function usePhone(): boolean {
  const [phone, setPhone] = useState(() => matchMedia(PHONE).matches);
  useEffect(() => {
    const list = matchMedia(PHONE);
    const tell = () => setPhone(list.matches);
    list.addEventListener("change", tell);
    return () => list.removeEventListener("change", tell);
  }, []);
  return phone;
}

export function Table<T>(props: TableProps<T>) {
  const { columns, count, row, selection } = props;
  const scroller = useRef<HTMLDivElement>(null);
  const grid = useRef<HTMLDivElement>(null);
  const base = useId();
  const [active, setActive] = useState(0);
  const anchor = useRef<number | null>(null);
  const phone = usePhone();
  const usual = props.rowHeight ?? 36;
  const twoLines = phone && columns.some((each) => each.narrow === "wide");
  const height = twoLines ? usual + 22 : usual;
  const shown = columns.filter((each) => !phone || each.narrow === undefined);
  const below = phone ? columns.filter((each) => each.narrow === "wide") : [];
  const tracks = [selection && "36px", ...shown.map((each) => (phone && each.phoneWidth) || each.width)].filter(Boolean).join(" ");

  const virtual = useVirtualizer({ count, getScrollElement: () => scroller.current, estimateSize: () => height, overscan: 12 });
  useEffect(() => virtual.measure(), [height, virtual]);
  const items = virtual.getVirtualItems();
  const [first, last] = [items[0]?.index ?? 0, items.at(-1)?.index ?? 0];
  const { onRange } = props;
  useEffect(() => onRange?.(first, last), [onRange, first, last]);
  useImperativeHandle(props.ref, () => ({ scrollToTop: () => scroller.current?.scrollTo(0, 0) }), []);

  const at = Math.min(active, Math.max(count - 1, 0));
  const go = (to: number) => {
    const next = Math.max(0, Math.min(count - 1, to));
    setActive(next);
    virtual.scrollToIndex(next, { align: "auto" });
  };
  const select = (index: number, range: boolean) => {
    const held = row(index);
    if (!held || !selection) return;
    const on = !selection.has(props.id(held));
    const from = range && anchor.current !== null ? anchor.current : index;
    for (let each = Math.min(from, index); each <= Math.max(from, index); each++) {
      const one = row(each);
      if (one) selection.toggle(one, on);
    }
    anchor.current = index;
  };
  const onKeyDown = (event: React.KeyboardEvent) => {
    if (event.target !== grid.current) return;
    const page = Math.max(1, Math.floor((scroller.current!.clientHeight - 40) / height));
    const to = { ArrowDown: at + 1, j: at + 1, ArrowUp: at - 1, k: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: count - 1 }[event.key];
    const held = row(at);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (to !== undefined) go(to);
    else if (event.key === "Enter" && held) props.onOpen?.(held);
    else if (event.key === " " && selection) select(at, event.shiftKey);
    else return;
    event.preventDefault();
  };

  const bodyHeight = virtual.getTotalSize();
  return (
    <div className="table" style={props.maxHeight === undefined ? undefined : { maxHeight: props.maxHeight, flex: "none" }}>
      <div ref={scroller} className="table-scroll">
      <div
        ref={grid}
        className="table-grid"
        role="grid"
        aria-label={props.label}
        aria-rowcount={count + 1}
        aria-colcount={shown.length + (selection ? 1 : 0)}
        aria-activedescendant={count > 0 ? `${base}-${at}` : undefined}
        aria-multiselectable={selection ? true : undefined}
        tabIndex={0}
        onKeyDown={onKeyDown}
      >
        <div className="table-head" role="row" aria-rowindex={1} style={{ gridTemplateColumns: tracks }}>
          {selection && (
            <span role="columnheader" className="cell">
              {selection.toggleAll ? (
                <input type="checkbox" aria-label="Select all that are loaded" checked={selection.all ?? false} onChange={(event) => selection.toggleAll!(event.target.checked)} />
              ) : (
                <span className="visually-hidden">Selected</span>
              )}
            </span>
          )}
          {shown.map((each) => (
            <span
              key={each.id}
              role="columnheader"
              className={each.align ? "cell num" : "cell"}
              aria-sort={each.sort ? (each.sort === "asc" ? "ascending" : "descending") : undefined}
            >
              {each.onSort ? (
                <button type="button" className="table-sort" onClick={each.onSort}>
                  {each.title}
                  <span aria-hidden="true">{each.sort === "asc" ? " ↑" : each.sort === "desc" ? " ↓" : ""}</span>
                </button>
              ) : (
                <>
                  {phone && each.phoneTitle !== undefined ? <span className="visually-hidden">{each.title}</span> : each.title}
                  {each.sort && <span aria-hidden="true">{each.sort === "asc" ? " ↑" : " ↓"}</span>}
                </>
              )}
            </span>
          ))}
        </div>
        <div className="table-body" role="rowgroup" style={{ height: bodyHeight }}>
          {items.map((item) => {
            const held = row(item.index);
            const chosen = held !== undefined && (selection?.has(props.id(held)) ?? false);
            return (
              <div
                key={item.key}
                id={`${base}-${item.index}`}
                role="row"
                aria-rowindex={item.index + 2}
                aria-selected={selection ? chosen : undefined}
                className={`table-row${item.index === at ? " active" : ""}${chosen ? " chosen" : ""}${props.onOpen ? " opens" : ""}`}
                style={{ transform: `translateY(${item.start}px)`, height, gridTemplateColumns: tracks }}
                onClick={(event) => {
                  setActive(item.index);
                  if ((event.target as HTMLElement).closest("a, button, input, label")) return;
                  if (held && !window.getSelection()?.toString()) props.onOpen?.(held);
                }}
              >
                {selection && (
                  <span role="gridcell" className="cell">
                    <input
                      type="checkbox"
                      tabIndex={-1}
                      aria-label="Select"
                      disabled={!held}
                      checked={chosen}
                      onChange={() => undefined}
                      onClick={(event) => select(item.index, event.shiftKey)}
                    />
                  </span>
                )}
                {shown.map((each) => (
                  <span key={each.id} role="gridcell" className={each.align ? "cell num truncate" : "cell truncate"}>
                    {held ? each.cell(held) : <Skeleton width={each.align ? 5 : "70%"} />}
                  </span>
                ))}
                {below.length > 0 && (
                  <span className="cell below truncate" role="gridcell">
                    {held ? below.map((each) => <span key={each.id}>{each.cell(held)}</span>) : <Skeleton width="50%" />}
                  </span>
                )}
              </div>
            );
          })}
        </div>
      </div>
      {props.foot}
      </div>
    </div>
  );
}
