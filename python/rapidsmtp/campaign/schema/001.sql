-- Version 1 of a journal. All times are milliseconds since 1970. The statements of the package use
-- only what SQLite 3.24 and PostgreSQL have in common. In this script, PostgreSQL would need bytea
-- for BLOB, and no WITHOUT ROWID.
--
-- The counts of a chunk are columns of `lease`, so `status` reads no outcomes. An exchange adds to
-- them in the statement that also is the fence and the heartbeat.

CREATE TABLE journal (
  version integer NOT NULL,
  incarnation text NOT NULL,      -- a random name of this journal, for files beside it
  exchanges bigint NOT NULL,      -- the number of committed write transactions
  granted_to bigint NOT NULL      -- the highest row that was ever granted, or 0
);

CREATE TABLE campaign (
  no integer PRIMARY KEY,
  id text NOT NULL UNIQUE,        -- 16 hexadecimal digits
  name text NOT NULL,
  state text NOT NULL,            -- loading ready running paused done aborted
  reason text,                    -- why it is paused, and by whom
  message BLOB NOT NULL,          -- the template as a message file, with its fields
  settings text NOT NULL,         -- JSON; never a password or a private key
  columns text NOT NULL,          -- JSON: how to read the rows (model.Columns)
  rows bigint NOT NULL,
  list_sha256 text NOT NULL,
  created_at bigint NOT NULL,
  started_at bigint,
  finished_at bigint
);

CREATE TABLE chunk (
  campaign integer NOT NULL,
  no integer NOT NULL,
  first bigint NOT NULL,          -- the number of its first row; rows count from 1
  count integer NOT NULL,
  format text NOT NULL,           -- 'csv': records without a header; 'jsonl': an object a line
  rows BLOB NOT NULL,             -- zlib, UTF-8; never changed
  PRIMARY KEY (campaign, no)
);

CREATE TABLE lease (
  campaign integer NOT NULL,
  chunk integer NOT NULL,
  state text NOT NULL,            -- waiting leased done
  due_at bigint NOT NULL,         -- 0: at once
  epoch integer NOT NULL DEFAULT 0,
  owner text,
  beat_at bigint,
  stamp_at bigint,                -- the Date and the DKIM time of its messages; set once
  relay integer,
  granted integer NOT NULL DEFAULT 0,     -- rows granted in this epoch and without an outcome
  more_parts integer NOT NULL DEFAULT 0,  -- outcomes of a second or further recipient of a row
  accepted integer NOT NULL DEFAULT 0,
  refused integer NOT NULL DEFAULT 0,
  deferred integer NOT NULL DEFAULT 0,
  unknown integer NOT NULL DEFAULT 0,
  invalid integer NOT NULL DEFAULT 0,
  returned integer NOT NULL DEFAULT 0,
  suppressed integer NOT NULL DEFAULT 0,
  PRIMARY KEY (campaign, chunk)
);
CREATE INDEX lease_due ON lease (campaign, due_at, chunk) WHERE state <> 'done';

-- The rows that the owner of an epoch may begin. GRANT is a word of SQL.
CREATE TABLE grant_ (
  campaign integer NOT NULL,
  chunk integer NOT NULL,
  epoch integer NOT NULL,
  no integer NOT NULL,
  rows text NOT NULL,             -- '256-511', or '3,17-19' in a retry
  at bigint NOT NULL,
  PRIMARY KEY (campaign, chunk, epoch, no)
);

CREATE TABLE outcome (
  campaign integer NOT NULL,
  row bigint NOT NULL,
  part smallint NOT NULL,         -- the number of the recipient in the message, from 0
  status smallint NOT NULL,       -- model.RowStatus
  code smallint,
  enhanced text,
  text text,
  address text,                   -- NULL where a row has one recipient and was accepted
  attempts integer NOT NULL,      -- of the engine, in all passes
  passes smallint NOT NULL,       -- passes in which the row was tried
  ms integer,                     -- from the first attempt of the pass to the outcome
  epoch integer NOT NULL,
  at bigint NOT NULL,
  next_at bigint,                 -- when the recipient is due again; NULL: never
  bounced_at bigint,
  bounce text,
  PRIMARY KEY (campaign, row, part)
) WITHOUT ROWID;
-- A table WITHOUT ROWID appends its primary key to each index, so this is (status, campaign, row,
-- part). If `campaign` is named here, SQLite searches the primary key by `campaign` instead, which
-- is a scan of all outcomes.
CREATE INDEX outcome_open ON outcome (status) WHERE status <> 1;

CREATE TABLE relay (
  campaign integer NOT NULL,
  no integer NOT NULL,
  url text NOT NULL,              -- without a password
  weight integer NOT NULL,
  state text NOT NULL,            -- up away
  retry_at bigint,
  failures integer NOT NULL DEFAULT 0,    -- in a row
  reason text,
  PRIMARY KEY (campaign, no)
);

CREATE TABLE budget (
  name text PRIMARY KEY,
  tat bigint NOT NULL,            -- GCRA: the theoretical arrival time, in microseconds; for a
                                  -- budget of days: the number of the first day, or 0
  day text,
  used integer NOT NULL DEFAULT 0
);

CREATE TABLE suppression (
  address text PRIMARY KEY,       -- in lower case
  reason text,
  at bigint NOT NULL
);
