-- A count of the saves of runners and jobs. Who writes looks at it under the lock of writers: as long as it stands where it was
-- left, nobody else has saved anything since, and what was read then need not be read again. Whoever saves counts, also a
-- version that does not know of it. A save that is undone counts too.
--
-- And an entry of an index may not be longer than a third of a page, which the tags of a job can be: their beginning is enough
-- to find them by. The version before reads whole tables for a demand meanwhile.

-- +goose Up
CREATE SEQUENCE row_saves;
SELECT setval('row_saves', 1);
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION runners_invariants() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.id <> OLD.id THEN RAISE 'conflict: a runner''s id never changes' USING ERRCODE = 'FR001'; END IF;
    IF NEW.version <> OLD.version + 1 THEN RAISE 'conflict: a runner''s version rises by one' USING ERRCODE = 'FR001'; END IF;
    IF NEW.state < OLD.state THEN RAISE 'conflict: a runner''s state never falls' USING ERRCODE = 'FR001'; END IF;
    IF OLD.outcome <> '' AND NEW.outcome <> OLD.outcome THEN RAISE 'conflict: an outcome is written once' USING ERRCODE = 'FR001'; END IF;
    IF OLD.desired = 'gone' AND NEW.desired <> 'gone' THEN RAISE 'conflict: an unwanted runner stays unwanted' USING ERRCODE = 'FR001'; END IF;
    PERFORM nextval('row_saves');
    RETURN NEW;
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION jobs_invariants() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.rank < OLD.rank THEN RAISE 'conflict: a job''s status never falls' USING ERRCODE = 'FR001'; END IF;
    PERFORM nextval('row_saves');
    RETURN NEW;
END $$;
-- +goose StatementEnd
DROP INDEX runners_live, runners_demand, jobs_open;
CREATE INDEX runners_live ON runners (project_id, left(tags, 500)) WHERE state < 80;
CREATE INDEX runners_demand ON runners (project_id, left(tags, 500), id);
CREATE INDEX jobs_open ON jobs (project_id, left(tags, 500)) WHERE rank < 40;

-- +goose Down
DROP INDEX runners_live, runners_demand, jobs_open;
CREATE INDEX runners_live ON runners (project_id, tags) WHERE state < 80;
CREATE INDEX runners_demand ON runners (project_id, tags, id);
CREATE INDEX jobs_open ON jobs (project_id, tags) WHERE rank < 40;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION runners_invariants() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.id <> OLD.id THEN RAISE 'conflict: a runner''s id never changes' USING ERRCODE = 'FR001'; END IF;
    IF NEW.version <> OLD.version + 1 THEN RAISE 'conflict: a runner''s version rises by one' USING ERRCODE = 'FR001'; END IF;
    IF NEW.state < OLD.state THEN RAISE 'conflict: a runner''s state never falls' USING ERRCODE = 'FR001'; END IF;
    IF OLD.outcome <> '' AND NEW.outcome <> OLD.outcome THEN RAISE 'conflict: an outcome is written once' USING ERRCODE = 'FR001'; END IF;
    IF OLD.desired = 'gone' AND NEW.desired <> 'gone' THEN RAISE 'conflict: an unwanted runner stays unwanted' USING ERRCODE = 'FR001'; END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION jobs_invariants() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.rank < OLD.rank THEN RAISE 'conflict: a job''s status never falls' USING ERRCODE = 'FR001'; END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
DROP SEQUENCE row_saves;
