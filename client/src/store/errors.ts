// How storage fails, and how IndexedDB and Dexie say so. Pure.

/** Another leader has acceded: who gets this must stop writing. */
export class Deposed extends Error {
  override readonly name = "Deposed";
}

/** The origin's quota or the disk is used up. */
export class StorageFull extends Error {
  override readonly name = "StorageFull";
}

/** The database was closed, deleted or evicted, or does not work. */
export class StorageGone extends Error {
  override readonly name = "StorageGone";
}

/** Names under which a database says that its connection is no more; it aborts what runs when it loses its files. */
const CLOSED = new Set([
  "DatabaseClosedError", "InvalidStateError", "NoSuchDatabaseError", "OpenFailedError", "UnknownError",
  "MissingAPIError", "InvalidTableError", "AbortError", "NotFoundError", "SecurityError",
  "TransactionInactiveError", "PrematureCommitError",
]);

interface Named { name?: unknown; inner?: unknown; cause?: unknown; message?: unknown; failures?: unknown }

/**
 * An error and those within it, outermost first. Dexie wraps what IndexedDB throws, that of many requests in a list.
 */
function* within(error: unknown, depth = 0): Generator<Named> {
  if (typeof error !== "object" || error === null || depth > 4) return;
  const named = error as Named;
  yield named;
  yield* within(named.inner ?? named.cause, depth + 1);
  if (Array.isArray(named.failures)) yield* within(named.failures[0], depth + 1);
}

function full(error: unknown): boolean {
  for (const { name, message } of within(error)) {
    if (name === "QuotaExceededError" || name === "NS_ERROR_DOM_QUOTA_REACHED") return true;
    if (name === "AbortError" && /quota|disk.*full/i.test(String(message))) return true;
  }
  return false;
}

/**
 * What an error of the database means: StorageFull; `closed`, the connection was closed or the transaction aborted
 * under the work, which may go well after opening again; or the error itself.
 */
export function meaning(error: unknown): Deposed | StorageFull | StorageGone | "closed" | unknown {
  if (error instanceof Deposed || error instanceof StorageFull || error instanceof StorageGone) return error;
  if (full(error)) return new StorageFull("no room in the browser's storage", { cause: error });
  for (const { name } of within(error)) if (CLOSED.has(String(name))) return "closed";
  return error;
}
