// What goes wrong, with a stable code. Pure.

/** A code of the protocol's (`UNKNOWN_TABLE`, `UNAUTHORIZED`, …) or one of the client's own. */
export type ErrorCode =
  | (string & {})
  | "NO_USER"
  | "STORAGE_FULL"
  | "STORAGE_GONE"
  | "CLOSED"
  | "NO_TABLE"
  | "TOKEN_FAILED"
  | "SUPERSEDED";

export interface ErrorInfo {
  code: ErrorCode;
  message: string;
  hint?: string | undefined;
  /** The live table that it is about. */
  table?: string | undefined;
}

export class RteError extends Error implements ErrorInfo {
  readonly code: ErrorCode;
  readonly hint: string | undefined;
  readonly table: string | undefined;

  constructor(info: ErrorInfo, cause?: unknown) {
    super(info.hint ? `${info.message} (${info.hint})` : info.message, cause === undefined ? undefined : { cause });
    this.name = "RteError";
    this.code = info.code;
    this.hint = info.hint;
    this.table = info.table;
  }
}
