-- Hosts that are reached over a network, addresses from their pools, and the ledger of drivers that have no process of
-- their own beside each microVM.

-- +goose Up
ALTER TABLE hosts
    ADD COLUMN labels        TEXT   NOT NULL DEFAULT '[]', -- JSON
    ADD COLUMN address_first TEXT   NOT NULL DEFAULT '',
    ADD COLUMN address_last  TEXT   NOT NULL DEFAULT '',
    ADD COLUMN address_bits  BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN gateway       TEXT   NOT NULL DEFAULT '',
    ADD COLUMN dns           TEXT   NOT NULL DEFAULT '',
    ADD COLUMN seen_at       BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN trouble       TEXT   NOT NULL DEFAULT '',
    ADD COLUMN lost          BIGINT NOT NULL DEFAULT 0 CHECK (lost IN (0, 1));

-- An address is never given twice, whoever writes: it is free again once its runner is gone (80).
ALTER TABLE runners ADD COLUMN address TEXT COLLATE "C" NOT NULL DEFAULT '';
CREATE UNIQUE INDEX runners_address ON runners (host, address) WHERE address <> '' AND state < 80;
CREATE INDEX runners_host ON runners (host) WHERE host <> '' AND state < 80;

-- +goose StatementBegin
CREATE FUNCTION hosts_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM runners WHERE host = OLD.name AND host <> '' AND state < 80) THEN
        RAISE 'conflict: a live runner is on the host' USING ERRCODE = 'FR001';
    END IF;
    RETURN OLD;
END $$;
-- +goose StatementEnd
CREATE TRIGGER hosts_delete BEFORE DELETE ON hosts FOR EACH ROW EXECUTE FUNCTION hosts_delete();

CREATE TABLE vms (
    id         TEXT   COLLATE "C" NOT NULL PRIMARY KEY,
    driver     TEXT   NOT NULL,
    host       TEXT   NOT NULL,
    ref        TEXT   NOT NULL,
    token      BYTEA  NOT NULL, -- SHA-256
    session    BYTEA  NOT NULL, -- SHA-256; all zero: none
    used_at    BIGINT NOT NULL,
    number     BIGINT NOT NULL, -- the guest's last that was recorded
    seq        BIGINT NOT NULL, -- of the last report
    exited     BIGINT NOT NULL CHECK (exited IN (0, 1)),
    bytes      BIGINT NOT NULL, -- of all reports
    dropped    BIGINT NOT NULL, -- reports of the guest beyond the limits
    created_at BIGINT NOT NULL,
    deadline   BIGINT NOT NULL
);

CREATE INDEX vms_driver ON vms (driver);

-- +goose StatementBegin
CREATE FUNCTION vms_invariants() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.used_at <> 0 AND (NEW.used_at <> OLD.used_at OR NEW.session <> OLD.session) THEN
        RAISE 'conflict: a one-time token is used once' USING ERRCODE = 'FR001';
    END IF;
    IF OLD.exited = 1 AND (NEW.exited <> 1 OR NEW.seq <> OLD.seq) THEN
        RAISE 'conflict: nothing is reported after the end' USING ERRCODE = 'FR001';
    END IF;
    IF NEW.number < OLD.number OR NEW.seq < OLD.seq THEN
        RAISE 'conflict: reports are numbered upwards' USING ERRCODE = 'FR001';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER vms_invariants BEFORE UPDATE ON vms FOR EACH ROW EXECUTE FUNCTION vms_invariants();

CREATE TABLE vm_reports (
    vm_id     TEXT   COLLATE "C" NOT NULL,
    seq       BIGINT NOT NULL,
    at        BIGINT NOT NULL,
    kind      TEXT   NOT NULL,
    job_id    BIGINT NOT NULL,
    success   BIGINT NOT NULL CHECK (success IN (0, 1)),
    failure   TEXT   NOT NULL,
    exit_code BIGINT NOT NULL,
    message   TEXT   NOT NULL,
    PRIMARY KEY (vm_id, seq)
);

-- +goose Down
DROP TABLE vm_reports;
DROP TABLE vms;
DROP TRIGGER hosts_delete ON hosts;
DROP FUNCTION vms_invariants, hosts_delete;
DROP INDEX runners_host;
DROP INDEX runners_address;
ALTER TABLE runners DROP COLUMN address;
ALTER TABLE hosts DROP COLUMN lost, DROP COLUMN trouble, DROP COLUMN seen_at, DROP COLUMN dns, DROP COLUMN gateway,
    DROP COLUMN address_bits, DROP COLUMN address_last, DROP COLUMN address_first, DROP COLUMN labels;
