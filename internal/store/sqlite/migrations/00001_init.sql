-- Times are whole microseconds since 1970, UTC; 0 is the zero time. Every table is STRICT, so that a value of the
-- wrong type is refused and not silently converted. The numbers 80 and 40 below are firerunner.Gone and the rank of a
-- final job status: a partial index needs literals.

-- +goose Up
CREATE TABLE runners (
    id         TEXT    NOT NULL PRIMARY KEY,
    project_id INTEGER NOT NULL,
    tags       TEXT    NOT NULL,
    profile    TEXT    NOT NULL,
    vcpus      INTEGER NOT NULL,
    memory_mib INTEGER NOT NULL,
    disk_mib   INTEGER NOT NULL,
    image      TEXT    NOT NULL,
    state      INTEGER NOT NULL,
    desired    TEXT    NOT NULL,
    outcome    TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    message    TEXT    NOT NULL,
    host       TEXT    NOT NULL,
    gitlab_id  INTEGER NOT NULL,
    job_id     INTEGER NOT NULL,
    report     INTEGER NOT NULL,
    version    INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    moved_at   INTEGER NOT NULL,
    deadline   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX runners_live ON runners (project_id, tags) WHERE state < 80;
CREATE INDEX runners_gitlab ON runners (gitlab_id) WHERE gitlab_id <> 0;
CREATE INDEX runners_created ON runners (created_at);

-- The invariants of the port, kept by the database too: whatever writes here, now or later, cannot break them.
-- +goose StatementBegin
CREATE TRIGGER runners_invariants BEFORE UPDATE ON runners
BEGIN
    SELECT RAISE(ABORT, 'conflict: a runner''s id never changes') WHERE NEW.id <> OLD.id;
    SELECT RAISE(ABORT, 'conflict: a runner''s version rises by one') WHERE NEW.version <> OLD.version + 1;
    SELECT RAISE(ABORT, 'conflict: a runner''s state never falls') WHERE NEW.state < OLD.state;
    SELECT RAISE(ABORT, 'conflict: an outcome is written once') WHERE OLD.outcome <> '' AND NEW.outcome <> OLD.outcome;
    SELECT RAISE(ABORT, 'conflict: an unwanted runner stays unwanted') WHERE OLD.desired = 'gone' AND NEW.desired <> 'gone';
END;
-- +goose StatementEnd

CREATE TABLE jobs (
    id           INTEGER NOT NULL PRIMARY KEY,
    project_id   INTEGER NOT NULL,
    project_path TEXT    NOT NULL,
    pipeline_id  INTEGER NOT NULL,
    name         TEXT    NOT NULL,
    stage        TEXT    NOT NULL,
    ref          TEXT    NOT NULL,
    status       TEXT    NOT NULL,
    rank         INTEGER NOT NULL,
    failure      TEXT    NOT NULL,
    tags         TEXT    NOT NULL,
    gitlab_id    INTEGER NOT NULL,
    runner_id    TEXT    NOT NULL,
    ours         INTEGER NOT NULL CHECK (ours IN (0, 1)),
    profile      TEXT    NOT NULL,
    vcpus        INTEGER NOT NULL,
    memory_mib   INTEGER NOT NULL,
    disk_mib     INTEGER NOT NULL,
    refused      TEXT    NOT NULL,
    message      TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    queued_at    INTEGER NOT NULL,
    started_at   INTEGER NOT NULL,
    finished_at  INTEGER NOT NULL,
    seen_at      INTEGER NOT NULL
) STRICT;

CREATE INDEX jobs_open ON jobs (project_id, tags) WHERE rank < 40;
CREATE INDEX jobs_runner ON jobs (runner_id) WHERE runner_id <> '';

-- +goose StatementBegin
CREATE TRIGGER jobs_invariants BEFORE UPDATE ON jobs
BEGIN
    SELECT RAISE(ABORT, 'conflict: a job''s status never falls') WHERE NEW.rank < OLD.rank;
END;
-- +goose StatementEnd

CREATE TABLE projects (
    id      INTEGER NOT NULL PRIMARY KEY,
    path    TEXT    NOT NULL,
    seen_at INTEGER NOT NULL
) STRICT;

CREATE INDEX projects_seen ON projects (seen_at);

CREATE TABLE hosts (
    name       TEXT    NOT NULL PRIMARY KEY,
    driver     TEXT    NOT NULL,
    vcpus      INTEGER NOT NULL,
    memory_mib INTEGER NOT NULL,
    slots      INTEGER NOT NULL,
    draining   INTEGER NOT NULL CHECK (draining IN (0, 1))
) STRICT, WITHOUT ROWID;

-- AUTOINCREMENT: an event's number is never given twice, also if the newest were lost.
CREATE TABLE events (
    id         INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    kind       TEXT    NOT NULL,
    runner_id  TEXT    NOT NULL,
    job_id     INTEGER NOT NULL,
    project_id INTEGER NOT NULL,
    from_state INTEGER NOT NULL,
    to_state   INTEGER NOT NULL,
    took       INTEGER NOT NULL, -- nanoseconds
    actor      TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    message    TEXT    NOT NULL
) STRICT;

CREATE INDEX events_runner ON events (runner_id) WHERE runner_id <> '';
CREATE INDEX events_job ON events (job_id) WHERE job_id <> 0;

-- +goose StatementBegin
CREATE TRIGGER events_no_update BEFORE UPDATE ON events
BEGIN
    SELECT RAISE(ABORT, 'conflict: the event log is append-only');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER events_no_delete BEFORE DELETE ON events
BEGIN
    SELECT RAISE(ABORT, 'conflict: the event log is append-only');
END;
-- +goose StatementEnd

CREATE TABLE deliveries (
    key TEXT    NOT NULL PRIMARY KEY,
    at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX deliveries_at ON deliveries (at);

-- +goose Down
DROP TABLE deliveries;
DROP TABLE events;
DROP TABLE hosts;
DROP TABLE projects;
DROP TABLE jobs;
DROP TABLE runners;
