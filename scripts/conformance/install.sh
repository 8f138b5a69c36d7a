#!/usr/bin/env bash
# Installs below $PEERS what the conformance run needs, each part once: a Node that runs both releases, the packages `openclaw`
# 2026.9.6 and 2026.2.21, the client library, the `openai` package, a JSON schema validator and a driver for the browser.
# Package scripts are not run. With --short the browser is left out.
set -euo pipefail
: "${PEERS:?set PEERS to a folder that git ignores}"
mkdir -p "$PEERS"/{node,oc96,oc221,gwc,openai,tools}
npm_quiet=(--no-audit --no-fund --loglevel=error)

start() { [ -f package.json ] || npm init -y >/dev/null; }

cd "$PEERS/node"
[ -x node_modules/node/bin/node ] || { start; npm i node@24 "${npm_quiet[@]}" >/dev/null; }
export PATH="$PEERS/node/node_modules/node/bin:$PATH"

cd "$PEERS/oc96"
[ -f node_modules/openclaw/openclaw.mjs ] || { start; npm i openclaw@2026.9.6 --ignore-scripts "${npm_quiet[@]}" >/dev/null; }

cd "$PEERS/gwc"
[ -d node_modules/@openclaw/gateway-client ] ||
  { start; npm i @openclaw/gateway-client@2026.9.1 @openclaw/gateway-protocol@2026.9.1 --ignore-scripts "${npm_quiet[@]}" >/dev/null; }

cd "$PEERS/openai"
[ -d node_modules/openai ] || { start; npm i openai@6.49.0 --ignore-scripts "${npm_quiet[@]}" >/dev/null; }

cd "$PEERS/tools"
[ -d node_modules/ajv ] || { start; npm i ajv@8 "${npm_quiet[@]}" >/dev/null; }

# 2026.2.21 needs packages that its lock file takes from git: they are left out of the resolve, and the registry's copies put beside.
cd "$PEERS/oc221"
if [ ! -d package/node_modules/@whiskeysockets/baileys ]; then
  npm pack openclaw@2026.2.21 --loglevel=error >/dev/null
  tar xzf openclaw-2026.2.21.tgz
  cd package
  node -e '
    const fs = require("fs"), p = require("./package.json");
    for (const k of ["@buape/carbon", "@whiskeysockets/baileys", "@discordjs/opus"]) delete p.dependencies[k];
    p.dependencies.linkedom = "0.18.12";
    p.overrides = { cssom: "0.5.0" };
    for (const k of ["scripts", "devDependencies", "pnpm"]) delete p[k];
    fs.writeFileSync("package.json", JSON.stringify(p, null, 2));'
  npm i --ignore-scripts --omit=dev --legacy-peer-deps "${npm_quiet[@]}" >/dev/null
  npm i @buape/carbon@0.0.0-beta-20260216184201 --ignore-scripts --omit=dev --omit=optional --legacy-peer-deps "${npm_quiet[@]}" >/dev/null
  cd ..
  mkdir -p side/deps side/davey
  cd side
  npm pack @whiskeysockets/baileys@7.0.0-rc.9 --loglevel=error >/dev/null
  tar xzf whiskeysockets-baileys-*.tgz
  cd deps
  start
  npm i libsignal@2 @hapi/boom async-mutex lru-cache music-metadata p-queue pino protobufjs @cacheable/node-cache node-cache \
    --ignore-scripts --legacy-peer-deps "${npm_quiet[@]}" >/dev/null
  cp -rn node_modules/* ../../package/node_modules/ || true
  cd ../davey
  start
  davey=$(node -p "require('$PEERS/oc221/package/node_modules/@snazzah/davey/package.json').version")
  npm i --ignore-scripts --force "@snazzah/davey-linux-x64-gnu@$davey" "${npm_quiet[@]}" >/dev/null
  cp -r node_modules/@snazzah/* "$PEERS/oc221/package/node_modules/@snazzah/"
  # Last, because it is what says that all of this is done.
  mkdir -p "$PEERS/oc221/package/node_modules/@whiskeysockets"
  cp -r "$PEERS/oc221/side/package" "$PEERS/oc221/package/node_modules/@whiskeysockets/baileys"
fi

if [[ " $* " != *" --short "* ]]; then
  cd "$PEERS/tools"
  [ -d node_modules/playwright-core ] || { start; npm i playwright-core@1 --ignore-scripts "${npm_quiet[@]}" >/dev/null; }
  command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium >/dev/null; }
fi
