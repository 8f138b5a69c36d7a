-- Pictures and files that came with messages. The bytes lie in files of the state directory; a row says that one is
-- wanted, and by which message.

CREATE TABLE media (
    id         TEXT PRIMARY KEY,
    inbox_id   INTEGER NOT NULL,
    session_id TEXT,
    message_id TEXT,
    bytes      INTEGER NOT NULL,
    at_ms      INTEGER NOT NULL
) STRICT;
CREATE INDEX media_by_age ON media (at_ms, bytes, id);
