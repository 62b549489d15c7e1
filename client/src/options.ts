// What `connect` takes, and what the parts of the client are given of it. Pure.

import type { Definition } from "./copy/layout.ts";
import { isIdentifier, type ValueOptions } from "./copy/values.ts";
import { RteError } from "./errors.ts";

/** One live table of `connect`: `{}` is the whole table of this name. */
export interface TableOptions {
  /** The server's name of the table, if it differs from the local one. */
  table?: string;
  /** Columns to hold; default: all that may be read. */
  columns?: string[];
  /** Which rows, an SQL expression with `$1` … for `params`. */
  where?: string;
  params?: unknown[];
  /** Columns, or groups of columns, that are looked up by here. */
  indexes?: (string | string[])[];
}

/** A token, or what makes one. `reason` says whether it is the first, a renewal before the expiry, or one after a refusal. */
export type TokenSource = string | ((reason: "first" | "renewal" | "refused") => string | Promise<string>);

export interface ConnectOptions<Names extends string = string> {
  /** The gateway: `https://db.example.org:8082`. Default: where the module came from, else the page's origin. */
  url?: string;
  /** Name or domain of the tenant; default: the landlord's own database. */
  tenant?: string;
  token?: TokenSource;
  /**
   * Whose copy it is. Each user has a store of their own. Default: `sub` and `role` of the token; give it where tokens are
   * opaque, and where the page should open without a network.
   */
  user?: string;
  tables: Record<Names, TableOptions>;
  /** A name that is shown in `rte.connections`. */
  name?: string;
  /** `memory` keeps nothing beyond the page. Default `indexeddb`, with memory where that is not to be had. */
  storage?: "indexeddb" | "memory";
  /** `int8` as number where it is safe and else BigInt, always BigInt, or always string. Default `auto`. */
  int8?: "auto" | "bigint" | "string";
  /** `timestamp` and `timestamptz` as `Date`, without what is below a millisecond. Default: as strings. */
  dates?: boolean;
  /** In what order ways to connect are tried. Default: all three. */
  transports?: ("websocket" | "events" | "poll")[];
  /** How often each copy is compared with the server's, ms; 0: never by itself. Default: an hour. */
  verifyEvery?: number;
  /** Gives up connecting for the first time. */
  signal?: AbortSignal;
  /** Told from the beginning on, before `connect` has resolved. */
  onStatus?: (status: import("./status.ts").Status) => void;
  onError?: (error: import("./errors.ts").ErrorInfo) => void;
  /** For other runtimes than browsers. */
  runtime?: Runtime;
}

/** What a browser has by itself. */
export interface Runtime {
  WebSocket?: typeof WebSocket;
  fetch?: typeof fetch;
  indexedDB?: IDBFactory | null;
  IDBKeyRange?: typeof IDBKeyRange;
  locks?: LockManager | null;
}

/** Options as the leader uses them. */
export interface Settings {
  url: string;
  tenant: string | undefined;
  token: TokenSource | undefined;
  name: string | undefined;
  /** This tab, for the store's head and the channel. */
  tab: string;
  verifyEveryMs: number;
  values: ValueOptions;
  connection: {
    transports?: ("websocket" | "events" | "poll")[];
    WebSocket?: typeof WebSocket;
    fetch?: typeof fetch;
  };
}

const RESERVED = /^(_rte|__proto__$)/;

/** The definitions of `tables`; throws where one cannot be a store's name. */
export function definitions(tables: Record<string, TableOptions>): Record<string, Definition> {
  return Object.fromEntries(Object.entries(tables).map(([name, options]) => [name, definitionOf(name, options)]));
}

export function definitionOf(name: string, options: TableOptions): Definition {
  if (name === "" || RESERVED.test(name)) {
    throw new RteError({ code: "BAD_NAME", message: `a live table cannot be called "${name}"`, hint: "names that begin with _rte are the client's own" });
  }
  const { table = name, columns, where, params, indexes } = options;
  const odd = (indexes ?? []).flat().find((column) => !isIdentifier(column));
  if (odd !== undefined || indexes?.some((index) => index.length === 0)) {
    const hint = "an index is a column, or an array of columns, with names like identifiers";
    throw new RteError({ code: "BAD_INDEX", message: `"${name}" cannot be indexed by "${odd ?? ""}"`, hint, table: name });
  }
  return {
    table,
    ...(columns && { columns }),
    ...(where !== undefined && { where }),
    ...(params && { params }),
    ...(indexes && { indexes }),
  };
}

/** The gateway's address without a trailing slash, http or https. */
export function addressOf(url: string | undefined, moduleUrl: string | undefined): string {
  const given = url ?? defaultUrl(moduleUrl);
  if (given === undefined) throw new RteError({ code: "NO_URL", message: "the gateway's address is missing", hint: "connect({ url: \"https://…\" })" });
  const base = globalThis.location?.href;
  const parsed = new URL(given, base);
  parsed.protocol = parsed.protocol.replace(/^ws/, "http");
  parsed.hash = "";
  parsed.search = "";
  return parsed.href.replace(/\/+$/, "");
}

/** A module that a gateway has served knows where that is. */
function defaultUrl(moduleUrl: string | undefined): string | undefined {
  if (moduleUrl && /\/client\.js(\?|$)/.test(moduleUrl)) return new URL(".", moduleUrl).href;
  return globalThis.location?.origin;
}
