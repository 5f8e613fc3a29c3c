/** Wheel, drag, pinch and hover on the map. */

const CLICK_PIXELS = 5;

/** Turn what a pointer does on an element into calls; places are CSS pixels from its corner. */
export function listenForGestures(target, { onPan, onZoom, onHover, onClick, onLeave }) {
  const pointers = new Map();
  let travelled = 0;

  const place = ({ clientX, clientY }) => {
    const { left, top } = target.getBoundingClientRect();
    return [clientX - left, clientY - top];
  };

  target.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
      // A trackpad's pinch comes as a wheel with Ctrl, in small steps.
      onZoom(...place(event), Math.exp((-event.deltaY * lines * (event.ctrlKey ? 8 : 1.5)) / 1000));
    },
    { passive: false },
  );
  target.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    target.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, place(event));
    if (pointers.size === 1) travelled = 0;
  });
  target.addEventListener("pointermove", (event) => {
    const now = place(event);
    const before = pointers.get(event.pointerId);
    if (!before) {
      if (event.pointerType !== "touch") onHover(...now);
      return;
    }
    const [right, down] = [now[0] - before[0], now[1] - before[1]];
    travelled += Math.hypot(right, down);
    const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
    pointers.set(event.pointerId, now);
    if (other) {
      onPan(right / 2, down / 2);
      onZoom((now[0] + other[0]) / 2, (now[1] + other[1]) / 2, distance(now, other) / Math.max(1, distance(before, other)));
    } else if (travelled > CLICK_PIXELS) onPan(right, down);
  });
  target.addEventListener("pointerup", (event) => {
    if (!pointers.delete(event.pointerId) || pointers.size) return;
    if (travelled <= CLICK_PIXELS) onClick(...place(event), event.pointerType === "touch");
  });
  target.addEventListener("pointercancel", ({ pointerId }) => pointers.delete(pointerId));
  // A finger leaves with every touch; what it has touched is still meant.
  target.addEventListener("pointerleave", ({ pointerType }) => pointerType !== "touch" && onLeave());
}

const distance = ([left, top], [otherLeft, otherTop]) => Math.hypot(left - otherLeft, top - otherTop);
