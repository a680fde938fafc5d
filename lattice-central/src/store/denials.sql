-- Version 3: what is refused everywhere. A lifted one stays, as the record of who did what when and why.
CREATE TABLE denials (
  number            INTEGER PRIMARY KEY AUTOINCREMENT,
  kind              TEXT    NOT NULL,   -- image | file
  digest            TEXT    NOT NULL,   -- sha256:<hex>
  kill_running      INTEGER NOT NULL,   -- 0 | 1
  reason            TEXT    NOT NULL,
  set_by            TEXT    NOT NULL,
  set_unix_nanos    INTEGER NOT NULL,
  lifted_unix_nanos INTEGER,            -- NULL while it holds
  lifted_by         TEXT,
  lift_reason       TEXT
) STRICT;
-- At most one of a digest holds.
CREATE UNIQUE INDEX denials_in_force ON denials (kind, digest) WHERE lifted_unix_nanos IS NULL;
