-- The inbox knows of each message how often its run was begun, and in which turn, so that a restart runs it again as it
-- was. The table is written anew because its body may be long: no column may stand behind it.

CREATE TABLE inbox_with_runs (
    id          INTEGER PRIMARY KEY,
    source      TEXT NOT NULL,
    dedupe_key  TEXT NOT NULL,
    session_key TEXT NOT NULL,
    received_ms INTEGER NOT NULL,
    state       TEXT NOT NULL,
    is_open     INTEGER NOT NULL,
    attempts    INTEGER NOT NULL,
    turn_id     INTEGER,
    decision    TEXT,
    body        TEXT NOT NULL
) STRICT;
INSERT INTO inbox_with_runs
    SELECT id, source, dedupe_key, session_key, received_ms, state, is_open, 0, NULL, decision, body FROM inbox;
DROP TABLE inbox;
ALTER TABLE inbox_with_runs RENAME TO inbox;
CREATE UNIQUE INDEX inbox_dedupe_key ON inbox (source, dedupe_key);
CREATE INDEX inbox_state ON inbox (state, id);
CREATE INDEX inbox_open ON inbox (id) WHERE is_open = 1;
CREATE INDEX inbox_open_turn ON inbox (turn_id) WHERE is_open = 1 AND turn_id IS NOT NULL;
