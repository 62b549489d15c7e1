// What a token says of itself. Nothing is verified here, and nothing may be decided by it but where a copy is kept and
// when a token is renewed: what it is good for the server decides. Pure.

import type { TokenFacts } from "./timing.ts";

/** Claims that the client looks at. */
export interface Claims {
  sub?: string;
  role?: string;
  /** Seconds since 1970. */
  exp?: number;
  iat?: number;
}

/** The claims of a JWT, not verified. Null for what is none. */
export function claimsOf(token: string): Claims | null {
  const parts = token.split(".");
  if (parts.length !== 3) return null;
  try {
    const bytes = Uint8Array.from(atob(parts[1]!.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
    const payload: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    if (typeof payload !== "object" || payload === null || Array.isArray(payload)) return null;
    const { sub, role, exp, iat } = payload as Record<string, unknown>;
    return { sub: text(sub), role: text(role), exp: figure(exp), iat: figure(iat) };
  } catch {
    return null;
  }
}

/**
 * Whom a token is for, not verified: equal for equal `sub` and `role`, different for different ones. Undefined where
 * it does not say.
 */
export function userOf(token: string): string | undefined {
  const claims = claimsOf(token);
  if (claims?.sub === undefined) return undefined;
  const sub = encodeURIComponent(claims.sub);
  return claims.role === undefined ? sub : `${sub}@${encodeURIComponent(claims.role)}`;
}

export function factsOf(token: string | null, fixed: boolean): TokenFacts {
  const { iat, exp } = (token === null ? null : claimsOf(token)) ?? {};
  return { iat, exp, fixed };
}

function text(value: unknown): string | undefined {
  return typeof value === "string" ? value : typeof value === "number" ? String(value) : undefined;
}

function figure(value: unknown): number | undefined {
  return typeof value === "number" && Number.isFinite(value) ? value : undefined;
}
