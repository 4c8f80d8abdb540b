-- The statements of version 3, as the program of that version runs them: a newer version must leave them working.

-- name: DeliveriesPurge :exec
DELETE FROM deliveries WHERE key IN (SELECT d.key FROM deliveries AS d WHERE d.at < ?1 ORDER BY d.at LIMIT ?2);

-- name: DeliveryInsert :execrows
INSERT INTO deliveries (key, at) VALUES (?, ?) ON CONFLICT (key) DO NOTHING;

-- name: EventInsert :one
INSERT INTO events (at, kind, runner_id, job_id, project_id, from_state, to_state, took, actor, reason, message)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id;

-- name: EventsAfter :many
SELECT id, at, kind, runner_id, job_id, project_id, from_state, to_state, took, actor, reason, message FROM events
WHERE id > ?1 AND (CAST(?2 AS TEXT) = '[]' OR kind IN (SELECT value FROM json_each(CAST(?2 AS TEXT))))
ORDER BY id LIMIT ?3;

-- name: EventsOfJob :many
SELECT id, at, kind, runner_id, job_id, project_id, from_state, to_state, took, actor, reason, message FROM events WHERE job_id = ? AND job_id <> 0 AND id > ? ORDER BY id;

-- name: EventsOfRunner :many
SELECT id, at, kind, runner_id, job_id, project_id, from_state, to_state, took, actor, reason, message FROM events WHERE runner_id = ? AND runner_id <> '' AND id > ? ORDER BY id;

-- name: HostDelete :execrows
DELETE FROM hosts WHERE name = ?;

-- name: HostUpsert :exec
INSERT INTO hosts (name, driver, vcpus, memory_mib, slots, draining, labels, address_first, address_last, address_bits,
    gateway, dns, seen_at, trouble, lost)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET driver = excluded.driver, vcpus = excluded.vcpus, memory_mib = excluded.memory_mib,
    slots = excluded.slots, draining = excluded.draining, labels = excluded.labels,
    address_first = excluded.address_first, address_last = excluded.address_last, address_bits = excluded.address_bits,
    gateway = excluded.gateway, dns = excluded.dns, seen_at = excluded.seen_at, trouble = excluded.trouble,
    lost = excluded.lost;

-- name: Hosts :many
SELECT name, driver, vcpus, memory_mib, slots, draining, labels, address_first, address_last, address_bits, gateway, dns, seen_at, trouble, lost FROM hosts ORDER BY name;

-- name: Job :one
SELECT id, project_id, project_path, pipeline_id, name, stage, ref, status, rank, failure, tags, gitlab_id, runner_id, ours, profile, vcpus, memory_mib, disk_mib, refused, message, created_at, queued_at, started_at, finished_at, seen_at FROM jobs WHERE id = ?;

-- name: JobUpsert :exec
INSERT INTO jobs (id, project_id, project_path, pipeline_id, name, stage, ref, status, rank, failure, tags, gitlab_id,
    runner_id, ours, profile, vcpus, memory_mib, disk_mib, refused, message, created_at, queued_at, started_at,
    finished_at, seen_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET project_id = excluded.project_id, project_path = excluded.project_path,
    pipeline_id = excluded.pipeline_id, name = excluded.name, stage = excluded.stage, ref = excluded.ref,
    status = excluded.status, rank = excluded.rank, failure = excluded.failure, tags = excluded.tags,
    gitlab_id = excluded.gitlab_id, runner_id = excluded.runner_id, ours = excluded.ours, profile = excluded.profile,
    vcpus = excluded.vcpus, memory_mib = excluded.memory_mib, disk_mib = excluded.disk_mib,
    refused = excluded.refused, message = excluded.message, created_at = excluded.created_at,
    queued_at = excluded.queued_at, started_at = excluded.started_at, finished_at = excluded.finished_at,
    seen_at = excluded.seen_at;

-- name: JobsByRunner :many
SELECT id, project_id, project_path, pipeline_id, name, stage, ref, status, rank, failure, tags, gitlab_id, runner_id, ours, profile, vcpus, memory_mib, disk_mib, refused, message, created_at, queued_at, started_at, finished_at, seen_at FROM jobs WHERE runner_id = ? AND runner_id <> '' ORDER BY id;

-- name: JobsLatest :many
SELECT id, project_id, project_path, pipeline_id, name, stage, ref, status, rank, failure, tags, gitlab_id, runner_id, ours, profile, vcpus, memory_mib, disk_mib, refused, message, created_at, queued_at, started_at, finished_at, seen_at FROM jobs
WHERE (CAST(?1 AS INTEGER) <> 0 OR (project_id = ?2 AND tags = ?3))
  AND (CAST(?4 AS INTEGER) <> 0 OR project_id = ?5)
  AND (CAST(?6 AS INTEGER) <> 0 OR ours = 1)
  AND (CAST(?7 AS TEXT) = '[]' OR status IN (SELECT value FROM json_each(CAST(?7 AS TEXT))))
ORDER BY id DESC LIMIT ?8;

-- name: JobsOpen :many
SELECT id, project_id, project_path, pipeline_id, name, stage, ref, status, rank, failure, tags, gitlab_id, runner_id, ours, profile, vcpus, memory_mib, disk_mib, refused, message, created_at, queued_at, started_at, finished_at, seen_at FROM jobs INDEXED BY jobs_open WHERE rank < 40 ORDER BY id;

-- name: JobsOpenOf :many
SELECT id, project_id, project_path, pipeline_id, name, stage, ref, status, rank, failure, tags, gitlab_id, runner_id, ours, profile, vcpus, memory_mib, disk_mib, refused, message, created_at, queued_at, started_at, finished_at, seen_at FROM jobs WHERE rank < 40 AND project_id = ? AND tags = ? ORDER BY id;

-- name: Lease :one
SELECT name, holder, epoch, until FROM leases WHERE name = ?;

-- name: LeaseDelete :exec
DELETE FROM leases WHERE name = ? AND holder = ? AND epoch = ?;

-- name: LeaseTake :exec
INSERT INTO leases (name, holder, epoch, until) VALUES (?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, epoch = excluded.epoch, until = excluded.until;

-- name: LeasesPurge :exec
DELETE FROM leases WHERE name IN (SELECT l.name FROM leases AS l WHERE l.until < ?1 ORDER BY l.until LIMIT ?2);

-- name: ProjectUpsert :exec
INSERT INTO projects (id, path, seen_at) VALUES (?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    path = CASE WHEN excluded.path <> '' AND excluded.seen_at >= seen_at THEN excluded.path ELSE path END,
    seen_at = max(seen_at, excluded.seen_at);

-- name: ProjectsSince :many
SELECT id, path, seen_at FROM projects WHERE seen_at >= ? ORDER BY seen_at DESC, id;

-- name: ReportInsert :exec
INSERT INTO vm_reports (vm_id, seq, at, kind, job_id, success, failure, exit_code, message)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: ReportsAfter :many
SELECT vm_id, seq, at, kind, job_id, success, failure, exit_code, message FROM vm_reports WHERE vm_id = ? AND seq > ? ORDER BY seq;

-- name: ReportsDelete :exec
DELETE FROM vm_reports WHERE vm_id = ?;

-- name: Runner :one

SELECT id, project_id, tags, profile, vcpus, memory_mib, disk_mib, image, state, desired, outcome, reason, message, host, gitlab_id, job_id, report, version, created_at, moved_at, deadline, address FROM runners WHERE id = ?;

-- name: RunnerInsert :exec
INSERT INTO runners (id, project_id, tags, profile, vcpus, memory_mib, disk_mib, image, state, desired, outcome, reason,
    message, host, gitlab_id, job_id, report, version, created_at, moved_at, deadline, address)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: RunnerUpdate :execrows
UPDATE runners SET project_id = ?1, tags = ?2, profile = ?3, vcpus = ?4,
    memory_mib = ?5, disk_mib = ?6, image = ?7, state = ?8, desired = ?9,
    outcome = ?10, reason = ?11, message = ?12, host = ?13, gitlab_id = ?14, job_id = ?15,
    report = ?16, version = version + 1, created_at = ?17, moved_at = ?18, deadline = ?19,
    address = ?20
WHERE id = ?21 AND version = ?22;

-- name: RunnersByGitLabID :many
SELECT id, project_id, tags, profile, vcpus, memory_mib, disk_mib, image, state, desired, outcome, reason, message, host, gitlab_id, job_id, report, version, created_at, moved_at, deadline, address FROM runners WHERE gitlab_id = ? AND gitlab_id <> 0 ORDER BY id;

-- name: RunnersLatest :many
SELECT id, project_id, tags, profile, vcpus, memory_mib, disk_mib, image, state, desired, outcome, reason, message, host, gitlab_id, job_id, report, version, created_at, moved_at, deadline, address FROM runners
WHERE (CAST(?1 AS INTEGER) <> 0 OR (project_id = ?2 AND tags = ?3))
  AND (CAST(?4 AS INTEGER) <> 0 OR outcome = ?5)
  AND (CAST(?6 AS TEXT) = '[]' OR state IN (SELECT value FROM json_each(CAST(?6 AS TEXT))))
ORDER BY id DESC LIMIT ?7;

-- name: RunnersLive :many
SELECT id, project_id, tags, profile, vcpus, memory_mib, disk_mib, image, state, desired, outcome, reason, message, host, gitlab_id, job_id, report, version, created_at, moved_at, deadline, address FROM runners INDEXED BY runners_live WHERE state < 80 ORDER BY id;

-- name: RunnersLiveOf :many
SELECT id, project_id, tags, profile, vcpus, memory_mib, disk_mib, image, state, desired, outcome, reason, message, host, gitlab_id, job_id, report, version, created_at, moved_at, deadline, address FROM runners WHERE state < 80 AND project_id = ? AND tags = ? ORDER BY id;

-- name: RunnersSince :many
SELECT id, project_id, tags, profile, vcpus, memory_mib, disk_mib, image, state, desired, outcome, reason, message, host, gitlab_id, job_id, report, version, created_at, moved_at, deadline, address FROM runners WHERE created_at >= ? ORDER BY created_at;

-- name: VM :one
SELECT id, driver, host, ref, token, session, used_at, number, seq, exited, bytes, dropped, created_at, deadline FROM vms WHERE id = ?;

-- name: VMDelete :exec
DELETE FROM vms WHERE id = ?;

-- name: VMReported :execrows
UPDATE vms SET seq = ?1, number = ?2, exited = ?3, bytes = ?4, dropped = ?5
WHERE id = ?6;

-- name: VMUpsert :exec
INSERT INTO vms (id, driver, host, ref, token, session, used_at, number, seq, exited, bytes, dropped, created_at,
    deadline)
VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0, 0, ?, ?)
ON CONFLICT (id) DO UPDATE SET driver = excluded.driver, host = excluded.host, ref = excluded.ref,
    token = excluded.token, created_at = excluded.created_at, deadline = excluded.deadline,
    session = CASE WHEN used_at <> 0 THEN session ELSE excluded.session END,
    used_at = CASE WHEN used_at <> 0 THEN used_at ELSE excluded.used_at END;

-- name: VMUseToken :execrows
UPDATE vms SET session = ?1, used_at = ?2 WHERE id = ?3 AND used_at = 0;

-- name: VMsOf :many
SELECT id, driver, host, ref, token, session, used_at, number, seq, exited, bytes, dropped, created_at, deadline FROM vms WHERE driver = ? ORDER BY id;
