-- What each message of a transcript took, so that usage is told without reading what was said. It outlives the
-- transcript: what was spent was spent. What earlier versions wrote is counted from their transcripts.

CREATE TABLE usage_transcripts (
    id           INTEGER PRIMARY KEY,
    session_id   TEXT NOT NULL,
    session_key  TEXT NOT NULL,
    agent_id     TEXT NOT NULL,
    channel      TEXT,
    last_user_ms INTEGER,
    last_ms      INTEGER NOT NULL,
    last_row     INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX usage_transcripts_session_id ON usage_transcripts (session_id);
CREATE INDEX usage_transcripts_session_key ON usage_transcripts (session_key, id);

CREATE TABLE usage (
    id               INTEGER PRIMARY KEY,
    transcript       INTEGER NOT NULL,
    at_ms            INTEGER NOT NULL,
    role             TEXT NOT NULL,
    is_error         INTEGER NOT NULL,
    latency_ms       INTEGER,
    input            INTEGER,
    output           INTEGER,
    cache_read       INTEGER,
    cache_write      INTEGER,
    input_cost       REAL,
    output_cost      REAL,
    cache_read_cost  REAL,
    cache_write_cost REAL,
    provider         TEXT,
    model            TEXT,
    tools            TEXT
) STRICT;
CREATE INDEX usage_transcript ON usage (transcript, at_ms);

INSERT INTO usage_transcripts (session_id, session_key, agent_id, channel, last_user_ms, last_ms, last_row)
    SELECT t.session_id,
           coalesce(s.key, a.session_key, ''),
           coalesce(s.agent_id, iif(a.session_key LIKE 'agent:%:%',
               substr(a.session_key, 7, instr(substr(a.session_key, 7), ':') - 1), 'main')),
           s.channel,
           max(iif(t.role = 'user', t.at_ms, NULL)),
           max(t.at_ms),
           0
    FROM transcript t
    LEFT JOIN sessions s ON s.session_id = t.session_id
    LEFT JOIN (SELECT session_id, max(session_key) AS session_key FROM archives GROUP BY session_id) a
        ON a.session_id = t.session_id
    GROUP BY t.session_id;

INSERT INTO usage (transcript, at_ms, role, is_error, latency_ms, input, output, cache_read, cache_write,
                   input_cost, output_cost, cache_read_cost, cache_write_cost, provider, model, tools)
    SELECT u.id,
           t.at_ms,
           t.role,
           CASE t.role WHEN 'assistant' THEN coalesce(json_extract(t.message, '$.stopReason'), '')
                           IN ('error', 'aborted', 'timeout')
                       ELSE coalesce(json_extract(t.message, '$.isError'), 0) = 1 END,
           iif(t.role = 'assistant', t.at_ms - (
               SELECT b.at_ms FROM transcript b
               WHERE b.session_id = t.session_id AND b.seq < t.seq AND b.role = 'user'
               ORDER BY b.seq DESC LIMIT 1), NULL),
           CAST(json_extract(t.message, '$.usage.input') AS INTEGER),
           CAST(json_extract(t.message, '$.usage.output') AS INTEGER),
           CAST(json_extract(t.message, '$.usage.cacheRead') AS INTEGER),
           CAST(json_extract(t.message, '$.usage.cacheWrite') AS INTEGER),
           CAST(json_extract(t.message, '$.usage.cost.input') AS REAL),
           CAST(json_extract(t.message, '$.usage.cost.output') AS REAL),
           CAST(json_extract(t.message, '$.usage.cost.cacheRead') AS REAL),
           CAST(json_extract(t.message, '$.usage.cost.cacheWrite') AS REAL),
           json_extract(t.message, '$.provider'),
           json_extract(t.message, '$.model'),
           (SELECT json_group_array(json_extract(c.value, '$.name'))
            FROM json_each(t.message, '$.content') c
            WHERE iif(c.type = 'object', json_extract(c.value, '$.type'), '') = 'toolCall'
            HAVING count(*) > 0)
    FROM transcript t JOIN usage_transcripts u ON u.session_id = t.session_id
    WHERE t.role IN ('user', 'assistant', 'toolResult') AND json_valid(t.message)
    ORDER BY t.id;

UPDATE usage_transcripts SET last_row = coalesce((SELECT max(id) FROM usage WHERE transcript = usage_transcripts.id), 0);
