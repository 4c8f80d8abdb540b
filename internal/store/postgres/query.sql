-- Each list has one query per way in (an index), and what is left of the question is filtered in Go (package row). Only
-- where a LIMIT goes with the whole table are the conditions here, each behind a flag. An empty list is any. Tags are found
-- by their beginning, because whole they can be too long for an index.

-- name: Runner :one
SELECT * FROM runners WHERE id = $1;

-- name: RunnersLive :many
SELECT * FROM runners WHERE state < 80 ORDER BY id;

-- name: RunnersLiveOf :many
SELECT * FROM runners WHERE state < 80 AND project_id = @project_id AND left(tags, 500) = left(@tags, 500) AND tags = @tags ORDER BY id;

-- name: RunnersByGitLabID :many
SELECT * FROM runners WHERE gitlab_id = $1 AND gitlab_id <> 0 ORDER BY id;

-- name: RunnersOfJob :many
SELECT * FROM runners WHERE job_id = $1 AND job_id <> 0 ORDER BY id;

-- name: RunnersQueued :many
SELECT * FROM runners WHERE state = 10 ORDER BY id;

-- name: RunnersOverdue :many
SELECT * FROM runners WHERE state < 80 AND deadline <> 0 AND deadline < $1 ORDER BY id;

-- name: RunnersLatestOf :many
SELECT * FROM runners WHERE project_id = @project_id AND left(tags, 500) = left(@tags, 500) AND tags = @tags ORDER BY id DESC LIMIT @most::bigint;

-- name: RunnersSince :many
SELECT * FROM runners WHERE created_at >= $1 ORDER BY created_at;

-- name: RunnersLatest :many
SELECT * FROM runners
WHERE (@any_demand::bigint <> 0 OR (project_id = @project_id AND tags = @tags))
  AND (@any_outcome::bigint <> 0 OR outcome = @outcome)
  AND (cardinality(@states::bigint[]) = 0 OR state = ANY(@states::bigint[]))
ORDER BY id DESC LIMIT nullif(@most::bigint, -1);

-- name: RunnerInsert :exec
INSERT INTO runners (id, project_id, tags, profile, vcpus, memory_mib, disk_mib, image, state, desired, outcome, reason,
    message, host, gitlab_id, job_id, report, version, created_at, moved_at, deadline, address, job_key, controller)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24);

-- name: RunnerUpdate :execrows
UPDATE runners SET project_id = @project_id, tags = @tags, profile = @profile, vcpus = @vcpus,
    memory_mib = @memory_mib, disk_mib = @disk_mib, image = @image, state = @state, desired = @desired,
    outcome = @outcome, reason = @reason, message = @message, host = @host, gitlab_id = @gitlab_id, job_id = @job_id,
    report = @report, version = version + 1, created_at = @created_at, moved_at = @moved_at, deadline = @deadline,
    address = @address, job_key = @job_key, controller = @controller
WHERE id = @id AND version = @version;

-- name: Job :one
SELECT * FROM jobs WHERE id = $1;

-- name: JobsOpen :many
SELECT * FROM jobs WHERE rank < 40 ORDER BY id;

-- name: JobsOpenOf :many
SELECT * FROM jobs WHERE rank < 40 AND project_id = @project_id AND left(tags, 500) = left(@tags, 500) AND tags = @tags ORDER BY id;

-- name: JobsByRunner :many
SELECT * FROM jobs WHERE runner_id = $1 AND runner_id <> '' ORDER BY id;

-- name: JobsLatest :many
SELECT * FROM jobs
WHERE (@any_demand::bigint <> 0 OR (project_id = @demand_project_id AND tags = @tags))
  AND (@any_project::bigint <> 0 OR project_id = @project_id)
  AND (@any_owner::bigint <> 0 OR ours = 1)
  AND (cardinality(@statuses::text[]) = 0 OR status = ANY(@statuses::text[]))
ORDER BY id DESC LIMIT nullif(@most::bigint, -1);

-- name: JobUpsert :exec
INSERT INTO jobs (id, project_id, project_path, pipeline_id, name, stage, ref, status, rank, failure, tags, gitlab_id,
    runner_id, ours, profile, vcpus, memory_mib, disk_mib, refused, message, created_at, queued_at, started_at,
    finished_at, seen_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25)
ON CONFLICT (id) DO UPDATE SET project_id = excluded.project_id, project_path = excluded.project_path,
    pipeline_id = excluded.pipeline_id, name = excluded.name, stage = excluded.stage, ref = excluded.ref,
    status = excluded.status, rank = excluded.rank, failure = excluded.failure, tags = excluded.tags,
    gitlab_id = excluded.gitlab_id, runner_id = excluded.runner_id, ours = excluded.ours, profile = excluded.profile,
    vcpus = excluded.vcpus, memory_mib = excluded.memory_mib, disk_mib = excluded.disk_mib,
    refused = excluded.refused, message = excluded.message, created_at = excluded.created_at,
    queued_at = excluded.queued_at, started_at = excluded.started_at, finished_at = excluded.finished_at,
    seen_at = excluded.seen_at;

-- name: ProjectsSince :many
SELECT * FROM projects WHERE seen_at >= $1 ORDER BY seen_at DESC, id;

-- name: ProjectUpsert :exec
INSERT INTO projects (id, path, seen_at) VALUES ($1, $2, $3)
ON CONFLICT (id) DO UPDATE SET
    path = CASE WHEN excluded.path <> '' AND excluded.seen_at >= projects.seen_at THEN excluded.path ELSE projects.path END,
    seen_at = greatest(projects.seen_at, excluded.seen_at);

-- name: Hosts :many
SELECT * FROM hosts ORDER BY name;

-- name: HostUpsert :exec
INSERT INTO hosts (name, driver, vcpus, memory_mib, slots, draining, labels, address_first, address_last, address_bits,
    gateway, dns, seen_at, trouble, lost, controller)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
ON CONFLICT (name) DO UPDATE SET driver = excluded.driver, vcpus = excluded.vcpus, memory_mib = excluded.memory_mib,
    slots = excluded.slots, draining = excluded.draining, labels = excluded.labels,
    address_first = excluded.address_first, address_last = excluded.address_last, address_bits = excluded.address_bits,
    gateway = excluded.gateway, dns = excluded.dns, seen_at = excluded.seen_at, trouble = excluded.trouble,
    lost = excluded.lost, controller = excluded.controller;

-- name: HostDelete :execrows
DELETE FROM hosts WHERE name = $1;

-- name: EventInsert :one
INSERT INTO events (at, kind, runner_id, job_id, project_id, from_state, to_state, took, actor, reason, message)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING id;

-- name: EventsOfRunner :many
SELECT * FROM events WHERE runner_id = @runner_id AND runner_id <> '' AND id > @after ORDER BY id;

-- name: EventsOfJob :many
SELECT * FROM events WHERE job_id = @job_id AND job_id <> 0 AND id > @after ORDER BY id;

-- name: EventsAfter :many
SELECT * FROM events
WHERE id > @after AND (cardinality(@kinds::text[]) = 0 OR kind = ANY(@kinds::text[]))
ORDER BY id LIMIT nullif(@most::bigint, -1);

-- name: DeliveryInsert :execrows
INSERT INTO deliveries (key, at) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING;

-- name: DeliveriesPurge :exec
DELETE FROM deliveries WHERE key IN (SELECT d.key FROM deliveries AS d WHERE d.at < @before ORDER BY d.at LIMIT @most::bigint);

-- name: VM :one
SELECT * FROM vms WHERE id = $1;

-- name: VMsOf :many
SELECT * FROM vms WHERE driver = $1 ORDER BY id;

-- What a guest did is never taken back by what its driver knows: see firerunner.Ledger.
-- name: VMUpsert :exec
INSERT INTO vms (id, driver, host, ref, token, session, used_at, number, seq, exited, bytes, dropped, created_at,
    deadline)
VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0, 0, 0, 0, $8, $9)
ON CONFLICT (id) DO UPDATE SET driver = excluded.driver, host = excluded.host, ref = excluded.ref,
    token = excluded.token, created_at = excluded.created_at, deadline = excluded.deadline,
    session = CASE WHEN vms.used_at <> 0 THEN vms.session ELSE excluded.session END,
    used_at = CASE WHEN vms.used_at <> 0 THEN vms.used_at ELSE excluded.used_at END;

-- name: VMUseToken :execrows
UPDATE vms SET session = @session, used_at = @used_at WHERE id = @id AND used_at = 0;

-- name: VMReported :execrows
UPDATE vms SET seq = @seq, number = @number, exited = @exited, bytes = @bytes, dropped = @dropped
WHERE id = @id;

-- name: VMDelete :exec
DELETE FROM vms WHERE id = $1;

-- name: ReportInsert :exec
INSERT INTO vm_reports (vm_id, seq, at, kind, job_id, success, failure, exit_code, message, job_key)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- name: ReportsAfter :many
SELECT * FROM vm_reports WHERE vm_id = @vm_id AND seq > @after ORDER BY seq;

-- name: ReportsDelete :exec
DELETE FROM vm_reports WHERE vm_id = $1;

-- name: Lease :one
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now, coalesce(l.name, '')::text AS name,
    coalesce(l.holder, '')::text AS holder, coalesce(l.epoch, 0)::bigint AS epoch, coalesce(l.until, 0)::bigint AS until
FROM (SELECT 1) AS always LEFT JOIN leases AS l ON l.name = $1;

-- name: LeaseTake :exec
INSERT INTO leases (name, holder, epoch, until) VALUES ($1, $2, $3, $4)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, epoch = excluded.epoch, until = excluded.until;

-- name: LeaseDelete :exec
DELETE FROM leases WHERE name = $1 AND holder = $2 AND epoch = $3;

-- name: LeasesPurge :exec
DELETE FROM leases WHERE name IN (SELECT l.name FROM leases AS l WHERE l.until < @before ORDER BY l.until LIMIT @most::bigint);

-- name: Clock :one
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS micros;

-- name: LeasesFrom :many
SELECT * FROM leases WHERE name >= @first AND name < @past ORDER BY name;

-- name: ControllerSave :exec
INSERT INTO controllers (name, driver, machine, version, endpoint, fingerprint, started_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (name) DO UPDATE SET driver = excluded.driver, machine = excluded.machine, version = excluded.version,
    endpoint = excluded.endpoint, fingerprint = excluded.fingerprint, started_at = excluded.started_at;

-- name: Controllers :many
SELECT * FROM controllers ORDER BY name;

-- name: ControllerDelete :exec
DELETE FROM controllers WHERE name = $1;

-- name: SiteSet :exec
INSERT INTO site (key, value) VALUES ($1, $2) ON CONFLICT DO NOTHING;

-- name: Site :one
SELECT value FROM site WHERE key = $1;
