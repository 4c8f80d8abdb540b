-- Ways to the few runners that a step is about, so that its cost does not grow with how many there are. The numbers 10 and
-- 80 are firerunner.Queued and firerunner.Gone.

-- +goose Up
CREATE INDEX runners_job ON runners (job_id) WHERE job_id <> 0;
CREATE INDEX runners_queued ON runners (state) WHERE state = 10;
CREATE INDEX runners_deadline ON runners (deadline) WHERE deadline <> 0 AND state < 80;
CREATE INDEX runners_demand ON runners (project_id, tags, id);

-- +goose Down
DROP INDEX runners_demand;
DROP INDEX runners_deadline;
DROP INDEX runners_queued;
DROP INDEX runners_job;
