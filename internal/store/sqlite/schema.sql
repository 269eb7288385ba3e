-- Version 1. A later version is a further file; see migrate in sqlite.go.
CREATE TABLE resources (
    key           TEXT PRIMARY KEY,
    id            TEXT NOT NULL,
    type          TEXT NOT NULL,
    parent        TEXT NOT NULL,
    subscription  TEXT NOT NULL,
    grp           TEXT NOT NULL,
    location      TEXT NOT NULL,
    spec          BLOB,
    status        BLOB,
    conditions    BLOB,
    state         TEXT NOT NULL,
    generation    INTEGER NOT NULL,
    observed      INTEGER NOT NULL,
    operation_id  TEXT NOT NULL,
    deleted_at    INTEGER,
    created_at    INTEGER NOT NULL,
    created_by    TEXT NOT NULL,
    created_kind  TEXT NOT NULL,
    modified_at   INTEGER NOT NULL,
    modified_by   TEXT NOT NULL,
    modified_kind TEXT NOT NULL,
    version       INTEGER NOT NULL
);
CREATE INDEX resources_by_type ON resources (type, subscription, grp, key);
CREATE INDEX resources_by_parent ON resources (parent, key);

CREATE TABLE operations (
    id           TEXT PRIMARY KEY,
    resource_key TEXT NOT NULL,
    ended_at     INTEGER,
    data         BLOB NOT NULL
);
CREATE INDEX operations_by_end ON operations (ended_at) WHERE ended_at IS NOT NULL;

-- A wake-up that is leased has a token; again_at is when it is due after it is settled.
CREATE TABLE wakeups (
    key         TEXT PRIMARY KEY,
    due_at      INTEGER NOT NULL,
    token       TEXT,
    lease_owner TEXT,
    lease_until INTEGER,
    again_at    INTEGER
);
CREATE INDEX wakeups_by_due ON wakeups (due_at);

CREATE TABLE claims (
    name  TEXT PRIMARY KEY,
    owner TEXT NOT NULL
);
CREATE INDEX claims_by_owner ON claims (owner);

CREATE TABLE handles (
    key      TEXT PRIMARY KEY,
    provider TEXT NOT NULL,
    version  INTEGER NOT NULL,
    data     BLOB
);

CREATE TABLE secrets (
    key   TEXT NOT NULL,
    name  TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (key, name)
);

CREATE TABLE vals (
    bucket TEXT NOT NULL,
    key    TEXT NOT NULL,
    value  BLOB NOT NULL,
    PRIMARY KEY (bucket, key)
);
