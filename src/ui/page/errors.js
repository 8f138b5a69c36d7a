// What to tell a person about a refusal. Branches on the machine-readable code, never on the gateway's text.

const RESIGN = "Sign in with the gateway's token again.";
const NO_DEVICE = "The gateway wants a device key, which browsers only make on secure pages. "
  + "Use https, or the gateway's own machine.";

/** Refusals that the person in front of the screen can put right. */
const TEXTS = {
  AUTH_TOKEN_MISSING: "The gateway wants a token. Enter it below.",
  AUTH_TOKEN_MISMATCH: "That is not this gateway's token. Check that it is whole, and that this is the right gateway.",
  AUTH_TOKEN_NOT_CONFIGURED: "The gateway has no token. Set gateway.auth.token on the gateway, then try again.",
  AUTH_PASSWORD_MISSING: "The gateway wants a password. Enter it below.",
  AUTH_PASSWORD_MISMATCH: "That is not this gateway's password.",
  AUTH_PASSWORD_NOT_CONFIGURED: "The gateway has no password. Set gateway.auth.password there, then try again.",
  AUTH_DEVICE_TOKEN_MISMATCH: `This browser's own token was rotated or revoked. ${RESIGN}`,
  AUTH_SCOPE_MISMATCH: `This browser's own token no longer covers what this page needs. ${RESIGN}`,
  AUTH_RATE_LIMITED: "Too many failed attempts from this address. Wait a few minutes, then try again.",
  AUTH_REQUIRED: "The gateway wants a token or a password. Enter it below.",
  AUTH_UNAUTHORIZED: "The gateway did not accept this sign-in.",
  CONTROL_UI_ORIGIN_NOT_ALLOWED: "The gateway does not accept pages from this address. Open it by the gateway's own "
    + "address, or add this page's origin to gateway.controlUi.allowedOrigins.",
  CONTROL_UI_DEVICE_IDENTITY_REQUIRED: NO_DEVICE,
  DEVICE_IDENTITY_REQUIRED: NO_DEVICE,
  DEVICE_AUTH_SIGNATURE_EXPIRED: "This browser's signature came too late. Try again.",
  DEVICE_AUTH_SIGNATURE_INVALID: "The gateway could not verify this browser's device key. Reload the page.",
  PROTOCOL_MISMATCH: "This page and the gateway speak different protocol versions. Reload the page.",
  PAIRING_REQUIRED: "This browser is not approved on the gateway yet.",
  MISSING_SCOPE: "This browser's access does not include that.",
};

/** A refusal or a failure of a request, with the gateway's codes. */
export class GatewayError extends Error {
  constructor(error) {
    super(error?.message || "the gateway gave no reason");
    this.code = error?.code ?? "";
    this.details = error?.details ?? {};
    this.detailCode = error?.details?.code ?? "";
    this.retryable = error?.retryable === true || error?.code === "UNAVAILABLE";
    this.retryAfterMs = error?.retryAfterMs ?? 0;
  }
}

/** One or two sentences for a person. */
export function explain(error) {
  if (!(error instanceof GatewayError)) return sentence(error?.message || String(error));
  const known = TEXTS[error.detailCode];
  if (error.detailCode === "MISSING_SCOPE" && error.details.missingScope) {
    return `This browser's access does not include ${error.details.missingScope}.`;
  }
  if (error.detailCode === "AUTH_RATE_LIMITED" && error.retryAfterMs) {
    return `Too many failed attempts from this address. Try again in ${Math.ceil(error.retryAfterMs / 1000)} seconds.`;
  }
  return known ?? sentence(error.message);
}

function sentence(text) {
  const trimmed = text.trim();
  return trimmed.charAt(0).toUpperCase() + trimmed.slice(1) + (/[.!?)]$/.test(trimmed) ? "" : ".");
}
