-- A transcript is a tree: the message `first_seq` follows `parent_seq` and not the one before it. All others follow the
-- one before them. `first_seq` may be one that is not written yet: then the active branch ends with `parent_seq`.

CREATE TABLE branches (
    session_id TEXT NOT NULL,
    first_seq  INTEGER NOT NULL,
    parent_seq INTEGER NOT NULL,
    PRIMARY KEY (session_id, first_seq)
) STRICT, WITHOUT ROWID;

-- The groups of the session list, in their order, and what a new session of a group begins with. A session names its
-- group in its entry, as `category`.

CREATE TABLE session_groups (
    name     TEXT PRIMARY KEY NOT NULL,
    position INTEGER NOT NULL,
    cwd      TEXT,
    worktree INTEGER
) STRICT, WITHOUT ROWID;
INSERT INTO session_groups
    WITH names AS (SELECT DISTINCT trim(json_extract(entry, '$.category')) AS name FROM sessions)
    SELECT name, (SELECT count(*) FROM names AS other WHERE other.name <> '' AND other.name < names.name), NULL, NULL
    FROM names WHERE name <> '';
