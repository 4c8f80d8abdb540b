-- A job's own token, sealed in its guest, and on its way through the ledger. It can be opened with FireRunner's GitLab token
-- only, which is in no database. '' is none: a version that does not know the columns writes that.

-- +goose Up
ALTER TABLE runners ADD COLUMN job_key TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE vm_reports ADD COLUMN job_key TEXT COLLATE "C" NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE vm_reports DROP COLUMN job_key;
ALTER TABLE runners DROP COLUMN job_key;
