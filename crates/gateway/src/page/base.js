// What every page needs: elements without markup, values as text, light for what has changed.

const FLASH_MS = 1000;
const CHARACTER = 7.9;  // width of a character in the cells, px
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const byId = (id) => document.getElementById(id);
/** Types whose values are shown like numbers. */
const NUMERIC = new Set(["int2", "int4", "int8", "numeric", "float4", "float8", "oid", "money"]);

function element(name, text, properties) {
  const made = Object.assign(document.createElement(name), properties);
  if (text != null) made.textContent = text;
  return made;
}

function text(value) {
  if (value === null || value === undefined) return "null";
  if (typeof value === "object") return JSON.stringify(value);
  const plain = String(value);
  return plain.length > 300 ? `${plain.slice(0, 300)}…` : plain;
}

function figure(n) { return n.toLocaleString("en"); }

/** Lights an element up, as far on as the change is old (ms). Without the fading where motion is unwelcome. */
function flash(target, colour, age, duration = FLASH_MS) {
  const animation = target.animate(
    [{ backgroundColor: `rgb(var(${colour}) / .45)` }, { backgroundColor: `rgb(var(${colour}) / ${calm.matches ? ".45" : "0"})` }],
    { duration, easing: "ease-out" });
  animation.currentTime = age;
  return animation;
}
