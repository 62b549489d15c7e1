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

/** Names under which a database says that its connection is no more. */
const CLOSED = new Set([
  "DatabaseClosedError", "InvalidStateError", "NoSuchDatabaseError", "OpenFailedError", "UnknownError", "MissingAPIError",
  "InvalidTableError", "NotFoundError", "SecurityError", "TransactionInactiveError", "PrematureCommitError",
]);

interface Named { name?: unknown; inner?: unknown; message?: unknown }

/** An error and those within it, outermost first. Dexie wraps what IndexedDB throws. */
function* within(error: unknown): Generator<Named> {
  for (let depth = 0; depth < 5 && typeof error === "object" && error !== null; depth++) {
    yield error as Named;
    error = (error as Named).inner ?? (error as { cause?: unknown }).cause;
  }
}

export function isFull(error: unknown): boolean {
  for (const { name, message } of within(error)) {
    if (name === "QuotaExceededError" || name === "NS_ERROR_DOM_QUOTA_REACHED") return true;
    if (name === "AbortError" && /quota|disk.*full/i.test(String(message))) return true;
  }
  return false;
}

/** The connection was closed under the work: it may go well after opening again. */
export function isClosed(error: unknown): boolean {
  for (const { name } of within(error)) if (CLOSED.has(String(name))) return true;
  return false;
}

/** An abort that the work did not ask for: the browser closes a database so when it loses it. */
export function isAborted(error: unknown): boolean {
  for (const { name } of within(error)) if (name === "AbortError") return true;
  return false;
}
