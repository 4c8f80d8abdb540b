package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Chances of what a job is, in percent.
const (
	failing   = 12 // on purpose
	cancelled = 5
	retried   = 85 // have a retry: when: runner_system_failure
	lengthy   = 30 // long enough to be killed in the middle
)

const (
	fleetProjects = 4
	mostRetries   = 2
)

// job is one planned job. GitLab knows it by its name, and each of its retries too.
type job struct {
	name    string
	size    string
	takes   time.Duration
	fails   bool
	retries bool
	cancel  time.Duration // after it was queued; 0: it is not
	long    bool
	real    bool
}

// wave is jobs that are pushed together.
type wave struct {
	project int // of its site
	jobs    []*job
}

// plan draws n jobs in waves.
func plan(chance *rand.Rand, n int, real bool) (waves []wave) {
	sizes := []string{"1cpu-1gb", "1cpu-1gb", "1cpu-2gb", "2cpu-1gb", "2cpu-4gb", "4cpu-4gb"}
	projects, most, prefix := fleetProjects, 9, "j"
	if real {
		sizes, projects, most, prefix = []string{"1cpu-1gb"}, 1, 3, "real"
	}
	for made := 0; made < n; {
		w := wave{project: chance.IntN(projects)}
		for range min(1+chance.IntN(most), n-made) {
			made++
			j := &job{
				name: fmt.Sprint(prefix, made), size: sizes[chance.IntN(len(sizes))], fails: chance.IntN(100) < failing,
				retries: chance.IntN(100) < retried, takes: time.Duration(50+chance.IntN(700)) * time.Millisecond, real: real,
			}
			if chance.IntN(100) < lengthy || real && made%2 == 0 {
				j.long, j.takes = true, time.Duration(4000+chance.IntN(3000))*time.Millisecond
				if real {
					j.takes += 4 * time.Second
				}
			}
			if chance.IntN(100) < cancelled {
				j.cancel = time.Duration(1+chance.IntN(3000)) * time.Millisecond
			}
			w.jobs = append(w.jobs, j)
		}
		waves = append(waves, w)
	}
	return waves
}

// said is what each job writes once: which microVM it is in.
const said = "this job runs in "

// ci is the wave's .gitlab-ci.yml. Scripted guests understand the words of these scripts: see work.
func (w wave) ci() string {
	var b strings.Builder
	b.WriteString("variables: {GIT_STRATEGY: none}\n")
	for _, j := range w.jobs {
		fmt.Fprintf(&b, "%s:\n  tags: [firecracker-%s]\n", j.name, j.size)
		if j.retries {
			fmt.Fprintf(&b, "  retry: {max: %d, when: [runner_system_failure]}\n", mostRetries)
		}
		fmt.Fprintf(&b, "  script:\n    - echo \"%s\"\"$(cat /proc/sys/kernel/hostname)\"\n    - sleep %.3f\n", said, j.takes.Seconds())
		if j.fails {
			b.WriteString("    - exit 3\n")
		}
	}
	return b.String()
}
