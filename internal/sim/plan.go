package sim

import (
	"time"

	"github.com/firerunner/firerunner"
)

// plan is what a seed has in store: what is asked for, on which hosts, and what goes wrong when. Everything that is not a
// matter of one moment is drawn before the run begins.
type plan struct {
	controllers []controllerPlan // none: one that has no name
	remote      bool             // hosts are reached over a network
	listsSilent bool             // its driver remembers what hosts have that do not answer
	hosts       []firerunner.Host
	projects    []int64
	jobs        []wish
	deadlines   firerunner.Deadlines
	holdAfter   time.Duration
	queueSize   int
	faults      faults
	chaos       time.Duration // then faults end
	patience    time.Duration // so long after that everything must be at rest
	crashes     int
	moments     []moment
}

// wish is a job that a user asks for.
type wish struct {
	at      time.Duration
	project int64
	tags    firerunner.TagSet
	takes   time.Duration
	fails   bool
	cancel  time.Duration // after at; 0: never
	foreign time.Duration // after at somebody else's runner takes it, if it still waits; 0: never
}

// moment is something that happens once.
type moment struct {
	at, lasts time.Duration
	what      string
	host      string
	seat      int
	by        time.Duration
}

// faults are the chances of what can go wrong at any time. The zero value is a calm world.
type faults struct {
	hookLost, hookTwice, hookLate         float64
	stepLate, stepTwice                   float64
	gitlabFails, gitlabUnclear            float64
	gitlabLimits, gitlabSlow              float64
	createFails, createUnclear            float64
	destroyFails, driverFails, driverSlow float64
	lineBreaks, reportTwice               float64
	guest                                 float64
	cancelTaken                           float64 // a user cancels a job that has just been taken
}

const (
	tagSmall  = "firecracker-1cpu-1gb"
	tagMedium = "firecracker-2cpu-4gb"
	tagLarge  = "firecracker-4cpu-8gb"
	tagHuge   = "firecracker-999cpu-9999gb" // beyond every limit
	tagDocker = "docker"                    // not ours
)

func profiles() []firerunner.Profile {
	return []firerunner.Profile{{
		Name: firerunner.DefaultProfile, Image: "debian", Default: firerunner.Size{VCPUs: 1, MemoryMiB: 1024, DiskMiB: 4096},
		Limits: firerunner.SizeLimits{Min: firerunner.Size{VCPUs: 1, MemoryMiB: 512}, Max: firerunner.Size{VCPUs: 16, MemoryMiB: 32768}},
	}}
}

// drawPlan draws the plan of one seed. Each kind of trouble is there in some runs only, so that what it hides in others
// comes out.
func drawPlan(s *scheduler, seed uint64) plan {
	p := plan{
		remote: s.happens(0.6), projects: []int64{1, 2}, deadlines: firerunner.DefaultDeadlines(),
		holdAfter: pick(s, 30*time.Second, 5*time.Minute), queueSize: pick(s, 0, 0, 3),
		chaos: s.between(2*time.Minute, 8*time.Minute), patience: 25 * time.Minute,
	}
	p.deadlines.JobTimeout, p.listsSilent = 10*time.Minute, s.happens(0.5)
	drawHosts(s, &p)
	some := func(odds, most float64) float64 {
		if !s.happens(odds) {
			return 0
		}
		return most * s.chance.Float64()
	}
	p.faults = faults{
		hookLost: some(0.5, 1), hookTwice: some(0.5, 0.5), hookLate: some(0.5, 0.6),
		stepLate: some(0.3, 0.2), stepTwice: some(0.4, 0.3),
		gitlabFails: some(0.4, 0.3), gitlabUnclear: some(0.4, 0.4), gitlabLimits: some(0.2, 0.2), gitlabSlow: some(0.3, 0.15),
		createFails: some(0.4, 0.5), createUnclear: some(0.4, 0.4),
		destroyFails: some(0.3, 0.4), driverFails: some(0.3, 0.2), driverSlow: some(0.3, 0.3),
		lineBreaks: some(0.4, 0.2), reportTwice: some(0.4, 0.5), guest: some(0.5, 0.6), cancelTaken: some(0.3, 0.5),
	}
	if s.happens(0.7) {
		p.crashes = 1 + s.chance.IntN(8)
	}
	drawMoments(s, &p)
	drawJobs(s, &p)
	if seed%3 == 0 {
		drawControllers(s, &p)
	}
	return p
}

func drawHosts(s *scheduler, p *plan) {
	hosts := 1
	if p.remote {
		hosts = 1 + s.chance.IntN(3)
	}
	for i := range hosts {
		h := firerunner.Host{
			Name: string(rune('a' + i)), Driver: "sim", VCPUs: pick(s, 4, 8, 16), MemoryMiB: pick(s, 8192, 16384, 65536), Slots: pick(s, 1, 3, 8),
		}
		if s.happens(0.4) {
			h.Addresses = pool(i, 1+s.chance.IntN(8))
		}
		p.hosts = append(p.hosts, h)
	}
}

func drawMoments(s *scheduler, p *plan) {
	add := func(odds float64, m moment, least, most time.Duration) {
		for s.happens(odds) {
			m.at, m.lasts = s.between(0, p.chaos), s.between(least, most)
			m.host = pick(s, p.hosts...).Name
			m.by = s.between(0, 8*time.Minute) - 4*time.Minute
			if s.happens(0.3) { // as where a machine was suspended, or its clock was never set
				m.by *= 30
			}
			p.moments = append(p.moments, m)
		}
	}
	add(0.25, moment{what: "gitlab away"}, time.Second, 4*time.Minute)
	add(0.2, moment{what: "store away"}, time.Second, time.Minute)
	add(0.2, moment{what: "clock"}, 0, 0)
	add(0.15, moment{what: "terminate"}, 0, 0)
	add(0.15, moment{what: "drain"}, time.Second, 3*time.Minute)
	if p.remote {
		add(0.3, moment{what: "silence"}, time.Second, 4*time.Minute)
		add(0.2, moment{what: "power cut"}, time.Second, 4*time.Minute)
		add(0.2, moment{what: "trouble"}, time.Second, 2*time.Minute)
	}
}

func drawJobs(s *scheduler, p *plan) {
	for range 1 + s.chance.IntN(12) {
		j := wish{
			at: s.between(0, p.chaos*3/4), project: pick(s, p.projects...), takes: s.between(time.Second, 3*time.Minute),
			tags: firerunner.TagSet(pick(s, tagSmall, tagSmall, tagMedium, tagLarge)), fails: s.happens(0.15),
		}
		if s.happens(0.25) {
			j.cancel = s.between(time.Millisecond, pick(s, 15*time.Second, 2*time.Minute)) // about when it is taken, or later
		}
		if s.happens(0.1) {
			j.foreign = s.between(time.Millisecond, pick(s, 15*time.Second, time.Minute))
		}
		if s.happens(0.05) {
			j.tags = tagHuge
		}
		if s.happens(0.05) {
			j.tags = tagDocker
		}
		p.jobs = append(p.jobs, j)
	}
}
