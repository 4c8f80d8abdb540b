-- The statements of version 6, as the program of that version runs them: a newer version must leave them working.

-- name: Clock :one
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS micros;

-- name: ControllerDelete :exec
DELETE FROM controllers WHERE name = $1;

-- name: ControllerSave :exec
INSERT INTO controllers (name, driver, machine, version, endpoint, fingerprint, started_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (name) DO UPDATE SET driver = excluded.driver, machine = excluded.machine, version = excluded.version,
    endpoint = excluded.endpoint, fingerprint = excluded.fingerprint, started_at = excluded.started_at;

-- name: Controllers :many
SELECT name, driver, machine, version, endpoint, fingerprint, started_at FROM controllers ORDER BY name;

-- name: DeliveriesPurge :exec
DELETE FROM deliveries WHERE key IN (SELECT d.key FROM deliveries AS d WHERE d.at < $1 ORDER BY d.at LIMIT $2::bigint);

-- name: DeliveryInsert :execrows
INSERT INTO deliveries (key, at) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING;

-- name: EventInsert :one
INSERT INTO events (at, kind, runner_id, job_id, project_id, from_state, to_state, took, actor, reason, message)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING id;

-- name: EventsAfter :many
SELECT id, at, kind, runner_id, job_id, project_id, from_state, to_state, took, actor, reason, message FROM events
WHERE id > $1 AND (cardinality($2::text[]) = 0 OR kind = ANY($2::text[]))
ORDER BY id LIMIT nullif($3::bigint, -1);

-- name: EventsOfJob :many
SELECT id, at, kind, runner_id, job_id, project_id, from_state, to_state, took, actor, reason, message FROM events WHERE job_id = $1 AND job_id <> 0 AND id > $2 ORDER BY id;

-- name: EventsOfRunner :many
SELECT id, at, kind, runner_id, job_id, project_id, from_state, to_state, took, actor, reason, message FROM events WHERE runner_id = $1 AND runner_id <> '' AND id > $2 ORDER BY id;

-- name: HostDelete :execrows
DELETE FROM hosts WHERE name = $1;

-- name: HostUpsert :exec
INSERT INTO hosts (name, driver, vcpus, memory_mib, slots, draining, labels, address_first, address_last, address_bits,
    gateway, dns, seen_at, trouble, lost, controller)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
ON CONFLICT (name) DO UPDATE SET driver = excluded.driver, vcpus = excluded.vcpus, memory_mib = excluded.memory_mib,
    slots = excluded.slots, draining = excluded.draining, labels = excluded.labels,
    address_first = excluded.address_first, address_last = excluded.address_last, address_bits = excluded.address_bits,
    gateway = excluded.gateway, dns = excluded.dns, seen_at = excluded.seen_at, trouble = excluded.trouble,
    lost = excluded.lost, controller = excluded.controller;

-- name: Hosts :many
SELECT name, driver, vcpus, memory_mib, slots, draining, labels, address_first, address_last, address_bits, gateway, dns, seen_at, trouble, lost, controller FROM hosts ORDER BY name;

-- name: Job :one
SELECT id, project_id, project_path, pipeline_id, name, stage, ref, status, rank, failure, tags, gitlab_id, runner_id, ours, profile, vcpus, memory_mib, disk_mib, refused, message, created_at, queued_at, started_at, finished_at, seen_at FROM jobs WHERE id = $1;

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

-- name: JobsByRunner :many
SELECT id, project_id, project_path, pipeline_id, name, stage, ref, status, rank, failure, tags, gitlab_id, runner_id, ours, profile, vcpus, memory_mib, disk_mib, refused, message, created_at, queued_at, started_at, finished_at, seen_at FROM jobs WHERE runner_id = $1 AND runner_id <> '' ORDER BY id;

-- name: JobsLatest :many
SELECT id, project_id, project_path, pipeline_id, name, stage, ref, status, rank, failure, tags, gitlab_id, runner_id, ours, profile, vcpus, memory_mib, disk_mib, refused, message, created_at, queued_at, started_at, finished_at, seen_at FROM jobs
WHERE ($1::bigint <> 0 OR (project_id = $2 AND tags = $3))
  AND ($4::bigint <> 0 OR project_id = $5)
  AND ($6::bigint <> 0 OR ours = 1)
  AND (cardinality($7::text[]) = 0 OR status = ANY($7::text[]))
ORDER BY id DESC LIMIT nullif($8::bigint, -1);

-- name: JobsOpen :many
SELECT id, project_id, project_path, pipeline_id, name, stage, ref, status, rank, failure, tags, gitlab_id, runner_id, ours, profile, vcpus, memory_mib, disk_mib, refused, message, created_at, queued_at, started_at, finished_at, seen_at FROM jobs WHERE rank < 40 ORDER BY id;

-- name: JobsOpenOf :many
SELECT id, project_id, project_path, pipeline_id, name, stage, ref, status, rank, failure, tags, gitlab_id, runner_id, ours, profile, vcpus, memory_mib, disk_mib, refused, message, created_at, queued_at, started_at, finished_at, seen_at FROM jobs WHERE rank < 40 AND project_id = $1 AND tags = $2 ORDER BY id;

-- name: Lease :one
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now, coalesce(l.name, '')::text AS name,
    coalesce(l.holder, '')::text AS holder, coalesce(l.epoch, 0)::bigint AS epoch, coalesce(l.until, 0)::bigint AS until
FROM (SELECT 1) AS always LEFT JOIN leases AS l ON l.name = $1;

-- name: LeaseDelete :exec
DELETE FROM leases WHERE name = $1 AND holder = $2 AND epoch = $3;

-- name: LeaseTake :exec
INSERT INTO leases (name, holder, epoch, until) VALUES ($1, $2, $3, $4)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, epoch = excluded.epoch, until = excluded.until;

-- name: LeasesFrom :many
SELECT name, holder, epoch, until FROM leases WHERE name >= $1 AND name < $2 ORDER BY name;

-- name: LeasesPurge :exec
DELETE FROM leases WHERE name IN (SELECT l.name FROM leases AS l WHERE l.until < $1 ORDER BY l.until LIMIT $2::bigint);

-- name: ProjectUpsert :exec
INSERT INTO projects (id, path, seen_at) VALUES ($1, $2, $3)
ON CONFLICT (id) DO UPDATE SET
    path = CASE WHEN excluded.path <> '' AND excluded.seen_at >= projects.seen_at THEN excluded.path ELSE projects.path END,
    seen_at = greatest(projects.seen_at, excluded.seen_at);

-- name: ProjectsSince :many
SELECT id, path, seen_at FROM projects WHERE seen_at >= $1 ORDER BY seen_at DESC, id;

-- name: ReportInsert :exec
INSERT INTO vm_reports (vm_id, seq, at, kind, job_id, success, failure, exit_code, message, job_key)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- name: ReportsAfter :many
SELECT vm_id, seq, at, kind, job_id, success, failure, exit_code, message, job_key FROM vm_reports WHERE vm_id = $1 AND seq > $2 ORDER BY seq;

-- name: ReportsDelete :exec
DELETE FROM vm_reports WHERE vm_id = $1;

-- name: Runner :one
SELECT id, project_id, tags, profile, vcpus, memory_mib, disk_mib, image, state, desired, outcome, reason, message, host, gitlab_id, job_id, report, version, created_at, moved_at, deadline, address, job_key, controller FROM runners WHERE id = $1;

-- name: RunnerInsert :execrows
INSERT INTO runners (id, project_id, tags, profile, vcpus, memory_mib, disk_mib, image, state, desired, outcome, reason,
    message, host, gitlab_id, job_id, report, version, created_at, moved_at, deadline, address, job_key, controller)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24)
ON CONFLICT DO NOTHING;

-- name: RunnerUpdate :execrows
UPDATE runners SET project_id = $1, tags = $2, profile = $3, vcpus = $4,
    memory_mib = $5, disk_mib = $6, image = $7, state = $8, desired = $9,
    outcome = $10, reason = $11, message = $12, host = $13, gitlab_id = $14, job_id = $15,
    report = $16, version = version + 1, created_at = $17, moved_at = $18, deadline = $19,
    address = $20, job_key = $21, controller = $22
WHERE id = $23 AND version = $24;

-- name: RunnersByGitLabID :many
SELECT id, project_id, tags, profile, vcpus, memory_mib, disk_mib, image, state, desired, outcome, reason, message, host, gitlab_id, job_id, report, version, created_at, moved_at, deadline, address, job_key, controller FROM runners WHERE gitlab_id = $1 AND gitlab_id <> 0 ORDER BY id;

-- name: RunnersLatest :many
SELECT id, project_id, tags, profile, vcpus, memory_mib, disk_mib, image, state, desired, outcome, reason, message, host, gitlab_id, job_id, report, version, created_at, moved_at, deadline, address, job_key, controller FROM runners
WHERE ($1::bigint <> 0 OR (project_id = $2 AND tags = $3))
  AND ($4::bigint <> 0 OR outcome = $5)
  AND (cardinality($6::bigint[]) = 0 OR state = ANY($6::bigint[]))
ORDER BY id DESC LIMIT nullif($7::bigint, -1);

-- name: RunnersLatestOf :many
SELECT id, project_id, tags, profile, vcpus, memory_mib, disk_mib, image, state, desired, outcome, reason, message, host, gitlab_id, job_id, report, version, created_at, moved_at, deadline, address, job_key, controller FROM runners WHERE project_id = $1 AND tags = $2 ORDER BY id DESC LIMIT $3::bigint;

-- name: RunnersLive :many
SELECT id, project_id, tags, profile, vcpus, memory_mib, disk_mib, image, state, desired, outcome, reason, message, host, gitlab_id, job_id, report, version, created_at, moved_at, deadline, address, job_key, controller FROM runners WHERE state < 80 ORDER BY id;

-- name: RunnersLiveOf :many
SELECT id, project_id, tags, profile, vcpus, memory_mib, disk_mib, image, state, desired, outcome, reason, message, host, gitlab_id, job_id, report, version, created_at, moved_at, deadline, address, job_key, controller FROM runners WHERE state < 80 AND project_id = $1 AND tags = $2 ORDER BY id;

-- name: RunnersOfJob :many
SELECT id, project_id, tags, profile, vcpus, memory_mib, disk_mib, image, state, desired, outcome, reason, message, host, gitlab_id, job_id, report, version, created_at, moved_at, deadline, address, job_key, controller FROM runners WHERE job_id = $1 AND job_id <> 0 ORDER BY id;

-- name: RunnersOverdue :many
SELECT id, project_id, tags, profile, vcpus, memory_mib, disk_mib, image, state, desired, outcome, reason, message, host, gitlab_id, job_id, report, version, created_at, moved_at, deadline, address, job_key, controller FROM runners WHERE state < 80 AND deadline <> 0 AND deadline < $1 ORDER BY id;

-- name: RunnersQueued :many
SELECT id, project_id, tags, profile, vcpus, memory_mib, disk_mib, image, state, desired, outcome, reason, message, host, gitlab_id, job_id, report, version, created_at, moved_at, deadline, address, job_key, controller FROM runners WHERE state = 10 ORDER BY id;

-- name: RunnersSince :many
SELECT id, project_id, tags, profile, vcpus, memory_mib, disk_mib, image, state, desired, outcome, reason, message, host, gitlab_id, job_id, report, version, created_at, moved_at, deadline, address, job_key, controller FROM runners WHERE created_at >= $1 ORDER BY created_at;

-- name: Site :one
SELECT value FROM site WHERE key = $1;

-- name: SiteSet :exec
INSERT INTO site (key, value) VALUES ($1, $2) ON CONFLICT DO NOTHING;

-- name: VM :one
SELECT id, driver, host, ref, token, session, used_at, number, seq, exited, bytes, dropped, created_at, deadline FROM vms WHERE id = $1;

-- name: VMDelete :exec
DELETE FROM vms WHERE id = $1;

-- name: VMReported :execrows
UPDATE vms SET seq = $1, number = $2, exited = $3, bytes = $4, dropped = $5
WHERE id = $6;

-- name: VMUpsert :exec
INSERT INTO vms (id, driver, host, ref, token, session, used_at, number, seq, exited, bytes, dropped, created_at,
    deadline)
VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0, 0, 0, 0, $8, $9)
ON CONFLICT (id) DO UPDATE SET driver = excluded.driver, host = excluded.host, ref = excluded.ref,
    token = excluded.token, created_at = excluded.created_at, deadline = excluded.deadline,
    session = CASE WHEN vms.used_at <> 0 THEN vms.session ELSE excluded.session END,
    used_at = CASE WHEN vms.used_at <> 0 THEN vms.used_at ELSE excluded.used_at END;

-- name: VMUseToken :execrows
UPDATE vms SET session = $1, used_at = $2 WHERE id = $3 AND used_at = 0;

-- name: VMsOf :many
SELECT id, driver, host, ref, token, session, used_at, number, seq, exited, bytes, dropped, created_at, deadline FROM vms WHERE driver = $1 ORDER BY id;
