// The memory fallback: an IndexedDB that lives as long as the page. A module of its own, loaded only where it is
// needed.

import { IDBFactory, IDBKeyRange } from "fake-indexeddb";

export function memory(): { indexedDB: globalThis.IDBFactory; IDBKeyRange: typeof globalThis.IDBKeyRange } {
  return { indexedDB: new IDBFactory(), IDBKeyRange };
}
