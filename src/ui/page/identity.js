// This browser's device identity: an Ed25519 key made by WebCrypto. Its private half cannot be exported, by this page
// or any other script; IndexedDB keeps the handle so that the gateway recognises the device on the next visit.

const DATABASE = "openclaw-rs-device";
const STORE = "keys";
const RECORD = "operator";

/** Why this browser cannot sign in at all, or null when it can. */
export function obstacle() {
  if (!globalThis.isSecureContext || !globalThis.crypto?.subtle) {
    return "Browsers only make device keys on secure pages. Open this page through https, or on the gateway's own "
      + "machine as http://127.0.0.1 or http://localhost (an SSH tunnel does).";
  }
  return null;
}

/** The identity: {id, publicKey, sign(text)}, made on the first visit. */
export async function loadIdentity() {
  const keys = await keyPair();
  const raw = new Uint8Array(await crypto.subtle.exportKey("raw", keys.publicKey));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", raw));
  return {
    id: Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join(""),
    publicKey: base64url(raw),
    sign: async (text) =>
      base64url(new Uint8Array(await crypto.subtle.sign("Ed25519", keys.privateKey, new TextEncoder().encode(text)))),
  };
}

async function keyPair() {
  let database = null;
  try {
    database = await open();
    const kept = await read(database);
    if (kept) return kept;
  } catch {
    // Storage is switched off: the key then lives as long as this page.
  }
  let made;
  try {
    made = await crypto.subtle.generateKey("Ed25519", false, ["sign", "verify"]);
  } catch {
    throw new Error("This browser cannot make Ed25519 keys. Chrome 137, Firefox 129 and Safari 17 or later can.");
  }
  if (!database) return made;
  try {
    // `add` refuses when another tab was first; its key then is the one to use.
    await settle(database.transaction(STORE, "readwrite").objectStore(STORE).add(made, RECORD));
    return made;
  } catch {
    return (await read(database).catch(() => null)) ?? made;
  }
}

function open() {
  const request = indexedDB.open(DATABASE, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE);
  return settle(request);
}

function read(database) {
  return settle(database.transaction(STORE).objectStore(STORE).get(RECORD));
}

function settle(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = (event) => {
      event.preventDefault();
      reject(request.error);
    };
    request.onblocked = () => reject(new Error("blocked"));
  });
}

function base64url(bytes) {
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
