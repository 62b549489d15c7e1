// Elements without markup, and what all views say in the same way.

/** An element with properties and children; `data` and `aria` hold attributes of these families. */
export function h(name, { data = {}, aria = {}, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  Object.assign(made.dataset, data);
  for (const [key, value] of Object.entries(aria)) made.setAttribute(key === "role" ? key : `aria-${key}`, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);
export const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** Sets a text only where it differs, so that screen readers are not told the same again. */
export function write(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** A round badge with somebody's initials. */
export function badge(user) {
  if (!user) return h("span", { className: "badge nobody", title: "Nobody" });
  const made = h(
    "span",
    { className: "badge", title: user.name },
    user.name
      .split(" ")
      .map((part) => part[0])
      .join("")
      .slice(0, 2),
  );
  made.style.setProperty("--hue", user.hue);
  return made;
}

/** For screen readers only. */
export function speak(text) {
  byId("spoken").textContent = text;
}

let gone = 0;

/** A word about what went wrong, that goes by itself. */
export function toast(text) {
  const target = byId("toast");
  target.textContent = text;
  target.classList.add("shown");
  clearTimeout(gone);
  gone = setTimeout(() => {
    target.classList.remove("shown");
  }, 6000);
}

export function ago(time) {
  const seconds = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  const [value, unit] =
    seconds < 60
      ? [0, "second"]
      : seconds < 3600
        ? [seconds / 60, "minute"]
        : seconds < 86400
          ? [seconds / 3600, "hour"]
          : [seconds / 86400, "day"];
  return new Intl.RelativeTimeFormat("en", { numeric: "auto" }).format(-Math.floor(value), unit);
}
