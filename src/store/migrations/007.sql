-- What waited, or waits, for a person's word. `end` says what came of it, `used_ms` when what was granted was begun: a
-- grant is used once. What is open is told again after a restart.

CREATE TABLE approvals (
    id         TEXT PRIMARY KEY NOT NULL,
    kind       TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    record     TEXT NOT NULL,
    ended_ms   INTEGER,
    end        TEXT,
    used_ms    INTEGER
) STRICT;
CREATE INDEX approvals_ended ON approvals (ended_ms, id);
