// A live local copy of Postgres tables. `connect` is the way in.

import { Rte, type Identity } from "./client.ts";
import { userOf } from "./connection/token.ts";
import { RteError } from "./errors.ts";
import { addressOf, definitions, type ConnectOptions, type TokenSource } from "./options.ts";
import type { Row } from "./table.ts";

const HOUR_MS = 3_600_000;

/**
 * Connects, keeps a copy of the tables in this browser, and keeps it up to date. Resolves as soon as the tables can be read: at once
 * where a copy is there from earlier, also without a network; for the first time when the server has answered.
 *
 * @throws RteError where the server refuses, with its code; `signal`'s reason where that gives up.
 */
export async function connect<Tables extends { [Name in keyof Tables]: object } = Record<string, Row>>(
  options: ConnectOptions<keyof Tables & string>,
): Promise<Rte<Tables>> {
  const asked = Date.now();
  const tables = Object.fromEntries(
    Object.entries(definitions(options.tables)).map(([name, definition]) => [name, { ...definition, asked }]),
  );
  return Rte.open<Tables>(options, await identify(options), tables);
}

/** Where the copy belongs: a store for each server, tenant and user. */
async function identify(options: ConnectOptions): Promise<Identity> {
  const url = addressOf(options.url, import.meta.url);
  const { user, token } = await whose(options);
  const { runtime = {}, transports } = options;
  return {
    store: `rte/${encodeURIComponent(url)}/${encodeURIComponent(options.tenant ?? "")}/${encodeURIComponent(user)}`,
    settings: {
      url,
      tenant: options.tenant,
      token,
      name: options.name,
      tab: randomName(),
      verifyEveryMs: options.verifyEvery ?? HOUR_MS,
      values: { ...(options.int8 && { int8: options.int8 }), ...(options.dates !== undefined && { dates: options.dates }) },
      connection: {
        ...(transports && { transports }),
        ...(runtime.WebSocket && { WebSocket: runtime.WebSocket }),
        ...(runtime.fetch && { fetch: runtime.fetch }),
      },
    },
  };
}

/** `crypto.randomUUID` is missing on pages that came by plain HTTP from another host. */
function randomName(): string {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The user that the copy is kept for. A token that was made to find out is the first that is shown. */
async function whose(options: ConnectOptions): Promise<{ user: string; token: TokenSource | undefined }> {
  const { user, token } = options;
  if (user !== undefined) return { user: `u:${user}`, token };
  if (token === undefined) return { user: "anonymous", token };
  let first: string | undefined = typeof token === "string" ? token : await firstOf(token, options.signal);
  const found = userOf(first);
  if (found === undefined) {
    throw new RteError({
      code: "NO_USER",
      message: "the token does not say whose it is",
      hint: "give connect the option user, so that each user has a copy of their own",
    });
  }
  if (typeof token === "string") return { user: `t:${found}`, token };
  const source: TokenSource = (reason) => {
    const once = first;
    first = undefined;
    return once !== undefined && reason === "first" ? once : token(reason);
  };
  return { user: `t:${found}`, token: source };
}

async function firstOf(token: Exclude<TokenSource, string>, signal: AbortSignal | undefined): Promise<string> {
  signal?.throwIfAborted();
  let stop = (): void => {};
  const given = new Promise<never>((_, reject) => {
    const abort = (): void => reject(signal!.reason as Error);
    signal?.addEventListener("abort", abort);
    stop = () => signal?.removeEventListener("abort", abort);
  });
  try {
    const text: unknown = await Promise.race([token("first"), given]);
    if (typeof text !== "string") throw new TypeError("the token callback gave no text");
    return text;
  } catch (error) {
    if (signal?.aborted) throw error;
    const message = error instanceof Error ? error.message : String(error);
    const hint = "give connect the option user, so that a copy can be opened without a token";
    throw new RteError({ code: "TOKEN_FAILED", message, hint }, error);
  } finally {
    stop();
  }
}

export { RteError } from "./errors.ts";
export { Rte } from "./client.ts";
export { LiveTable, Query } from "./table.ts";
export type { ErrorCode, ErrorInfo } from "./errors.ts";
export type { ConnectOptions, Runtime, TableOptions, TokenSource } from "./options.ts";
export type { ChangeEvent, RowChange, State, Status, TableStatus } from "./status.ts";
export type { Column } from "./protocol/down.ts";
export type { Definition, Layout } from "./copy/layout.ts";
export type { VerifyReport } from "./integrity.ts";
export type { Criteria, Key, Row } from "./table.ts";
/** The version of the package. */
export const version: string = __VERSION__;
declare const __VERSION__: string;
