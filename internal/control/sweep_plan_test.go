package control

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func TestPlanSweep(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for name, c := range map[string]struct {
		all  []swept
		n    int
		want []int64 // after three questions
	}{
		"Nobody":       {nil, 10, []int64{}},
		"NoRoom":       {[]swept{{id: 1, active: true}}, 0, nil},
		"ActiveAlways": {[]swept{{id: 1, active: true, askedAt: now}}, 10, []int64{1}},
		"IdleNotYet":   {[]swept{{id: 1, askedAt: ago(time.Minute), every: 10 * time.Minute}}, 10, []int64{}},
		"IdleDue":      {[]swept{{id: 1, askedAt: ago(10 * time.Minute), every: 10 * time.Minute}}, 10, []int64{1}},
		"ClockJumped":  {[]swept{{id: 1, askedAt: now.Add(time.Hour), every: 10 * time.Minute}}, 10, []int64{1}},
		"LongestFirst": {[]swept{{id: 1, active: true, askedAt: ago(1)}, {id: 2, active: true, askedAt: ago(3)}, {id: 3, active: true, askedAt: ago(2)}}, 10, []int64{2, 3, 1}},
		"OneForIdle":   {[]swept{{id: 1, active: true, askedAt: ago(2)}, {id: 2, active: true, askedAt: ago(1)}, {id: 3}}, 2, []int64{1, 3}},
		"OneRoom":      {[]swept{{id: 1, active: true, askedAt: ago(2)}, {id: 3}}, 1, []int64{1}},
		"AllRoomForIdle": {
			[]swept{{id: 1, active: true, askedAt: ago(2)}, {id: 2, askedAt: ago(5)}, {id: 3, askedAt: ago(4)}, {id: 4, askedAt: ago(3)}},
			3,
			[]int64{1, 2, 3},
		},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, planSweep(c.all, now, c.n, 7, 3)) })
	}
}

// Two processes begin with others, so that one that starts over and over starves nobody.
func TestPlanSweepSalt(t *testing.T) {
	var all []swept
	for id := range int64(100) {
		all = append(all, swept{id: id + 1})
	}
	first := map[int64]bool{}
	for salt := range uint64(20) {
		first[planSweep(all, time.Now(), 1, salt, 0)[0]] = true
	}
	require.Greater(t, len(first), 10)
}

// sweeping lives through rounds of the plan and the budget on a clock of its own.
type sweeping struct {
	now      time.Time
	all      []swept
	interval time.Duration
	budget   *budget
	longest  map[int64]time.Duration // between two questions
	last     map[int64]time.Time

	questions int64
}

func newSweeping(perMinute, active, idle int) *sweeping {
	s := &sweeping{now: time.Unix(1_800_000_000, 0), interval: time.Minute, longest: map[int64]time.Duration{}, last: map[int64]time.Time{}}
	s.budget = &budget{perMinute: perMinute, clock: func() time.Time { return s.now }}
	for i := range active + idle {
		id := int64(i + 1)
		s.all = append(s.all, swept{id: id, active: i < active, every: 10 * time.Minute})
		s.last[id] = s.now
	}
	return s
}

// round asks until it is over; it is cut short after most questions.
func (s *sweeping) round(most int) {
	end := s.now.Add(s.interval)
	for i, id := range planSweep(s.all, s.now, int(float64(s.budget.perMinute)*s.interval.Minutes()), 1, s.questions) {
		wait := s.budget.take()
		for ; wait > 0 && !s.now.Add(wait).After(end); wait = s.budget.take() {
			s.now = s.now.Add(wait)
		}
		if wait > 0 || i >= most {
			break
		}
		s.all[id-1].askedAt = s.now
		s.questions++
		s.longest[id] = max(s.longest[id], s.now.Sub(s.last[id]))
		s.last[id] = s.now
	}
	s.now = end
}

func (s *sweeping) wait(active bool) (longest time.Duration) {
	for _, p := range s.all {
		if p.active == active {
			longest = max(longest, s.longest[p.id], s.now.Sub(s.last[p.id]))
		}
	}
	return longest
}

// 5,000 projects and 300 requests a minute: who is active is asked in each interval, everybody in his turn, and never more
// than 300 in a minute beyond the burst.
func TestSweepFiveThousandProjects(t *testing.T) {
	for _, active := range []int{0, 1, 100, 240} {
		t.Run(fmt.Sprint(active), func(t *testing.T) {
			s := newSweeping(300, active, 5000-active)
			const rounds = 180
			for range rounds {
				s.round(1 << 30)
			}
			turn := time.Duration((5000-active)/(300-active)+3) * time.Minute
			require.LessOrEqual(t, s.wait(false), turn, "who is not active")
			require.LessOrEqual(t, s.wait(true), s.interval+30*time.Second, "who is active")
			_, spent := s.budget.state()
			require.LessOrEqual(t, spent, int64(300*rounds+50))
			require.Greater(t, spent, int64(300*rounds*9/10), "and what it is given is used")
		})
	}
}

// Whatever the numbers, the budget, GitLab's limits and the rounds that are cut short: nobody starves, and the part of
// GitLab's limit that steps need is left alone.
func TestSweepStarvesNobody(t *testing.T) {
	for seed := range uint64(40) {
		chance := rand.New(rand.NewPCG(seed, 1))
		perMinute, active, idle := 5+chance.IntN(300), chance.IntN(400), chance.IntN(400)
		s := newSweeping(perMinute, active, idle)
		limit := 20 + chance.IntN(600)
		window := s.now
		var before int64
		s.budget.quota = func() firerunner.Quota {
			if !s.now.Before(window.Add(time.Minute)) {
				window, before = s.now.Truncate(time.Minute), s.budget.spent
			}
			return firerunner.Quota{Limit: limit, Remaining: max(limit-int(s.budget.spent-before), 0), Reset: window.Add(time.Minute)}
		}
		rounds := 0
		for ; rounds < 3000 && len(s.longest) < len(s.all); rounds++ {
			s.round(1 + chance.IntN(perMinute))
			require.GreaterOrEqual(t, limit-int(s.budget.spent-before), limit/stepsShare-1, "seed %d: what belongs to steps", seed)
		}
		require.Len(t, s.longest, len(s.all), "seed %d: %d a minute, %d active, %d idle, limit %d", seed, perMinute, active, idle, limit)
	}
}

// Where each round has time for one question only, both kinds have their turn.
func TestSweepOneQuestionEachRound(t *testing.T) {
	for _, n := range []struct{ active, idle int }{{1, 50}, {50, 1}, {4, 40}} {
		s := newSweeping(1, n.active, n.idle)
		s.budget.perMinute = 600 // it is not the budget that cuts them short
		for range 1000 {
			s.round(1)
		}
		require.LessOrEqual(t, s.wait(true), time.Duration(n.active*idleShare+2)*time.Minute, "%v: who is active", n)
		require.LessOrEqual(t, s.wait(false), time.Duration(n.idle*idleShare+12)*time.Minute, "%v: who is not", n)
	}
}

func TestPace(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for name, c := range map[string]struct {
		quota firerunner.Quota
		rate  float64
		until time.Time
	}{
		"NoLimit":   {firerunner.Quota{}, 300, time.Time{}},
		"Over":      {firerunner.Quota{Limit: 600, Remaining: 0, Reset: now}, 300, time.Time{}},
		"Plenty":    {firerunner.Quota{Limit: 600, Remaining: 600, Reset: now.Add(time.Minute)}, 300, time.Time{}},
		"Less":      {firerunner.Quota{Limit: 600, Remaining: 300, Reset: now.Add(time.Minute)}, 100, time.Time{}},
		"SoonOver":  {firerunner.Quota{Limit: 600, Remaining: 300, Reset: now.Add(10 * time.Second)}, 300, time.Time{}},
		"ForSteps":  {firerunner.Quota{Limit: 600, Remaining: 200, Reset: now.Add(time.Minute)}, 0, now.Add(time.Minute)},
		"Nothing":   {firerunner.Quota{Limit: 1, Remaining: 0, Reset: now.Add(time.Second)}, 0, now.Add(time.Second)},
		"HourLimit": {firerunner.Quota{Limit: 7200, Remaining: 3600, Reset: now.Add(time.Hour)}, 20, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			rate, until := pace(300, c.quota, now)
			require.InDelta(t, c.rate, rate, 1e-9)
			require.Equal(t, c.until, until)
		})
	}
}

func TestBudget(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	b := &budget{perMinute: 60, clock: func() time.Time { return now }}
	for range 10 {
		require.Zero(t, b.take(), "a burst")
	}
	require.InDelta(t, time.Second, b.take(), float64(time.Millisecond))
	now = now.Add(2 * time.Second)
	require.Equal(t, 2, b.part(5))
	require.Zero(t, b.part(5))
	b.charge(4)
	require.InDelta(t, 5*time.Second, b.take(), float64(time.Millisecond), "a debt")
	now = now.Add(time.Hour)
	require.Equal(t, 10, b.part(1000), "no more than the burst comes together")
	require.False(t, b.wait(t.Context(), now.Add(time.Millisecond)))
	_, spent := b.state()
	require.EqualValues(t, 26, spent)
}

func TestBornAt(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, ago := range []time.Duration{0, time.Minute, 24 * time.Hour, 10 * 365 * 24 * time.Hour} {
		require.WithinDuration(t, now.Add(-ago), bornAt(newID(now.Add(-ago)), now), time.Second)
	}
	require.WithinDuration(t, now, bornAt(newID(now.Add(time.Minute)), now), time.Second, "another clock is ahead")
	for _, foreign := range []string{"", "stray", "UPPERCASELETTERS", "0123456789abcdef0"} {
		require.True(t, bornAt(foreign, now).IsZero(), foreign)
	}
	require.True(t, slices.IsSorted([]string{newID(now), newID(now.Add(time.Second))}))
}
