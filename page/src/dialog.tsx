/** A modal dialog: the browser keeps the focus inside, closes it on Escape, and gives the focus back. */
import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { Icon } from "./icons";

interface Props {
  title: string;
  /** What its head shows in place of the title. */
  head?: string;
  /** Called when it is to be closed; a dialog without it stays until it is no longer shown. */
  onClose?: () => void;
  class?: string;
  children: ComponentChildren;
}

export function Dialog({ title, head, onClose, children, ...rest }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => {
    const shown = dialog.current!;
    const before = document.activeElement;
    shown.showModal();
    return () => {
      shown.close();
      if (before instanceof HTMLElement) before.focus();
    };
  }, []);
  return (
    <dialog
      ref={dialog}
      aria-label={title}
      class={rest.class}
      onCancel={(event) => {
        event.preventDefault();
        onClose?.();
      }}
      onKeyDown={(event) => {
        // Chromium closes a dialog on the second Escape even if the first was prevented.
        if (event.key === "Escape") {
          event.preventDefault();
          onClose?.();
        }
      }}
      onPointerDown={(event) => {
        // Not a click: that of a drag that began inside, such as a selection of text, is the dialog's too.
        if (event.target === dialog.current) onClose?.();
      }}
    >
      <div class="sheet">
        <header>
          <h2>{head ?? title}</h2>
          {onClose && (
            <button type="button" class="plain" onClick={onClose} aria-label="Close">
              <Icon name="close" />
            </button>
          )}
        </header>
        {children}
      </div>
    </dialog>
  );
}
