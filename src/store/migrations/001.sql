-- Times are milliseconds since 1970 (UTC), named *_ms. Columns that hold JSON hold its text.
-- Tables of a few hundred rows have no index but their key: a first start pays for each one.
-- A column that may be long comes last: what stands after it can only be read by walking through it.

CREATE TABLE sessions (
    key           TEXT PRIMARY KEY NOT NULL,
    agent_id      TEXT NOT NULL,
    session_id    TEXT NOT NULL,
    kind          TEXT NOT NULL,
    label         TEXT,
    channel       TEXT,
    peer          TEXT,
    account_id    TEXT,
    thread_id     TEXT,
    spawned_by    TEXT,
    created_ms    INTEGER NOT NULL,
    updated_ms    INTEGER NOT NULL,
    message_count INTEGER NOT NULL,
    input_tokens  INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    total_tokens  INTEGER NOT NULL,
    search        TEXT NOT NULL,
    entry         TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX sessions_session_id ON sessions (session_id);
CREATE UNIQUE INDEX sessions_label ON sessions (label, agent_id) WHERE label IS NOT NULL;
-- The order of the list is part of each index that a list can be narrowed by, so none of them sorts.
CREATE INDEX sessions_updated ON sessions (updated_ms DESC, key);
CREATE INDEX sessions_agent ON sessions (agent_id, updated_ms DESC, key);
CREATE INDEX sessions_channel ON sessions (channel, updated_ms DESC, key) WHERE channel IS NOT NULL;
CREATE INDEX sessions_peer ON sessions (peer, updated_ms DESC, key) WHERE peer IS NOT NULL;
CREATE INDEX sessions_account ON sessions (account_id, updated_ms DESC, key) WHERE account_id IS NOT NULL;
CREATE INDEX sessions_spawned_by ON sessions (spawned_by, updated_ms DESC, key) WHERE spawned_by IS NOT NULL;

CREATE TABLE session_state (
    session_key  TEXT PRIMARY KEY NOT NULL,
    total        INTEGER NOT NULL,
    allowed      INTEGER NOT NULL,
    review       INTEGER NOT NULL,
    blocked      INTEGER NOT NULL,
    last_action  TEXT NOT NULL,
    last_risk    INTEGER NOT NULL,
    last_channel TEXT,
    last_tool    TEXT,
    last_seen_ms INTEGER NOT NULL,
    last_tags    TEXT NOT NULL
) STRICT;
CREATE INDEX idx_session_state_last_seen_ms ON session_state (last_seen_ms DESC);
CREATE INDEX idx_session_state_last_action ON session_state (last_action, last_seen_ms DESC);
CREATE INDEX idx_session_state_last_channel ON session_state (last_channel, last_seen_ms DESC);

CREATE TABLE transcript (
    id              INTEGER PRIMARY KEY,
    session_id      TEXT NOT NULL,
    seq             INTEGER NOT NULL,
    message_id      TEXT NOT NULL,
    parent_id       TEXT,
    role            TEXT NOT NULL,
    idempotency_key TEXT,
    at_ms           INTEGER NOT NULL,
    message         TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX transcript_seq ON transcript (session_id, seq);
CREATE UNIQUE INDEX transcript_message_id ON transcript (session_id, message_id);
CREATE UNIQUE INDEX transcript_idempotency_key ON transcript (session_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

-- A range of a transcript that is out of the session but still readable: nothing is moved or copied.
CREATE TABLE archives (
    id          INTEGER PRIMARY KEY,
    session_id  TEXT NOT NULL,
    session_key TEXT NOT NULL,
    reason      TEXT NOT NULL,
    archived_ms INTEGER NOT NULL,
    first_seq   INTEGER NOT NULL,
    last_seq    INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX archives_session_id ON archives (session_id, last_seq);
CREATE INDEX archives_session_key ON archives (session_key, id);
CREATE INDEX archives_archived_ms ON archives (archived_ms);

CREATE TABLE inbox (
    id          INTEGER PRIMARY KEY,
    source      TEXT NOT NULL,
    dedupe_key  TEXT NOT NULL,
    session_key TEXT NOT NULL,
    received_ms INTEGER NOT NULL,
    state       TEXT NOT NULL,
    is_open     INTEGER NOT NULL,
    decision    TEXT,
    body        TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX inbox_dedupe_key ON inbox (source, dedupe_key);
CREATE INDEX inbox_state ON inbox (state, id);
CREATE INDEX inbox_open ON inbox (id) WHERE is_open = 1;

CREATE TABLE decisions (
    id          INTEGER PRIMARY KEY,
    at_ms       INTEGER NOT NULL,
    request_id  TEXT NOT NULL,
    session_key TEXT,
    source      TEXT NOT NULL,
    channel     TEXT,
    tool        TEXT,
    action      TEXT NOT NULL,
    score       INTEGER NOT NULL,
    reasons     TEXT NOT NULL,
    tags        TEXT NOT NULL,
    preview     TEXT NOT NULL
) STRICT;
CREATE INDEX decisions_session_key ON decisions (session_key, id) WHERE session_key IS NOT NULL;
CREATE INDEX decisions_action ON decisions (action, id);

CREATE TABLE idempotency (
    key        TEXT PRIMARY KEY NOT NULL,
    state      TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    response   TEXT
) STRICT;
CREATE INDEX idempotency_expires_ms ON idempotency (expires_ms);

CREATE TABLE devices (
    device_id    TEXT PRIMARY KEY NOT NULL,
    public_key   TEXT NOT NULL,
    roles        TEXT NOT NULL,
    scopes       TEXT NOT NULL,
    created_ms   INTEGER NOT NULL,
    approved_ms  INTEGER NOT NULL,
    last_seen_ms INTEGER NOT NULL,
    record       TEXT NOT NULL
) STRICT;

CREATE TABLE pending_pairs (
    request_id TEXT PRIMARY KEY NOT NULL,
    device_id  TEXT NOT NULL,
    at_ms      INTEGER NOT NULL,
    record     TEXT NOT NULL
) STRICT;

CREATE TABLE audit (
    id         INTEGER PRIMARY KEY,
    at_ms      INTEGER NOT NULL,
    actor      TEXT NOT NULL,
    address    TEXT,
    action     TEXT NOT NULL,
    resource   TEXT NOT NULL,
    outcome    TEXT NOT NULL,
    request_id TEXT,
    detail     TEXT
) STRICT;
CREATE INDEX audit_at_ms ON audit (at_ms);
CREATE INDEX audit_actor ON audit (actor, at_ms);
CREATE TRIGGER audit_is_append_only BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'audit records are never changed');
END;

CREATE TABLE meta (
    key        TEXT PRIMARY KEY NOT NULL,
    value      TEXT NOT NULL,
    updated_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
