-- What agents did and which messages were kept from them, as `audit.list` and `audit.activity.list` show it. Apart from
-- `audit`, so that busy conversations cannot push out what operators did.

CREATE TABLE activity (
    id              INTEGER PRIMARY KEY,
    event_id        TEXT NOT NULL,
    at_ms           INTEGER NOT NULL,
    kind            TEXT NOT NULL,
    action          TEXT NOT NULL,
    status          TEXT NOT NULL,
    source_sequence INTEGER NOT NULL,
    agent_id        TEXT NOT NULL,
    run_id          TEXT NOT NULL,
    session_key     TEXT NOT NULL,
    session_id      TEXT,
    channel         TEXT
) STRICT;
CREATE TRIGGER activity_is_append_only BEFORE UPDATE ON activity
BEGIN
    SELECT RAISE(ABORT, 'records of activity are never changed');
END;
