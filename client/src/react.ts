// React: a live query, and the status, as hooks. Works with one client that is given by `RteProvider`, or by argument.

import { createContext, createElement, useContext, useEffect, useMemo, useState, useSyncExternalStore, type ReactNode } from "react";
import type { Rte } from "./client.ts";
import type { ConnectOptions } from "./options.ts";
import { connect } from "./index.ts";
import type { Status } from "./status.ts";

// The hooks read only what does not depend on the types of rows.
type Client = Pick<Rte, "status" | "on" | "live" | "table" | "close" | "db" | "ready">;

const Context = createContext<Client | null>(null);

/** Gives a client to the hooks below it. */
export function RteProvider({ rte, children }: { rte: Client; children?: ReactNode }): ReactNode {
  return createElement(Context.Provider, { value: rte }, children);
}

/** The client that the nearest provider gives. */
export function useRte<T extends Client = Rte>(): T {
  const rte = useContext(Context);
  if (!rte) throw new Error("useRte needs an RteProvider above it");
  return rte as T;
}

export interface LiveResult<R> {
  /** The last result, undefined before the first. */
  data: R | undefined;
  error: unknown;
  loading: boolean;
}

/**
 * The result of a query, and a new one whenever what it read changes: `useLiveQuery((rte) => rte.table("orders").toArray(), [])`.
 * `deps` are the values that the query closes over.
 */
export function useLiveQuery<R, T extends Client = Rte>(query: (rte: T) => Promise<R>, deps: readonly unknown[], rte?: T): LiveResult<R> {
  const given = useContext(Context) as T | null;
  const client = rte ?? given;
  if (!client) throw new Error("useLiveQuery needs an RteProvider above it, or a client");
  const [known, setKnown] = useState<LiveResult<R> & { of: T | null }>({ ...NOTHING, of: null });
  useEffect(() => {
    // The old result stays until there is a new one, so that a list does not flash empty; but not that of another client.
    setKnown((before) => (before.of === client ? { ...before, loading: true } : { ...NOTHING, of: client }));
    return client.live(
      () => query(client),
      (data) => setKnown({ data, error: undefined, loading: false, of: client }),
      (error) => setKnown((before) => ({ ...before, error, loading: false, of: client })),
    );
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [client, ...deps]);
  const { data, error, loading } = known.of === client ? known : NOTHING;
  return { data, error, loading };
}

const NOTHING = { data: undefined, error: undefined, loading: true };

/** How the client stands. */
export function useStatus(rte?: Client): Status {
  const given = useContext(Context);
  const client = rte ?? given;
  if (!client) throw new Error("useStatus needs an RteProvider above it, or a client");
  const subscribe = useMemo(() => (changed: () => void) => client.on("status", changed), [client]);
  return useSyncExternalStore(subscribe, () => client.status, () => client.status);
}

/** Connects while the component is mounted. Options are those of the first time, and of each change of `deps`. */
export function useConnect(options: ConnectOptions, deps: readonly unknown[] = []): { rte: Rte | null; error: unknown } {
  const [state, setState] = useState<{ rte: Rte | null; error: unknown }>({ rte: null, error: undefined });
  useEffect(() => {
    const end = new AbortController();
    const opening = connect({ ...options, signal: end.signal });
    opening.then(
      (rte) => !end.signal.aborted && setState({ rte, error: undefined }),
      (error: unknown) => !end.signal.aborted && setState({ rte: null, error }),
    );
    return () => {
      end.abort();
      setState({ rte: null, error: undefined });
      void opening.then((rte) => rte.close(), () => {});
    };
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, deps);
  return state;
}
