-- Sequences that some gap has spoken of: each is lost, or is stored. Rows of one boot do not overlap.
CREATE TABLE spoken_of (
  node    TEXT    NOT NULL,
  boot_id TEXT    NOT NULL,
  first   INTEGER NOT NULL,
  last    INTEGER NOT NULL,
  PRIMARY KEY (node, boot_id, first)
) STRICT;
