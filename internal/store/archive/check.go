package archive

import (
	"context"

	"github.com/firerunner/firerunner"
)

// Finding is one thing that must be so in every database, and how often it is not.
type Finding struct {
	What  string `json:"what"`
	Wrong int64  `json:"wrong"` // rows; 0: it is so
}

// Inspect looks at everything that must be so in a database of either engine, beside what the engine keeps itself.
func Inspect(ctx context.Context, s Site) ([]Finding, error) {
	var all []Finding
	for _, look := range []struct{ what, count string }{
		{"a runner that is gone has an outcome", `SELECT count(*) FROM runners WHERE state >= 80 AND outcome = ''`},
		{"a runner that holds capacity is on a host that is known", `SELECT count(*) FROM runners WHERE state >= 20 AND state < 80
			AND NOT EXISTS (SELECT 1 FROM hosts WHERE hosts.name = runners.host)`},
		{"no two live runners of a host have one address", `SELECT count(*) FROM (SELECT 1 AS one FROM runners
			WHERE address <> '' AND state < 80 GROUP BY host, address HAVING count(*) > 1) AS twice`},
		{"a job's rank is that of its status", `SELECT count(*) FROM jobs WHERE (rank >= 40) <> (status IN ('success', 'failed', 'canceled', 'skipped'))`},
		{"an event of a runner has the runner", `SELECT count(*) FROM events WHERE runner_id <> ''
			AND NOT EXISTS (SELECT 1 FROM runners WHERE runners.id = events.runner_id)`},
		{"a report has its microVM", `SELECT count(*) FROM vm_reports WHERE NOT EXISTS (SELECT 1 FROM vms WHERE vms.id = vm_reports.vm_id)`},
		{"reports are numbered as their microVM says", `SELECT count(*) FROM vms
			WHERE seq <> (SELECT count(*) FROM vm_reports WHERE vm_reports.vm_id = vms.id)`},
		{"no step was given up", `SELECT count(*) FROM river_job WHERE state = 'discarded'`},
	} {
		n, err := number(ctx, s, look.count)
		if err != nil {
			return nil, firerunner.Errorf(firerunner.CodeOf(err), "check that %s: %w", look.what, err)
		}
		all = append(all, Finding{What: look.what, Wrong: n})
	}
	return all, nil
}
