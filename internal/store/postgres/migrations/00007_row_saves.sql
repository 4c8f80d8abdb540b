-- A count of the saves of runners and jobs. Who writes looks at it under the lock of writers: as long as it stands where it was
-- left, nobody else has saved anything since, and what was read then need not be read again. Whoever saves counts, also a
-- version that does not know of it. A save that is undone counts too.

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

-- +goose Down
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
