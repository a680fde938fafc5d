-- Version 1 (PRAGMA user_version); version 2 adds spoken_of.sql, version 3 denials.sql, version 4 rollouts.sql. Every statement is plain SQL where it can be, for the day when PostgreSQL joins.

-- What happened. `cursor` rises with commit order, since there is one writer; readers follow by it.
CREATE TABLE events (
  cursor              INTEGER PRIMARY KEY AUTOINCREMENT,
  node                TEXT    NOT NULL,
  boot_id             TEXT    NOT NULL,
  sequence            INTEGER NOT NULL,   -- the kernel's u64, bit for bit
  namespace           TEXT    NOT NULL,   -- of the container; empty for gaps
  received_unix_nanos INTEGER NOT NULL,
  event               BLOB    NOT NULL,   -- lattice.v1.Event
  UNIQUE (node, boot_id, sequence)
) STRICT;
CREATE INDEX events_by_namespace ON events (namespace, cursor);

-- Overrides of `latticectl mode set`.
CREATE TABLE namespace_modes (
  namespace TEXT NOT NULL PRIMARY KEY,
  mode      TEXT NOT NULL
) STRICT;

-- The last good derivation of each container, kept while a later one fails. A withdrawn one stays without its policy, so
-- that generations never fall.
CREATE TABLE derived_policies (
  namespace  TEXT    NOT NULL,
  name       TEXT    NOT NULL,
  service    TEXT    NOT NULL,
  generation INTEGER NOT NULL,
  policy     BLOB,                        -- lattice.v1.ExecPolicy; NULL where withdrawn
  sha256     BLOB    NOT NULL,            -- over `policy`, checked when read
  PRIMARY KEY (namespace, name)
) STRICT;

-- One row: the last revision of the policy set that was given out.
CREATE TABLE revision (
  only_row INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
  last     INTEGER NOT NULL
) STRICT;
INSERT INTO revision (only_row, last) VALUES (1, 0);
