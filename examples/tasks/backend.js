// What the page asks of the example's own backend: who may log in, tokens, and writing. Reading is the client's business.

import { toast } from "./dom.js";

async function post(path, body, token) {
  const headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
  const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) throw Object.assign(new Error(answer.error), { status: response.status });
  return answer;
}

/** Where the gateway is, and who may log in. */
export async function companies() {
  return (await fetch("/api/companies")).json();
}

/** Somebody who is logged in, and what they write. */
export class Session {
  constructor(tenant, user) {
    this.tenant = tenant;
    this.user = user;
    this.held = null;
    /** Whether writing makes sense, told by who knows the connection. */
    this.online = () => navigator.onLine;
  }

  /** A fresh token; the client asks for one when it connects, and before the last one expires. */
  async token() {
    const { token } = await post("/api/login", { tenant: this.tenant, user: this.user });
    this.held = token;
    return token;
  }

  /** Does it, or says why not; what has changed comes back by the tables, as it does to everybody. */
  async act(action, values) {
    if (!this.online()) {
      toast("You are offline. Reading goes on; write again when the connection is back.");
      return null;
    }
    const body = Object.fromEntries(Object.entries(values).map(([name, value]) => [name, String(value ?? "")]));
    try {
      try {
        return await post(`/api/${action}`, body, this.held ?? (await this.token()));
      } catch (error) {
        if (error.status !== 401) throw error;
        return await post(`/api/${action}`, body, await this.token());
      }
    } catch (error) {
      toast(error.status ? error.message : "The server cannot be reached. Nothing was written.");
      return null;
    }
  }
}
