-- Hosts that are reached over a network, addresses from their pools, and the ledger of drivers that have no process of
-- their own beside each microVM.

-- +goose Up
ALTER TABLE hosts ADD COLUMN labels TEXT NOT NULL DEFAULT '[]'; -- JSON
ALTER TABLE hosts ADD COLUMN address_first TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN address_last TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN address_bits INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hosts ADD COLUMN gateway TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN dns TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN seen_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hosts ADD COLUMN trouble TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN lost INTEGER NOT NULL DEFAULT 0 CHECK (lost IN (0, 1));

-- An address is never given twice, whoever writes: it is free again once its runner is gone (80).
ALTER TABLE runners ADD COLUMN address TEXT NOT NULL DEFAULT '';
CREATE UNIQUE INDEX runners_address ON runners (host, address) WHERE address <> '' AND state < 80;
CREATE INDEX runners_host ON runners (host) WHERE host <> '' AND state < 80;

-- +goose StatementBegin
CREATE TRIGGER hosts_delete BEFORE DELETE ON hosts
BEGIN
    SELECT RAISE(ABORT, 'conflict: a live runner is on the host')
    WHERE EXISTS (SELECT 1 FROM runners WHERE host = OLD.name AND host <> '' AND state < 80);
END;
-- +goose StatementEnd

CREATE TABLE vms (
    id         TEXT    NOT NULL PRIMARY KEY,
    driver     TEXT    NOT NULL,
    host       TEXT    NOT NULL,
    ref        TEXT    NOT NULL,
    token      BLOB    NOT NULL, -- SHA-256
    session    BLOB    NOT NULL, -- SHA-256; all zero: none
    used_at    INTEGER NOT NULL,
    number     INTEGER NOT NULL, -- the guest's last that was recorded
    seq        INTEGER NOT NULL, -- of the last report
    exited     INTEGER NOT NULL CHECK (exited IN (0, 1)),
    bytes      INTEGER NOT NULL, -- of all reports
    dropped    INTEGER NOT NULL, -- reports of the guest beyond the limits
    created_at INTEGER NOT NULL,
    deadline   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX vms_driver ON vms (driver);

-- +goose StatementBegin
CREATE TRIGGER vms_invariants BEFORE UPDATE ON vms
BEGIN
    SELECT RAISE(ABORT, 'conflict: a one-time token is used once') WHERE OLD.used_at <> 0 AND (NEW.used_at <> OLD.used_at OR NEW.session <> OLD.session);
    SELECT RAISE(ABORT, 'conflict: nothing is reported after the end') WHERE OLD.exited = 1 AND (NEW.exited <> 1 OR NEW.seq <> OLD.seq);
    SELECT RAISE(ABORT, 'conflict: reports are numbered upwards') WHERE NEW.number < OLD.number OR NEW.seq < OLD.seq;
END;
-- +goose StatementEnd

CREATE TABLE vm_reports (
    vm_id     TEXT    NOT NULL,
    seq       INTEGER NOT NULL,
    at        INTEGER NOT NULL,
    kind      TEXT    NOT NULL,
    job_id    INTEGER NOT NULL,
    success   INTEGER NOT NULL CHECK (success IN (0, 1)),
    failure   TEXT    NOT NULL,
    exit_code INTEGER NOT NULL,
    message   TEXT    NOT NULL,
    PRIMARY KEY (vm_id, seq)
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE vm_reports;
DROP TABLE vms;
DROP TRIGGER hosts_delete;
DROP INDEX runners_host;
DROP INDEX runners_address;
ALTER TABLE runners DROP COLUMN address;
ALTER TABLE hosts DROP COLUMN lost;
ALTER TABLE hosts DROP COLUMN trouble;
ALTER TABLE hosts DROP COLUMN seen_at;
ALTER TABLE hosts DROP COLUMN dns;
ALTER TABLE hosts DROP COLUMN gateway;
ALTER TABLE hosts DROP COLUMN address_bits;
ALTER TABLE hosts DROP COLUMN address_last;
ALTER TABLE hosts DROP COLUMN address_first;
ALTER TABLE hosts DROP COLUMN labels;
