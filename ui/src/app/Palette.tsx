/** The command palette: everything that can be done or gone to, found by typing. */

import { useEffect, useMemo, useRef, useState } from "react";
import { Icon } from "@/design/Icon";
import { useAllCommands, type Command } from "./commands";
import { navigate, path } from "./router";

/** How well a text fits what was typed: 0 not at all; letters in order count, whole words and beginnings more. */
export function fit(typed: string, text: string): number {
  const [wanted, given] = [typed.toLowerCase().trim(), text.toLowerCase()];
  if (wanted === "") return 1;
  const at = given.indexOf(wanted);
  if (at === 0) return 4;
  if (at > 0) return given[at - 1] === " " ? 3 : 2;
  let from = 0;
  for (const letter of wanted) {
    const found = given.indexOf(letter, from);
    if (found < 0) return 0;
    from = found + 1;
  }
  return 1;
}

export function Palette({ onClose }: { onClose: () => void }) {
  const commands = useAllCommands();
  const [typed, setTyped] = useState("");
  const [at, setAt] = useState(0);
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const shown = dialog.current!;
    shown.showModal();
    return () => shown.close();
  }, []);

  const found = useMemo(() => {
    const text = typed.trim();
    const direct: Command[] = /^inv_\w{10,}$/.test(text)
      ? [{ id: "open", title: `Open invocation ${text}`, section: "Go to", run: () => navigate(path("invocations", text)) }]
      : [];
    const rest = commands
      .map((each) => ({ each, score: fit(typed, `${each.title} ${each.words ?? ""}`) }))
      .filter(({ score }) => score > 0)
      .sort((a, b) => b.score - a.score)
      .map(({ each }) => each);
    return [...direct, ...rest].slice(0, 50);
  }, [commands, typed]);
  const chosen = Math.min(at, found.length - 1);

  const run = (command: Command | undefined) => {
    if (!command) return;
    onClose();
    command.run();
  };
  const onKeyDown = (event: React.KeyboardEvent) => {
    if (event.key === "ArrowDown") setAt(Math.min(chosen + 1, found.length - 1));
    else if (event.key === "ArrowUp") setAt(Math.max(chosen - 1, 0));
    else if (event.key === "Enter") run(found[chosen]);
    else return;
    event.preventDefault();
  };
  useEffect(() => {
    dialog.current?.querySelector(`[data-at="${chosen}"]`)?.scrollIntoView({ block: "nearest" });
  }, [chosen]);

  return (
    <dialog
      ref={dialog}
      className="palette"
      aria-label="Command palette"
      onCancel={(event) => (event.preventDefault(), onClose())}
      onMouseDown={(event) => event.target === dialog.current && onClose()}
    >
      <div className="palette-box">
        <div className="palette-input">
          <Icon name="search" />
          <input
            autoFocus
            role="combobox"
            aria-expanded="true"
            aria-controls="palette-list"
            aria-activedescendant={found.length ? `palette-${chosen}` : undefined}
            aria-label="Find a command, a page or an invocation's id"
            placeholder="Find a command, a page, or paste an invocation's id"
            value={typed}
            onChange={(event) => (setTyped(event.target.value), setAt(0))}
            onKeyDown={onKeyDown}
          />
        </div>
        <ul id="palette-list" role="listbox" aria-label="Commands" className="palette-list">
          {found.map((each, index) => (
            <li
              key={each.id}
              id={`palette-${index}`}
              data-at={index}
              role="option"
              aria-selected={index === chosen}
              className="palette-item"
              onPointerMove={() => setAt(index)}
              onClick={() => run(each)}
            >
              <span className="palette-section">{each.section}</span>
              <span className="grow truncate">{each.title}</span>
              {each.keys && <Keys keys={each.keys} />}
            </li>
          ))}
          {found.length === 0 && <li className="palette-none">Nothing fits “{typed}”</li>}
        </ul>
      </div>
    </dialog>
  );
}

export function Keys({ keys }: { keys: string }) {
  return (
    <span className="keys">
      {keys.split(/[ +]/).map((key, index) => (
        <kbd key={index}>{key}</kbd>
      ))}
    </span>
  );
}
