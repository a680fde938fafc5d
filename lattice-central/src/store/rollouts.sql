-- Version 4: where each rollout is, and how it got there. One whose LatticeRollout is gone stays without its state.
CREATE TABLE rollouts (
  namespace TEXT NOT NULL PRIMARY KEY,
  state     BLOB,                      -- JSON; NULL where its LatticeRollout is gone
  sha256    BLOB NOT NULL              -- over `state`, checked when read
) STRICT;
CREATE TABLE rollout_history (
  number     INTEGER PRIMARY KEY AUTOINCREMENT,
  namespace  TEXT    NOT NULL,
  unix_nanos INTEGER NOT NULL,
  workload   TEXT    NOT NULL,         -- empty where all are meant
  from_phase TEXT    NOT NULL,
  to_phase   TEXT    NOT NULL,
  by         TEXT    NOT NULL,
  reason     TEXT    NOT NULL,
  evidence   TEXT    NOT NULL          -- SHA-256 over what was known
) STRICT;
CREATE INDEX rollout_history_by_namespace ON rollout_history (namespace, number);
