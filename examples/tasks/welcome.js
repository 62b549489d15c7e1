// Before anybody is somebody: who may come in, by company.

import { badge, byId, h } from "./dom.js";

export const title = (tenant) => tenant[0].toUpperCase() + tenant.slice(1);

/** Shows it; without `known` (what the backend tells of companies) that there is nobody to ask. */
export function welcome(known) {
  byId("app").hidden = true;
  byId("welcome").hidden = false;
  document.title = "Tasks";
  const silence = h("p", { className: "nothing" }, "The example's backend does not answer. Is it running?");
  byId("companies").replaceChildren(...(known ? known.companies.map(company) : [silence]));
}

function company({ tenant, people }) {
  return h("section", {}, h("h2", {}, title(tenant)), h("ul", {}, ...people.map((one) => person(tenant, one))));
}

function person(tenant, { id, name, hue, teams }) {
  const sees = teams.includes("leads") ? "Sees all boards" : "Does not see the leads’ board";
  const words = h("span", {}, h("b", {}, name), h("small", {}, sees));
  return h("li", {}, h("a", { href: `#/${tenant}/${id}` }, badge({ name, hue }), words));
}
